"""Buffer, learner and actor started by hand, in either order; a second actor in the middle."""

import json
from pathlib import Path

import pytest
from prolong.buffer.journal.journal import read_journal
from prolong.launch.trace.command import write_trace

from tests.support.endpoints import dashboard_names, fetch, metric_names, targets_of
from tests.support.runs import SMALL, Run, assert_balanced, free_port

STEPS = 3


@pytest.fixture
def run(tmp_path: Path, demo_model: Path):
    overrides = [*SMALL, f"model.path={demo_model}", f"buffer.address=tcp://127.0.0.1:{free_port()}"]
    overrides += [f"data.train=[{{file: {demo_model}/train.jsonl}}]", "data.heldout=[]"]
    run = Run(tmp_path, "terminals", overrides)
    yield run
    run.kill_all()


@pytest.mark.timeout(700)
@pytest.mark.parametrize("order", [("buffer", "learner", "actor"), ("actor", "learner", "buffer")], ids="-".join)
def test_both_start_orders_reach_the_same_end(run: Run, order: tuple[str, ...]) -> None:
    """The buffer first or last; tests/property/test_start_orders.py starts simulated processes in all six orders."""
    run.overrides.append(f"run.steps={STEPS}")
    for command in order:
        run.start(command)
    codes = {label: run.ended(process, 300) for label, process in run.processes.items()}
    assert set(codes.values()) == {0}, f"{codes}\n{run.output()}"
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    assert_balanced(run.summary(), STEPS, batch_groups=4)


@pytest.mark.timeout(900)
def test_a_second_actor_joins_in_the_middle_and_takes_its_share(run: Run) -> None:
    """Meanwhile every process is asked how it is, and afterwards what it did is one trace."""
    # more than it makes until the second actor is there, however fast it is
    run.overrides += ["run.steps=100000", "checkpoint.every=1000", "learner.token_budget=512", f"run.http_port={free_port()}"]
    for command in ("buffer", "learner"):
        run.start(command)
    run.start("actor", "--name", "first")
    run.wait_for_step(3, 300)
    run.start("actor", "--name", "second")

    def second_worked() -> bool:
        second = run.status()["peers"].get("second", {})
        return second.get("generated_rollouts", 0) > 0

    run.wait("groups of the second actor", second_worked, 300)
    assert all(process.poll() is None for process in run.processes.values()), run.output()
    targets = targets_of(run.folder)
    assert targets.keys() == {"buffer", "learner", "first", "second"}

    def unfit(target: str) -> bool:
        health = json.loads(fetch(target, "healthz"))
        assert health["alive"], health
        return not health["ready"]

    def untold() -> set[str]:
        told = set[str]().union(*(metric_names(fetch(target, "metrics")) for target in targets.values()))
        # there is no sweep without held-out prompts, and not every step has tokens of the version that it trains
        return dashboard_names() - told - {"prolong_step_validation_mean", "prolong_step_agreement_logprob_gap"}

    # who waits for others a moment longer is not ready, and what processes tell is a second old
    run.wait("all of them to be ready", lambda: not any(map(unfit, targets.values())), 60)
    run.wait("all that dashboards ask for", lambda: not untold(), 60)
    assert write_trace([str(run.folder)], None, 0.0) == 0
    events = json.loads((run.folder / "trace.json").read_text())["traceEvents"]
    named = {event["args"]["name"].partition(" ")[0] for event in events if event["name"] == "process_name"}
    assert named == targets.keys()
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert {"step 1", "waits for a batch", "publish", "forms batch 0", "takes weights 0", "generates"} <= names
    assert {event["name"] for event in events if event["ph"] == "s"} == {"trained", "weights"}


@pytest.mark.timeout(700)
def test_a_run_of_two_stages_changes_its_groups_and_ends_with_the_last_stage(run: Run) -> None:
    stages = "[{name: narrow, steps: 2}, {name: wide, steps: 3, reset: true, sampling: {n: 6}}]"
    run.overrides += ["run.steps=50", "checkpoint.every=1", "checkpoint.keep=10", f"stages={stages}"]
    for command in ("buffer", "learner", "actor"):
        run.start(command)
    codes = {label: run.ended(process, 300) for label, process in run.processes.items()}
    assert set(codes.values()) == {0}, f"{codes}\n{run.output()}"
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4, 5]
    assert_balanced(run.summary(), 5, batch_groups=4)
    counters = run.summary()["counters"]
    assert not counters.get("buffer/mismatched_groups")
    assert not counters.get("buffer/failed_groups")
    journal = read_journal(run.folder / "journal")
    batches = [journal.batch(version) for version in journal.versions()]
    journal.close()
    groups = [group for batch in batches if batch is not None for group in batch.groups]
    assert {group.sampling.n for group in groups} == {4, 6}
    assert all(len(group.rollouts) + group.dropped_rollouts == group.sampling.n for group in groups)
