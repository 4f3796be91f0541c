"""TRL's GRPO on the demo's model, tasks and settings. It runs in an environment of its own (`.venv-trl`), one process per rank.

race_trl.py starts it. It imports nothing of prolong. Each finished step is one JSON line {"step", "at", "reward"} of `--out`,
written by rank 0; `at` is in seconds since the epoch.
"""

import argparse
import json
import os
import re
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

NUMBER_PATTERN = re.compile(r"-?\d+(?:\.\d+)?")
PATTERNS = {"math": re.compile(r"\\boxed\{([^{}]*)\}"), "reasoning_gym": re.compile(r"<answer>(.*?)</answer>", re.DOTALL)}


def gold(row: dict) -> str:
    """The stored answer. Comparing with it is cheaper than prolong's verifiers, to TRL's advantage."""
    answer = row["answer"]
    return str(answer["entry"]["answer"] if "entry" in answer else answer["answer"])


def demo_score(found: str, want: str, task: str) -> float:
    """The reward of the demo's verifiers: numbers compared as numbers, partial credit for letters in place."""
    if task == "number_sorting":
        return float([float(n) for n in NUMBER_PATTERN.findall(found)] == [float(n) for n in NUMBER_PATTERN.findall(want)])
    if task == "spell_backward":
        return sum(a == b for a, b in zip(found, want, strict=False)) / len(want)
    return float(found.strip() == want)


def reward(completion_ids, verifier, target, task, tokenizer) -> list[float]:
    """The score of the last answer of each completion; 0 for a completion without an end or an answer."""
    scores = []
    for ids, name, want, kind in zip(completion_ids, verifier, target, task, strict=True):
        found = PATTERNS[name].findall(tokenizer.decode(ids, skip_special_tokens=False).split("</think>")[-1])
        scores.append(demo_score(found[-1], want, kind) if found and ids[-1] == tokenizer.eos_token_id else 0.0)
    return scores


class StepLog(TrainerCallback):
    """One JSON line per finished step, from rank 0."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w") if int(os.environ.get("RANK", "0")) == 0 else None

    def on_log(self, args, state, control, logs=None, **_):
        if self.file and logs and "reward" in logs:
            line = {"step": state.global_step, "at": time.time(), "reward": logs["reward"]}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def trl_config(settings: dict, folder: Path, world: int) -> "GRPOConfig":
    """The race's settings in TRL's names; `world`: number of DDP ranks."""
    rollouts = settings["groups"] * settings["n"]
    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=rollouts // world,
        num_generations=settings["n"],
        max_completion_length=settings["max_tokens"],
        max_steps=settings["steps"],
        seed=settings["seed"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        adam_beta1=settings["betas"][0],
        adam_beta2=settings["betas"][1],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["grad_clip"],
        epsilon=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        beta=settings["kl_beta"],
        loss_type="dapo",
        scale_rewards="group",
        temperature=settings["temperature"],
        top_k=0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    args = parser.parse_args()
    world, settings = int(os.environ.get("WORLD_SIZE", "1")), args.settings
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [json.loads(line) for line in Path(args.train).read_text().splitlines()]
    keys = ("prompt", "verifier", "task")
    columns = [{**{key: row[key] for key in keys}, "target": gold(row)} for row in rows]

    def scored(completion_ids, verifier, target, task, **_):
        return reward(completion_ids, verifier, target, task, tokenizer)

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=scored,
        args=trl_config(settings, args.out.parent / "trl", world),
        train_dataset=Dataset.from_list(columns),
        processing_class=tokenizer,
        callbacks=[StepLog(args.out)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
