"""`prolong data` without verifier processes; tests/integration/test_data_check.py has them."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prolong.common.errors import ConfigError, DataError, UserError
from prolong.common.types import Prompt
from prolong.launch.data import check as data_check
from prolong.launch.data import command as data
from prolong.launch.data import convert, printing
from prolong.launch.data.check import Characters, read_contents
from prolong.verifiers.data.shapes import FAMILIES

SAMPLES = Path(__file__).parents[3] / "data"
GOOD = {"prompt": "1+1?", "domain": "math", "task": "sum", "verifier": "math", "answer": {"answer": "2"}}


def file_of(folder: Path, *lines: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def prompt_of(answer: dict[str, Any]) -> Prompt:
    return Prompt(uid="", domain="d", task="t", text="?", token_ids=b"", verifier="v", answer=json.dumps(answer))


def checked(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = data.main(["check", str(path), "--no-golds", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_good_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = [GOOD | {"prompt": "x" * length, "task": f"t{length % 2}"} for length in range(1, 102)]
    code, out, err = checked(file_of(tmp_path, *lines), capsys, "--longest", "2")
    assert (code, err) == (0, "")
    assert "101 prompts, 0 bad lines" in out
    assert "      51  math/t1, verifier math" in out
    assert "least 1, median 51, 90 % 91, 99 % 100, most 101" in out
    assert "line 101: 101 characters: 'xxx" in out
    assert "line 100: 100 characters" in out
    assert "line 99:" not in out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object, got list"),
        (GOOD | {"domain": ""}, "line 2: domain = ''"),
        (GOOD | {"prompt": []}, "line 2: prompt = []"),
        (GOOD | {"prompt": [{"content": "?"}]}, "line 2: prompt = [{'content': '?'}]: expected messages with a role"),
        (GOOD | {"verifier": "maths"}, "line 2: unknown verifier 'maths'"),
        (GOOD | {"verifier": "maths"}, "did you mean 'math'?"),
        (GOOD | {"answer": ""}, "verifier math"),
        (GOOD | {"uid": "a"}, "line 2: uid 'a' is also that of line 1"),
        (GOOD | {"gold": "\ud83d \\boxed{2}"}, "line 2: half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any, sentence: str):
    code, out, err = checked(file_of(tmp_path, GOOD | {"uid": "a"}, line), capsys)
    assert code == 1
    assert "1 prompts, 1 bad lines" in out
    assert sentence in err
    assert "Traceback" not in err


def test_many_bad_lines_are_counted_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = checked(file_of(tmp_path, *("[" * n for n in range(1, 101))), capsys)
    assert code == 1
    assert err.count("not JSON") == printing.BAD_LINES_SHOWN
    assert "... and 80 more" in err


def test_one_mistake_in_every_line_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = [GOOD | {"verifier": "boxed", "uid": str(number)} for number in range(100)]
    code, _, err = checked(file_of(tmp_path, *lines), capsys)
    assert code == 1
    assert err.count("unknown verifier") == 1
    assert "100 lines (1, 2, 3, 4, 5, ...): unknown verifier 'boxed'" in err


def test_the_model_may_be_given_as_for_a_run(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        data.main(["check", str(file_of(tmp_path, GOOD)), "--no-golds", f"model={tmp_path}/nowhere"])


def test_an_own_verifier_that_cannot_be_imported_is_told(tmp_path: Path):
    path = file_of(tmp_path, GOOD | {"verifier": "boxed"})
    with pytest.raises(ConfigError, match=r"verifiers\.own\.boxed = 'nowhere:boxed': cannot be imported"):
        data.main(["check", str(path), "verifiers.own.boxed=nowhere:boxed"])


def test_verifiers_of_the_runs_own_are_known_by_override_and_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = file_of(tmp_path, GOOD | {"verifier": "boxed"}, GOOD)
    code, _, err = checked(path, capsys)
    assert (code, "unknown verifier 'boxed'" in err) == (1, True)
    assert checked(path, capsys, "verifiers.own.boxed=rewards:boxed")[0] == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("verifiers:\n  own: {boxed: 'rewards:boxed'}\n")
    assert checked(path, capsys, "--recipe", str(recipe))[0] == 0
    with pytest.raises(ConfigError, match=r"verifiers\.own\.boxed"):
        checked(path, capsys, "verifiers.own.boxed=rewards")


def test_other_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for wrong in (["check", "x.jsonl", "--gold"], ["check", "x.jsonl", "y.jsonl"], ["puzzles", "a", "--x=1"]):
        with pytest.raises(SystemExit):
            data.main(wrong)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_emoji_of_two_escapes_are_texts_like_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert checked(file_of(tmp_path, GOOD | {"prompt": "\U0001f600"}), capsys)[0] == 0


def test_doubles_and_contradictions_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = checked(file_of(tmp_path, GOOD, GOOD | {"answer": "2"}, GOOD | {"answer": "3"}), capsys)
    assert code == 0
    assert "1 lines with the same prompt and answer as an earlier line: 2 (of 1)" in out
    assert "1 lines with an earlier prompt, another answer: 3 (of 1)" in out
    follow = {"instructions": [{"id": "punctuation:no_comma"}]}
    quote = {"instructions": [{"id": "startend:quotation"}]}
    contents = data_check.Contents([prompt_of(follow), prompt_of(follow), prompt_of(quote)], [4, 5, 9], [None] * 3)
    assert data_check.duplicate_prompts(contents) == [
        "1 lines with the same prompt and answer as an earlier line: 5 (of 4)",
        "1 lines with an earlier prompt, another answer: 9 (of 4)",
    ]


def test_an_empty_file_fails_and_a_missing_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert checked(file_of(tmp_path), capsys)[0] == 1
    with pytest.raises(DataError, match="does not exist"):
        data.main(["check", str(tmp_path / "nothing.jsonl")])
    (tmp_path / "no.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="is not a parquet file"):
        data.main(["check", str(tmp_path / "no.parquet")])


def test_parquet_and_jsonl_hold_the_same_prompts(tmp_path: Path):
    texts = []
    for name in ("out.jsonl", "out.parquet"):
        assert (
            data.main(
                ["convert", "--no-prove", "--format", "deepscaler", str(SAMPLES / "deepscaler.jsonl"), str(tmp_path / name)]
            )
            == 0
        )
        contents = read_contents(tmp_path / name, Characters())
        assert contents.bad == {}
        texts.append([(p.uid, p.text, p.domain, p.verifier, json.loads(p.answer)) for p in contents.prompts])
    assert texts[0] == texts[1]
    assert texts[0][0][0] == "deepscaler/deepscaler/1"


def test_lines_that_cannot_be_converted_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = file_of(tmp_path, {"problem": "1+1", "answer": "2"}, {"problem": "1+2"}, "{", {"problem": "2+2", "answer": "4"})
    target = tmp_path / "deep" / "out.jsonl"
    assert data.main(["convert", "--no-prove", "--format", "deepscaler", str(source), str(target)]) == 1
    captured = capsys.readouterr()
    assert "2 prompts" in captured.out
    assert "line 2: no answer: answer = None" in captured.err
    assert "1  left out: no answer (line 2)" in captured.out
    assert "line 3: not JSON" in captured.err
    assert [json.loads(line)["uid"] for line in target.read_text().splitlines()] == [
        "deepscaler/prompts/1",
        "deepscaler/prompts/4",
    ]


def test_an_unknown_format_and_a_file_onto_itself_are_refused(tmp_path: Path):
    source = file_of(tmp_path, GOOD)
    with pytest.raises(UserError, match="--format deepscale: expected one of code, deepscaler"):
        data.main(["convert", "--no-prove", "--format", "deepscale", str(source), str(tmp_path / "x")])
    with pytest.raises(UserError, match="another name"):
        data.main(["convert", "--no-prove", "--format", "deepscaler", str(source), str(source)])


def test_every_family_of_shapes_is_named_in_the_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        data.main(["convert", "--help"])
    out = capsys.readouterr().out
    assert [family for family in FAMILIES if family not in out] == []


def test_a_conversion_that_fails_leaves_no_file(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        data.main(["convert", "--no-prove", "--format", "ifeval", str(tmp_path / "none"), str(tmp_path / "out.jsonl")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("record", [{"problem": "1+1", "answer": "2"}, {"title": "of no shape"}])
def test_a_signal_ends_a_conversion_that_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]
):
    def rows(_: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        yield 1, record
        signal.raise_signal(signal.SIGTERM)
        yield from ((number, record) for number in range(2, 100))

    monkeypatch.setattr(convert, "read_records", rows)
    source = file_of(tmp_path, record)
    with pytest.raises(KeyboardInterrupt):
        data.main(["convert", "--no-prove", str(source), str(tmp_path / "out.jsonl")])
    assert list(tmp_path.iterdir()) == [source]


def test_generated_puzzles_are_a_prompt_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "puzzles.jsonl"
    names = ["spell_backward", "number_sorting"]
    assert data.main(["puzzles", *names, "--levels", "0", "1", "--count", "3", "--out", str(target)]) == 0
    contents = read_contents(target, Characters())
    assert (len(contents.prompts), contents.bad) == (12, {})
    assert all(gold and gold.startswith("<answer>") for gold in contents.golds)
    with pytest.raises(UserError, match="expected a file to write"):
        data.main(["puzzles", "spell_backward"])


def test_a_brought_gold_completion_wins(tmp_path: Path):
    contents = read_contents(file_of(tmp_path, GOOD | {"gold": "so \\boxed{2}"}, GOOD), Characters())
    assert contents.golds == ["so \\boxed{2}", "\\boxed{2}"]
    assert data_check.duplicate_prompts(contents)


def test_a_file_of_many_sources_has_a_short_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = file_of(tmp_path, *({"problem": "1+1", "answer": "2", "source": f"set{number}"} for number in range(100)))
    assert data.main(["convert", "--no-prove", str(source), str(tmp_path / "out.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "60  of 60 more sources" in out
    assert len(out.splitlines()) < 50


def test_problems_whose_tests_were_shortened_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    many = json.dumps({"inputs": ["1"] * 99, "outputs": ["1"] * 99})
    source = file_of(tmp_path, {"question": "Echo.", "input_output": many})
    assert data.main(["convert", "--no-prove", str(source), str(tmp_path / "out.jsonl")]) == 0
    assert "1  problems with more than 50 tests or 256000 characters of them" in capsys.readouterr().out


def test_judging_by_a_model_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prose = "Because markets have costs of search and bargaining that a hierarchy can avoid"
    source = file_of(tmp_path, {"question": "Why do firms exist?", "answer": prose})
    assert data.main(["convert", "--no-prove", str(source), str(tmp_path / "out.jsonl")]) == 1
    assert "1  left out: an open answer, which no rule compares (line 1)" in capsys.readouterr().out
    assert data.main(["convert", "--no-prove", "--judge", str(source), str(tmp_path / "out.jsonl")]) == 0
    made = read_contents(tmp_path / "out.jsonl", Characters())
    assert [(prompt.verifier, prompt.text.partition("\n")[0]) for prompt in made.prompts] == [("judge", "Why do firms exist?")]
