"""The pages of the site, without building it: `make site` does that, and checks every link."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from prolong.bench.compare import BEGIN, END, results_part
from prolong.bench.results_file import read_results

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages(entry: object) -> list[str]:
    """The pages of an entry of the navigation, and of those below it."""
    if isinstance(entry, str):
        return [entry]
    below = entry.values() if isinstance(entry, dict) else entry
    assert isinstance(below, list) or hasattr(below, "__iter__")
    return [page for each in below for page in pages(each)]  # pyright: ignore[reportGeneralTypeIssues]


def test_every_page_has_its_place_in_the_navigation_once() -> None:
    """A page that is missing here belongs into `nav` of mkdocs.yml; decisions are listed by their files."""
    listed = pages(SITE["nav"])
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.name for path in DOCS.glob("*.md")}


def test_pictures_exist_fetch_nothing_and_say_what_they_show() -> None:
    shown = {
        (page.name, alt, name)
        for page in DOCS.glob("*.md")
        for alt, name in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text())
    }
    assert {each for each in shown if not (DOCS / each[2]).is_file()} == set()
    assert {each for each in shown if len(each[1]) < 10} == set(), "a text in place of the picture"
    for picture in DOCS.glob("pictures/*.svg"):
        text = picture.read_text()
        assert not re.search(r"href=|<script|url\(http", text), picture
        assert "<title>" in text


def test_nothing_is_fetched_from_another_host() -> None:
    assert SITE["theme"]["font"] is False
    assert not SITE.keys() & {"extra_javascript", "extra_css"}


def test_the_environment_of_the_site_is_pinned() -> None:
    lines = (DOCS / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert {"mkdocs-material", "mkdocstrings-python"} <= {line.partition("==")[0] for line in lines}


def test_the_results_on_the_page_are_those_of_the_file() -> None:
    _, begin, rest = (DOCS / "benchmarks.md").read_text().partition(BEGIN)
    shown, end, _ = rest.partition(END)
    assert begin
    assert end
    recorded = DOCS / "benchmarks.json"
    if recorded.exists():
        assert shown == f"\n{results_part(read_results(recorded))}"


def test_the_build_sees_what_it_shall_fail_on() -> None:
    """With --quiet mkdocs drops warnings before --strict counts them."""
    [command] = re.findall(r"^.*mkdocs build.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "--strict" in command
    assert "-q" not in command.replace("--strict", "")
    assert SITE["validation"]["links"]["anchors"] == "warn"
    assert "make site" in (ROOT / ".ci" / "run").read_text()
