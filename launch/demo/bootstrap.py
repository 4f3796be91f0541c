"""`prolong bootstrap`: the demo's model, tokenizer and prompts, in one folder.

Without `--train` the shipped model and prompts (launch/conf/demo) are unpacked, without torch, in a fraction of a second.
With `--train` both are made from nothing: a randomly initialised model is warmed up on generated demonstrations (warmup.py),
first on careful ones until it can solve the tasks, then on a mixture of mostly hasty ones until it guesses by habit. The
shipped files were made by `OMP_NUM_THREADS=1 prolong bootstrap --train --seed 0`.

    FOLDER/{config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json}
    FOLDER/{train.jsonl, heldout.jsonl}
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import UserError
from . import tasks as demo_tasks
from . import tokenizer as demo_tokenizer

SHIPPED = Path(__file__).parents[1] / "conf" / "demo"
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
PROMPT_FILES = ("train.jsonl", "heldout.jsonl")
CONTEXT = 128  # tokens, the context of the demo's model
NUM_TRAIN, NUM_HELDOUT = 2000, 64  # prompts per task
SKILL_STEPS, HABIT_STEPS, BATCH = 4000, 300, 64
SKILL_LR, HABIT_LR = 3e-3, 5e-4
ARCHITECTURE = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # supported by vLLM's attention on a CPU
    "intermediate_size": 384,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
}


def fill_demo_folder(out: Path, *, train: bool = False, seed: int = 0) -> None:
    """Write model, tokenizer and prompts to the folder `out`. Raises: UserError when a file cannot be read or written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if train:
            make_demo(out, seed, level=demo_tasks.DEMO_LEVEL, skill_steps=SKILL_STEPS, context=CONTEXT)
        else:
            _unpack(out)
    except OSError as error:
        raise UserError(f"prolong bootstrap cannot fill {out}: {error}") from error


def _unpack(out: Path) -> None:
    for name in MODEL_FILES:
        shutil.copyfile(SHIPPED / name, out / name)
    with zipfile.ZipFile(SHIPPED / "prompts.zip") as archive:
        archive.extractall(out)


def ship_demo(folder: Path) -> None:
    """Replace the shipped demo by the files that `--train` wrote to `folder`; for maintainers of this repository."""
    SHIPPED.mkdir(exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(folder / name, SHIPPED / name)
    with zipfile.ZipFile(SHIPPED / "prompts.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in PROMPT_FILES:
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)


def make_demo(
    out: Path,
    seed: int,
    *,
    level: demo_tasks.Level,
    skill_steps: int,
    context: int,
    tasks: Mapping[str, demo_tasks.ProblemMaker] = demo_tasks.TASKS,
) -> None:
    """Make prompts, tokenizer and a model of `context` tokens, warmed up for `skill_steps`, in the existing folder `out`."""
    splits = {task: demo_tasks.split_problems(task, seed, NUM_TRAIN, NUM_HELDOUT, level, make) for task, make in tasks.items()}
    demo_tasks.write_prompts(out / "train.jsonl", {task: train for task, (train, _, _) in splits.items()})
    demo_tasks.write_prompts(out / "heldout.jsonl", {task: heldout for task, (_, heldout, _) in splits.items()})
    demo_tokenizer.write_tokenizer(out)
    _train(out, [stream for _, _, stream in splits.values()], seed, skill_steps, context)


def _train(out: Path, streams: list[Any], seed: int, skill_steps: int, context: int) -> None:
    import torch
    from tokenizers import Tokenizer

    from . import warmup

    torch.set_num_threads(1)  # with more threads sums have other last bits, and the file is another one
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    eos_id, pad_id = demo_tokenizer.VOCABULARY.index("<eos>"), demo_tokenizer.VOCABULARY.index("<pad>")
    config = ARCHITECTURE | {"vocab_size": len(demo_tokenizer.VOCABULARY), "eos_token_id": eos_id, "pad_token_id": pad_id}
    model = warmup.build_model(config | {"bos_token_id": None, "max_position_embeddings": context}, seed)
    phases = [("skill", 1.0, skill_steps, SKILL_LR), ("habit", demo_tasks.CAREFUL_SHARE, HABIT_STEPS, HABIT_LR)]
    for number, (name, careful_share, steps, lr) in enumerate(phases):
        texts = demo_tasks.demonstrations(streams, f"{seed}/{number}", careful_share)
        pairs = ((tokenizer.encode(prompt).ids, [*tokenizer.encode(text).ids, eos_id]) for prompt, text in texts)
        progress = WarmUpProgress(name, steps)
        warmup.warm_up(model, pairs, steps=steps, batch=BATCH, lr=lr, pad_id=pad_id, progress=progress)
    warmup.save_model(model, out)


class WarmUpProgress:
    """Prints a line every hundred steps."""

    def __init__(self, phase: str, steps: int) -> None:
        self._phase, self._steps, self._began = phase, steps, time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        if step % 100 == 0 or step == self._steps:
            seconds = time.monotonic() - self._began
            print(f"{self._phase}: step {step}/{self._steps}, loss {loss:.4f}, {seconds:.0f} s", flush=True)
