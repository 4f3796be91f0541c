"""The thread that writes checkpoints: waiting for it, keeping and removing checkpoints, links, failures."""

import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prolong.common.config.run_files import find_checkpoints
from prolong.common.config.sections import Config
from prolong.learner.checkpoints import saver as module
from prolong.learner.checkpoints.checkpoint import LearnerState, checkpoint_path
from prolong.learner.checkpoints.saver import Checkpointer, CheckpointError
from prolong.learner.ranks import Ranks
from prolong.learner.step import Trainer
from safetensors.torch import load_file

from tests.support.batches import make_trainer, random_batch, small_config
from tests.support.checkpoints import load_weights
from tests.support.hand_clock import HandClock
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture
def cfg(model: Path) -> Config:
    return small_config(model)


@pytest.fixture
def trainer(cfg: Config) -> Trainer:
    return make_trainer(cfg, dtype=torch.float32)


@dataclass(slots=True)
class Gate:
    """Holds up the thread that writes a checkpoint while `opened` is not set; sets `reached` when the thread arrives."""

    reached: threading.Event
    opened: threading.Event


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, write = Gate(threading.Event(), threading.Event()), module.write_snapshot

    def write_late(*args: Any, **kwargs: Any) -> None:
        gate.reached.set()
        assert gate.opened.wait(60)
        write(*args, **kwargs)

    monkeypatch.setattr(module, "write_snapshot", write_late)
    yield gate
    gate.opened.set()


def checkpointer(folder: Path, **settings: Any) -> Checkpointer:
    return Checkpointer(folder, Ranks(), **({"dtype": "float32", "source": None, "keep": 2} | settings))


def save_all(saver: Checkpointer, trainer: Trainer, *versions: int, protect: frozenset[int] = frozenset()) -> None:
    for version in versions:
        saver.save(LearnerState(version=version), trainer, protect=protect)
    saver.wait()


def inode(checkpoint: Path) -> int:
    return (checkpoint / "reference.safetensors").stat().st_ino


def test_the_learner_goes_on_while_what_it_was_is_written(tmp_path: Path, trainer: Trainer, gate: Gate) -> None:
    saver = checkpointer(tmp_path)
    trainer.train(random_batch(0))
    policy = {name: tensor.clone() for name, tensor in trainer.policy.full_parameters()}
    moments = {name: trainer.optimizer.state[p]["exp_avg"].clone() for name, p in trainer.policy.causal.named_parameters()}
    saver.save(LearnerState(version=1), trainer)
    assert gate.reached.wait(60)
    assert (find_checkpoints(tmp_path), saver.durable()) == ({}, [])
    trainer.train(random_batch(1))
    assert trainer.reference is not None
    trainer.reference.reset(trainer.policy)
    gate.opened.set()
    saver.close()
    assert (list(find_checkpoints(tmp_path)), saver.durable(), saver.durable()) == ([1], [1], [])
    written = load_weights(checkpoint_path(tmp_path, 1))
    assert all(torch.equal(written[name], tensor) for name, tensor in policy.items())
    stored = load_file(checkpoint_path(tmp_path, 1) / "trainer.safetensors")
    assert all(torch.equal(stored[f"exp_avg/{name}"], tensor) for name, tensor in moments.items())
    frozen = load_file(checkpoint_path(tmp_path, 1) / "reference.safetensors")
    assert all(not torch.equal(frozen[name], tensor) for name, tensor in trainer.reference.policy.full_parameters())


def test_a_save_waits_for_the_one_before_and_says_for_how_long(
    tmp_path: Path, trainer: Trainer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    monkeypatch.setattr(module, "perf_counter", clock)
    saver = checkpointer(tmp_path)
    saver.save(LearnerState(version=1), trainer)
    assert saver.metrics()["checkpoint/waited_s"] == 0
    assert saver._thread is not None
    join = saver._thread.join

    def join_late(timeout: float) -> None:
        clock.now += 3.0
        gate.opened.set()
        join(timeout)

    monkeypatch.setattr(saver._thread, "join", join_late)
    saver.save(LearnerState(version=2), trainer)
    assert saver.durable()[:1] == [1]
    assert saver.metrics()["checkpoint/waited_s"] == 3.0
    saver.close()
    assert list(find_checkpoints(tmp_path)) == [1, 2]


def test_a_disk_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, trainer: Trainer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = checkpointer(tmp_path)
    saver.save(LearnerState(version=1), trainer)
    monkeypatch.setattr(saver, "_limit_s", 0.05)
    for end in (saver.close, lambda: saver.save(LearnerState(version=2), trainer)):
        with pytest.raises(CheckpointError, match=r"checkpoint-1 is not on disk .* after 0 s"):
            end()
    monkeypatch.undo()
    gate.opened.set()
    saver.close()
    assert saver.durable() == [1]


def test_a_large_model_is_waited_for_as_long_as_a_slow_disk_needs(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOWEST_DISK", 1000.0)
    saver = checkpointer(tmp_path)
    trainer.train(random_batch(0))
    save_all(saver, trainer, 1)
    numbers = sum(tensor.numel() for _, tensor in trainer.policy.full_parameters())
    # masters, two moments and the reference, of four bytes each
    assert saver._limit_s == pytest.approx(module.WRITE_S + 16 * numbers / 1000.0, rel=0.01)
    save_all(saver, trainer, 2)
    # the reference is on the disk already
    assert saver._limit_s == pytest.approx(module.WRITE_S + 12 * numbers / 1000.0, rel=0.01)


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """The kernel refuses longer files, as it refuses them on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ["save", "close"])
def test_a_failed_write_is_raised_and_leaves_nothing_behind(tmp_path: Path, trainer: Trainer, ending: str) -> None:
    saver = checkpointer(tmp_path, keep=1)
    save_all(saver, trainer, 1)
    with no_file_above(1 << 16):
        saver.save(LearnerState(version=2), trainer)
        with pytest.raises(CheckpointError, match=r"step-00000002 failed: .*too large.*start the run again"):
            saver.close() if ending == "close" else saver.save(LearnerState(version=3), trainer)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert saver.durable() == [1]
    saver.close()  # a failure is raised once


def test_a_full_disk_is_called_that(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    saver = checkpointer(tmp_path)
    monkeypatch.setattr(module, "write_snapshot", fill)
    saver.save(LearnerState(version=2), trainer)
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/step-00000002 .*No space left.*lower checkpoint.keep"):
        saver.close()


def test_a_folder_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot keep checkpoints in"):
        checkpointer(tmp_path / "file")


def test_the_newest_and_the_protected_are_kept(tmp_path: Path, trainer: Trainer) -> None:
    saver = checkpointer(tmp_path)
    save_all(saver, trainer, 1, 2, 3, protect=frozenset({1}))
    assert list(find_checkpoints(tmp_path)) == [1, 2, 3]
    save_all(saver, trainer, 4, 10, protect=frozenset({1, 3, 99}))
    assert list(find_checkpoints(tmp_path)) == [1, 3, 4, 10]
    save_all(saver, trainer, 11)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    assert saver.durable() == [1, 2, 3, 4, 10, 11]


def test_only_complete_checkpoints_count_and_later_ones_are_of_another_generation(tmp_path: Path, trainer: Trainer) -> None:
    saver = checkpointer(tmp_path)
    save_all(saver, trainer, 1, 2, 30)
    (checkpoint_path(tmp_path, 3)).mkdir()  # no state.json: not a checkpoint, and not ours to delete
    save_all(saver, trainer, 4, protect=frozenset({30}))
    assert list(find_checkpoints(tmp_path)) == [2, 4]
    assert checkpoint_path(tmp_path, 3).is_dir()


def test_no_older_one_goes_before_the_newer_is_durable(tmp_path: Path, trainer: Trainer, gate: Gate) -> None:
    gate.opened.set()
    saver = checkpointer(tmp_path, keep=1)
    save_all(saver, trainer, 1)
    gate.opened.clear()
    gate.reached.clear()
    saver.save(LearnerState(version=2), trainer)
    assert gate.reached.wait(60)
    assert list(find_checkpoints(tmp_path)) == [1]
    gate.opened.set()
    saver.close()
    assert list(find_checkpoints(tmp_path)) == [2]


def test_the_half_written_folders_of_a_dead_process_are_removed_at_the_start(tmp_path: Path) -> None:
    for name in (".step-00000001.123", ".step-00000001.124.removed", "step-00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    checkpointer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_tokenizer_comes_along_even_when_its_folder_has_gone(tmp_path: Path, trainer: Trainer) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    saver = checkpointer(tmp_path / "checkpoints", source=tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").unlink()
    save_all(saver, trainer, 1)
    assert (tmp_path / "checkpoints" / "step-00000001" / "tokenizer.json").read_text() == "{}"


def test_between_two_resets_the_reference_is_one_file(tmp_path: Path, trainer: Trainer) -> None:
    assert trainer.reference is not None
    saver, at = checkpointer(tmp_path, keep=3), lambda version: checkpoint_path(tmp_path, version)
    save_all(saver, trainer, 1)
    trainer.train(random_batch(0))
    save_all(saver, trainer, 2)
    assert inode(at(1)) == inode(at(2))
    trainer.reference.reset(trainer.policy)
    save_all(saver, trainer, 3)
    before, after = (load_file(at(version) / "reference.safetensors") for version in (2, 3))
    assert all(torch.equal(after[name], tensor) for name, tensor in trainer.reference.policy.full_parameters())
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())
    resumed = checkpointer(tmp_path, keep=1, resumed=at(3))
    save_all(resumed, trainer, 4)
    assert list(find_checkpoints(tmp_path)) == [4]
    linked = load_file(at(4) / "reference.safetensors")
    assert all(torch.equal(linked[name], tensor) for name, tensor in after.items())


def test_a_reference_that_an_average_has_changed_is_written_again(tmp_path: Path, trainer: Trainer) -> None:
    assert trainer.reference is not None
    saver = checkpointer(tmp_path, keep=9)
    save_all(saver, trainer, 1)
    trainer.train(random_batch(0))
    trainer.reference.average(trainer.policy, 0.5)
    save_all(saver, trainer, 2, 3)
    one, two, three = (checkpoint_path(tmp_path, version) for version in (1, 2, 3))
    assert inode(one) != inode(two) == inode(three)
    stored = load_file(two / "reference.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in trainer.reference.policy.full_parameters())
    # another process, which has averaged nothing yet
    resumed, trainer.reference.averages = checkpointer(tmp_path, keep=9, resumed=three), 0
    save_all(resumed, trainer, 4)
    trainer.reference.average(trainer.policy, 0.5)
    save_all(resumed, trainer, 5)
    assert inode(checkpoint_path(tmp_path, 4)) == inode(three) != inode(checkpoint_path(tmp_path, 5))


def test_a_resumed_run_links_the_file_that_it_loaded(tmp_path: Path, trainer: Trainer) -> None:
    save_all(checkpointer(tmp_path), trainer, 1)
    resumed = checkpointer(tmp_path, resumed=checkpoint_path(tmp_path, 1))
    save_all(resumed, trainer, 2)
    assert inode(checkpoint_path(tmp_path, 1)) == inode(checkpoint_path(tmp_path, 2))


def test_a_reference_that_another_generation_left_under_that_name_is_not_linked(tmp_path: Path, trainer: Trainer) -> None:
    assert trainer.reference is not None
    saver, stranger = checkpointer(tmp_path / "ours"), checkpointer(tmp_path / "theirs")
    save_all(saver, trainer, 1)
    ours = {name: tensor.clone() for name, tensor in trainer.reference.policy.full_parameters()}
    trainer.train(random_batch(0))
    trainer.reference.reset(trainer.policy)
    trainer.reference.epoch = 0
    save_all(stranger, trainer, 1)
    trainer.reference.policy.copy_parameters(ours)
    (tmp_path / "theirs" / "step-00000001" / "reference.safetensors").replace(
        tmp_path / "ours" / "step-00000001" / "reference.safetensors"
    )
    save_all(saver, trainer, 2)
    stored = load_file(checkpoint_path(tmp_path / "ours", 2) / "reference.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in ours.items())


def test_without_hard_links_the_reference_is_copied(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    saver = checkpointer(tmp_path)
    save_all(saver, trainer, 1, 2)
    one, two = (checkpoint_path(tmp_path, version) for version in (1, 2))
    assert inode(one) != inode(two)
    assert (one / "reference.safetensors").read_bytes() == (two / "reference.safetensors").read_bytes()


def test_without_a_kl_term_there_is_no_reference_to_save(tmp_path: Path, cfg: Config) -> None:
    cfg.objective.kl_beta = 0.0
    saver = checkpointer(tmp_path)
    save_all(saver, make_trainer(cfg, dtype=torch.float32), 1, 2)
    assert not list(tmp_path.glob("*/reference.safetensors"))
    assert saver.durable() == [1, 2]
