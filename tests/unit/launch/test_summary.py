"""The table at the end of a run, and the reading of summary.json."""

import io
import json
from pathlib import Path

import pytest
from prolong.common.errors import UserError
from prolong.launch.summary import by_domain, closing_lines, format_duration, format_score, read_summary, scores_table
from rich.console import Console


def side(addition: float, sorting: float) -> dict:
    return {"by_task": {"math/addition": addition, "logic/number_sorting": sorting}, "mean": (addition + sorting) / 2}


def test_the_table_compares_before_and_after_by_domain_and_task() -> None:
    summary = {"before": {"sampled": side(0.4, 0.3)}, "after": {"sampled": side(0.9, 1.0), "greedy": side(1.0, 0.95)}}
    console = Console(file=io.StringIO(), width=80)
    console.print(scores_table(summary))
    rows = [row.split() for row in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["logic", ".30", "->", "1.00", "-", "->", ".95"] in rows
    assert ["addition", ".40", "->", ".90", "-", "->", "1.00"] in rows
    assert ["mean", "over", "tasks", ".35", "->", ".95", "-", "->", ".97"] in rows


def test_the_names_of_domains_and_tasks_are_text_and_not_markup() -> None:
    scores = {"sampled": {"by_task": {"[red] logic/[bold]": 0.5}, "mean": 0.5}}
    console = Console(file=io.StringIO(), width=80)
    console.print(scores_table({"before": scores, "after": scores}))
    rows = [row.split() for row in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["[red]", "logic", ".50", "->", ".50"] in rows
    assert ["[bold]", ".50", "->", ".50"] in rows


def test_domains_weigh_their_tasks_equally() -> None:
    assert by_domain({"math/a": 0.0, "math/b": 1.0, "logic/c": 0.3}) == {"math": 0.5, "logic": 0.3}


def test_the_closing_lines_name_the_run_folder() -> None:
    summary = {"steps": 40, "wall_s": 75.4, "ledger": {"trained": 640}, "staleness_max": 2, "reference_resets": 1}
    lines = closing_lines(summary, Path("runs/demo"))
    assert lines[0] == "40 steps in 1:15, 640 groups trained, staleness at most 2, 1 reference resets"
    assert lines[1:3] == ["run folder: runs/demo", "a page about it: prolong report runs/demo"]
    assert all(len(line) < 80 for line in lines)  # a command that wraps cannot be copied


def test_a_summary_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(path)


def test_numbers_are_short() -> None:
    assert (format_duration(75.4), format_duration(3661)) == ("1:15", "1:01:01")
    assert (format_score(0.413), format_score(1.0), format_score(None)) == (".41", "1.00", "-")
