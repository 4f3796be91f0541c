"""The report in headless Chromium: every section, the search, the keyboard, two widths, and no error on the console."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prolong.bench.browser import Browser, missing_browser
from prolong.bench.report import READY
from prolong.bench.synthetic_run import SyntheticSize, write_synthetic_run
from prolong.buffer.journal.journal import open_journal
from prolong.common.config.run_files import RunPaths
from prolong.launch.diagnosis.diagnose import diagnose
from prolong.launch.diagnosis.diagnosis import Finding, Improvement
from prolong.launch.report.command import write_report

pytestmark = pytest.mark.skipif(
    bool(missing_browser()), reason=f"no {missing_browser()}: apt-get install chromium chromium-driver"
)
SECTIONS = [
    "overview", "learning", "time", "findings", "staleness", "weights", "ledger", "rollouts", "metrics", "settings",
]  # fmt: skip
HOSTILE = (
    '</script><script>window.stolen = 1</script><img src="http://127.0.0.1:9/x" onerror="window.stolen = 1"><!--'
    "\u2028\0\x1b[2J\u202e"
)
WIDTHS = {"wide": 1280, "narrow": 390}
LONG = "w" * 300
MOVES = (
    Improvement(
        part="staleness", words="a larger bound on staleness", settings=("buffer.eta=4", "actor.capacity=32"), gain=1.42,
        steps_per_s=0.71, staleness_mean=2.5, binds_after="learner",
    ),
)  # fmt: skip
FINDINGS = (
    Finding(
        rule="entropy_collapse", title="Entropy collapses", step=12, last_step=20, words="it fell from 0.6 to 0.02",
        numbers={"learner/entropy": 0.02}, advice="raise the bonus", settings=("objective.entropy=1e-3",),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A synthetic run, in whose journal one prompt tries to take the page over, and one has a word without a break."""
    paths = write_synthetic_run(
        tmp_path_factory.mktemp("report") / "run", SyntheticSize(steps=30, groups=4, n=4, tokens=24, prompts=20)
    )
    with closing(open_journal(paths.journal, max_gb=1.0, keep_history=True)) as journal:
        newest = journal.load_state()
        assert newest is not None
        for version, text in ((28, LONG), (29, HOSTILE)):
            group = journal.group(journal.batch_record(version).ordinals[0])
            prompt = msgspec.structs.replace(
                group.prompt, uid=f"planted/{version}", text=text, answer=json.dumps({"answer": text})
            )
            journal.put_group(msgspec.structs.replace(group, prompt=prompt), b"")
        journal.commit(newest)
    known = replace(diagnose(paths.folder, predicts=False), moves=MOVES, findings=FINDINGS, simulated_part="weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prolong.launch.report.command.diagnose", lambda folder, predicts: known)
        write_report(paths)
    return paths


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, run: RunPaths) -> Browser:
    """The page, opened wide, without messages so far."""
    browser.resize(1280, 900)
    browser.open(run.report)
    browser.wait(READY)
    return browser


def numbers_of(page: Browser) -> str:
    return str(page.run("return document.getElementById('rollout-count').textContent"))


def type_into(page: Browser, field: str, text: str) -> None:
    page.run("const f = document.getElementById(arguments[0]); f.focus(); f.select()", field)
    page.press(text)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=list(WIDTHS))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_section_is_drawn_and_nothing_overflows(page: Browser, run: RunPaths, width: int, scheme: str) -> None:
    page.prefer(scheme)
    page.resize(width, 800)
    page.open(run.report)
    page.wait(READY)
    found = page.run(
        "return [...document.querySelectorAll('main > section')].map((s) => [s.id, s.getBoundingClientRect().height])"
    )
    assert isinstance(found, list)
    assert [name for name, _ in found] == SECTIONS
    assert all(height > 60 for _, height in found), found
    assert page.run("return document.documentElement.scrollWidth") == width
    # nothing is wider than what holds it, but what may be scrolled
    wide = """const reaches = (node) => node.getBoundingClientRect().right > innerWidth + 1;
        const found = [...document.querySelectorAll('main *')].filter(reaches);
        return found.filter((node) => !node.closest('.scroll, .list, .text')).map((node) => node.outerHTML.slice(0, 200))"""
    assert page.run(wide) == []
    assert page.run("return document.documentElement.dataset.theme") == scheme
    assert page.messages() == []


def test_charts_have_curves_marks_and_a_cursor_that_keys_move(page: Browser) -> None:
    drawn = page.run(
        "return [...document.querySelectorAll('#learning .chart svg')].map((s) => s.querySelectorAll('path.curve').length)"
    )
    assert isinstance(drawn, list)
    assert len(drawn) >= 8
    assert min(drawn) >= 1
    marks = (
        "return ['.reset', '.fault', '.band'].map((name) => document.querySelectorAll(`#learning .chart svg ${name}`).length)"
    )
    assert 0 not in page.run(marks)  # pyright: ignore[reportOperatorIssue]
    page.run("document.querySelectorAll('#learning .chart svg')[1].focus()")
    page.press("\ue012\ue012")  # the left arrow, twice
    page.wait("document.querySelectorAll('#learning .chart .at')[1].textContent === 'step 28'")
    page.press("\ue00c")  # escape
    page.wait("document.querySelectorAll('#learning .chart .at')[1].textContent === 'last'")
    assert page.messages() == []


def test_an_axis_ends_however_close_its_numbers_are_and_however_large(page: Browser) -> None:
    found = page.run("""return [[0, 1], [1 - 1e-16, 1 + 3e-16], [1e17, 1e17 + 16], [5e6, 5e6], [-1e100, 1e100]]
        .map(([low, high]) => ticks(low, high, 4))""")
    assert isinstance(found, list)
    assert found[0] == [0, 0.25, 0.5, 0.75, 1]
    assert all(len(ticks) <= 6 for ticks in found)


def test_the_diagnosis_is_shown_with_its_moves_and_evidence(page: Browser) -> None:
    overview, time, findings = (
        page.run(f"return document.getElementById('{name}').textContent") for name in SECTIONS[0:4:1] if name != "learning"
    )
    assert "Most to be gained: +42 % steps per second. A larger bound on staleness. buffer.eta=4 actor.capacity=32" in str(
        overview
    )
    assert "In the planner's model weights would bind, not" in str(overview)
    assert "Which roof binds" in str(time)
    assert "+42 %" in str(time)
    for text in (
        "Entropy collapses",
        "steps 12 to 20",
        "it fell from 0.6 to 0.02",
        "learner/entropy0.02",
        "What to do: raise the bonus objective.entropy=1e-3",
    ):
        assert text in str(findings)
    # the seconds of a side add up: its parts are as wide as its bar
    sums = page.run("""const width = (nodes) => nodes.reduce((sum, node) => sum + node.getBoundingClientRect().width, 0);
        return [...document.querySelectorAll('#time .bar')].map((bar) => width([...bar.children]) / width([bar]))""")
    assert isinstance(sums, list)
    assert all(0.95 < each < 1.05 for each in sums), sums
    assert page.messages() == []


def test_search_finds_what_was_written_and_filters_narrow_it(page: Browser, run: RunPaths) -> None:
    everything = numbers_of(page)
    assert everything.startswith("480 rollouts")
    page.run("document.activeElement.blur()")
    page.press("/")
    page.press("carry")
    page.wait("document.querySelector('#rollout-list mark') !== null")
    assert not numbers_of(page).startswith("480 ")
    shown = page.run(
        "return [...document.querySelectorAll('#rollout-list li')].every((row) => row.textContent.includes('carry'))"
    )
    assert shown is True
    assert page.run("return document.querySelector('#completion-text mark').textContent") == "carry"
    type_into(page, "rollout-search", "no such word")
    page.wait("document.getElementById('rollout-count').textContent === 'No rollout matches.'")
    type_into(page, "rollout-search", "\ue017")  # delete: nothing is left of the query
    page.wait(f"document.getElementById('rollout-count').textContent === {json.dumps(everything)}")
    page.run("const s = document.getElementById('rollout-reward'); s.value = 'wrong'; s.dispatchEvent(new Event('change'))")
    rewards = page.run("return [...new Set([...document.querySelectorAll('#rollout-list .reward')].map((r) => r.textContent))]")
    assert rewards == ["0"]
    assert page.messages() == []


def test_a_rollout_shows_the_versions_that_sampled_it_and_can_be_linked_to(page: Browser, run: RunPaths) -> None:
    page.run("const s = document.getElementById('rollout-order'); s.value = 'versions'; s.dispatchEvent(new Event('change'))")
    pieces = page.run("return [...document.querySelectorAll('#completion-text [data-v]')].map((p) => p.dataset.v)")
    assert isinstance(pieces, list)
    assert len(set(pieces)) == 2
    same = "return document.getElementById('completion-text').textContent === chosen.rollout.t"
    assert page.run(same) is True
    page.run("const s = document.getElementById('rollout-paint'); s.value = 'logprob'; s.dispatchEvent(new Event('change'))")
    # every token is a piece of its own, and together they are the text
    assert page.run("return document.querySelectorAll('#completion-text > span').length") == page.run("return chosen.rollout.n")
    assert page.run(same) is True
    page.run("document.getElementById('rollout-list').focus()")
    page.press("\ue015\ue015")  # the down arrow, twice
    chosen = page.run("return [location.hash, document.querySelector('#rollout-list [aria-selected=true]').id]")
    assert isinstance(chosen, list)
    number = str(chosen[0]).removeprefix("#rollout=")
    assert chosen[1] == f"item-{number.replace('.', '-')}"
    page.reload()
    page.wait(READY)
    assert page.run("return `${chosen.group.o}.${chosen.index}`") == number
    assert page.messages() == []


def test_what_a_model_wrote_is_shown_and_not_run(page: Browser) -> None:
    page.run("const s = document.getElementById('rollout-order'); s.value = 'newest'; s.dispatchEvent(new Event('change'))")
    type_into(page, "rollout-search", "stolen")
    page.wait("document.querySelector('#prompt-text mark') !== null")
    assert page.run("return document.getElementById('prompt-text').textContent") == HOSTILE
    assert page.run("return [typeof window.stolen, document.querySelectorAll('main img').length]") == ["undefined", 0]
    assert page.messages() == []


def test_any_metric_can_be_drawn(page: Browser) -> None:
    type_into(page, "metric-search", "survival")
    page.wait("document.querySelectorAll('#metric-charts svg').length === 10")
    assert page.messages() == []


def test_the_policy_of_the_page_refuses_other_scripts_and_connections(page: Browser) -> None:
    """The last line of defence, if a text should reach the page as an element all the same."""
    page.run("window.refused = 0; document.addEventListener('securitypolicyviolation', () => window.refused++)")
    page.run("const s = document.createElement('script'); s.textContent = 'window.stolen = 1'; document.body.append(s)")
    page.run("const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i)")
    page.wait("window.refused === 2")
    assert page.run("return typeof window.stolen") == "undefined"
    refused = [message for message in page.messages() if "Content Security Policy" in message]
    assert len(refused) == 2


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_that_has_hardly_begun_has_a_page(browser: Browser, tmp_path: Path, steps: int) -> None:
    paths = write_synthetic_run(tmp_path / "run", SyntheticSize(steps=1, groups=2, n=2, tokens=8, prompts=4))
    paths.summary.unlink()
    if not steps:
        paths.metrics.unlink()
        shutil.rmtree(paths.journal)
    write_report(paths, predicts=False)
    browser.open(paths.report)
    browser.wait(READY)
    assert browser.run("return [...document.querySelectorAll('main > section')].map((s) => s.id)") == SECTIONS
    shown = str(browser.run("return document.getElementById('rollouts').textContent"))
    assert ("4 rollouts" if steps else "there is no journal") in shown
    assert browser.messages() == []
