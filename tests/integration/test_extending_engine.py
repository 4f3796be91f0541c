"""The engine of docs/extending.md in a copy of the product: it takes weights, and generates a ticket."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extension import ROOT, diff_of, extended_tree, touched_files

# `build_rig` has the engine apply the weights of version 0
PROGRAM = """
import json, sys
from pathlib import Path
from prolong.common.config.choices import EngineKind
from prolong.common.types import float32_array, int32_array
from tests.support.engine_rig import build_rig
rig = build_rig(Path(sys.argv[1]), tied=True, kind=EngineKind["uniform"])
rig.run(rig.push(1))
completions = rig.generate(n=64, max_tokens=40)
rig.close()
print(json.dumps([
    {
        "tokens": int32_array(c.token_ids).tolist(),
        "logprobs": float32_array(c.behaviour_logprobs).tolist(),
        "spans": [(span.version, span.start, span.end) for span in c.spans],
        "reason": c.finish_reason,
    }
    for c in completions
]))
"""
VOCAB, EOS = 64, 1  # of the tiny model


@pytest.mark.timeout(400)
def test_the_engine_takes_weights_and_generates_a_ticket(tmp_path: Path) -> None:
    environment = extended_tree("An engine", tmp_path / "tree")
    environment["PYTHONPATH"] += f":{ROOT}"  # for tests.support
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    completions = json.loads(done.stdout.splitlines()[-1])
    assert len({tuple(completion["tokens"]) for completion in completions}) == 64
    assert {completion["reason"] for completion in completions} == {"stop", "length"}
    for completion in completions:
        num_tokens = len(completion["tokens"])
        assert EOS not in completion["tokens"][:-1]
        assert completion["spans"] == [[1, 0, num_tokens]]
        assert completion["logprobs"] == pytest.approx([-math.log(VOCAB)] * num_tokens)
    assert {token for completion in completions for token in completion["tokens"]} == set(range(VOCAB))


def test_it_touches_three_files() -> None:
    assert touched_files(diff_of("An engine")) == [
        "actor/engines/registry.py",
        "actor/engines/uniform.py",
        "common/config/choices.py",
    ]
