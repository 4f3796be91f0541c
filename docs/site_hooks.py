"""Hooks of mkdocs: decisions are listed by their files, and sources that pages link to become pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# a link out of docs/, as GitHub follows it: [text](../buffer/api.py)
OUTSIDE = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<path>[\w./-]+)(?P<anchor>#[\w-]+)?\)")
# GitHub begins a list right behind a line of text; Python-Markdown wants an empty line between them
LIST_AFTER_TEXT = re.compile(r"^(?![-*#>|`\s]|\d+\. ).+\n(?=- )", re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".toml": "toml"}


def on_config(config: Any) -> Any:
    """Put the decisions into the navigation, in their order."""
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "decisions").glob("*.md"))
    config.nav.append({"Decisions": pages})
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page `source/PATH.md` for every source that a page links to."""
    linked = {path for file in files.documentation_pages() for path in _linked_sources(file)}
    for path in sorted(linked):
        source = ROOT / path
        if not source.is_file():
            raise PluginError(f"a page links to {path}, which is no file of the repository")
        fence = "~~~~~~"
        text = f"# `{path}`\n\n{fence}{LANGUAGES.get(source.suffix, 'text')}\n{source.read_text()}\n{fence}\n"
        files.append(File.generated(config, f"source/{path}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead links out of docs/ to the pages of the sources, one to README.md to the front page; and see LIST_AFTER_TEXT."""
    depth = page.file.src_uri.count("/")

    def inside(match: re.Match[str]) -> str:
        if match["up"].count("../") != depth + 1:
            return match[0]
        page_of = "index.md" if match["path"] == "README.md" else f"source/{match['path']}.md"
        return f"]({'../' * depth}{page_of})"

    if page.file.src_uri.startswith("source/"):
        return markdown
    return LIST_AFTER_TEXT.sub(r"\g<0>\n", OUTSIDE.sub(inside, markdown))


def _linked_sources(file: File) -> set[str]:
    """Paths of sources, from the root of the repository."""
    depth = file.src_uri.count("/")
    found = OUTSIDE.finditer(file.content_string)
    return {match["path"] for match in found if match["up"].count("../") == depth + 1 and match["path"] != "README.md"}
