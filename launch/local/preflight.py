"""The checks of `prolong train` before it starts a process: a mistake costs a second, not the start of an engine."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ...buffer.tickets.prompts import longest_completion
from ...common.config.actors import actors_here, in_pool
from ...common.config.choices import Device
from ...common.config.run_files import RunPaths, run_paths
from ...common.config.sections import Config, SourceConfig
from ...common.config.stages import total_steps
from ...common.config.trees import judge_config
from ...common.data.prompts import load_prompts
from ...common.errors import AddressInUse, ConfigError, DataError, ModelError, UserError, require
from ...common.tokenizer import Tokenizer
from ...common.transport.keys import load_buffer_keys, load_client_keys
from ...common.transport.sockets import check_address
from ...common.types import PULL
from ...verifiers.registry import check_prompt, find, parse_answer
from ...verifiers.sandbox.opening import open_sandbox
from ...verifiers.services.model_judge import ModelJudge
from ...verifiers.user_verifiers import declared
from ...verifiers.workers.pool import check_own_verifiers
from ..gpus import has_gpu
from ..model_check import check_model, settle_dtype
from ..recipes import NO_SETTINGS, compose
from ..resume_check import check_resume
from ..trackers.services import check_trackers
from .gpu_check import settle_gpus


def prepare(recipe: str, overrides: list[str], settings: Mapping[str, object] = NO_SETTINGS) -> Config:
    """The checked configuration of a run that can start, with real values for port, dtype and the actor's share of a GPU.

    `settings`: as in `compose`. Raises: a subclass of UserError, exit code 2.
    """
    cfg = compose(recipe, overrides, settings)
    check_run_folder(cfg)
    check_model(cfg)
    settle_dtype(cfg)
    check_pools(cfg)
    check_resume(cfg)
    check_prompts(cfg)
    check_rewards(cfg)
    check_trackers(cfg)
    cfg.buffer.address = settle_address(cfg.buffer.address)
    check_keys(cfg)
    check_weights(cfg)
    check_machine(cfg)
    for note in settle_gpus(cfg):
        sys.stderr.write(f"note: {note}\n")
    return cfg


def check_pools(cfg: Config) -> None:
    """Raise ConfigError or ModelError, with the name of the pool, unless the actors of each pool can be started here."""
    for pool in cfg.pools:
        kind = in_pool(cfg, pool)
        try:
            check_model(kind)
            if kind.launch.actors:
                _check_device(kind)
        except (ConfigError, ModelError) as error:
            raise type(error)(f"pool {pool} (pools.{pool}): {error}") from error


def check_machine(cfg: Config) -> None:
    """Raise ConfigError when the configuration asks for a GPU or an address that is not there, or ranks that cannot share."""
    ranks, sharing = cfg.launch.learner_ranks, cfg.learner.context_parallel
    require(ranks % sharing == 0, "learner.context_parallel", sharing, f"a divisor of launch.learner_ranks, {ranks}")
    _check_device(cfg)
    try:
        socket.getaddrinfo(cfg.weights.host, None)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"weights.host = {cfg.weights.host!r}: no such host ({error}); give the learner's host, as actors reach it"
        ) from error


def _check_device(cfg: Config) -> None:
    if cfg.model.device is Device.cuda and not has_gpu():
        raise ConfigError("model.device = cuda: this machine has no NVIDIA GPU (/dev/nvidia*); use model.device=cpu")


def check_run_folder(cfg: Config) -> None:
    """Raise UserError if the run would overwrite a finished run, or start from nothing in a folder with checkpoints."""
    paths = run_paths(cfg)
    if not cfg.run.resume and paths.checkpoints.is_dir() and any(paths.checkpoints.iterdir()):
        raise UserError(f"run.resume = False: {paths.folder} already holds checkpoints; choose another run.name")
    steps = finished_steps(paths)
    if steps is not None and steps >= total_steps(cfg):
        raise UserError(
            f"{paths.folder} holds a finished run of {steps} steps: choose another run.name, or a larger run.steps to go on"
        )


def finished_steps(paths: RunPaths) -> int | None:
    """The number of steps of the run that ended in this folder; None if no run did."""
    if not paths.summary.exists():
        return None
    return int(json.loads(paths.summary.read_text())["steps"])


def check_prompts(cfg: Config) -> None:
    """Raise UserError unless every prompt can be read, fits the context and can be judged on this machine."""
    if not cfg.data.train:
        raise DataError("data.train = []: expected at least one prompt file, as data.train='[{file: PATH}]'")
    tokenizer = Tokenizer.load(cfg.model.path)
    sources = [(source, longest_completion(cfg)) for source in cfg.data.train]
    sources += [(source, cfg.validation.max_tokens) for source in cfg.data.heldout]
    in_sandbox = [_check_source(cfg, source, tokenizer, max_tokens) for source, max_tokens in sources]
    if any(in_sandbox) and not cfg.verifiers.allow_unsafe_code:
        open_sandbox().close()


def check_rewards(cfg: Config) -> None:
    """Raise ConfigError unless a worker can import the modules of `verifiers.own`: actors find out only after their engine."""
    # in a thread of its own, because a notebook's has an event loop already
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, check_own_verifiers(cfg.verifiers)).result()


def _check_source(cfg: Config, source: SourceConfig, tokenizer: Tokenizer, max_tokens: int) -> bool:
    """Whether a prompt of this source needs a sandbox. Raises: UserError."""
    own = declared(cfg.verifiers.own)
    in_sandbox, asks_model = False, ""
    for prompt in load_prompts(source, tokenizer, cfg.model.max_context, max_tokens):
        in_sandbox |= check_prompt(prompt, own)
        find(prompt.verifier, own).check_machine(parse_answer(prompt.answer))
        if prompt.verifier == "judge":
            asks_model = asks_model or prompt.uid
    if asks_model:
        _check_judge(cfg, asks_model)
    return in_sandbox


def _check_judge(cfg: Config, uid: str) -> None:
    """Raise ConfigError unless there is a model for prompts such as `uid`, with its key. Sends it nothing."""
    judge = judge_config(cfg.verifiers)
    if judge is None:
        raise ConfigError(
            f"prompt {uid} asks for the verifier judge, but verifiers.judge is empty: give address and model of an "
            "OpenAI-compatible endpoint, as verifiers.judge.url=http://127.0.0.1:8000/v1 verifiers.judge.model=NAME"
        )
    ModelJudge(judge, Counter())


def check_keys(cfg: Config) -> None:
    """Raise ConfigError unless an address beyond loopback has keys, for the buffer and for the clients of this host."""
    load_buffer_keys(cfg.buffer.keys)
    load_client_keys(cfg.buffer.keys)
    check_address(cfg.buffer.address.replace(":*", ":0"), has_keys=bool(cfg.buffer.keys))


def check_weights(cfg: Config) -> None:
    """Raise AddressInUse or ConfigError unless processes of this machine can be pulled from, where weights.* asks for it."""
    serving = [cfg, *(actor.cfg for actor in actors_here(cfg) if actor.cfg.weights.serve)]
    ports = [each.weights.port for each in serving if each.weights.port]
    shared = next((port for port in ports if ports.count(port) > 1), 0)
    require(not shared, "weights.port", shared, "0 with weights.serve=true: the learner and each actor here need their own")
    for each in serving:
        if each.weights.transport == PULL or each.weights.port:
            check_weights_address(each)


def check_weights_address(cfg: Config) -> None:
    """Raise AddressInUse or ConfigError unless a process of this machine can serve weights at weights.host and weights.port."""
    weights, setting = cfg.weights, "weights.host and weights.port"
    check_address(f"tcp://{weights.host}:{weights.port}", has_keys=bool(cfg.buffer.keys), setting=setting)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((weights.host.strip("[]"), weights.port))
        except OSError as error:
            raise AddressInUse(
                f"weights.port = {weights.port} of weights.host = {weights.host}: cannot be bound ({error}); stop the process "
                "that holds it, or let a free port be chosen with weights.port=0"
            ) from error


def settle_address(address: str) -> str:
    """`address`, with a free port in place of 0 or *, after a test that it can be bound.

    Raises: AddressInUse, ConfigError.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not host or not (port.isdigit() or port == "*"):
        raise ConfigError(f"buffer.address = {address!r}: expected tcp://HOST:PORT")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, 0 if port == "*" else int(port)))
        except (OSError, OverflowError) as error:
            raise AddressInUse(
                f"buffer.address = {address}: cannot be bound ({error}); stop the run that holds it, or let a free port be "
                f"chosen with buffer.address=tcp://{host}:0"
            ) from error
        return f"tcp://{host}:{probe.getsockname()[1]}"
