"""A copy of the product with an extension of docs/extending.md in it: the page's own diff, applied."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
FOLDERS = ("actor", "learner", "buffer", "verifiers", "common", "launch", "bench", "docs")
MAX_FILES = 3  # that an extension may touch


def diff_of(heading: str) -> str:
    """The one diff in the page's section of this heading."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"{heading}\n"))
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return diff


def touched_files(diff: str) -> list[str]:
    """The files that a diff changes or adds, relative to the repository."""
    return re.findall(r"^\+\+\+ b/(\S+)$", diff, flags=re.MULTILINE)


def added_file(diff: str, path: str) -> str:
    """The text of a file that a diff adds."""
    (lines,) = re.findall(rf"^\+\+\+ b/{re.escape(path)}\n@@ -0,0 .*\n((?:^\+.*\n)+)", diff, flags=re.MULTILINE)
    return re.sub(r"^\+", "", lines, flags=re.MULTILINE)


def extended_tree(heading: str, folder: Path) -> dict[str, str]:
    """Copy the product into `folder`, apply the section's diff; returns the environment in which `prolong` is that copy."""
    package = folder / "prolong"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    diff = diff_of(heading)
    assert len(touched_files(diff)) <= MAX_FILES
    done = subprocess.run(
        ["git", "apply", "-"], input=diff, cwd=package, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"the diff in docs/extending.md, {heading!r}, does not apply any more:\n{done.stderr}"
    return {**os.environ, "PYTHONPATH": str(folder)}
