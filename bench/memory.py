"""The memory of a learner's rank as `prolong plan memory` predicts it, against what its code allocates (memory_tracker.py).

    prolong bench memory [--models 0.6B 7B] [--gpus 1 4 8 16] [--layers 4] [--table docs/gpu.md] [--json]

Nothing but shapes is needed: no weights, no GPU. All of it takes about ten minutes. `--table` rewrites the table between the
marks of that page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..common.config.choices import Recompute
from ..common.config.sections import ActorConfig, Config, LaunchConfig, LearnerConfig, ModelConfig, SamplingConfig
from ..common.json_object import JsonObject
from ..launch.plan.learner_memory import LearnerMemory
from ..launch.plan.machine_fit import GIB, plan_machine, predict
from ..launch.plan.model_shape import ModelShape
from .marked_page import replace_marked
from .measure import report

CARDS_GIB = (80, 141)
BEGIN, END = "<!-- table of prolong bench memory: begin -->", "<!-- end -->"
HEAD = (
    "| model | GPUs | state, GiB | peak predicted, GiB | tracked, GiB | ratio | 80 GiB | 141 GiB |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def _shape(kind: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, *, tied: bool, vocab: int) -> JsonObject:
    architecture = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]
    return {
        "model_type": kind,
        "architectures": [architecture],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 40960,
    }


# the shapes of Qwen3-0.6B, R1-Distill-Qwen-1.5B, Qwen2.5-7B, Qwen3-14B and Qwen3-32B
MODELS = {
    "0.6B": _shape("qwen3", 1024, 3072, 28, 16, 8, tied=True, vocab=151936),
    "1.5B": _shape("qwen2", 1536, 8960, 28, 12, 2, tied=False, vocab=151936),
    "7B": _shape("qwen2", 3584, 18944, 28, 28, 4, tied=False, vocab=152064),
    "14B": _shape("qwen3", 5120, 17408, 40, 40, 8, tied=False, vocab=151936),
    "32B": _shape("qwen3", 5120, 25600, 64, 64, 8, tied=False, vocab=151936),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRow:
    """A model on so many GPUs. Bytes of tensors on rank 0's GPU, except `peak`, which is what the GPU needs."""

    model: str
    gpus: int
    layers: int
    resident: int
    predicted: int
    tracked: int
    peak: int
    fits: dict[int, str]  # GiB of a card -> "yes", settings, or "no"

    @property
    def ratio(self) -> float:
        return self.predicted / self.tracked

    def line(self) -> str:
        """The row of the table."""
        sizes = " | ".join(f"{value / GIB:.1f}" for value in (self.resident, self.predicted, self.tracked))
        return f"| {self.model} | {self.gpus} | {sizes} | {self.ratio:.2f} | {' | '.join(self.fits.values())} |"


def learner_settings(path: str, ranks: int, **learner: object) -> Config:
    """A learner on GPUs, by itself."""
    return Config(
        model=ModelConfig(path=path, dtype="bfloat16", max_context=8192),
        sampling=SamplingConfig(n=2),
        actor=ActorConfig(),
        learner=replace(
            LearnerConfig(token_budget=16384, recompute=Recompute.true, agreement_tolerance=0.0, shard_ranks=ranks),
            **learner,  # pyright: ignore[reportArgumentType]
        ),
        launch=LaunchConfig(learner_ranks=ranks, actors=0),
    )


def compare_rank(name: str, config: JsonObject, ranks: int, **learner: object) -> MemoryRow:
    """Predict and track one rank."""
    from .memory_tracker import track_learner, write_config

    with tempfile.TemporaryDirectory() as folder:
        cfg = learner_settings(str(write_config(Path(folder), config)), ranks, **learner)
        tracked = track_learner(cfg, ranks)
    shape = ModelShape.of(config)
    predicted = predict(shape, cfg)
    return MemoryRow(
        model=name,
        gpus=ranks,
        layers=shape.layers,
        resident=tracked.resident,
        predicted=predicted.tensors,
        tracked=tracked.peak,
        peak=predicted.peak,
        fits={gib: _fit(shape, cfg, gib, predicted) for gib in CARDS_GIB},
    )


def _fit(shape: ModelShape, cfg: Config, gib: int, predicted: LearnerMemory) -> str:
    plan = plan_machine(shape, cfg, cfg.launch.learner_ranks, gib * GIB)
    if plan.fits:
        return f"yes, {predicted.peak / GIB:.0f}"
    return f"`{plan.advice}`" if plan.advice else "no"


def write_memory_table(page: Path, rows: list[MemoryRow]) -> None:
    """Replace the table between the marks of the page."""
    lines = "".join(row.line() + "\n" for row in rows)
    replace_marked(page, BEGIN, END, f"{HEAD}{lines}")


def main(argv: list[str]) -> int:
    """Compare, print, and fail when a prediction is off by more than a tenth."""
    parser = argparse.ArgumentParser(
        prog="prolong bench memory", description="predicted memory of a rank against tracked memory"
    )
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS), help="by default all")
    parser.add_argument("--gpus", nargs="*", type=int, default=[1, 4, 8, 16], help="ranks that share the model")
    parser.add_argument("--layers", type=int, default=0, help="cut the models to so many layers; 0: all")
    parser.add_argument("--table", type=Path, help="rewrite the table of this page")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    rows: list[MemoryRow] = []
    for name in args.models:
        config = MODELS[name] | ({"num_hidden_layers": args.layers} if args.layers else {})
        for ranks in args.gpus:
            rows.append(compare_rank(name, config, ranks))
            if not args.json:
                sys.stdout.write(rows[-1].line() + "\n")
                sys.stdout.flush()
    if args.table:
        write_memory_table(args.table, rows)
    worst = max((abs(row.ratio - 1.0) for row in rows), default=0.0)
    if args.json:
        report({"worst": worst, "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}, as_json=True)
    else:
        sys.stdout.write(f"the worst prediction is off by {worst:.1%}\n")
    return 0 if worst <= 0.1 else 1
