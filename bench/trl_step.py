"""One GRPO step of TRL on given rollouts, timed. It runs in an environment of its own (`.venv-trl`); step_trl.py starts it.

It imports nothing of prolong. Input and output are the files that step_trl.py describes. TRL's own parts compute the loss: its
trainer is built, and its `compute_loss` gets the tensors that its generation would have left: prompts padded on the left,
completions on the right, to the longest of the whole batch.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer


def padded(rows: list[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, each [B, L] int64."""
    length = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.int64), torch.zeros(len(rows), length, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


def micro_batches(rollouts: list[dict], size: int) -> list[dict]:
    """What TRL splits a generation batch into, `size` rollouts each."""
    prompt_ids, prompt_mask = padded([r["prompt"] for r in rollouts], left=True)
    completion_ids, completion_mask = padded([r["completion"] for r in rollouts], left=False)
    tensors = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([r["advantage"] for r in rollouts], dtype=torch.float32),
    }
    total = completion_mask.sum()
    parts = [{key: value[i : i + size] for key, value in tensors.items()} for i in range(0, len(rollouts), size)]
    return [part | {"num_items_in_batch": total} for part in parts]


def build_grpo_trainer(settings: dict, model: str, folder: Path, micros: int) -> "GRPOTrainer":
    """TRL's trainer with the settings of the step; its tokenizer and its prompts are never used."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")))
    tokenizer.pad_token, tokenizer.eos_token = "a", "b"
    cfg = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=settings["micro_rollouts"],
        gradient_accumulation_steps=micros,
        num_generations=settings["n"],
        learning_rate=settings["lr"],
        epsilon=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        beta=0.0,
        loss_type="dapo",
        temperature=1.0,
        report_to=[],
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=cfg,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * settings["n"]),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = micros
    trainer.model.train()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(args.batch.read_text())
    settings = content["settings"]
    micros = micro_batches(content["rollouts"], settings["micro_rollouts"])
    trainer = build_grpo_trainer(settings, args.model, args.out.parent / "trl", len(micros))
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.01, fused=True)
    steps = []
    for _ in range(settings["steps"]):
        wall, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        for micro in micros:
            trainer.compute_loss(model, micro).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        steps.append({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "grad_norm": norm})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    args.out.write_text(json.dumps({"steps": steps, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
