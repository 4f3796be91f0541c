"""One recipe with two pools: actors with another engine and another dtype each, in one run of real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from prolong.buffer.journal.journal import read_journal

from tests.support.runs import SMALL, Run


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_actors_of_two_pools_work_on_one_run_with_engines_of_their_own(tmp_path: Path, demo_model: Path) -> None:
    overrides = [each for each in SMALL if not each.startswith(("actor.", "checkpoint."))]
    overrides += [f"model.path={demo_model}", f"data.train=[{{file: {demo_model}/train.jsonl}}]", "data.heldout=[]"]
    # until both have worked: one engine starts much sooner than the other
    overrides += ["run.steps=10000", "checkpoint.every=10000", "buffer.keep_history=true", "pools.small.actor.capacity=8"]
    run = Run(tmp_path, "pools", [*overrides, "buffer.address=tcp://127.0.0.1:0"], recipe="demo_pools")
    train = run.start("train")

    def trained_of(*pools: str) -> bool:
        assert train.poll() is None, run.output()
        return bool(records := run.metrics()) and all(f"perf/pool_tokens_per_s/{pool}" in records[-1] for pool in pools)

    try:
        run.wait("a step with groups of both pools", lambda: trained_of("large", "small"), 500)
        peers = run.status()["peers"]
        run.wait_for_step(run.metrics()[-1]["step"] + 2, 150)
    finally:
        run.kill_all()
    assert {name: (peer["pool"], peer["capacity"]) for name, peer in peers.items() if "pool" in peer} == {
        "large-0": ("large", 256),
        "small-0": ("small", 8),
    }
    assert all(0 < peer["room"] <= peer["capacity"] for peer in peers.values() if "pool" in peer)
    journal = read_journal(run.folder / "journal")
    groups = [group for version in journal.versions() if (batch := journal.batch(version)) for group in batch.groups]
    journal.close()
    assert {group.actor for group in groups} == {"large-0", "small-0"}
    # bfloat16 and float32 against float32: what engines differ by, and no more
    assert abs(run.metrics()[-1]["policy/kl_behaviour"]) < 0.05
