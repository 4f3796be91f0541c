"""Files of results: what is measured next, what is read out of a bench's line, and which differences are noise."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prolong.bench import all as bench_all
from prolong.bench import compare as bench_compare
from prolong.bench import results_file
from prolong.bench.compare import (
    ComparedFigure,
    compare_rounds,
    compared_figures,
    parse_side,
    ratio_interval,
    student_quantile,
    three_digits,
)
from prolong.bench.measurements import MEASUREMENTS, OURS, TRL, MeasuredBench, direction_of, figures_of, less, more, number_at
from prolong.bench.results_file import BenchFile, BenchMachine, BenchResult, read_results, these_versions, write_results
from prolong.common.errors import UserError
from prolong.launch.cli import BENCHES, is_bench

MACHINE = BenchMachine(cpu="test", cores=2, memory_gb=8.0, kernel="6")


def result(name: str, round_: int, figures: dict[str, float] | None = None, error: str = "") -> BenchResult:
    return BenchResult(
        measurement=name,
        round=round_,
        command=f"prolong bench {name} --json",
        began="2026-11-30T12:00:00+00:00",
        wall_s=1.0,
        cpu_s=1.0,
        others=0.0,
        figures={OURS: figures or {}},
        error=error,
    )


def file_of(*results: BenchResult, machine: BenchMachine = MACHINE) -> BenchFile:
    return BenchFile(command="prolong bench all", machine=machine, versions={"commit": "abc"}, results=list(results))


# --- the table ------------------------------------------------------------------------------------


def test_every_measurement_is_a_bench_that_exists() -> None:
    benches = {path.stem.replace("_", "-") for path in BENCHES.glob("*.py") if is_bench(path)}
    assert {each.bench[0] for each in MEASUREMENTS.values()} - benches == set()


def test_a_figure_has_one_name_and_trls_have_the_same_ones() -> None:
    names = [name for each in MEASUREMENTS.values() for name in each.figures[OURS]]
    assert len(names) == len(set(names))
    others = {name for each in MEASUREMENTS.values() for name in each.figures.get(TRL, {})}
    assert others
    assert others <= set(names)
    assert all(name.count("/") == 1 for name in names)


def test_figures_are_read_from_the_line_of_a_bench() -> None:
    line = json.loads('{"step_s": {"0": 2.0, "1": 1.5}, "runs": [{"rate": 7}], "none": null, "text": "x", "flag": true}')
    figures = {"a/0_s": less("step_s.0"), "a/rate": more("runs.0.rate"), "a/none": more("none"), "a/far": more("runs.1.rate")}
    measurement = MeasuredBench(bench=("x",), seconds=1, figures={OURS: figures, TRL: {"a/rate": more("text")}})
    assert figures_of(measurement, line) == {OURS: {"a/0_s": 2.0, "a/rate": 7.0}, TRL: {}}
    assert number_at(line, "flag") is None
    # JSON has no name for them: a file that held one could not be read again
    assert [number_at(json.loads(text), "0") for text in ("[NaN]", "[Infinity]", "[-Infinity]")] == [None] * 3
    assert direction_of("learner/step_ms") is False
    assert direction_of("buffer/durable_groups_per_s") is True
    assert direction_of("of/another_version") is None


# --- measuring ------------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_what_failed_is_tried_again() -> None:
    results = file_of(result("a", 1, {"x": 1.0}), result("b", 1, error="exit code 1"))
    assert bench_all.due(results, ["a", "b"], 2) == [(1, "b"), (2, "a"), (2, "b")]
    assert bench_all.due(file_of(), ["a"], 1) == [(1, "a")]


def test_a_measurement_that_lacks_something_is_left_out_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted, left_out = bench_all.chosen(["race-trl", "learner-step"])
    assert list(wanted) == ["learner-step"]
    assert left_out == {"race-trl": "`prolong bootstrap --out models/demo` and `make install-trl`"}
    with pytest.raises(UserError, match="--only 'ingests': expected some of"):
        bench_all.chosen(["ingests"])
    wanted, left_out = bench_all.chosen([])
    assert "race-trl-long-tail" not in wanted.keys() | left_out.keys(), "it is measured only where it is asked for"


def test_the_list_says_what_is_measured_and_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seconds = {"race-trl": 70, "learner-step": 20, "ingest": 30, "transport": 15}
    known = {name: replace(bench_all.MEASUREMENTS[name], seconds=taken) for name, taken in seconds.items()}
    monkeypatch.setattr(bench_all, "MEASUREMENTS", known)
    assert bench_all.main(["--list", "--only", "race-trl", "learner-step", "ingest", "--rounds", "6"]) == 0
    listed = capsys.readouterr().out
    assert (
        "learner-step: 20 s\n    prolong bench learner-step --rounds 5 --json\n    - learner/speed_over_supervised\n" in listed
    )
    assert "race-trl: 70 s; first run `prolong bootstrap --out models/demo` and `make install-trl`\n" in listed
    assert "transport: 15 s; only with --only transport\n" in listed
    assert listed.endswith("2 measurements, 6 rounds: about 5 minutes on two quiet cores\n"), "20 + 30 s, six times"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        bench_all.main(["--rounds", "1"])


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that works, and one that fails; in place of the command line, whose arguments they get."""
    figures = {OURS: {"demo/x": more("x")}}
    good, bad = "print('starting'); print('{\"x\": 3}')", "import sys; sys.exit('no disk')"
    scripts = {"good": good, "bad": bad, "blind": "print('{}')"}
    table = {name: MeasuredBench(bench=(script,), seconds=1, figures=figures) for name, script in scripts.items()}
    monkeypatch.setattr(bench_all, "MEASUREMENTS", table)

    monkeypatch.setattr(bench_all, "command_of", lambda arguments: [sys.executable, "-c", arguments[0]])


def test_results_are_kept_after_each_measurement_and_a_second_call_goes_on(
    benches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "mine.json"
    assert bench_all.main(["--out", str(out), "--rounds", "1", "--only", "good", "bad"]) == 1
    assert "bad, round 1" in capsys.readouterr().err
    kept = {each.measurement: each for each in read_results(out).results}
    assert kept["good"].figures == {OURS: {"demo/x": 3.0}}
    assert kept["good"].result == {"x": 3}
    assert kept["bad"].error == "exit code 1\nno disk\n"
    assert read_results(out).versions == these_versions()
    monkeypatch.setitem(bench_all.MEASUREMENTS, "bad", bench_all.MEASUREMENTS["good"])
    assert bench_all.main(["--out", str(out), "--rounds", "2", "--only", "good", "bad"]) == 0
    assert "[1/3] bad, round 1" in capsys.readouterr().err, "only what failed or is new"
    assert read_results(out).values(OURS) == {"demo/x": [3.0, 3.0, 3.0, 3.0]}


def test_a_figure_that_a_bench_does_not_print_is_named(
    benches: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_all.main(["--out", str(tmp_path / "mine.json"), "--rounds", "1", "--only", "blind"]) == 0
    assert "without demo/x: the bench did not print it" in capsys.readouterr().err


def test_results_of_another_machine_are_not_added_to(benches: None, tmp_path: Path) -> None:
    write_results(tmp_path / "mine.json", file_of())
    with pytest.raises(UserError, match="holds results of another machine"):
        bench_all.main(["--out", str(tmp_path / "mine.json")])


def test_sources_that_are_no_part_of_a_repository_have_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those in an environment inside a user's repository, whose commit says nothing of prolong."""
    monkeypatch.setattr(results_file, "SOURCES", tmp_path)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "theirs")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, timeout=60)
    assert "commit" not in these_versions()
    (tmp_path / "results_file.py").touch()
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True, timeout=60)
    assert these_versions()["commit"].endswith("+"), "a file of the repository, changed since the commit"


@pytest.mark.parametrize(("output", "code", "error"), [
    (b'{"a": 1}\n', 0, ""),
    (b'noise\n{"a": 1}', 0, ""),
    (b"{", 0, "expected a line of JSON"),
    (b"", 0, "expected a line of JSON"),
    (b"[1]", 0, "expected a JSON object"),
    (b'{"a": 1}', 3, "exit code 3"),
])  # fmt: skip
def test_the_last_line_of_a_bench_is_its_result(output: bytes, code: int, error: str) -> None:
    found, why = bench_all.result_line(output, code)
    assert error in why
    assert (found == {"a": 1}) is (not error)


# --- comparing ------------------------------------------------------------------------------------


def test_the_interval_holds_the_true_ratio_in_95_of_100_cases() -> None:
    """Also for three rounds, and for sides that spread differently."""
    draw, ratio, hits, cases = random.Random(0), 1.3, 0, 3000
    for _ in range(cases):
        first = [draw.lognormvariate(0.0, 0.02) for _ in range(3)]
        second = [ratio * draw.lognormvariate(0.0, 0.1) for _ in range(4)]
        interval = ratio_interval(first, second)
        assert interval is not None
        hits += interval[0] <= ratio <= interval[1]
    assert 0.93 <= hits / cases <= 0.985


def test_welch_on_an_example_that_was_worked_out_by_hand() -> None:
    """Logarithms 0, 1, 2 and 3, 4, 5: variances 1, squared errors 1/3 each, 4 degrees, t = 2.78."""
    low, high = ratio_interval([1.0, math.e, math.e**2], [math.e**3, math.e**4, math.e**5]) or (0.0, 0.0)
    half = 2.78 * math.sqrt(2 / 3)
    assert (math.log(low), math.log(high)) == pytest.approx((3 - half, 3 + half))


def test_quantiles_fall_with_the_degrees_and_are_read_downwards() -> None:
    assert [student_quantile(degrees) for degrees in (0.5, 1.0, 2.9, 3.0, 20.0, 21.0, 400.0)] == [
        12.71, 12.71, 4.30, 3.18, 2.09, 2.0, 2.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "first", "second", "verdict"),
    [
        ("learner/step_ms", [10.0, 10.1, 9.9], [5.0, 5.1, 4.9], "better"),
        ("learner/step_ms", [5.0, 5.1, 4.9], [10.0, 10.1, 9.9], "worse"),
        ("buffer/durable_groups_per_s", [10.0, 10.1, 9.9], [5.0, 5.1, 4.9], "worse"),
        ("learner/step_ms", [10.0, 12.0, 9.0], [10.5, 9.5, 11.0], "noise"),
        ("learner/step_ms", [10.0], [5.0], "one round"),
        ("dispatch/forecast_share_of_roof", [0.94, 0.94], [0.94, 0.94], "the same"),
        ("dispatch/forecast_share_of_roof", [0.94, 0.94], [0.95, 0.95], "better"),
        ("of/another_version", [1.0, 1.0], [2.0, 2.0], "differs"),
        ("learner/step_ms", [0.0, 1.0], [1.0, 1.0], "one round"),
    ],
)
def test_a_difference_is_named_only_beyond_its_noise(name: str, first: list[float], second: list[float], verdict: str) -> None:
    assert compare_rounds(name, first, second).verdict == verdict


def test_two_files_are_compared_figure_by_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, scale in (("a", 1.0), ("b", 2.0)):
        rounds = [result("learner-step", i, {"learner/step_ms": scale * (10 + i), f"only/{file}": 1.0}) for i in (1, 2, 3)]
        write_results(tmp_path / f"{file}.json", file_of(*rounds))
    assert bench_compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    out = capsys.readouterr().out
    assert "learner/step_ms   12.0    24.0   2.00  1.65 to 2.42  worse" in out
    assert "only/" not in out
    assert bench_compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["learner/step_ms"]["verdict"] == "worse"


def test_another_system_of_a_file_is_a_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = result("race-trl", 1, {"demo_run/step_s": 1.0})
    both.figures[TRL] = {"demo_run/step_s": 2.0}
    write_results(tmp_path / "a.json", file_of(both))
    (first, theirs), (second, ours) = parse_side(f"{tmp_path}/a.json:trl"), parse_side(f"{tmp_path}/a.json")
    assert bench_compare.main([f"{tmp_path}/a.json:trl", f"{tmp_path}/a.json"]) == 0
    assert capsys.readouterr().out.count("prolong bench all") == 1, "the file is introduced once"
    [row] = compared_figures(first, second, (theirs, ours))
    assert (row.name, row.first, row.second, row.ratio) == ("demo_run/step_s", 2.0, 1.0, 0.5)
    with pytest.raises(UserError, match="it has figures of prolong, trl; expected FILE or FILE:SYSTEM"):
        parse_side(f"{tmp_path}/a.json:verl")


def test_a_busy_machine_and_another_machine_are_warned_of() -> None:
    other = file_of(machine=BenchMachine(cpu="other", cores=8, memory_gb=8.0, kernel="6"))
    assert bench_compare.warnings_of([file_of(result("a", 1)), file_of(result("a", 2))]) == []
    busy = file_of(msgspec.structs.replace(result("a", 1), others=1.5))
    assert "others wanted 1.5 cores" in bench_compare.warnings_of([busy])[0]
    assert "the machines differ" in bench_compare.warnings_of([file_of(), other])[0]


def test_one_file_shows_its_rounds_also_as_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "a.json", file_of(*(result("x", i, {"learner/step_ms": 10.0 * i}) for i in (1, 2, 3))))
    assert bench_compare.main([str(tmp_path / "a.json"), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2026-11-30: prolong bench all\ntest, 2 cores, 8 GB, no GPU, Linux 6\ncommit abc\n")
    assert "| figure | median | lowest | highest | rounds |\n| --- | ---: | ---: | ---: | ---: |\n" in out
    assert "| learner/step_ms | 20.0 | 10.0 | 30.0 | 3 |\n" in out


def test_what_is_no_file_of_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="expected a file of `prolong bench all"):
        parse_side(str(tmp_path / "a.json"))


def test_numbers_have_three_digits() -> None:
    assert [three_digits(value) for value in (0.0, 0.01234, 1.5, 12.34, 123.4, 12345.6)] == [
        "0.0",
        "0.0123",
        "1.50",
        "12.3",
        "123",
        "12,346",
    ]
    assert ComparedFigure(name="x", first=1, second=1, ratio=1, interval=None, more_is_better=None).verdict == "one round"


def test_a_page_gets_the_results_between_its_marks(tmp_path: Path) -> None:
    both = result("race-trl", 1, {"demo_run/step_s": 1.0})
    both.figures[TRL] = {"demo_run/step_s": 2.0}
    write_results(tmp_path / "a.json", file_of(both))
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{bench_compare.BEGIN}\nold\n{bench_compare.END}\nrest\n")
    for _ in range(2):
        assert bench_compare.main([str(tmp_path / "a.json"), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- results -->\n- 2026-11-30: prolong bench all\n")
    assert "| demo_run/step_s | 1.00 | 1.00 | 1.00 | 1 |\n" in text
    assert "| demo_run/step_s | 2.00 | 1.00 | 0.50 |  | one round |\n<!-- end of results -->\nrest\n" in text
    assert "old" not in text
    page.write_text("no marks")
    with pytest.raises(UserError, match="expected a page with the lines"):
        bench_compare.main([str(tmp_path / "a.json"), "--page", str(page)])
