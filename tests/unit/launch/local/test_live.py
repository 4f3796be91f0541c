"""The live page and its lines, from records as the learner writes them."""

import io
from pathlib import Path

import msgspec
import pytest
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.messages import Status
from prolong.launch.local.live import RunProgress, last_step, live_line, live_page, sparkline
from prolong.launch.local.train import print_start
from prolong.learner.drift import DriftWatch
from rich.console import Console


def test_the_last_step_is_found_behind_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\x00\xff\n{"step": 3}\n')
    assert last_step(tmp_path / "metrics.jsonl") == 3


def record(step: int) -> dict[str, float]:
    return {
        "step": step,
        "wall_s": 10.0 + 2.0 * step,
        "reward/mean": 0.5,
        "reward/math": 0.1 * step,
        "reward/math/addition": 0.1 * step,
        "reward/logic": 0.25,
        "validation/sampled/mean": 0.4,
        "validation/sampled/math/addition": 0.2 + 0.1 * step,
        "validation/sampled/math/digit_sum": 0.4 + 0.1 * step,
        "buffer/staleness_mean": 1.25,
        "buffer/staleness_max": 2.0,
        "learner/wait_s": 0.25,
        "learner/step_s": 1.0,
        "learner/tokens": 7000.0,
        "weights/publish_s": 0.05,
        "reference/epoch": 1.0,
        "actor/busy_s": 0.9,
        "actor/idle_s": 0.05,
        "actor/weights_s": 0.05,
        "actor/num_actors": 1.0,
    }


@pytest.fixture
def progress() -> RunProgress:
    progress = RunProgress(run="r", steps=10, eta=2, folder=Path("runs/r"))
    progress.add(record(step) for step in (1, 2, 3, 4))
    states = {
        "issued": 1,
        "leased": 2,
        "stored": 3,
        "batched": 4,
        "trained": 5,
        "filtered": 6,
        "stale": 0,
        "failed": 0,
        "total": 21,
    }
    progress.status = Status(
        run="r", generation=1, version=4, steps=10, ledger=states, balanced=True, peers={}, counters={}, validation=[]
    )
    return progress


def shown(progress: RunProgress, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(live_page(progress))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_time_left_follows_the_pace_of_the_last_steps(progress: RunProgress) -> None:
    assert progress.left_s == pytest.approx(6 * 2.0)


def test_the_first_step_does_not_count_for_shares_because_it_carries_the_start_up(progress: RunProgress) -> None:
    progress.records[0]["learner/wait_s"] = progress.records[0]["learner/step_s"] = 60.0
    assert progress.wait_share == pytest.approx(0.25)


def test_shares_are_of_the_time_of_each_side(progress: RunProgress) -> None:
    assert progress.wait_share == pytest.approx(0.25)
    assert progress.idle_share == pytest.approx(0.05)


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_shows_everything_within_its_width(progress: RunProgress, width: int) -> None:
    text = shown(progress, width)
    assert all(len(row) <= width for row in text.splitlines())
    expected = ["4 / 10", "math  .40", "logic .25", "math .40 -> .70", "mean 1.25   max 2   bound 2", "learner waits 25%"]
    expected += ["actors (1) idle 5%", "7,000 tokens/s", "weights 50 ms", "reference epoch 1", "= 21 balanced", "0:12 left"]
    assert [words for words in expected if words not in text] == []


def test_an_unbalanced_ledger_is_shouted(progress: RunProgress) -> None:
    assert progress.status is not None
    progress.status = Status(
        run="r", generation=1, version=4, steps=10, ledger={"total": 1}, balanced=False, peers={}, counters={}, validation=[]
    )
    assert "NOT BALANCED" in shown(progress, 80)


def test_a_page_without_any_step_says_what_it_waits_for() -> None:
    text = shown(RunProgress(run="r", steps=10, eta=2, folder=Path("runs/r")), 80)
    assert "0 / 10" in text
    assert "buffer, learner and actors start" in text


def test_a_resumed_run_says_that_it_starts_until_its_first_new_step(progress: RunProgress) -> None:
    progress.first_step = progress.step
    assert "buffer serves" in shown(progress, 80)
    progress.add([record(5)])
    assert "buffer serves" not in shown(progress, 80)


def test_a_line_tells_the_step_in_one_row(progress: RunProgress) -> None:
    text = live_line(progress)
    assert text.startswith("step 4/10  reward logic .25 math .40  held-out math .70  staleness 1.2/2  learner waits 25%")
    assert "\n" not in text


def test_the_curve_spans_the_whole_run_in_few_characters() -> None:
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([i / 99 for i in range(100)], width=4) == "▁▃▆█"
    assert sparkline([]) == ""


def test_an_eta_that_adapts_is_shown_as_it_is_now_with_the_reason_and_its_bound(progress: RunProgress) -> None:
    assert "eta" not in live_line(progress)
    progress.adapts, progress.eta = True, 8
    progress.add([record(5) | {"buffer/eta": 3.0}])
    assert progress.status is not None
    progress.status = msgspec.structs.replace(progress.status, eta=3, eta_why="work is held back for 9.0% of the time")
    assert "bound 3 of 8 (work is held back for 9.0% of the time)" in shown(progress, 160)
    assert "staleness 1.2/2 eta 3  " in live_line(progress)


def test_data_that_drift_too_far_for_the_present_stage_are_noted_once(progress: RunProgress) -> None:
    progress.drift, progress.stages = DriftWatch(eta=2, minibatches=1), ["wide", "narrow"]
    progress.objectives = [ObjectiveConfig(clip_low=0.5), ObjectiveConfig(clip_low=0.2)]
    far = {"policy/log_ratio_m2": 0.16, "policy/lag_mean": 2.0, "policy/ess": 0.9, "learner/lr": 5e-4}
    progress.add(record(step) | far for step in range(5, 30))
    assert not progress.notes
    progress.add(record(step) | far | {"stage/index": 1.0} for step in range(30, 60))
    (note,) = progress.notes
    assert "0.4 nats (root mean square) from the policy" in note


def test_mean_and_maximum_of_staleness_are_of_the_same_steps(progress: RunProgress) -> None:
    progress.add([record(5) | {"buffer/staleness_mean": 0.25, "buffer/staleness_max": 1.0}])
    assert "mean 1.00   max 2 " in shown(progress, 80)


def test_the_names_of_the_run_and_of_domains_are_text_and_not_markup(progress: RunProgress) -> None:
    progress.run = "[/] mine"
    progress.add([record(5) | {"reward/[red]": 0.5, "reward/[red]/[blue]": 0.5}])
    page = shown(progress, 100)
    for name in ("[/] mine", "[red] ", "[blue] .50"):
        assert name in page


def test_pools_have_a_row_with_the_speed_of_each(progress: RunProgress) -> None:
    assert "pools" not in shown(progress, 100)
    speeds = {"perf/pool_tokens_per_s/h100": 12_345.6, "perf/pool_running/h100": 88.2, "perf/pool_tokens_per_s/a10": 99.0}
    progress.add([record(5) | speeds])
    assert "a10 99 tokens/s (- run)   h100 12,346 tokens/s (88 run)" in shown(progress, 100)


def test_the_start_is_told_without_a_terminal_whenever_it_gets_on(
    progress: RunProgress, capsys: pytest.CaptureFixture[str]
) -> None:
    up, progress.status = progress.status, None
    progress.first_step = progress.step
    told = print_start(progress, "")
    assert "buffer, learner and actors start (logs: runs/r/logs)" in capsys.readouterr().out
    assert print_start(progress, told) == told
    assert capsys.readouterr().out == ""
    assert up is not None
    progress.status = msgspec.structs.replace(up, peers={"learner": {"state": "connected"}})
    told = print_start(progress, told)
    assert capsys.readouterr().out == "r: buffer serves, learner connected (logs: runs/r/logs)\n"
    progress.status = msgspec.structs.replace(up, peers={"actor-0": {"state": "ready"}, "learner": {"state": "connected"}})
    told = print_start(progress, told)
    assert "actor-0 ready, learner connected; the first rollouts are sampled" in capsys.readouterr().out
    progress.add([record(5)])
    assert print_start(progress, told) == told
