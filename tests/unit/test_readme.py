"""What README and docs promise exists: targets, commands, settings, files."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from prolong.common.config.trees import dotted_keys
from prolong.launch.cli import BENCHES, COMMANDS, is_bench
from prolong.verifiers.registry import VERIFIERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text() for page in PAGES}
CODE = {name: "\n".join(re.findall(r"^    .*$|`[^`]+`", text, re.MULTILINE)) for name, text in TEXT.items()}


def every(pattern: str) -> set[tuple[str, str]]:
    """(page, first group) of every match in code: indented blocks and backquotes."""
    return {(page, match) for page, code in CODE.items() for match in re.findall(pattern, code)}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = every(r"\bmake ([a-z-]+)")
    assert ("README.md", "demo") in used
    assert {(page, name) for page, name in used if name not in targets} == set()


def test_commands_exist() -> None:
    used = every(r"\bprolong ([a-z][a-z-]*)")
    assert ("README.md", "train") in used
    assert {(page, name) for page, name in used if name not in COMMANDS} == set()


def test_benches_exist() -> None:
    benches = {path.stem.replace("_", "-") for path in BENCHES.glob("*.py") if is_bench(path)}
    used = every(r"prolong bench ([a-z-]+)")
    assert used
    assert {(page, name) for page, name in used if name not in benches} == set()


def test_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/log.md is left out: a dated entry names the command as it was."""
    used: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for page, line in every(r"\bprolong ([a-z][a-z-]* [^#`|;\n]*)"):
        words = line.split()
        command = words[: 2 if words[0] in ("bench", "data", "journal") or words[:2] == ["plan", "memory"] else 1]
        options = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        if page != "log.md":
            used.setdefault(tuple(command), set()).update((page, option) for option in options)
    assert ("README.md", "--rendezvous") in used["learner",]
    wrong = {
        (page, *command, option)
        for command, found in used.items()
        for page, option in found
        if option not in options_of(command, capsys)
    }
    assert wrong == set()


def options_of(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options that a command has; those of a bench as its source names them, which loads nothing."""
    if command[0] == "bench":
        text = (BENCHES / f"{command[1].replace('-', '_')}.py").read_text()
    else:
        with pytest.raises(SystemExit):
            COMMANDS[command[0]].run([*command[1:], "--help"])
        text = capsys.readouterr().out
    return set(re.findall(r"--[a-z][a-z-]*", text))


def test_settings_exist() -> None:
    known = {*dotted_keys(), "model"}
    sections = "|".join(sorted({key.partition(".")[0] for key in known}))
    used = every(rf"(?<![\w/.-])((?:{sections})\.[a-z_]+)(?![\w(/.])")
    files = {".py", ".json", ".md", ".yaml", ".jsonl", ".lock", ".sbatch"}
    used = {(page, key) for page, key in used if page != "extending.md"}  # its diffs add settings
    wrong = {(page, key) for page, key in used if key not in known and not any(key.endswith(end) for end in files)}
    modules = {f"{path.parent.name}.{path.stem}" for path in ROOT.glob("*/**/*.py") if ".venv" not in str(path)}
    assert {(page, key) for page, key in wrong if key not in modules} == set()


def test_files_and_folders_exist() -> None:
    used = every(r"(?<![\w/.])((?:actor|bench|buffer|common|docs|launch|learner|tests|verifiers)/[\w./-]*\w)")
    metrics = re.compile(r"(actor|buffer|learner)/\w+$")
    missing = {(page, path) for page, path in used if not (ROOT / path).exists() and not metrics.match(path)}
    assert missing == set()


def test_links_lead_somewhere() -> None:
    links = {(page, link) for page, text in TEXT.items() for link in re.findall(r"\]\((?!http)([^)]+)\)", text)}
    base = {page.name: page.parent for page in PAGES}
    anchors = {name: {slug(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)} for name, text in TEXT.items()}
    parts = {(page, *link.partition("#")[::2]) for page, link in links}  # page, file, anchor
    assert {(page, file) for page, file, _ in parts if not (base[page] / file).exists()} == set()
    named = {(page, Path(file or page).name, anchor) for page, file, anchor in parts if anchor}
    assert {each for each in named if each[2] not in anchors.get(each[1], {each[2]})} == set()


def slug(title: str) -> str:
    """The anchor that a heading has on a page."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def test_docs_name_no_machine_of_ours() -> None:
    for name, text in TEXT.items():
        assert not re.search(r"/work/|/root/|/opt/|\.internal|localhost:\d", text), name


def generator(name: str):
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_config():
    return generator("make_config")


def test_the_dashboard_is_generated_from_the_names_of_the_metrics() -> None:
    assert generator("make_grafana").text() == (ROOT / "docs" / "grafana.json").read_text(), "run `make docs`"


def test_the_panels_of_the_dashboard_do_not_overlap_and_have_different_numbers() -> None:
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_page_of_settings_is_generated_from_the_source(make_config) -> None:
    assert make_config.page() == TEXT["config.md"], "run `make docs`"


def test_the_page_of_settings_explains_every_setting_choice_and_limit() -> None:
    rows = re.findall(r"^\| (`.*) \| *([^|]*) \|$", TEXT["config.md"].replace("\\|", "/"), re.MULTILINE)
    assert len(rows) > 120
    assert [row for row, explained in rows if not explained.strip()] == []


def test_the_page_of_settings_lists_every_verifier() -> None:
    listed = re.findall(r"^- `(\w+)`: ", TEXT["config.md"].partition("## Verifiers")[2], re.MULTILINE)
    assert listed == list(VERIFIERS)


def test_the_page_of_settings_lists_every_setting() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", TEXT["config.md"], re.MULTILINE | re.DOTALL))
    mappings = ("pools", "alerts", "trackers", "stages")  # they have tables of their own
    keys = [key for key in dotted_keys() if key not in mappings]
    missing = [key for key in keys if f"| `{key.partition('.')[2]}` |" not in sections[key.partition(".")[0]]]
    assert missing == []
    assert len(dotted_keys()) <= 150
