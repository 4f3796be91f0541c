"""TRL's GRPO on the demo's model, tasks and settings. It runs in an environment of its own (`.venv-trl`), one process per rank.

race_trl.py starts it. It imports nothing of prolong but the file beside it. Each finished step is one JSON line
{"step", "at", "reward"} of `--out`, written by rank 0; `at` is in seconds since the epoch.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl_rewards import demo_reward, target_of


def reward(completion_ids, verifier, target, task, tokenizer) -> list[float]:
    """The demo's reward of each completion; 0 for one without an end."""
    rows = zip(completion_ids, verifier, target, task, strict=True)
    return [
        demo_reward(tokenizer.decode(ids, skip_special_tokens=False), *row) if ids[-1] == tokenizer.eos_token_id else 0.0
        for ids, *row in rows
    ]


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
    columns = [{**{key: row[key] for key in keys}, "target": target_of(row)} for row in rows]

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
