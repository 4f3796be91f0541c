"""The golden sets under the antlr that hydra pins: every pair is judged rightly, but for a few of second_reader.jsonl."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.bench import golden
from prolong.bench.golden import Pair
from prolong.verifiers import math
from prolong.verifiers.answers import bounds
from prolong.verifiers.api import Task

PAIRS = {name: golden.read_pairs(name) for name in golden.SETS if name != "second_reader"}
ALL = [pair for pairs in PAIRS.values() for pair in pairs]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[None]:
    """What is judged here is the verdict: on a busy machine algebra takes several times the seconds that it may."""
    math.MATH.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "BUDGET_S", 20.0)
        yield


@pytest.mark.parametrize("pair", ALL, ids=lambda pair: f"{pair.kind}-{pair.answer['answer']}-{pair.completion[-40:]}")
def test_golden_pairs(pair: Pair):
    assert golden.our_verdict(pair) == pair.right


def test_the_golden_sets_are_large_and_two_sided():
    assert len(ALL) >= 300
    assert sum(pair.hard for pair in ALL) >= 100
    assert len({(pair.verifier, str(pair.answer), pair.completion) for pair in ALL}) == len(ALL)
    for kind in {pair.kind for pair in ALL}:
        assert len({pair.right for pair in ALL if pair.kind == kind}) == 2, kind
    assert Counter(pair.verifier for pair in ALL)["stem"] >= 100


def test_without_a_checkout_the_bench_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert golden.main(["--folder", str(tmp_path)]) == 2
    assert "the golden sets are in a checkout, not in the wheel" in capsys.readouterr().err


@pytest.mark.slow
def test_the_second_readers_pairs_are_judged_no_worse_than_they_were():
    found = golden.mistakes(golden.read_pairs("second_reader"), golden.our_verdict)
    assert found["all", "FN"] <= 18
    assert found["all", "FP"] <= 2


@pytest.mark.slow
def test_math_verify_makes_both_kinds_of_mistakes_on_pairs_that_we_judge_rightly():
    """The whole table: `prolong bench golden`."""
    theirs = golden.mistakes(ALL[::3], golden.math_verify_given_box)
    assert theirs["all", "FN"] > 20
    assert theirs["all", "FP"] > 5
    assert not golden.mistakes(ALL[::3], golden.our_verdict)


@pytest.mark.parametrize("pair", [pair for pair in ALL if pair.verifier == "math"][::7], ids=lambda pair: pair.completion[-50:])
def test_a_verdict_without_algebra_is_the_verdict_with_it(pair: Pair):
    task = Task(completion=pair.completion, answer=pair.answer)
    if (quick := math.MATH.quick(task)) is not None and quick.status == "ok":
        assert math.MATH.score(task).reward == quick.reward
