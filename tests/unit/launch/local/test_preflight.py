"""Every mistake that can be known before a start is one sentence and exit code 2, and starts nothing."""

import functools
import importlib.util
import json
import shutil
import socket
from pathlib import Path

import pytest
import tokenizers
import torch
from prolong.common.config.run_files import run_paths
from prolong.common.config.sections import Config
from prolong.common.config.trees import to_tree
from prolong.common.errors import AddressInUse, ConfigError, DataError, ModelError, UserError
from prolong.launch import model_check
from prolong.launch.local import preflight
from prolong.launch.local.preflight import prepare, settle_address
from prolong.verifiers.sandbox.opening import open_sandbox
from safetensors.torch import load_file, save_file

from tests.support.runs import free_port
from tests.support.tiny_model import make_tiny_model

PROMPT = {"prompt": "1+1=?", "domain": "math", "task": "addition", "verifier": "number", "answer": {"answer": "2"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> dict[str, str]:
    """A run that can start."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps(PROMPT) + "\n")
    return {
        "run.root": str(tmp_path),
        "run.name": "r",
        "model.path": str(model),
        "model.max_context": "128",
        "sampling.max_tokens": "64",
        "validation.max_tokens": "64",
        "data.train": f"[{{file: {prompts}}}]",
        "buffer.address": "tcp://127.0.0.1:0",
    }


def attempt(settings: dict[str, str], **changes: str):
    merged = settings | {key.replace("__", "."): value for key, value in changes.items()}
    return prepare("", [f"{key}={value}" for key, value in merged.items()])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{logprobs_mode: raw_logprobs}", r"logprobs_mode = 'raw_logprobs': it cannot be given: behaviour log-probabilities"),
        (
            "{enforce_eger: true}",
            r"enforce_eger = True: this vLLM has no engine argument of that name; did you mean enforce_eager",
        ),
    ],
)
def test_an_engine_argument_that_breaks_a_promise_or_does_not_exist_costs_no_start(
    settings: dict[str, str], given: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^actor\.engine_args\.{said}"):
        attempt(settings, actor__engine_args=given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "{engine_args: {enforce_eger: true}}",
            r"pool a \(pools\.a\): actor\.engine_args\.enforce_eger = True: this vLLM has no",
        ),
        ("{engine: none}", r"pool a \(pools\.a\): actor\.engine = 'none': expected one of vllm"),
    ],
)
def test_what_is_wrong_with_a_pool_costs_no_start(settings: dict[str, str], given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        attempt(settings, pools__a__actor=given)


def test_a_pool_with_gpus_is_refused_where_there_are_none_unless_it_is_elsewhere(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "has_gpu", lambda: False)
    with pytest.raises(ConfigError, match=r"^pool a \(pools\.a\): model\.device = cuda: this machine has no NVIDIA GPU"):
        attempt(settings, pools__a__model="{device: cuda}")
    assert attempt(settings, pools__a__model="{device: cuda}", pools__a__count="0").pools["a"].count == 0


def test_pools_serve_weights_on_ports_of_their_own(settings: dict[str, str]) -> None:
    ports = [free_port(), free_port()]
    pulled = {"weights__transport": "pull", "weights__port": str(ports[0])}
    served = [f"{{serve: true, port: {port}}}" for port in ports]
    attempt(settings, **pulled, pools__a__weights=served[1])
    with pytest.raises(ConfigError, match=rf"weights.port = {ports[0]}: expected 0"):
        attempt(settings, **pulled, pools__a__weights=served[0])
    with pytest.raises(ConfigError, match=rf"weights.port = {ports[1]}: expected 0"):
        attempt(settings, **pulled, pools__a__weights=served[1], pools__a__count="2")


def test_a_run_that_can_start_gets_a_real_port(settings: dict[str, str]) -> None:
    port = int(attempt(settings).buffer.address.rpartition(":")[2])
    assert port > 0


def test_a_missing_model_folder_is_named_with_its_cure(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"model.path = './models/demo'.*prolong bootstrap"):
        attempt(settings, model__path="./models/demo")


def test_a_context_beyond_the_model_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"model.max_context = 4096: expected at most the model's 512"):
        attempt(settings, model__max_context="4096")


def test_an_odd_model_folder_is_refused_by_its_path(settings: dict[str, str], tmp_path: Path, model: Path) -> None:
    """One of many: tests/unit/common/test_model_folder.py lists them."""
    folder = Path(shutil.copytree(model, tmp_path / "odd"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"model.path = '{folder}': it holds no weights"):
        attempt(settings, model__path=str(folder))


def test_a_tied_head_with_a_bias_is_refused_for_vllm_alone(settings: dict[str, str], tmp_path: Path, model: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "odd"))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.bias": torch.zeros(64)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"tied to the embedding and has a bias of its own, which vLLM does not load; use"):
        attempt(settings, model__path=str(folder))
    attempt(settings, model__path=str(folder), actor__engine="transformers")


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused(settings: dict[str, str], tmp_path: Path, model: Path) -> None:
    """Added tokens without a larger embedding: the learner would fail at the first prompt that holds one."""
    folder = Path(shutil.copytree(model, tmp_path / "odd"))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<think>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"its tokenizer has the token '<think>' with id 64, but ids end at 63"):
        attempt(settings, model__path=str(folder))


@pytest.mark.parametrize(
    ("name", "gpu", "said"),
    [
        ("flash", True, "expected one of documents, sdpa"),
        ("flex_attention", False, "it has no gradients on a CPU; use model.attention=documents"),
        ("flash_attention_2", False, "it has no gradients on a CPU"),
        ("flash_attention_2", True, "flash-attn is not installed here"),
    ],
)
def test_an_attention_that_cannot_be_used_here_is_refused(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, gpu: bool, said: str
) -> None:
    monkeypatch.setattr(model_check, "has_gpu", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=said):
        attempt(settings, model__attention=name)


def test_a_host_that_does_not_exist_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"weights.host = 'no.such.host.invalid': no such host"):
        attempt(settings, weights__host="no.such.host.invalid")


def test_ranks_that_cannot_share_micro_batches_evenly_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"learner.context_parallel = 2: expected a divisor of launch.learner_ranks, 3"):
        attempt(settings, launch__learner_ranks="3", learner__context_parallel="2")


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"model.device = cuda: this machine has no NVIDIA GPU"):
        attempt(settings, model__device="cuda")


def test_no_prompt_file_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"data.train"):
        attempt(settings, data__train="[]")


def test_a_bad_line_is_named_by_file_and_number(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n{oops\n")
    with pytest.raises(DataError, match=r"prompts\.jsonl, line 2"):
        attempt(settings)


def test_a_prompt_that_leaves_no_room_is_refused(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT | {"prompt": "1" * 100}) + "\n")
    with pytest.raises(DataError, match=r"line 1: the prompt has 100 tokens"):
        attempt(settings)


def test_an_unknown_verifier_is_refused(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT | {"verifier": "numbr"}) + "\n")
    with pytest.raises(UserError, match="did you mean 'number'"):
        attempt(settings)


def test_prompts_that_need_a_sandbox_are_refused_where_there_is_none(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    program = PROMPT | {"verifier": "code", "answer": {"tests": [{"stdin": "", "stdout": "1"}]}}
    prompts.write_text("".join(json.dumps(line) + "\n" for line in (PROMPT, program, PROMPT)))
    monkeypatch.setattr(preflight, "open_sandbox", functools.partial(open_sandbox, backends=()))
    with pytest.raises(UserError, match=r"no sandbox .*apt-get install bubblewrap.* verifiers\.allow_unsafe_code=true"):
        attempt(settings)
    attempt(settings, verifiers__allow_unsafe_code="true")
    prompts.write_text(json.dumps(PROMPT) + "\n")
    attempt(settings)


def test_prompts_in_c_plus_plus_are_refused_where_there_is_no_compiler(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker = {"language": "cpp", "source": "int main() {}"}
    monkeypatch.setenv("PATH", "/nowhere")
    for answer in ({"language": "cpp", "tests": [{"stdin": "", "stdout": ""}]}, {"tests": [{"stdin": ""}], "checker": checker}):
        (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT | {"verifier": "code", "answer": answer}) + "\n")
        with pytest.raises(UserError, match=r"no C\+\+ compiler .*apt-get install g\+\+"):
            attempt(settings)


def test_prompts_for_a_judge_need_a_model_and_its_key(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT | {"verifier": "judge"}) + "\n")
    with pytest.raises(ConfigError, match=r"asks for the verifier judge, but verifiers\.judge is empty"):
        attempt(settings)
    model = {"verifiers__judge__url": "http://127.0.0.1:1/v1", "verifiers__judge__model": "m"}
    with pytest.raises(ConfigError, match=r"verifiers\.judge\.model is missing"):
        attempt(settings, verifiers__judge__url="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        attempt(settings, **model, verifiers__judge__api_key_env="NO_SUCH_KEY")
    monkeypatch.setenv("NO_SUCH_KEY", "sk-secret")
    cfg = attempt(settings, **model, verifiers__judge__api_key_env="NO_SUCH_KEY", verifiers__judge__timeout_s="5")
    assert "sk-secret" not in str(to_tree(cfg))


def test_a_finished_run_is_not_overwritten_but_can_go_on(settings: dict[str, str]) -> None:
    cfg = attempt(settings, run__steps="5")
    run_paths(cfg).folder.mkdir()
    run_paths(cfg).summary.write_text(json.dumps({"steps": 5}))
    with pytest.raises(UserError, match=r"finished run of 5 steps"):
        attempt(settings, run__steps="5")
    assert attempt(settings, run__steps="6").run.steps == 6


def test_a_fresh_start_does_not_mix_with_old_checkpoints(settings: dict[str, str]) -> None:
    (run_paths(attempt(settings)).checkpoints / "step-00000010").mkdir(parents=True)
    with pytest.raises(UserError, match=r"already holds checkpoints"):
        attempt(settings, run__resume="false")
    attempt(settings)


def test_a_busy_port_is_refused_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=r"buffer.address=tcp://127.0.0.1:0"):
            settle_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1:5710", "tcp://127.0.0.1", "tcp://127.0.0.1:http", "ipc:///tmp/x"])
def test_what_is_no_tcp_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"buffer.address"):
        settle_address(address)


@pytest.mark.parametrize("port", ["0", "*"])
def test_a_free_port_is_chosen(port: str) -> None:
    assert int(settle_address(f"tcp://127.0.0.1:{port}").rpartition(":")[2]) > 0


def test_a_port_for_pulled_weights_that_is_taken_is_a_mistake(settings: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"weights.port = {port} .* weights.port=0"):
            attempt(settings, weights__transport="pull", weights__port=str(port))
    assert attempt(settings, weights__transport="pull").weights.port == 0


def test_processes_of_one_machine_cannot_serve_weights_on_one_port(settings: dict[str, str]) -> None:
    port = str(free_port())
    serving = {"weights__transport": "pull", "weights__serve": "true"}
    with pytest.raises(ConfigError, match=r"weights.port = \d+: expected 0 with weights.serve=true"):
        attempt(settings, **serving, weights__port=port)
    attempt(settings, **serving)
    attempt(settings, weights__transport="pull", weights__port=port)


def test_weights_are_not_pulled_beyond_loopback_without_keys(settings: dict[str, str]) -> None:
    with pytest.raises(
        ConfigError, match=r"weights.host and weights.port = 'tcp://0.0.0.0:0': expected a loopback .* `prolong keys"
    ):
        attempt(settings, weights__transport="pull", weights__host="0.0.0.0")


def test_what_is_not_pulled_cannot_be_served(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"weights.serve = True: expected false: only a process that pulls"):
        attempt(settings, weights__serve="true")


def test_a_reward_function_that_cannot_be_imported_is_told_before_an_engine_starts() -> None:
    cfg = Config()
    cfg.verifiers.own = {"near": "nowhere:near"}
    with pytest.raises(ConfigError, match=r"verifiers\.own\.near = 'nowhere:near': cannot be imported"):
        preflight.check_rewards(cfg)
    cfg.verifiers.own = {"near": "unix:/not/served/yet"}
    preflight.check_rewards(cfg)
