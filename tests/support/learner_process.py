"""The learner as a real process under torchrun, for tests: a configuration, the process, and waiting for its steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from prolong.common.config.run_files import run_paths, save_config
from prolong.common.config.sections import Config, SourceConfig
from prolong.common.metrics import read_metrics
from safetensors.torch import load_file

from tests.support.runs import wait_until
from tests.support.tiny_model import make_tiny_model

ENTRY = """
import sys
from pathlib import Path
from prolong.common.config.run_files import load_config
from prolong.common.errors import ProlongError
from prolong.learner.main import main
try:
    main(load_config(Path(sys.argv[1])))
except ProlongError as error:
    sys.stderr.write(f"{type(error).__name__}: {error}\\n")
    raise SystemExit(error.exit_code)
"""


def make_config(folder: Path, *, steps: int = 4, eta: int = 1) -> Config:
    cfg = Config()
    cfg.run.name, cfg.run.root, cfg.run.steps = "tested", str(folder / "runs"), steps
    cfg.model.path, cfg.model.max_context = str(make_tiny_model(folder / "model", tied=True)), 64
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


@contextmanager
def learner(cfg: Config, address: str, ranks: int = 1) -> Iterator[subprocess.Popen[str]]:
    cfg.buffer.address = address
    path = run_paths(cfg).folder / "learner.yaml"
    save_config(cfg, path)
    script = path.with_name("entry.py")
    script.write_text(ENTRY)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        str(script),
        str(path),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
        process.communicate(timeout=20)


def end_of(process: subprocess.Popen[str]) -> str:
    """Wait for the end, which must be good; what was written to stderr."""
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    return errors


def weights_of(cfg: Config, version: int) -> dict[str, torch.Tensor]:
    return load_file(run_paths(cfg).checkpoints / f"step-{version:08d}" / "model.safetensors")


def wait_for_steps(cfg: Config, steps: int) -> None:
    path = run_paths(cfg).metrics
    wait_until(f"{steps} steps", lambda: path.exists() and len(read_metrics(path)) >= steps, 60)
