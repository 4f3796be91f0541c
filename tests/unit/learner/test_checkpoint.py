import hashlib
import json
from pathlib import Path

import pytest
import torch
from batches import make_policy, make_trainer, random_batch, small_config
from prolong.common.config import Config
from prolong.common.errors import ModelError
from prolong.learner.checkpoint import LearnerState, find_newest, load_checkpoint, read_state, save_checkpoint
from prolong.learner.ranks import Ranks
from prolong.learner.reference import Reference
from prolong.learner.step import Trainer
from safetensors.torch import load_file
from tiny_model import make_tiny_model


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return small_config(make_tiny_model(tmp_path / "model", tied=False))


def digest(trainer: Trainer) -> str:
    """Of every number that the next step depends on."""
    sha = hashlib.sha256()
    tensors = [*trainer.policy.parameters(), *(trainer.reference.policy.parameters() if trainer.reference else ())]
    for parameter in trainer.policy.parameters():
        tensors += [value for _, value in sorted(trainer.optimizer.state[parameter].items())]
    for tensor in [*tensors, torch.get_rng_state()]:
        sha.update(tensor.detach().numpy().tobytes())
    return sha.hexdigest()


def save(cfg: Config, trainer: Trainer, folder: Path, version: int, keep: int = 2) -> Path:
    epoch = trainer.reference.epoch if trainer.reference else 0
    state = LearnerState(version=version, generation=3, reference_epoch=epoch, skipped=trainer.skipped, spent={"wait_s": 1.5})
    source = Path(cfg.model.path)
    return save_checkpoint(folder, state, trainer, Ranks(), dtype=cfg.model.dtype, source=source, keep=keep)


def resume(cfg: Config, checkpoint: Path) -> Trainer:
    """As `Learner` does: the policy from the checkpoint itself, everything else from its other files."""
    cfg.model.path = str(checkpoint)
    frozen = Reference(make_policy(cfg, trainable=False, dtype=torch.float32))
    trainer = Trainer(cfg, make_policy(cfg, dtype=torch.float32), frozen, Ranks(), torch.device("cpu"))
    load_checkpoint(checkpoint, read_state(checkpoint), trainer, Ranks())
    return trainer


@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_a_resumed_learner_arrives_at_the_same_weights_to_the_bit(cfg: Config, tmp_path: Path, reset_optimizer: bool) -> None:
    def steps(trainer: Trainer, versions: range) -> None:
        for version in versions:
            trainer.train(random_batch(version))
            if version == 1:
                assert trainer.reference is not None
                trainer.reference.reset(trainer.policy)
                if reset_optimizer:
                    trainer.reset_optimizer()

    torch.manual_seed(7)
    whole = make_trainer(cfg, dtype=torch.float32)
    steps(whole, range(3))
    checkpoint = save(cfg, whole, tmp_path / "checkpoints", 3)
    middle = digest(whole)
    steps(whole, range(3, 6))
    torch.manual_seed(8)
    resumed = resume(cfg, checkpoint)
    assert digest(resumed) == middle
    steps(resumed, range(3, 6))
    assert digest(resumed) == digest(whole)
    assert resumed.reference is not None
    assert resumed.reference.epoch == 1


def test_a_checkpoint_right_after_an_optimizer_reset_resumes_without_moments(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    trainer.reset_optimizer()
    checkpoint = save(cfg, trainer, tmp_path, 1)
    resumed = resume(cfg, checkpoint)
    assert not resumed.optimizer.state
    trainer.train(random_batch(1))
    resumed.train(random_batch(1))
    assert digest(resumed) == digest(trainer)


def test_bfloat16_checkpoints_keep_float32_masters(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    exact = {name: tensor.clone() for name, tensor in trainer.policy.full_parameters()}
    cfg.model.dtype = "bfloat16"
    checkpoint = save(cfg, trainer, tmp_path, 1)
    exported = load_file(checkpoint / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(torch.equal(tensor, exact[name]) for name, tensor in resume(cfg, checkpoint).policy.full_parameters())


def test_state_and_counters_come_back(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.skipped = 5
    state = read_state(save(cfg, trainer, tmp_path, 12))
    assert (state.version, state.generation, state.skipped, state.spent) == (12, 3, 5, {"wait_s": 1.5})


def test_only_the_newest_are_kept_and_half_written_ones_are_removed(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    (tmp_path / ".step-00000001.123").mkdir()
    for version in (1, 2, 10):
        save(cfg, trainer, tmp_path, version)
    assert sorted(path.name for path in tmp_path.iterdir() if "step" in path.name) == ["step-00000002", "step-00000010"]
    assert find_newest(tmp_path) == tmp_path / "step-00000010"
    (tmp_path / "step-00000011").mkdir()  # without state.json it is not a checkpoint
    assert find_newest(tmp_path) == tmp_path / "step-00000010"
    assert find_newest(tmp_path / "nowhere") is None


def test_a_version_saved_again_replaces_what_was_there(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    save(cfg, trainer, tmp_path, 1)
    trainer.train(random_batch(0))
    checkpoint = save(cfg, trainer, tmp_path, 1)
    stored = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in trainer.policy.full_parameters())


@pytest.mark.parametrize("name", ["state.json", "trainer.safetensors", "reference.safetensors"])
def test_a_damaged_file_is_refused_and_the_sentence_says_what_to_do(cfg: Config, tmp_path: Path, name: str) -> None:
    checkpoint = save(cfg, make_trainer(cfg, dtype=torch.float32), tmp_path, 1)
    (checkpoint / name).write_bytes(b"\x00\x01")
    with pytest.raises(ModelError, match="delete"):
        resume(cfg, checkpoint)
