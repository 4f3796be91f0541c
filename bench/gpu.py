"""What one GPU does with prolong, in under ten minutes: one JSON line.

    agreement  log-probabilities of sampled tokens: engine against learner, with the first weights and after an update
    updates    engine start; 20 weight updates while rollouts are in flight: from order to acknowledgement, and paused
    faults     an actor is killed, another one stopped, in the middle of a broadcast: how soon the learner goes on
    learner    an RL step against a supervised one at the shape of Qwen3-0.6B, 16k tokens: MFU, memory
    demo       `prolong train --recipe demo` on the one GPU

Every part is a process of its own with a deadline; one that fails is reported with its reason, and the others go on. Weights
are random. Without a GPU the parts that a CPU can do run at the demo's size, and the line says what was skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from ..actor.engines.registry import engine_class
from ..common.config.choices import Device, EngineKind
from ..common.config.sections import ActorConfig, Config, LearnerConfig, ModelConfig, ObjectiveConfig, SamplingConfig
from ..common.json_object import JsonObject
from ..learner.ranks import join_ranks
from .engines import Sender, generate_forever, random_weights
from .gpu_faults import measure_faults
from .learner_step import Lengths, build_trainer, make_batch, make_demo_shaped_model, sft_step, timed
from .measure import report, train_run
from .memory import MODELS

UPDATES, N = 20, 16
Result = dict[str, object]
WIDER = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
# of Qwen3-0.6B and Qwen3-4B
SHAPES: dict[str, JsonObject] = {"0.6B": MODELS["0.6B"], "4B": MODELS["0.6B"] | WIDER}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the parts run on."""

    gpu: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.gpu else "cpu")

    def model(self, folder: Path, shape: str, *, weights: bool) -> ModelConfig:
        """A random model in `folder`: of that shape on a GPU, of the demo's on a CPU. Without `weights` only its config."""
        if not self.gpu:
            return ModelConfig(path=make_demo_shaped_model(folder), max_context=128, device=Device.cpu, dtype="float32")
        save_shape(folder, shape, weights=weights)
        return ModelConfig(path=str(folder), max_context=4096, device=Device.cuda, dtype="bfloat16")

    def actor(self) -> ActorConfig:
        """Less than half of the GPU, so that a learner fits beside the engine."""
        return ActorConfig(engine=EngineKind.vllm, gpu_memory_utilization=0.4)


def save_shape(folder: Path, shape: str, *, weights: bool) -> None:
    """Save a random model of that shape, or its config alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SHAPES[shape], dtype="bfloat16")
    if not weights:
        config.save_pretrained(folder)
        return
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def agreement(machine: Machine, folder: Path) -> Result:
    from ..launch.agreement.probe import examine_pair

    cfg = Config(
        model=machine.model(folder, "0.6B", weights=True), actor=machine.actor(), sampling=SamplingConfig(max_tokens=64)
    )
    found = asyncio.run(examine_pair(cfg, layers=False))
    gaps = {each.weights.replace(" ", "_"): each.error or (each.apart and each.apart.gap) for each in found}
    return {"mean_gap_nats": gaps, "agrees": all(each.agrees(cfg.model.dtype) for each in found)}


def updates(machine: Machine, folder: Path) -> Result:
    return asyncio.run(_updates(machine, machine.model(folder, "4B", weights=False)))


async def _updates(machine: Machine, model: ModelConfig) -> Result:
    start, in_flight, max_tokens = perf_counter(), 256, 1024 if machine.gpu else 48
    engine = await engine_class(EngineKind.vllm).start(model, machine.actor(), 0, [])
    started_s = perf_counter() - start
    sender = Sender(random_weights(Path(model.path), model.dtype, machine.device), None, machine.device)
    await sender.push(engine, 0)
    load = asyncio.create_task(generate_forever(engine, in_flight, N, max_tokens))
    totals, pauses = [], []
    for version in range(1, UPDATES + 1):
        start, paused = perf_counter(), engine.paused_s
        await sender.push(engine, version)
        totals.append(perf_counter() - start)
        pauses.append(engine.paused_s - paused)
        # the rollouts go on for a while between two updates
        await asyncio.sleep(0.3)
    lived = not load.done()
    load.cancel()
    await asyncio.wait({load})
    await engine.close()
    return {
        "shape": "4B" if machine.gpu else "demo",
        "bytes": sender.num_bytes,
        "engine_start_s": started_s,
        "updates": UPDATES,
        "update_median_s": statistics.median(totals),
        "update_slowest_s": max(totals),
        "paused_median_s": statistics.median(pauses),
        "rollouts_went_on": lived,
    }


def faults(machine: Machine, folder: Path) -> Result:
    # a watchdog of NCCL would end this process a minute after the fault
    return measure_faults(machine.device, survive_s=75.0 if machine.gpu else 0.0)


def learner_part(machine: Machine, folder: Path) -> Result:
    model = machine.model(folder, "0.6B", weights=True)
    budget = 16_384 if machine.gpu else 2048
    cfg = Config(
        model=model,
        sampling=SamplingConfig(max_tokens=64),
        learner=LearnerConfig(token_budget=budget, agreement_tolerance=0.0),
        objective=ObjectiveConfig(kl_beta=0.0),
    )
    trainer = build_trainer(cfg, join_ranks(starve_s=60.0, cuda=machine.gpu, always=machine.gpu), machine.device)
    lengths = Lengths(prompt=(200, 400), mean=1200, spread=400, limits=(64, 2000)) if machine.gpu else Lengths()
    batch = make_batch(8 if machine.gpu else 16, 8 if machine.gpu else 16, lengths=lengths)
    calls: dict[str, Callable[[], object]] = {"rl": lambda: trainer.train(batch), "sft": lambda: sft_step(trainer, batch)}
    for call in calls.values():
        call()
    rounds = [{name: timed(call)[0] for name, call in calls.items()} for _ in range(5)]
    metrics = trainer.train(batch)
    return {
        "shape": "0.6B" if machine.gpu else "demo",
        "token_budget": budget,
        "rl_s": statistics.median(each["rl"] for each in rounds),
        "sft_s": statistics.median(each["sft"] for each in rounds),
        "rl_over_sft_speed": statistics.median(each["sft"] / each["rl"] for each in rounds),
        **{name: value for name, value in metrics.items() if name.startswith("perf/")},
    }


def demo(machine: Machine, folder: Path) -> Result:
    model = folder / "model"
    command = [sys.executable, "-m", "prolong.launch.cli", "bootstrap", "--out", str(model)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    data = f"data.train=[{{file: {model}/train.jsonl}}]", f"data.heldout=[{{file: {model}/heldout.jsonl}}]"
    done = train_run("gpu", [f"model.path={model}", "model.device=cuda", *data], root=folder, timeout_s=240)
    before, after = (done.summary[when]["sampled"]["mean"] for when in ("before", "after"))
    return {"wall_s": done.spent.wall_s, "before": before, "after": after, "seconds_per_step": done.seconds_per_step}


# name -> (what it does, its deadline in seconds, whether it needs a GPU)
PARTS: dict[str, tuple[Callable[[Machine, Path], Result], float, bool]] = {
    "agreement": (agreement, 150.0, False),
    "updates": (updates, 200.0, False),
    "faults": (faults, 150.0, False),
    "learner": (learner_part, 150.0, False),
    "demo": (demo, 270.0, True),
}


def run_part(name: str) -> Result:
    """The result of a part, which runs in a process of its own; {"failed": ...} with the end of what it said."""
    command = [sys.executable, "-m", "prolong.bench.gpu", "--part", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PARTS[name][1], check=False)
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr or ""
        return {"failed": f"no result within {PARTS[name][1]:g} s", "said": said[-1000:]}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": f"exit code {done.returncode}", "said": done.stderr[-1000:]}


def main(argv: list[str]) -> int:
    """Run the parts, and print one JSON line; 1 when a part failed."""
    parser = argparse.ArgumentParser(
        prog="prolong bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="only this one, in this process")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    machine = Machine(gpu=torch.cuda.is_available())
    if args.part:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(json.dumps(PARTS[args.part][0](machine, Path(folder))) + "\n")
        return 0
    needed = {name for name, (_, _, gpu) in PARTS.items() if gpu}
    line: Result = {
        "bench": "gpu",
        "device": torch.cuda.get_device_name() if machine.gpu else "cpu",
        "torch": torch.__version__,
        "skipped": [] if machine.gpu else [*sorted(needed), "the shapes of 0.6B and 4B", "MFU of a GPU"],
    }
    for name in PARTS:
        if machine.gpu or name not in needed:
            sys.stderr.write(f"bench gpu: {name}\n")
            line[name] = run_part(name)
    report(line, as_json=args.json)
    return int(any("failed" in value for value in line.values() if isinstance(value, dict)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
