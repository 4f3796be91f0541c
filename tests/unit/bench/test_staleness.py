"""The study of staleness: its cells, its rows, and the figures that are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prolong.bench import staleness
from prolong.bench.assumed_speed import AdaptiveEta, speed
from prolong.bench.staleness import ADAPTIVE_ARMS, ARMS, GRID, RATES, TASKS, Cell, all_cells, overrides_of, read_rows
from prolong.bench.staleness_report import (
    BEGIN,
    END,
    grid_tables,
    paired,
    steps_to_target,
    time_table,
    time_to_target,
)
from prolong.common.config.sections import AdaptiveConfig
from prolong.launch.recipes import compose


def row(eta: int, arm: str, seed: int, *, heldout: float, curve: list[float], task: str = "sums", lr: float = 5e-5) -> dict:
    by_length = {"tokens": [5.0, 6.0, 7.0, 8.0], "kept": [1.0] * 4, "ess": [1.0] * 4}
    cell = {"task": task, "lr": lr, "eta": eta, "arm": arm, "seed": seed}
    return cell | {"heldout": heldout, "curve": curve, "ess": 0.5, "by_length": by_length}


def test_the_grid_has_each_run_once_and_eta_0_for_one_correction() -> None:
    cells = list(dict.fromkeys(all_cells(5)))
    grid = [cell for cell in cells if cell.arm not in ARMS | ADAPTIVE_ARMS and cell.lr in RATES]
    assert len(grid) == (1 + 5 * len(GRID)) * len(TASKS) * len(RATES) * 5 == 420
    assert {cell.eta for cell in grid} == {0, 1, 2, 4, 8, 16}
    assert {cell.arm for cell in grid if cell.eta == 0} == {"on_policy"}
    assert cells[0].seed == 0


@pytest.mark.parametrize("arm", [*GRID, *ARMS, *ADAPTIVE_ARMS])
def test_every_arm_is_a_configuration(arm: str) -> None:
    cfg = compose("demo", overrides_of(Cell("lists", 5e-4, 8, arm, 3), Path("models/demo")))
    assert (cfg.learner.lr, cfg.buffer.eta, cfg.run.seed) == (5e-4, 8, 3)
    assert [source.only for source in cfg.data.train] == ["logic/number_sorting", "instructions/bullets"]


def test_a_row_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = row(2, "bypass", 1, heldout=0.5, curve=[0.1])
    path.write_text(json.dumps(whole) + "\n" + json.dumps(whole)[:40])
    assert read_rows(path) == {Cell("sums", 5e-5, 2, "bypass", 1): whole}
    assert read_rows(tmp_path / "none.jsonl") == {}


def test_the_target_is_reached_with_the_mean_of_three_versions() -> None:
    assert steps_to_target(row(0, "on_policy", 0, heldout=0, curve=[0.2, 1.0, 0.7, 0.84, 0.9, 0.85, 0.1])) == 5
    assert steps_to_target(row(0, "on_policy", 0, heldout=0, curve=[1.0, 1.0, 0.5, 0.0])) == 4


def test_tables_and_differences_are_means_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = [0.2, 0.9, 0.9, 0.9, 0.9], [0.2, 0.2, 0.9, 0.9, 0.9]
    rows = [row(0, "on_policy", 0, heldout=0.9, curve=fast)]
    for eta in (1, 2, 4):
        rows += [row(eta, "decoupled", seed, heldout=0.6 + 0.2 * seed, curve=slow) for seed in (0, 1)]
        rows += [row(eta, "bypass", seed, heldout=0.9, curve=fast) for seed in (0, 1)]
    rows.append(row(2, "bypass_adaptive", 0, heldout=0.8, curve=fast) | {"etas": [2] * 5})
    assert "| 2 | 0.700 ±0.100, 4.0, 0.50 | 0.900 ±0.000, 3.0, 0.50 |\n" in grid_tables(rows)
    assert "| adaptive | - | 0.800, 3.0, 0.50 |" in grid_tables(rows)
    assert paired(rows, "decoupled", "bypass", lambda each: each["heldout"])["sums 5e-5"][::2] == (pytest.approx(-0.2), 6)
    # 3 steps at 1, 1.43, 1.73 and 2.09 times the speed
    assert "| sums 5e-5 bypass | 3.0 | 2.1 ±0.0 | 1.7 ±0.0 | 1.4 ±0.0 | 1.7 |" in time_table(rows)
    assert "sums" not in time_table([each for each in rows if each["arm"] != "decoupled"]), "all take the same steps"
    path, page = tmp_path / "rows.jsonl", tmp_path / "staleness.md"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    page.write_text(f"before\n{BEGIN}\nthe tables of yesterday\n{END}\nbehind\n")
    assert staleness.main(["--draw", "--rows", str(path), "--docs", str(tmp_path)]) == 0
    assert "14 runs" in capsys.readouterr().out
    assert page.read_text().startswith(f"before\n{BEGIN}\n14 runs")
    assert page.read_text().endswith(f"\n{END}\nbehind\n")
    assert "| decoupled | reward at the end | +0.20 ±0.04 (6) |" in page.read_text()
    assert "yesterday" not in page.read_text()
    assert len((tmp_path / "staleness.jsonl").read_text().splitlines()) == 14
    # a checkout has the data of the page and no runs
    assert staleness.main(["--draw", "--rows", str(tmp_path / "none"), "--docs", str(tmp_path)]) == 0
    assert len((tmp_path / "staleness.jsonl").read_text().splitlines()) == 14
    assert (tmp_path / "staleness.png").stat().st_size > 10_000


def test_assumed_speeds_are_near_the_published_ones() -> None:
    for eta, published in {0: 1.0, 1: 1.43, 2: 1.76, 4: 2.12}.items():
        assert speed(eta) == pytest.approx(published, rel=0.02)
    assert speed(16) > speed(8) > 2.2


def test_time_to_the_target_counts_every_step_at_its_own_eta() -> None:
    moved = row(2, "bypass_adaptive", 0, heldout=0, curve=[0.0, 1.0, 1.0, 1.0, 1.0]) | {"etas": [2, 2, 1, 0, 0]}
    assert time_to_target(moved) == pytest.approx(2 / speed(2) + 1 / speed(1))


def test_an_adaptive_eta_falls_when_the_data_are_far_and_rises_when_they_are_near() -> None:
    def etas(ess: float) -> list[int]:
        rule, metrics = AdaptiveEta(AdaptiveConfig(max=16), 4), []
        for version in range(40):
            rule(version, metrics)
            metrics.append({"policy/ess": ess, "policy/kl_behaviour_k3": 0.0})
        return rule.etas

    far, near = etas(0.5), etas(1.0)
    assert far[0] == near[0] == 4
    assert far[-1] == 0
    assert near[-1] > 4
