"""The walk-through names files that exist, each once, and few enough to read."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "walkthrough.md").read_text()
STEPS = re.findall(r"^(\d+)\. `([\w/.]+)`: (.*(?:\n .*)*)", PAGE, re.MULTILINE)


def test_at_most_forty_files_are_opened_and_none_twice() -> None:
    files = [file for _, file, _ in STEPS]
    assert [int(number) for number, _, _ in STEPS] == list(range(1, len(files) + 1))
    assert 30 <= len(files) <= 40
    assert len(set(files)) == len(files)
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_names_of_a_step_are_in_its_file() -> None:
    missing = []
    for _, file, text in STEPS:
        code = (ROOT / file).read_text()
        names = [name.split(".")[-1] for name in re.findall(r"`([A-Za-z_][\w.]*)`", text) if "/" not in name]
        missing += [(file, name) for name in names if not re.search(rf"\b{name}\b", code)]
    assert missing == []
