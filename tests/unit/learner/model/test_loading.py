"""Models that are built on meta and filled rank by rank, against transformers' own loading of the whole."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from prolong.bench.tiny_families import FAMILIES, make_family_model
from prolong.common.config.sections import ModelConfig
from prolong.common.errors import ModelError
from prolong.learner.model import loading
from prolong.learner.model.policy import Policy, build_policy
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.live_bytes import LiveBytes

RANKS, RANK = 3, 1
# those that differ in what is stored or computed: tied heads, converted experts, stored buffers, kinds of frequencies
CHOSEN = (
    "llama-tied",
    "llama-dynamic",
    "llama-yarn",
    "phi3-longrope",
    "gemma3",
    "qwen3-moe",
    "gpt-oss",
    "deepseek-v3",
    "granitemoehybrid",
    "gpt2",
    "nemotron",
    # its layers are named together with what is within them
    "mamba",
)


@pytest.fixture
def among_three() -> Iterator[Callable[[], None]]:
    """Become one of three ranks, whose collectives do nothing. Models have to be written before: rank 0 alone would do it."""

    def join() -> None:
        dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=RANKS)

    yield join
    dist.destroy_process_group()


def build(folder: Path, *, shard: bool, trainable: bool = True, dtype: str = "float32") -> Policy:
    model = ModelConfig(path=str(folder), dtype=dtype, max_context=128)
    return build_policy(model, device=torch.device("cpu"), chunk=8, shard=shard, trainable=trainable)


def assert_rows_of(sharded: Policy, whole: Policy) -> None:
    parameters = dict(whole.named_parameters())
    assert list(parameters) == [name for name, _ in sharded.named_parameters()]
    for name, own in sharded.named_parameters():
        assert isinstance(own, DTensor)
        rows = [*parameters[name].chunk(RANKS), *[parameters[name][:0]] * RANKS][RANK]
        assert torch.equal(own.to_local(), rows), name
    buffers = dict(sharded.named_buffers())
    for name, buffer in whole.named_buffers():
        assert torch.equal(buffers[name], buffer), name
        assert buffers[name].dtype == buffer.dtype, name


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of transformers, about its own families
@pytest.mark.parametrize("name", CHOSEN)
def test_a_rank_reads_its_rows_and_computes_the_buffers_of_the_whole_model(
    tmp_path: Path, among_three: Callable[[], None], name: str
) -> None:
    make_family_model(FAMILIES[name], tmp_path)
    among_three()
    whole, sharded = (build(tmp_path, shard=shard) for shard in (False, True))
    assert_rows_of(sharded, whole)
    assert sharded.layout == whole.layout
    kinds = [[type(each) for each in vars(policy.causal)["_weight_conversions"]] for policy in (whole, sharded)]
    assert kinds[0] == kinds[1], "checkpoints revert the conversions that were used"
    ropes = [[getattr(module, "rope_type", None) for module in policy.modules()] for policy in (whole, sharded)]
    assert ropes[0] == ropes[1]


def test_files_with_an_index_are_read_and_read_again(tmp_path: Path, among_three: Callable[[], None]) -> None:
    make_family_model(FAMILIES["qwen3-moe"], tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path).save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    among_three()
    whole, sharded = build(tmp_path, shard=False), build(tmp_path / "parts", shard=True)
    assert_rows_of(sharded, whole)
    with torch.no_grad():
        for parameter in sharded.parameters():
            parameter.zero_()
    sharded.reload(ModelConfig(path=str(tmp_path)))
    assert_rows_of(sharded, whole)


@pytest.mark.parametrize("stored", ["lm_head.weight", "model.embed_tokens.weight"])
def test_files_may_hold_a_tied_tensor_by_either_name(tmp_path: Path, among_three: Callable[[], None], stored: str) -> None:
    make_family_model(FAMILIES["llama-tied"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[stored] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    among_three()
    sharded = build(tmp_path, shard=True)
    assert_rows_of(sharded, build(tmp_path, shard=False))
    head, embedding = sharded.causal.get_output_embeddings(), sharded.causal.get_input_embeddings()
    assert head is not None
    assert head.weight is embedding.weight


def test_a_frozen_model_is_as_narrow_as_it_computes_and_its_buffers_are_not(
    tmp_path: Path, among_three: Callable[[], None]
) -> None:
    make_family_model(FAMILIES["deepseek-v3"], tmp_path)
    among_three()
    masters, frozen = (build(tmp_path, shard=True, trainable=trainable, dtype="bfloat16") for trainable in (True, False))
    assert {parameter.dtype for parameter in masters.parameters()} == {torch.float32}
    assert {buffer.dtype for buffer in frozen.buffers()} == {torch.float32}
    for own, master in zip(frozen.parameters(), masters.parameters(), strict=True):
        assert isinstance(own, DTensor)
        assert isinstance(master, DTensor)
        assert torch.equal(own.to_local(), master.to_local().to(torch.bfloat16))


DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda tensors: tensors.pop("model.norm.weight"), r"missing \['model.norm.weight'\]"),
    "shape": (lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}), r"model.norm.weight \[7\]"),
    "number": (lambda tensors: tensors["model.norm.weight"].fill_(float("nan")), r"model.norm.weight holds numbers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_with_what_is_wrong(tmp_path: Path, among_three: Callable[[], None], damage: str) -> None:
    make_family_model(FAMILIES["llama"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    spoil, message = DAMAGES[damage]
    spoil(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    among_three()
    with pytest.raises(ModelError, match=message):
        build(tmp_path, shard=True)


def test_no_files_and_a_head_that_contradicts_the_configuration_are_refused(
    tmp_path: Path, among_three: Callable[[], None]
) -> None:
    make_family_model(FAMILIES["llama"], tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"tie_word_embeddings": True}))
    among_three()
    with pytest.raises(ModelError, match="says tie_word_embeddings"):
        build(tmp_path, shard=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        build(tmp_path, shard=True)


def test_no_rank_holds_more_than_its_shard_and_one_tensor(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, **heads)).save_pretrained(tmp_path)
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=8)
    try:
        with LiveBytes() as counted:
            policy = build(tmp_path, shard=True, dtype="bfloat16")
    finally:
        dist.destroy_process_group()
    own = sum(parameter.to_local().nbytes for parameter in policy.parameters() if isinstance(parameter, DTensor))
    whole = sum(parameter.nbytes for parameter in policy.parameters())
    assert own * 7 < whole
    assert own <= counted.peak <= own + max(parameter.nbytes for parameter in policy.parameters())


def test_every_rank_refuses_numbers_that_one_of_them_read(
    tmp_path: Path, among_three: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_family_model(FAMILIES["llama"], tmp_path)
    among_three()

    def found_by_another(flags: Tensor) -> None:
        assert not flags.any()
        flags[1] += 1

    monkeypatch.setattr(dist, "all_reduce", found_by_another)
    with pytest.raises(ModelError, match=r"model\.layers\.0\..* holds numbers that are not finite, and 0 others"):
        build(tmp_path, shard=True)


def test_the_files_of_a_hub_name_are_found_in_its_cache(
    tmp_path: Path, among_three: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    make_family_model(FAMILIES["llama"], snapshot)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    among_three()
    assert_rows_of(build(Path("org/tiny"), shard=True), build(snapshot, shard=False))


def test_a_rank_reads_its_own_experts_and_no_others(
    tmp_path: Path, among_three: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_family_model(FAMILIES["qwen3-moe"], tmp_path)
    read: set[str] = set()

    class Recording:
        def __init__(self, path: Path, framework: str) -> None:
            self.file = safe_open(path, framework)
            self.keys, self.get_slice = self.file.keys, self.file.get_slice

        def get_tensor(self, key: str) -> Tensor:
            read.add(key)
            return self.file.get_tensor(key)

    monkeypatch.setattr(loading, "safe_open", Recording)
    among_three()
    build(tmp_path, shard=True)
    # the second of three ranks has the last two of four experts
    assert {key.split("experts.")[1].split(".")[0] for key in read} == {"2", "3"}
    assert len(read) == 2 * 2 * 3
