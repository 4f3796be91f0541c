"""The eight stages of the paper's schedule with everything real, from its first step to its last."""

from __future__ import annotations

from pathlib import Path

import pytest
from prolong.common.metrics import read_metrics
from prolong.launch.recipes import compose
from prolong.learner.schedule import outcomes_of

from tests.support.runs import Run, assert_balanced

SHORT = [  # three steps a stage
    "actor.engine=transformers",
    "run.steps=24",
    "buffer.batch_groups=4",
    "sampling.n=4",
    "buffer.dynamic_sampling=false",
    "validation.every=6",
    "validation.prompts=1",
    "validation.greedy=false",
    "validation.n=1",
    "checkpoint.every=2",
    "launch.pin_cores=false",
    *(f"stages.{index}.steps=3" for index in range(8)),
    *(f"stages.{index}.sampling.n=8" for index in (5, 6)),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_eight_stages_run_to_their_end(demo_model: Path, tmp_path: Path) -> None:
    files = [f"data.train.{index}.file={demo_model}/train.jsonl" for index in range(6)]
    here = [f"model={demo_model}", f"data.heldout=[{{file: {demo_model}/heldout.jsonl}}]", *files]
    run = Run(tmp_path, "stages", [*here, *SHORT], recipe="demo_stages")
    try:
        train = run.start("train", "buffer.address=tcp://127.0.0.1:0", "launch.max_restarts=0")
        assert run.ended(train, 700) == 0, run.output()
    finally:
        run.kill_all()
    records, summary = read_metrics(run.folder / "metrics.jsonl"), run.summary()
    assert [record["step"] for record in records] == list(range(1, 25))
    assert [record["stage/index"] for record in records] == [index for index in range(8) for _ in range(3)]
    resets = [record["step"] for record in records if record.get("reference/reset_stage")]
    assert resets == [3, 6, 9, 12, 15, 18, 21]
    assert summary["reference_resets"] == 7
    assert all(records[step]["reference/kl"] == 0.0 for step in resets)  # the step after each reset
    cfg = compose(str(run.folder / "config.yaml"))
    assert [(version, outcome.reset) for version, outcome in outcomes_of(cfg, records) if outcome.reset] == [
        (v, "stage") for v in resets
    ]
    assert "reward/instructions/bullets" not in records[0]
    assert any("reward/instructions/bullets" in record for record in records[6:])
    assert max(record["rollout/count"] for record in records[:15]) == 16
    assert max(record["rollout/count"] for record in records) > 16
    assert_balanced(summary, 24, 4)
