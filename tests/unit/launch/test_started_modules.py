"""Modules that are started by name: the import linter cannot see these strings, so a renamed module would break them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("actor", "bench", "buffer", "common", "launch", "learner", "verifiers")
MODULE = re.compile(r"prolong(\.[a-z_]+)+ ?")


def named_modules() -> set[tuple[str, str]]:
    """(file, module) for every text in the code that is the dotted name of a module of ours and nothing else."""
    found: set[tuple[str, str]] = set()
    for path in [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
                found.add((str(path.relative_to(ROOT)), node.value.strip()))
    return found


def source_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize(("file", "module"), sorted(named_modules()))
def test_a_module_that_is_named_in_a_text_exists(file: str, module: str) -> None:
    assert source_of(module).is_file(), f"{file} names {module}"


@pytest.mark.parametrize(
    "module",
    [
        "prolong.launch.cli",
        "prolong.launch.gpus",
        "prolong.launch.pair_check",
        "prolong.launch.torchrun",
        "prolong.launch.replay.rerun",
        "prolong.verifiers.workers.worker",
        "prolong.verifiers.sandbox.jail_server",
    ],
)
def test_a_module_that_processes_are_started_with_is_named_and_can_be_started(module: str) -> None:
    assert module in {name for _, name in named_modules()}
    assert re.search(r'^if __name__ == "__main__":', source_of(module).read_text(), re.MULTILINE)


def test_commands_in_the_docs_start_modules_that_exist() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    started = {name for page in pages for name in re.findall(r"python -m (prolong(?:\.\w+)+)", page.read_text())}
    assert {name for name in started if not source_of(name).is_file()} == set()
