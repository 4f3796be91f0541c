"""`prolong bench gpu` on a machine without a GPU: it runs what a CPU can, says what it left out, and outlives a part."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prolong.bench import gpu
from prolong.bench.engines import random_weights

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def test_the_line_says_what_was_skipped_and_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "run_part", lambda name: {"failed": "no"} if name == "updates" else {"done": name})
    assert gpu.main(["--json"]) == 1
    line = json.loads(capsys.readouterr().out)
    assert {name for name in gpu.PARTS if name in line} == set(gpu.PARTS) - {"demo"}
    assert "demo" in line["skipped"]


def test_a_part_that_ends_or_hangs_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([], 3, stdout="", stderr="out of memory")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    assert gpu.run_part("updates") == {"failed": "exit code 3", "said": "out of memory"}

    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        assert command[0] == sys.executable
        raise subprocess.TimeoutExpired(command, timeout, stderr=b"waiting")

    monkeypatch.setattr(subprocess, "run", hang)
    assert gpu.run_part("updates") == {"failed": "no result within 200 s", "said": "waiting"}


@pytest.mark.parametrize("shape", gpu.SHAPES)
def test_the_shapes_are_those_of_their_models(shape: str, tmp_path: Path) -> None:
    gpu.save_shape(tmp_path, shape, weights=False)
    weights = random_weights(tmp_path, "bfloat16", torch.device("meta"))
    billions = sum(tensor.numel() for tensor in weights.values()) / 1e9
    assert billions == pytest.approx(float(shape.removesuffix("B")), rel=0.01)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
