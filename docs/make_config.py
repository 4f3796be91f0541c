"""Writes docs/config.md from common/config/sections.py and common/config/algorithm.py: `make docs`. A test compares them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT / "common" / "config" / "sections.py", ROOT / "common" / "config" / "algorithm.py")
CHOICES = ROOT / "common" / "config" / "choices.py"
PAGE = ROOT / "docs" / "config.md"

HEAD = """# Settings

Generated from `common/config/` by `make docs`; defaults live there and nowhere else. A recipe
(`launch/conf/*.yaml`, or a YAML file of yours) overrides them, and the command line overrides the recipe:

    prolong train --recipe demo run.steps=80 buffer.eta=1 data.train='[{file: a.jsonl, weight: 2}, {file: b.parquet}]'

`model=X` is short for `model.path=X`, and `preset=X` lays the settings of a paper over the recipe ([recipe.md](recipe.md)).
An unknown key, a wrong type or a value out of range is refused with the key, what was got, what was expected and the nearest
key. Every command of one run takes the same settings; `prolong train` writes them to `runs/NAME/config.yaml`, which is a
recipe itself (`--recipe runs/NAME/config.yaml`).

## Prompt files

JSONL (one object a line) or parquet (one row a prompt):

| field | what it is |
| --- | --- |
| `prompt` | a text, or a list of chat messages `{"role", "content"}`, which the tokenizer's chat template renders |
| `domain`, `task` | names that rewards and pass rates are reported by, as `domain/task` |
| `verifier` | a name of the list below |
| `answer` | what the verifier needs, any JSON: for example `{"answer": "932"}` |
| `uid` | optional; unique and stable, otherwise made from the file's name and the line number |

- `math`: the last `\\boxed{}` after `</think>`, compared as text, as a number, and then with math-verify.
- `number`: the last number after `</think>`.
- `reasoning_gym`: what stands in `<answer>` tags, judged by the data set's own scorer, which may give partial credit.

## Every setting
"""


def page() -> str:
    """The whole of docs/config.md."""
    classes: dict[str, tuple[ast.ClassDef, list[str]]] = {}
    for path in SOURCES:
        source = path.read_text()
        found = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
        classes |= {node.name: (node, source.splitlines()) for node in found}
    parts = [HEAD]
    for section in _fields(classes["Config"][0]):
        if (kind := ast.unparse(section.annotation)) in classes:
            parts.append(_section(str(_name(section)), *classes[kind]))
    parts.append(_section("stages[]", *classes["StageConfig"]))
    parts.append(_section("data.train[] and data.heldout[]", *classes["SourceConfig"]))
    parts.append("### Choices\n")
    choices = CHOICES.read_text()
    enums = [node for node in ast.parse(choices).body if isinstance(node, ast.ClassDef)]
    parts += [f"- {_choices(node, choices.splitlines())}" for node in enums]
    return "\n".join(parts) + "\n"


def _section(name: str, node: ast.ClassDef, lines: list[str]) -> str:
    rows = [f"### {name}\n", f"{ast.get_docstring(node)}\n", "| setting | type | default | |", "| --- | --- | --- | --- |"]
    for field in _fields(node):
        kind = ast.unparse(field.annotation)
        rows.append(f"| `{_name(field)}` | {kind} | {_default(field)} | {_comment(field, lines)} |")
    return "\n".join(rows) + "\n"


def _choices(node: ast.ClassDef, lines: list[str]) -> str:
    members = [item for item in node.body if isinstance(item, ast.Assign)]
    names = [
        f"`{ast.unparse(item.targets[0])}`" + (f" ({_comment(item, lines)})" if _comment(item, lines) else "")
        for item in members
    ]
    return f"**{node.name}**: {(ast.get_docstring(node) or '').rstrip('.')}: {'; '.join(names)}"


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [item for item in node.body if isinstance(item, ast.AnnAssign)]


def _name(field: ast.AnnAssign) -> str:
    return ast.unparse(field.target)


def _default(field: ast.AnnAssign) -> str:
    value = ast.unparse(field.value) if field.value is not None else ""
    value = {"'???'": "must be given", "field(default_factory=list)": "[]", "field(default_factory=dict)": "{}"}.get(
        value, value
    )
    return value if value == "must be given" else f"`{re.sub(r'^[A-Z][A-Za-z]+[.]', '', value)}`"


def _comment(node: ast.stmt, lines: list[str]) -> str:
    """What stands behind the setting on its last line."""
    _, _, comment = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
    return comment.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
