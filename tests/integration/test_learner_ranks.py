"""Two and four real gloo ranks with FSDP2 against one plain rank, on recorded batches."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from prolong.bench.tiny_families import FAMILIES, make_family_model
from prolong.common.config.sections import Config
from prolong.common.errors import ModelError
from prolong.learner.checkpoints.checkpoint import POLICY, REFERENCE, TRAINER, LearnerState, load_checkpoint, read_state
from prolong.learner.checkpoints.export import export_checkpoint
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.checkpoints.shards import StoredTensors
from prolong.learner.ranks import Ranks
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from tests.support import rank_script
from tests.support.batches import (
    VARIANTS,
    assert_same_gradient,
    make_policy,
    make_trainer,
    mixed_batch,
    near_policy,
    random_batch,
    small_config,
    unsettle,
    variant_config,
)
from tests.support.checkpoints import load_weights
from tests.support.learner_process import fork_ranks
from tests.support.tiny_model import make_tiny_model

# both are float32, in sums of another order: 9e-6 of a gradient where the processor has AVX2 alone
ROUNDING = 1e-4


def run_ranks(model: Path, folder: Path, mode: str, ranks: int = 2, *, killed: int = -1) -> None:
    """tests/support/rank_script.py on every rank, in the environment that torchrun would give it."""
    fork_ranks(rank_script.run, model, folder, mode, ranks=ranks, folder=folder, killed=killed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def config(model: Path) -> Config:
    cfg = small_config(model)
    cfg.objective.kl_beta = 0.1
    return cfg


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left behind after five steps."""
    folder = tmp_path_factory.mktemp("trained")
    run_ranks(model, folder, "train")
    return folder


def test_two_ranks_have_the_gradient_of_one_and_arrive_at_its_weights(model: Path, trained: Path) -> None:
    trainer = make_trainer(config(model), dtype=torch.float32)
    metrics = trainer.train(random_batch(0))
    gradients = load_file(trained / "gradients.safetensors")
    own = {name: p.grad for name, p in trainer.policy.causal.named_parameters() if p.grad is not None}
    assert own.keys() == gradients.keys() - metrics.keys()
    assert_same_gradient(list(own.values()), [gradients[name] for name in own], rel=ROUNDING)
    assert metrics["learner/loss"] == pytest.approx(gradients["learner/loss"].item(), rel=ROUNDING)
    for version in (1, 2):
        trainer.train(random_batch(version))
    stored = load_weights(trained / "step-00000003")
    for name, tensor in trainer.policy.full_parameters():
        torch.testing.assert_close(stored[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def variants(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients and metrics of two ranks, for each of VARIANTS."""
    folder = tmp_path_factory.mktemp("variants")
    run_ranks(model, folder, "variants")
    return folder


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_ranks_have_the_gradient_of_one_where_the_loss_looks_at_whole_rollouts_or_batches(
    model: Path, variants: Path, name: str
) -> None:
    trainer = make_trainer(variant_config(model, name), dtype=torch.float32)
    unsettle(trainer)
    metrics = trainer.train(near_policy(mixed_batch(), make_policy(variant_config(model, name))))
    stored = load_file(variants / f"{name}.safetensors")
    own = {name: p.grad for name, p in trainer.policy.causal.named_parameters() if p.grad is not None}
    assert_same_gradient(list(own.values()), [stored[name] for name in own], rel=ROUNDING)
    for key in metrics:
        if not key.endswith(("_s", "micro_batches")) and not key.startswith("perf/"):
            assert stored[key].item() == pytest.approx(metrics[key], rel=ROUNDING, abs=1e-6), key


@pytest.fixture(scope="module")
def grouped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks left behind after a step in groups of four, two and one."""
    folder = tmp_path_factory.mktemp("grouped")
    run_ranks(model, folder, "groups", ranks=4)
    return folder


@pytest.mark.parametrize("sharing", [4, 2, 1])
def test_four_ranks_have_loss_and_gradient_of_one_whoever_holds_the_model(model: Path, grouped: Path, sharing: int) -> None:
    trainer = make_trainer(small_config(model), dtype=torch.float32)
    unsettle(trainer)
    metrics = trainer.train(random_batch(0))
    stored = load_file(grouped / f"groups-{sharing}.safetensors")
    own = {name: p.grad for name, p in trainer.policy.causal.named_parameters() if p.grad is not None}
    assert_same_gradient(list(own.values()), [stored[name] for name in own], rel=ROUNDING)
    for key in ("learner/loss", "learner/grad_norm", "reference/kl"):
        assert stored[key].item() == pytest.approx(metrics[key], rel=ROUNDING), key
    assert stored["learner/micro_batches"].item() > 1
    layers = trainer.policy.causal.config.num_hidden_layers
    assert stored["added_up"].item() == (0 if sharing == 4 else layers + 1), "once an update, not once a micro-batch"
    # the policy's layers forward and backward, the reference's forward; what belongs to no layer once each
    gathered = 0 if sharing == 1 else (3 * layers + 2) * stored["learner/micro_batches"].item()
    assert stored["gathered"].item() == gathered


def test_fused_experts_are_sharded_published_trained_and_saved_under_the_names_of_their_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_family_model(FAMILIES["qwen3-moe"], model)
    run_ranks(model, tmp_path, "experts")
    trainer = make_trainer(small_config(model), dtype=torch.float32)
    published = load_file(tmp_path / "published.safetensors")
    whole = dict(trainer.policy.full_parameters())
    assert whole.keys() == published.keys()
    assert all(torch.equal(whole[name], published[name]) for name in whole)
    unsettle(trainer)
    metrics = trainer.train(random_batch(0))
    stored = load_file(tmp_path / "experts.safetensors")
    for key in ("learner/loss", "learner/grad_norm"):
        assert stored[key].item() == pytest.approx(metrics[key], rel=ROUNDING), key
    export_checkpoint(tmp_path / "step-00000001", tmp_path / "exported", dtype=None)
    saved = load_file(tmp_path / "exported" / "model.safetensors")
    assert saved.keys() == load_file(model / "model.safetensors").keys()
    names = [name for name in saved if "experts.0." in name]
    assert names, "one by one in the files, together in the model"


def test_every_rank_names_the_groups_of_a_skipped_update_wherever_they_lie(tmp_path: Path) -> None:
    run_ranks(make_tiny_model(tmp_path / "untied", tied=False), tmp_path, "blame")
    errors = {(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)}
    assert len(errors) == 1
    assert "groups [5]; lower learner.lr" in errors.pop()


def test_two_ranks_resume_to_the_bit(model: Path, trained: Path) -> None:
    run_ranks(model, trained, "resume step-00000003")
    whole, resumed = (trained / name for name in ("step-00000005", "resumed-2/step-00000005"))
    names = sorted(path.name for path in whole.iterdir())
    assert [f"policy-0000{rank}-of-00002.safetensors" in names for rank in range(2)] == [True, True]
    assert "model.safetensors" not in names
    assert all((resumed / name).read_bytes() == (whole / name).read_bytes() for name in names)
    # one file for all checkpoints between two resets, on every rank
    files = [trained / step / "reference-00001-of-00002.safetensors" for step in ("step-00000003", "step-00000005")]
    files.append(resumed / files[0].name)
    assert len({path.stat().st_ino for path in files}) == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_own_reader_understands_the_files_of_the_ranks(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "step-00000003"
    for path in checkpoint.glob("policy-*"):
        (tmp_path / path.name).hardlink_to(path)
    own = load_weights(checkpoint)
    read = {name: torch.empty_like(tensor) for name, tensor in own.items()}
    load(read, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in own.items())


def assert_same_state(one: Path, other: Path) -> None:
    """All numbers of two checkpoints but random states are the same to the bit, whoever wrote them."""
    for name in (POLICY, TRAINER, REFERENCE):
        with opened(one, name) as ours, opened(other, name) as theirs:
            names = [name for name in ours.shapes if not name.startswith("rng/")]
            assert {name: shape for name, shape in ours.shapes.items() if name in names} == {
                name: shape for name, shape in theirs.shapes.items() if not name.startswith("rng/")
            }
            assert all(torch.equal(ours.read(name), theirs.read(name)) for name in names)


def opened(checkpoint: Path, name: str) -> StoredTensors:
    return StoredTensors(checkpoint.glob(f"{name.removesuffix('.safetensors')}-*"))


@pytest.mark.slow
def test_what_four_ranks_saved_is_resumed_by_two_and_by_one_and_back(model: Path, tmp_path: Path) -> None:
    run_ranks(model, tmp_path, "train@bfloat16", ranks=4)
    saved = tmp_path / "step-00000005"
    # nothing is left to train: these ranks load it, and would save what they loaded
    for ranks in (2, 3):
        run_ranks(model, tmp_path, "resave step-00000005@bfloat16", ranks=ranks)
        assert_same_state(saved, tmp_path / f"resaved-{ranks}" / saved.name)
    # pairs of ranks hold the model each: one of them writes it
    run_ranks(model, tmp_path, "paired resave step-00000005@bfloat16", ranks=4)
    pairs = tmp_path / "resaved-4" / saved.name
    assert_same_state(saved, pairs)
    with StoredTensors([pairs / f"policy-0000{rank}-of-00004.safetensors" for rank in (2, 3)]) as stored:
        assert not stored._pieces
    shutil.rmtree(tmp_path / "resaved-4")
    trainer = make_trainer(config(model), dtype=torch.float32)
    load_checkpoint(saved, read_state(saved), trainer, Ranks())
    saver = Checkpointer(tmp_path, Ranks(), dtype="bfloat16", source=None, keep=9, resumed=saved)
    saver.save(LearnerState(version=6), trainer)
    saver.close()
    run_ranks(model, tmp_path, "resave step-00000006@bfloat16", ranks=4)
    assert_same_state(saved, tmp_path / "resaved-4" / "step-00000006")


@pytest.mark.slow
def test_nodes_with_disks_of_their_own_keep_their_own_parts(model: Path, tmp_path: Path) -> None:
    nodes = [tmp_path / "node-0", tmp_path / "node-1"]
    run_ranks(model, tmp_path, "apart train")
    for rank, node in enumerate(nodes):
        assert sorted(path.name for path in node.iterdir() if path.is_dir()) == ["step-00000003", "step-00000005"]
        found = {path.name for path in (node / "step-00000005").iterdir()}
        assert found >= {f"policy-0000{rank}-of-00002.safetensors", "state.json", "config.json"}
        assert f"policy-0000{1 - rank}-of-00002.safetensors" not in found
    run_ranks(model, tmp_path, "apart resume step-00000003")
    for rank, node in enumerate(nodes):
        name = f"step-00000005/policy-0000{rank}-of-00002.safetensors"
        assert (node / "resumed-2" / name).read_bytes() == (node / name).read_bytes()
    trainer = make_trainer(config(model), dtype=torch.float32)
    with pytest.raises(
        ModelError, match=r"policy-00001-of-00002.* is not there. Each of 2 ranks saved its part on its own node"
    ):
        load_checkpoint(nodes[0] / "step-00000005", read_state(nodes[0] / "step-00000005"), trainer, Ranks())


@pytest.mark.slow
def test_a_rank_that_is_killed_while_it_writes_leaves_the_checkpoint_before(model: Path, tmp_path: Path) -> None:
    run_ranks(model, tmp_path, "die", killed=1)
    assert sorted(path.name for path in tmp_path.glob("*step-*")) == ["step-00000001"]
    assert "step-00000002 failed" in (tmp_path / "error-0.txt").read_text()
    trainer = make_trainer(small_config(model), dtype=torch.float32)
    load_checkpoint(tmp_path / "step-00000001", read_state(tmp_path / "step-00000001"), trainer, Ranks())


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_rank_fails_the_checkpoint_on_all_and_the_next_one_may_succeed(
    model: Path, tmp_path: Path
) -> None:
    run_ranks(model, tmp_path, "fill")
    errors = [(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert "rank 1 could not do its part; its log says why" in errors[0]
    assert "No space left on device" in errors[1]
    assert "make room on that disk" in errors[1]
    assert sorted(path.name for path in tmp_path.glob("*step-*")) == ["step-00000003"]


@pytest.mark.slow
def test_a_disk_that_does_not_answer_one_rank_ends_the_wait_of_all(model: Path, tmp_path: Path) -> None:
    run_ranks(model, tmp_path, "hang")
    errors = [(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert "another rank is gone, or was not done within 1 s" in errors[0]
    assert "is not on disk" in errors[1]
    assert "does that disk still answer?" in errors[1]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001"]
