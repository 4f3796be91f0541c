"""The checks of `prolong replay` before it starts a learner; tests/integration/test_replay.py starts one."""

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prolong.buffer.journal.journal import open_journal
from prolong.buffer.journal.records import EtaEvidence, EtaRecord
from prolong.buffer.tickets.adaptive import LAW, WrongDecision, decide_eta, initial_state
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import AdaptiveConfig, Config
from prolong.common.errors import UserError
from prolong.launch.local.process import ChildProcess
from prolong.launch.replay import replay
from prolong.launch.replay.comparison import Difference, Fingerprint
from prolong.launch.replay.replay import ReplayPlan, make_plan, starting_version
from prolong.launch.replay.rerun import failure_reason, learner_process

from tests.support.recorded_run import record_history, recorded_batch, rewrite_history


def a_run(root: Path, *, versions: range, steps: int, checkpoints: tuple[int, ...]) -> RunPaths:
    """The folder of a run without weights."""
    cfg = Config()
    cfg.run.root, cfg.run.name, cfg.model.path = str(root), "r", "./models/demo"
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    record_history(paths.journal, [recorded_batch(version) for version in versions])
    paths.metrics.write_text("".join(json.dumps({"step": step, "version": step}) + "\n" for step in range(1, steps + 1)))
    for version in checkpoints:
        folder = paths.checkpoints / f"step-{version:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"version": version}))
    return paths


@pytest.mark.parametrize(
    ("versions", "checkpoints", "expected"),
    [
        ([0, 1, 2, 3], [2, 4], 0),  # all is recorded
        ([2, 3, 4], [1, 2, 4], 2),  # the batch after checkpoint 1 is not
        ([0, 1, 5, 6, 7], [2, 5, 6], 5),  # a hole
        ([3], [3], 3),
    ],
)
def test_it_starts_as_early_as_all_batches_that_follow_are_recorded(
    versions: list[int], checkpoints: list[int], expected: int
) -> None:
    assert starting_version(versions, checkpoints) == expected


@pytest.mark.parametrize(("versions", "checkpoints"), [([], [4]), ([2, 3], [1, 4]), ([2, 3], [])])
def test_without_a_beginning_the_sentence_says_what_there_is(versions: list[int], checkpoints: list[int]) -> None:
    there = "it holds those of versions 2 to 3" if versions else "it holds no batch"
    with pytest.raises(UserError, match=rf"nothing to run again: .*{there}\); a run with buffer.keep_history=true"):
        starting_version(versions, checkpoints)


def test_a_plan_ends_where_the_metrics_or_the_batches_or_the_user_end(tmp_path: Path) -> None:
    paths = a_run(tmp_path, versions=range(6), steps=5, checkpoints=(2, 4))
    plan = make_plan(paths, None)
    assert (plan.start, plan.until, sorted(plan.records), sorted(plan.checkpoints)) == (0, 5, [1, 2, 3, 4, 5], [2, 4])
    assert plan.origin == "the model ./models/demo"
    assert (plan.cfg.run.root, plan.cfg.run.name) == (str(paths.folder), "replay")
    plan = make_plan(paths, 3)
    assert (plan.until, sorted(plan.records), sorted(plan.checkpoints)) == (3, [1, 2, 3], [2])
    assert make_plan(paths, 77).until == 5
    paths.metrics.unlink()
    assert make_plan(paths, None).until == 4  # the newest checkpoint is something to compare with
    paths.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 9)))
    assert make_plan(paths, None).until == 6


def test_a_plan_from_a_checkpoint_takes_the_earlier_ones_along(tmp_path: Path) -> None:
    """A reset to the best may go back to one of them."""
    plan = make_plan(a_run(tmp_path, versions=range(4, 8), steps=8, checkpoints=(2, 4, 6, 8)), None)
    assert (plan.start, plan.until, sorted(plan.origins), sorted(plan.checkpoints)) == (4, 8, [2, 4], [6, 8])
    assert plan.origin == "the checkpoint step-00000004"


def test_a_plan_without_steps_is_refused(tmp_path: Path) -> None:
    paths = a_run(tmp_path, versions=range(4, 8), steps=8, checkpoints=(4,))
    with pytest.raises(UserError, match=r"begin at version 4, the steps to compare with end at 3 \(--until 3\)"):
        make_plan(paths, 3)
    with pytest.raises(UserError, match=r"begin at version 4, the steps to compare with end at 4 \(--until 4\)"):
        make_plan(paths, 4)


@pytest.mark.parametrize("missing", ["config.yaml", "journal/data.mdb"])
def test_what_is_missing_is_one_sentence_and_exit_code_2(tmp_path: Path, missing: str) -> None:
    paths = a_run(tmp_path, versions=range(2), steps=2, checkpoints=())
    (paths.folder / missing).unlink()
    with pytest.raises(UserError, match="there is no journal in" if "journal" in missing else "config.yaml") as caught:
        replay.replay_run(str(paths.folder), until=None, keep=False, as_json=False)
    assert "\n" not in str(caught.value)
    assert not (paths.folder / "replay").exists()


def test_two_replays_do_not_work_in_one_folder(tmp_path: Path) -> None:
    paths = a_run(tmp_path, versions=range(2), steps=2, checkpoints=())
    scratch = paths.folder / "replay"
    scratch.mkdir()
    (scratch / "metrics.jsonl").write_text("of the other one")
    handle = os.open(scratch, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match="another `prolong replay` works in it"):
            replay.replay_run(str(paths.folder), until=None, keep=False, as_json=False)
    finally:
        os.close(handle)
    assert (scratch / "metrics.jsonl").read_text() == "of the other one"


def test_ranks_are_as_many_as_the_run_had(tmp_path: Path) -> None:
    cfg = Config()
    cfg.run.root, cfg.run.name = str(tmp_path), "replay"
    one = learner_process(cfg, RunPaths(tmp_path), 7)
    own = ["prolong.launch.replay.rerun", str(tmp_path / "replay" / "config.yaml"), str(tmp_path), "7"]
    assert one.command[1:] == ["-m", *own]
    assert one.env["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")
    cfg.launch.learner_ranks = 3
    three = learner_process(cfg, RunPaths(tmp_path), 7)
    assert three.command[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert three.command[4:] == ["--log-dir", "/dev/null", "--nproc-per-node", "3", "-m", *own]


def test_the_sentence_of_a_learner_that_failed_is_found_in_its_log(tmp_path: Path) -> None:
    process = ChildProcess("learner", [], env={}, log=tmp_path / "learner.log")
    assert failure_reason(process, 7) == f"exit code 7; {tmp_path}/learner.log says more"
    process.log.write_text("INFO x\nprolong replay: model.path = 'x': expected a folder\nW1123 torchrun: worker died\n")
    assert failure_reason(process, 1) == "model.path = 'x': expected a folder"


def test_a_run_that_dropped_a_batch_meanwhile_is_no_run_that_differs(tmp_path: Path) -> None:
    paths = a_run(tmp_path, versions=range(3, 6), steps=6, checkpoints=(3,))
    plan = make_plan(paths, None)
    assert replay._early_end(plan, 5) == Difference(step=6, what="the run", left="going on", right="over")
    rewrite_history(paths.journal, lambda batch: batch if batch.version == 5 else None)
    with pytest.raises(UserError, match="dropped the batch of version 4 meanwhile"):
        replay._early_end(plan, 4)


def page(tmp_path: Path, found: Difference | None, checkpoints: dict[int, Fingerprint]) -> str:
    cfg = Config()
    cfg.model.path = "m"
    plan = ReplayPlan(RunPaths(tmp_path), cfg, 0, 9, {step: {"step": step} for step in range(1, 10)}, checkpoints, {})
    return "\n".join(replay._page(plan, RunPaths(tmp_path / "replay"), found, sorted(checkpoints)))


def test_decisions_about_eta_are_made_again(tmp_path: Path) -> None:
    paths = a_run(tmp_path, versions=range(6), steps=6, checkpoints=())
    rules = AdaptiveConfig(window=1)
    numbers = {"ess": 1.0, "kl": 0.0, "wait_s": 1.0, "step_s": 1.0, "held_s": 0.02}
    states, records = [initial_state(0)], []
    for version in (1, 2):
        evidence = EtaEvidence(version=version, **numbers)
        records.append(EtaRecord(evidence=evidence, rules=rules, law=LAW, state=states[-1], eta=0))
        states.append(decide_eta(states[-1], evidence, rules)[0])
    write_decisions(paths.journal, records)
    plan = make_plan(paths, None)
    assert (plan.num_decisions, plan.wrong_decisions) == (2, [])
    write_decisions(paths.journal, [msgspec.structs.replace(records[1], eta=3)])
    (wrong,) = make_plan(paths, None).wrong_decisions
    assert (wrong.version, wrong.recorded, wrong.made) == (2, "eta 3 (unchanged)", "eta 0 (unchanged)")
    plan = make_plan(paths, 1)
    assert (plan.num_decisions, plan.wrong_decisions) == (1, []), "those of the steps that are replayed"


@pytest.mark.parametrize(("step_that_differs", "expected"), [(None, 4), (7, 4), (4, 4), (2, 2)])
def test_the_first_of_all_differences_is_the_one_that_is_shown(
    step_that_differs: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(a_run(tmp_path, versions=range(9), steps=9, checkpoints=()), None)
    plan = replace(plan, wrong_decisions=[WrongDecision(4, "eta 3 (unchanged)", "eta 0 (unchanged)")])
    loss = None if step_that_differs is None else Difference(step=step_that_differs, what="learner/loss", left=1.0, right=2.0)
    monkeypatch.setattr(replay, "_follow", lambda *_: (loss, 9 if loss is None else loss.step - 1))
    scratch = RunPaths(tmp_path / "scratch")
    scratch.folder.mkdir()
    found = replay._replay(plan, scratch)
    assert found is not None
    assert found.step == expected
    assert (found == loss) == (expected == step_that_differs)


def write_decisions(folder: Path, records: list[EtaRecord]) -> None:
    journal = open_journal(folder, max_gb=0.01, keep_history=True)
    for record in records:
        journal.log_eta(record)
    state = journal.load_state()
    assert state is not None
    journal.commit(state)
    journal.close()


def test_the_page_tells_rounding_from_change(tmp_path: Path) -> None:
    change = Difference(step=4, what="learner/loss", left=1.0, right=2.0)
    text = page(tmp_path, change, {})
    assert text.startswith("step 4: learner/loss: recorded 1.0, replayed 2.0\nuntil version 3 everything is the same")
    assert "is not what it was" in text
    text = page(tmp_path, Difference(step=4, what="learner/loss", left=1.0, right=1.0000001, rounding=True), {})
    assert "the last bits of a number" in text
    assert "is not what it was" not in text


def test_the_page_of_the_same_ends_with_the_digests_of_the_last_checkpoint(tmp_path: Path) -> None:
    prints = {v: Fingerprint(Path(f"step-{v:08d}"), v, {"model.safetensors": f"{v}abc"}, {}) for v in (4, 8)}
    lines = page(tmp_path, None, prints).splitlines()
    assert lines[0] == "9 steps are the same as recorded, from version 0 (the model m) to version 9:"
    assert lines[2:] == ["  the checkpoints of version 4, 8", "SHA-256 8abc  step-00000008/model.safetensors"]
    assert "no checkpoint" in page(tmp_path, None, {})
