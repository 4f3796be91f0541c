"""The learner as a real process, for tests: a configuration, the process, and waiting for its steps.

Most tests take one forked rank, which starts in milliseconds; `learner_under_torchrun` starts as many as a cluster would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil
import torch
from prolong.common.config.choices import Device
from prolong.common.config.run_files import load_config, run_paths, save_config
from prolong.common.config.sections import Config, SourceConfig
from prolong.common.errors import ProlongError
from prolong.common.metrics import read_metrics
from prolong.learner.main import main
from safetensors.torch import load_file

from tests.support.forks import Fork
from tests.support.runs import free_port, wait_until
from tests.support.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]


def make_config(folder: Path, *, steps: int = 4, eta: int = 1) -> Config:
    cfg = Config()
    cfg.run.name, cfg.run.root, cfg.run.steps = "tested", str(folder / "runs"), steps
    cfg.model.path, cfg.model.max_context = str(make_tiny_model(folder / "model", tied=True)), 64
    cfg.model.device, cfg.model.dtype = Device.cpu, "float32"
    prompts = folder / "prompts.jsonl"
    line = {"prompt": "1+2=", "domain": "math", "task": "addition", "verifier": "number", "answer": {"answer": "3"}}
    prompts.write_text("".join(json.dumps(line) + "\n" for _ in range(50)))
    cfg.data.train = [SourceConfig(file=str(prompts))]
    cfg.sampling.n, cfg.sampling.max_tokens, cfg.sampling.temperature = 4, 12, 1.2
    cfg.buffer.address, cfg.buffer.batch_groups, cfg.buffer.eta = "tcp://127.0.0.1:0", 2, eta
    cfg.buffer.heartbeat_s, cfg.buffer.silence_s = 0.1, 2.0
    cfg.learner.lr, cfg.learner.starve_s = 1e-3, 60.0
    cfg.objective.kl_beta = 0.01
    cfg.reference.reset_every = 3
    cfg.checkpoint.every = 2
    cfg.weights.timeout_s = 10.0
    return cfg


def run_learner(config: Path) -> None:
    """Entry of one rank; the exit code is that of `prolong learner`."""
    torch.set_num_threads(1)
    try:
        main(load_config(config))
    except ProlongError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        raise SystemExit(error.exit_code) from None


@contextmanager
def learner(cfg: Config, address: str) -> Iterator[Fork]:
    """One rank of the learner, without torchrun; killed at the end of the block."""
    cfg.buffer.address = address
    path = run_paths(cfg).folder / "learner.yaml"
    save_config(cfg, path)
    fork = Fork(run_learner, path, log=path.with_name(f"learner-{uuid4().hex}.log")).start()
    try:
        yield fork
    finally:
        fork.kill()


@contextmanager
def learner_under_torchrun(cfg: Config, address: str, ranks: int) -> Iterator[subprocess.Popen[str]]:
    """Several ranks; the process is torchrun's agent."""
    cfg.buffer.address = address
    path = run_paths(cfg).folder / "learner.yaml"
    save_config(cfg, path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    command = [*torchrun, f"--nproc-per-node={ranks}", "-m", "tests.support.learner_process", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                # torchrun ends its ranks, and they may have ended
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        process.communicate(timeout=20)


def fork_ranks(target: Callable[..., None], *args: object, ranks: int, folder: Path, killed: int = -1) -> None:
    """`target(*args)` on every rank of a group, each with the environment that torchrun would give it.

    All must end well, but the one that is `killed`.
    """
    port = free_port()
    env = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    each = [env | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    forks = [Fork(target, *args, log=folder / f"rank-{rank}-{port}.log", env=each[rank]).start() for rank in range(ranks)]
    try:
        for rank, fork in enumerate(forks):
            if rank == killed:
                assert fork.wait(280) == -signal.SIGKILL, fork.log.read_text()
            else:
                end_of(fork)
    finally:
        for fork in forks:
            fork.kill()


def end_of(process: Fork | subprocess.Popen[str]) -> str:
    """Wait for the end, which must be good; what was written to stderr."""
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return errors


def weights_of(cfg: Config, version: int) -> dict[str, torch.Tensor]:
    return load_file(run_paths(cfg).checkpoints / f"step-{version:08d}" / "model.safetensors")


def wait_for_steps(cfg: Config, steps: int) -> None:
    path = run_paths(cfg).metrics
    wait_until(f"{steps} steps", lambda: path.exists() and len(read_metrics(path)) >= steps, 150)


if __name__ == "__main__":
    run_learner(Path(sys.argv[1]))
