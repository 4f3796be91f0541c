"""What answers that solve nothing earn, measured on a few cheap puzzles."""

import json
import signal
from pathlib import Path

import pytest
from prolong.bench.puzzle_candidates import mixtures, pieces
from prolong.bench.puzzle_constants import generated_puzzles, main
from prolong.common.errors import DataError
from prolong.verifiers.data import puzzles
from prolong.verifiers.data.requests import TAGS

QUESTION = "Fill the board, e.g. [1, 2].\n_ 2\n3 _\nThe largest of 4, 12 and 7 is 'it': "


def test_a_constant_that_the_library_pays_for_nothing_earns_no_more_than_its_share(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = tmp_path / "table.md"
    asked = ["--datasets", "coin_flip", "bitwise_arithmetic", "--count", "3", "--limit-s", "30", "--json", "--out", str(table)]
    assert main(asked) == 0
    coins, bits = map(json.loads, capsys.readouterr().out.splitlines())
    assert (coins["dataset"], coins["puzzles"], coins["unearned"]) == ("coin_flip", 9, 0.0)
    assert coins["ours"] == coins["honest"] < coins["library"] - 0.4
    assert (bits["dataset"], bits["library"]) == ("bitwise_arithmetic", None)
    lines = table.read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| dataset", "| ---", "| coin_flip", "| bitwise_arithmetic"]
    assert "| runs it |" in lines[3]


def test_a_generator_that_finds_too_few_or_takes_too_long_gives_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Entries:
        def __init__(self, dataset: str, level: int, count: int, seed: int) -> None:
            self.level = level

        def __iter__(self):
            yield {"prompt": f"level {self.level}?{TAGS}", "answer": {}}
            if self.level:
                raise DataError("no more of them")
            while True:
                pass

    monkeypatch.setattr(puzzles, "Entries", Entries)
    monkeypatch.setattr(puzzles, "levels", lambda dataset: [0, 1])
    handler, (alarm_s, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    assert [puzzle.question for puzzle in generated_puzzles("gcd", 2, 0.05)] == ["level 0?", "level 1?"]
    assert signal.getsignal(signal.SIGALRM) == handler
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (alarm_s > 0), "the alarm of the test run itself goes on"
    assert "gcd, level 0: no further puzzle in 0.05 s\ngcd, level 1: no more of them\n" in capsys.readouterr().err


def test_candidates_are_mixtures_of_the_answers_and_pieces_of_the_question() -> None:
    mixed = mixtures(["7", "7", "9"])
    assert (mixed["most frequent answer"], mixed["all answers, or"]) == ("7", "7 or 9")
    found = pieces(QUESTION)
    assert (found["largest"], found["quoted, first"], found["list, first"]) == ("12", "it", "[1, 2]")
    assert (found["board"], found["board, 1 for blanks"], found["board of 0, JSON"]) == (
        "_ 2\n3 _",
        "1 2\n3 1",
        "[[0, 0], [0, 0]]",
    )
