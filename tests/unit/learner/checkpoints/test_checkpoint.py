import hashlib
import json
from pathlib import Path

import pytest
import torch
from prolong.common.config.run_files import find_checkpoints
from prolong.common.config.sections import Config
from prolong.common.errors import ModelError
from prolong.learner.checkpoints.checkpoint import (
    FORMAT,
    LearnerState,
    checkpoint_path,
    encode_state,
    find_newest,
    load_checkpoint,
    read_state,
    return_to_best,
)
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import Ranks
from prolong.learner.reset_triggers import ResetState
from prolong.learner.schedule import StageState
from prolong.learner.step import StepConfig, Trainer
from safetensors.torch import load_file
from transformers import MixtralConfig

from tests.support.batches import make_policy, make_trainer, random_batch, small_config
from tests.support.checkpoints import load_weights
from tests.support.tiny_model import family_settings, make_tiny_family, make_tiny_model


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return small_config(make_tiny_model(tmp_path / "model", tied=False))


def digest(trainer: Trainer) -> str:
    """The digest of every number that the next step depends on."""
    sha = hashlib.sha256()
    tensors = [*trainer.policy.parameters(), *(trainer.reference.policy.parameters() if trainer.reference else ())]
    for parameter in trainer.policy.parameters():
        tensors += [value for _, value in sorted(trainer.optimizer.state[parameter].items())]
    for tensor in [*tensors, torch.get_rng_state()]:
        sha.update(tensor.detach().numpy().tobytes())
    return sha.hexdigest()


def save(cfg: Config, trainer: Trainer, folder: Path, version: int) -> Path:
    state = LearnerState(version=version, generation=3, spent={"wait_s": 1.5})
    saver = Checkpointer(folder, Ranks(), dtype=cfg.model.dtype, source=Path(cfg.model.path), keep=2)
    saver.save(state, trainer)
    saver.close()
    return checkpoint_path(folder, version)


def resume(cfg: Config, checkpoint: Path) -> Trainer:
    """As `Learner` does: the policy from the checkpoint itself, everything else from its other files."""
    cfg.model.path = str(checkpoint)
    frozen = Reference(make_policy(cfg, trainable=False, dtype=torch.float32))
    trainer = Trainer(StepConfig.of(cfg), make_policy(cfg, dtype=torch.float32), frozen, Ranks(), torch.device("cpu"))
    load_checkpoint(checkpoint, read_state(checkpoint), trainer, Ranks())
    return trainer


@pytest.mark.parametrize("kept", [0.0, 0.9])
@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_a_resumed_learner_arrives_at_the_same_weights_to_the_bit(
    cfg: Config, tmp_path: Path, reset_optimizer: bool, kept: float
) -> None:
    def steps(trainer: Trainer, versions: range) -> None:
        for version in versions:
            trainer.train(random_batch(version))
            assert trainer.reference is not None
            if kept:
                trainer.reference.average(trainer.policy, kept)
            if version == 1:
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mixtures_checkpoint_has_the_names_of_its_family_and_resumes_to_the_bit(tmp_path: Path, dtype: str) -> None:
    """transformers holds all experts in one tensor; the engines and other programs read the files of the family."""
    settings = family_settings(head_dim=32, num_local_experts=4)
    folder = make_tiny_family(tmp_path / "model", MixtralConfig(**settings))
    cfg = small_config(folder)
    cfg.model.dtype = dtype
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    checkpoint = save(cfg, trainer, tmp_path, 1)
    assert load_file(checkpoint / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    weights = load_weights(checkpoint)
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.policy.full_parameters())
    resumed = resume(cfg, checkpoint)
    load_checkpoint(checkpoint, read_state(checkpoint), resumed, Ranks())
    assert digest(resumed) == digest(trainer)


def test_state_and_counters_come_back(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.skipped, trainer.entropy_coefficient = 5, 0.003
    assert trainer.reference is not None
    trainer.reference.epoch = 2
    checkpoint = save(cfg, trainer, tmp_path, 12)
    state = read_state(checkpoint)
    assert (state.version, state.generation, state.spent, state.reference_epoch) == (12, 3, {"wait_s": 1.5}, 2)
    resumed = resume(cfg, checkpoint)
    assert (resumed.skipped, resumed.entropy_coefficient) == (5, 0.003)
    assert resumed.reference is not None
    assert resumed.reference.epoch == 2


def test_the_state_survives_its_file_with_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    state = LearnerState(
        version=7,
        stage=StageState(index=2, started=5),
        resets=ResetState(count=3, last=5, best=None, record=float("-inf"), record_version=4),
        wall_s=float("inf"),
        entropy_coefficient=0.1 + 0.2,
        spent={"wait_s": float("inf"), "compute_s": 1e-300},
    )
    (tmp_path / "state.json").write_bytes(encode_state(state))
    json.loads((tmp_path / "state.json").read_text(), parse_constant=pytest.fail)  # standard JSON
    assert read_state(tmp_path) == state


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(encode_state(LearnerState(format=1)))
    with pytest.raises(ModelError, match=f"format 1: expected {FORMAT}"):
        read_state(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_of_a_checkpoint_are_those_that_were_trained(cfg: Config, tmp_path: Path, dtype: str) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    cfg.model.dtype = dtype
    stored = load_weights(save(cfg, trainer, tmp_path, 1))
    own = dict(trainer.policy.full_parameters())
    assert stored.keys() == own.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in own.items())
    trainer.train(random_batch(1))
    trainer.policy.copy_parameters(stored)


def test_only_whole_checkpoints_are_found(tmp_path: Path) -> None:
    for name in ("step-00000002", "step-00000010", ".step-00000011.7", "step-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    (tmp_path / "step-00000011").mkdir()  # without state.json it is not a checkpoint
    assert list(find_checkpoints(tmp_path)) == [2, 10]
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
    if name == "trainer.safetensors":
        with pytest.raises(ModelError, match="delete"):
            load_weights(checkpoint)


# as version 0.1.0 wrote it
EARLIER_STATE = """{
  "format": 2, "version": 32, "generation": 1, "reference_epoch": 6,
  "stage": {"index": 2, "started": 24},
  "resets": {
    "count": 6, "last": 31, "best": null, "stalled": 0, "record": 0.9430561055723676, "record_version": 4, "scored": 28
  },
  "entropy_coefficient": 0.01, "skipped": 2, "skipped_in_row": 1, "staleness_max": 3, "wall_s": 3.5,
  "spent": {"wait_s": 0.5, "compute_s": 2.5, "publish_s": 0.25, "checkpoint_s": 0.125}
}"""


def test_the_state_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(EARLIER_STATE)
    assert read_state(tmp_path) == LearnerState(
        version=32,
        generation=1,
        reference_epoch=6,
        stage=StageState(index=2, started=24),
        resets=ResetState(count=6, last=31, record=0.9430561055723676, record_version=4, scored=28),
        entropy_coefficient=0.01,
        skipped=2,
        skipped_in_row=1,
        staleness_max=3,
        wall_s=3.5,
        spent={"wait_s": 0.5, "compute_s": 2.5, "publish_s": 0.25, "checkpoint_s": 0.125},
    )


def test_a_checkpoint_without_the_reference_that_is_asked_for_is_not_called_damaged(cfg: Config, tmp_path: Path) -> None:
    """Deleting it would help nobody: the KL term was off when it was written."""
    cfg.objective.kl_beta = 0.0
    checkpoint = save(cfg, make_trainer(cfg), tmp_path, 1)
    cfg.objective.kl_beta = 0.5
    with pytest.raises(
        ModelError, match=r"holds no reference.safetensors: it was written with objective.kl_beta = 0"
    ) as refused:
        resume(cfg, checkpoint)
    assert "set objective.kl_beta=0 to go on without a KL term, or begin another run" in str(refused.value)
    assert "delete" not in str(refused.value)


def test_a_damaged_checkpoint_is_deleted_for_an_older_one_only_if_there_is_one(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg)
    for version in (1, 2):
        (save(cfg, trainer, tmp_path, version) / "trainer.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"step-00000002 cannot be read .*; delete it to resume from step-00000001$"):
        load_weights(checkpoint_path(tmp_path, 2))
    with pytest.raises(ModelError, match=r"there is no older one: delete it to begin again from model.path"):
        load_weights(checkpoint_path(tmp_path, 1))


def test_the_best_checkpoint_that_is_gone_is_no_damaged_one(cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not there any more: a reset with reference.source = best needs it; set"):
        return_to_best(make_policy(cfg), checkpoint_path(tmp_path, 7))
