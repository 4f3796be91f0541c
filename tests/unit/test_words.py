"""One word, one meaning: docs/glossary.md against the names in the code; and how often the code says `Any`."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS: tuple[str, ...] = ("actor", "learner", "buffer", "verifiers", "common", "launch", "bench")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
TERMS = re.findall(r"^- \*\*(.+?)\*\*(?: of [^(:]+)?(?: \(`(\w+)`\))?[^:]*: ", GLOSSARY, re.MULTILINE)
NOT_USED = re.findall(r"^\| (\w+) \| ", GLOSSARY.partition("## Words that we do not use")[2], re.MULTILINE)[1:]
# the entry of a program is its main
SHARED_NAMES = {"main"}
# How often a folder names `Any`: at the edges of JSON, YAML and other libraries. These numbers may only go down.
ANY = {"actor": 26, "bench": 6, "buffer": 0, "common": 33, "launch": 14, "learner": 8, "verifiers": 53}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def own_names(path: Path) -> Iterator[str]:
    """The names that a module chooses: its own, and those of its classes, functions, arguments, variables and fields."""
    yield from path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def words_of(name: str) -> list[str]:
    return [word.lower() for word in re.split(r"_+|(?<=[a-z0-9])(?=[A-Z])", name) if word]


def definitions(path: Path) -> list[str]:
    """Top-level classes and functions that other modules may use."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree_of(path).body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_the_glossary_is_sorted_and_has_one_line_for_a_term() -> None:
    assert len(TERMS) == len(re.findall(r"^- ", GLOSSARY, re.MULTILINE)), "a line that is not `- **term**: meaning`"
    names = [term for term, _ in TERMS]
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert sorted(NOT_USED) == NOT_USED
    assert NOT_USED


def test_every_class_of_the_glossary_exists() -> None:
    classes = {node.name for path in MODULES for node in tree_of(path).body if isinstance(node, ast.ClassDef)}
    assert {name for _, name in TERMS if name} - classes == set()


def test_words_that_we_do_not_use_are_in_no_name() -> None:
    banned = {word for stem in NOT_USED for word in (stem, f"{stem}s")}
    found = {(relative(path), name) for path in MODULES for name in own_names(path) if banned & set(words_of(name))}
    assert found == set()


def test_the_search_for_words_sees_every_kind_of_name() -> None:
    path = ROOT / "tests" / "unit" / "test_words.py"
    names = set(own_names(path))
    assert {"test_words", "own_names", "path", "NOT_USED", "found"} <= names
    assert words_of("HTTPFlawOfGroup_s") == ["httpflaw", "of", "group", "s"]
    assert words_of("_patience_s") == ["patience", "s"]


def test_no_two_modules_define_the_same_name() -> None:
    where = defaultdict(list)
    for path in MODULES:
        for name in definitions(path):
            where[name].append(relative(path))
    assert {name: paths for name, paths in where.items() if len(paths) > 1 and name not in SHARED_NAMES} == {}


def test_any_is_named_no_more_often_than_it_was() -> None:
    counts = Counter(dict.fromkeys(FOLDERS, 0))
    for path in MODULES:
        names = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name) and node.id == "Any"]
        counts[path.relative_to(ROOT).parts[0]] += len(names)
    grown = {folder: (count, ANY[folder]) for folder, count in counts.items() if count > ANY[folder]}
    assert grown == {}, "give it a type, or explain in the review why the number must grow"
    shrunk = {folder: (count, ANY[folder]) for folder, count in counts.items() if count < ANY[folder]}
    assert shrunk == {}, "fewer than before: lower the number in this test, so that it stays down"
