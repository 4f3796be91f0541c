"""A checkpoint becomes a model that transformers loads, and is checked as one before a start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import Config
from prolong.common.errors import UserError
from prolong.common.model_folder import INDEX, folder_refusal
from prolong.launch.export import export_model
from prolong.learner.checkpoints.checkpoint import (
    POLICY,
    SHARDED_FORMAT,
    LearnerState,
    checkpoint_path,
    encode_state,
    stored_file,
)
from prolong.learner.checkpoints.export import ModelWriter, export_checkpoint, write_model
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.checkpoints.shards import Shard, write_shards
from prolong.learner.ranks import Ranks
from prolong.learner.step import Trainer
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig

from tests.support.batches import make_trainer, random_batch, small_config
from tests.support.tiny_model import family_settings, make_tiny_family, make_tiny_model


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return trained(small_config(make_tiny_model(tmp_path / "model", tied=True)))


def trained(cfg: Config) -> Trainer:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    return trainer


def save(trainer: Trainer, folder: Path, dtype: str = "float32") -> Path:
    source = Path(str(trainer.policy.causal.config.name_or_path))
    saver = Checkpointer(folder, Ranks(), dtype=dtype, source=source, keep=2)
    saver.save(LearnerState(version=1), trainer)
    saver.close()
    return checkpoint_path(folder, 1)


def save_by_ranks(trainer: Trainer, folder: Path, ranks: int) -> Path:
    """As `save`, as if rank 0 held all of the embedding, and the last one everything else."""
    checkpoint = save(trainer, folder)
    whole = dict(trainer.policy.full_parameters())
    shapes = {name: tuple(tensor.shape) for name, tensor in whole.items()}
    for rank in range(ranks):
        mine = [name for name in whole if rank == (0 if "embed" in name else ranks - 1)]
        shards = {name: Shard(whole[name].detach(), (0,) * whole[name].ndim) for name in mine}
        write_shards(stored_file(checkpoint, POLICY, rank, ranks), shards, shapes)
    for path in checkpoint.glob("[mtr]*.safetensors"):
        path.unlink()
    state = LearnerState(format=SHARDED_FORMAT, version=1, ranks=ranks)
    (checkpoint / "state.json").write_bytes(encode_state(state))
    return checkpoint


def assert_holds(folder: Path, trainer: Trainer, dtype: torch.dtype = torch.float32) -> None:
    """transformers loads the folder, and finds the trained policy."""
    assert folder_refusal(folder) == ""
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    own = dict(trainer.policy.full_parameters())
    assert {name: parameter.dtype for name, parameter in loaded.named_parameters()} == dict.fromkeys(own, dtype)
    assert all(torch.equal(parameter, own[name].to(dtype)) for name, parameter in loaded.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_one_rank_saved_and_what_several_did_export_alike(trainer: Trainer, tmp_path: Path, dtype: str) -> None:
    single, several = save(trainer, tmp_path / "single"), save_by_ranks(trainer, tmp_path / "several", 3)
    outs = [tmp_path / "a", tmp_path / "b"]
    for checkpoint, out in zip((single, several), outs, strict=True):
        export_model(str(checkpoint), out, dtype)
        assert_holds(out, trainer, getattr(torch, dtype))
        assert json.loads((out / "config.json").read_text())["dtype"] == dtype
        assert (out / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
        assert not (out / "state.json").exists()
        assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "who may read one file may read all"
    assert (outs[0] / "model.safetensors").read_bytes() == (outs[1] / "model.safetensors").read_bytes()


def test_by_default_the_dtype_is_that_of_the_run_and_the_masters_are_rounded_once(trainer: Trainer, tmp_path: Path) -> None:
    export_model(str(save(trainer, tmp_path / "run", "bfloat16")), tmp_path / "out", "")
    assert_holds(tmp_path / "out", trainer, torch.bfloat16)


def test_a_large_model_becomes_several_files_with_an_index(trainer: Trainer, tmp_path: Path) -> None:
    largest = max(tensor.nbytes for _, tensor in trainer.policy.full_parameters())
    export_checkpoint(save(trainer, tmp_path / "run"), tmp_path / "out", dtype=None, file_bytes=2 * largest)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert sorted(set(json.loads((tmp_path / "out" / INDEX).read_text())["weight_map"].values())) == files
    assert all(sum(tensor.nbytes for tensor in load_file(tmp_path / "out" / name).values()) <= 2 * largest for name in files)
    assert_holds(tmp_path / "out", trainer)


def test_a_mixture_is_exported_under_the_names_of_its_family(tmp_path: Path) -> None:
    """Its experts are one tensor in memory, and cut layer by layer."""
    folder = make_tiny_family(tmp_path / "model", MixtralConfig(**family_settings(head_dim=32, num_local_experts=4)))
    trainer = trained(small_config(folder))
    export_checkpoint(save_by_ranks(trainer, tmp_path / "run", 2), tmp_path / "out", dtype=None)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    assert_holds(tmp_path / "out", trainer)


def test_a_checkpoint_of_several_ranks_is_no_model_and_says_how_to_make_one(trainer: Trainer, tmp_path: Path) -> None:
    checkpoint = save_by_ranks(trainer, tmp_path, 2)
    assert f"make a model of it with: prolong export {checkpoint} FOLDER" in folder_refusal(checkpoint)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing_behind(trainer: Trainer, tmp_path: Path) -> None:
    checkpoint = save_by_ranks(trainer, tmp_path / "run", 2)
    stored_file(checkpoint, POLICY, 1, 2).unlink()
    with pytest.raises(UserError, match=r"policy-00001-of-00002.safetensors.* is not there"):
        export_model(str(checkpoint), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--dtype int8: expected one of float32"):
        export_model(str(checkpoint), tmp_path / "out", "int8")
    with pytest.raises(UserError, match="exists: expected a folder that is not there yet"):
        export_model(str(checkpoint), tmp_path, "")
    with pytest.raises(UserError, match="expected a run folder or one of"):
        export_model("nobody", tmp_path / "out", "")


def test_ranks_that_only_gather_are_not_held_up_by_a_disk_that_fails(trainer: Trainer, tmp_path: Path) -> None:
    """The tensors are exhausted: a rank that stopped in the middle would leave the others waiting."""
    asked = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for at in range(6):
            asked.append(at)
            yield f"layers.{at}.weight", torch.zeros(4)

    with pytest.raises((OSError, SafetensorError)):
        write_model(ModelWriter(tmp_path / "gone", file_bytes=16), trainer.policy.causal, tensors())
    assert asked == list(range(6))
