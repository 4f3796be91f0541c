"""`prolong plan CLUSTER.yaml`: what it prints, sweeps, finds and writes."""

import json
import re
from pathlib import Path

import pytest
from prolong.common.config.run_files import save_config
from prolong.common.errors import UserError
from prolong.common.metrics import MetricsWriter
from prolong.launch.cli import main
from prolong.launch.plan.search import find_best
from prolong.launch.plan.simulation.cluster import Cluster, LearnerDevice, LengthClass, PoolDevice, read_cluster
from prolong.launch.plan.sweep import parse_sweep, plan_one
from prolong.launch.recipes import compose

from tests.support.recorded_steps import planned_config, recorded_step

ROOT = Path(__file__).resolve().parents[4]
EXAMPLE = ROOT / "examples" / "cluster.yaml"
SMALL = ["buffer.batch_groups=16", "sampling.n=4", "sampling.max_tokens=512", "model.max_context=1024", "--steps", "6"]


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["plan", *argv]) == 0
    return capsys.readouterr().out


def test_the_example_of_the_docs_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "planning.md").read_text()
    shown = "".join(line.removeprefix("    ") + "\n" for line in EXAMPLE.read_text().splitlines())
    assert shown in re.sub(r"^    ", "", page, flags=re.MULTILINE), "docs/planning.md shows examples/cluster.yaml as it is"
    text = planned(capsys, str(EXAMPLE), *SMALL, "--no-search")
    for part in ("steps/s", "no schedule can exceed", "<- binds", "learner: trains", "h100", "a10", "staleness", "not trained"):
        assert part in text


def test_json_has_the_plan_and_the_best_settings(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(planned(capsys, str(EXAMPLE), *SMALL, "--json"))
    assert record["steps_per_s"] <= record["bound"] * 1.05
    assert record["roofs"][record["binds"]] == record["bound"]
    assert sum(record["staleness"].values()) > 0
    assert set(record["pools"]) == {"h100", "a10"}
    assert record["best"]["steps_per_s"] >= 0.98 * record["steps_per_s"]


def test_a_sweep_has_a_point_for_every_value_and_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "sweep.png"
    record = json.loads(planned(capsys, str(EXAMPLE), *SMALL, "--sweep", "eta=0..2", "--plot", str(picture), "--json"))
    assert [point["value"] for point in record["points"]] == [0, 1, 2]
    assert [max(map(int, point["staleness"])) <= point["value"] for point in record["points"]] == [True] * 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    counts = json.loads(planned(capsys, str(EXAMPLE), *SMALL, "--sweep", "pools.a10.count=1,2", "--json"))
    assert [point["settings"]["actors"]["a10"] for point in counts["points"]] == [1, 2]


@pytest.mark.parametrize(
    ("text", "found"),
    [("eta=0..3", ("buffer.eta", [0, 1, 2, 3])), ("n=8,16", ("sampling.n", [8, 16])), ("actors=4", ("actors", [4]))],
)
def test_what_a_sweep_may_say(text: str, found: tuple[str, list[int]]) -> None:
    assert parse_sweep(text) == found


@pytest.mark.parametrize("text", ["eta", "eta=", "eta=3..0", "eta=0..100", "eta=a,b"])
def test_other_sweeps_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--sweep .*: "):
        parse_sweep(text)


def test_a_pool_that_is_not_there_cannot_be_swept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(EXAMPLE), *SMALL, "--sweep", "pools.b200.count=1,2"]) == 2
    assert "pools.h100.count" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--plot", "x.png"], "expected --sweep"),
        (["--plot", "x.bmp", "--sweep", "eta=0..1"], "a .png file"),
        (["--plot", "no-such-folder/x.png", "--sweep", "eta=0..1"], "a folder that exists"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_simulated(
    capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main(["plan", "no-cluster.yaml", *flags]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--seed", "-1"], ["--steps", "many"]])
def test_a_number_that_no_simulation_can_use_is_refused(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", str(EXAMPLE), *flags])
    assert flags[0] in capsys.readouterr().err


def test_where_eta_adapts_the_search_compares_it_with_etas_that_stay(capsys: pytest.CaptureFixture[str]) -> None:
    adapts = ["buffer.eta=0", "buffer.adaptive={min: 0, max: 1}"]
    record = json.loads(planned(capsys, str(EXAMPLE), *SMALL, *adapts, "--json"))
    assert max(map(int, record["staleness"])) <= 1
    assert record["best"]["eta"] > 1


def test_the_search_moves_idle_devices_to_the_side_that_binds() -> None:
    cluster = Cluster(
        pools={"gpu": PoolDevice(count=2, capacity=64, step_base_s=0.01)},
        # six devices wait for two
        learner=LearnerDevice(per_token_s=1e-6, devices=6, pool="gpu"),
        lengths=[LengthClass(mean=100, spread=0.2)],
    )
    cfg = planned_config(eta=2, n=8)
    given = plan_one(cluster, cfg, steps=10, seed=0)
    best = find_best(given, steps=10, seed=0)
    assert best.cluster.pools["gpu"].count > 2
    assert best.cluster.pools["gpu"].count + best.cluster.learner.devices == 8
    assert best.found.steps_per_s > 1.3 * given.found.steps_per_s


def test_a_recorded_run_becomes_a_cluster_that_can_be_planned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    cfg = compose("demo", ["buffer.batch_groups=8", "sampling.n=8", "model.max_context=128"])
    run.mkdir()
    save_config(cfg, run / "config.yaml")
    with MetricsWriter(run, tensorboard=False) as writer:
        for step in range(1, 13):
            numbers = recorded_step(step, 8, 60.0 if step > 7 else 20.0)
            writer.write(step, {name: value for name, value in numbers.items() if name != "step"})
    path = tmp_path / "cluster.yaml"
    text = planned(capsys, str(path), "--calibrate", str(run), "--cores", "0", "--steps", "6", "--no-search")
    assert "calibrated on run: 1 steps/s recorded" in text
    assert read_cluster(path).pools["actors"].step_per_rollout_s > 0
    assert path.read_text().startswith("# calibrated on run")
    # never over a file that somebody may have edited
    assert main(["plan", str(path), "--calibrate", str(run)]) == 2
    assert "exists" in capsys.readouterr().err
