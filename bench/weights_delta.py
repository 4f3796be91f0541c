"""Bytes and seconds of a pulled update, by learning rate: real AdamW steps of a real model, against a full copy.

    prolong bench weights-delta [--model FOLDER] [--lr 1e-6 1e-5 1e-4] [--steps 8] [--updates 2] [--json]

A row is one learning rate and one dtype of the actors: the share of elements and of chunks that changed, bytes, the wall and
CPU seconds of the learner (encode: deltas and digests), of the puller (decode: the same backwards, checked against the
learner's cast) and of the parts of both, and what other codings would have taken of the same update (delta_codings.py). The
gradient is that of the next token of Python code. Without --model it is the demo's model, 0.6 million trained parameters.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..common.config.learner import LearnerConfig
from ..common.weights.buckets import PackedWeights, fill_bucket, named_dtype, plan_buckets
from ..common.weights.pull.catalog import catalog_digest, chunk_digest, decode_catalog
from ..common.weights.pull.chunks import CHUNK_BYTES, ChunkLayout
from ..common.weights.pull.store import ChunkStore, Deltas, Full
from ..launch.demo.bootstrap import SHIPPED
from ..learner.optimizer import build_optimizer
from .delta_codings import coding_sizes
from .measure import report

BUCKET_BYTES = 256 << 20
SAMPLED = 4  # one chunk of so many is coded in every way


class Spent:
    """Wall and CPU seconds by name. CPU seconds of other threads of this process count as well: nothing else runs in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def clock(self, name: str) -> Generator[None]:
        wall, cpu = perf_counter(), process_time()
        yield
        self.seconds.setdefault(name, []).append((perf_counter() - wall, process_time() - cpu))

    def medians(self) -> dict[str, float]:
        rows: dict[str, float] = {}
        for name, pairs in self.seconds.items():
            rows[f"{name}_wall_s"] = statistics.median(wall for wall, _ in pairs)
            rows[f"{name}_cpu_s"] = statistics.median(cpu for _, cpu in pairs)
        return rows


class StorePair:
    """A learner's store and a puller's, of one dtype."""

    def __init__(self, model: PreTrainedModel, dtype: str, chunk_bytes: int) -> None:
        self.dtype = named_dtype(dtype)
        tensors = [(name, dtype, tensor.shape) for name, tensor in model.named_parameters()]
        self.manifest = plan_buckets(tensors, BUCKET_BYTES)
        self.layout = ChunkLayout(self.manifest, chunk_bytes)
        self.learner, self.puller = (ChunkStore(self.layout, self._zeros()) for _ in range(2))
        self.spent, self.rows = Spent(), list[dict[str, float]]()
        self.codings: dict[str, int] = {}

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in self.manifest.buckets]

    def cast(self, model: PreTrainedModel, version: int) -> PackedWeights:
        tensors = {name: tensor.detach().to(self.dtype) for name, tensor in model.named_parameters()}
        buckets = [fill_bucket(bucket, tensors) for bucket in self.manifest.buckets]
        return PackedWeights(version=version, manifest=self.manifest, buckets=buckets)

    def pull(self) -> int:
        """Bring the puller to the learner's version; returns the bytes that came."""
        version, num_bytes = self.learner.version, 0
        encoded = self.learner.catalog(version)
        assert encoded is not None
        for index in self.puller.begin(encoded, decode_catalog(encoded, catalog_digest(encoded), len(self.layout.chunks))):
            held = self.puller.held(index)
            match self.learner.answer(index, self.puller.session, None if held is None else held.version, version):
                case Deltas(steps):
                    assert held is not None
                    assert self.puller.put_deltas(index, held.version, steps)
                    num_bytes += sum(len(payload) for _, payload in steps)
                case Full(content):
                    assert self.puller.put_full(index, version, content)
                    num_bytes += len(content)
                case answer:
                    raise RuntimeError(f"the learner's store answered {answer} for its own version")
        self.puller.finish(version)
        return num_bytes

    def update(self, model: PreTrainedModel, version: int, *, measured: bool) -> None:
        """Take one version to the learner's store and from there to the puller's."""
        packed = self.cast(model, version)
        if not measured:
            self.learner.advance(packed)
            self.pull()
            return
        changed = sum(
            _num_changed(*pair, self.dtype.itemsize) for pair in zip(self.learner.buckets, packed.buckets, strict=True)
        )
        with self.spent.clock("encode"):
            stats = self.learner.advance(packed)
        self.codings = coding_sizes(self.puller, self.learner, SAMPLED)
        with self.spent.clock("decode"):
            num_bytes = self.pull()
        assert num_bytes == stats.num_bytes
        assert all(torch.equal(held, sent) for held, sent in zip(self.puller.buckets, packed.buckets, strict=True))
        with self.spent.clock("digest"):
            for index in range(len(self.layout.chunks)):
                chunk_digest(self.layout.view(packed.buckets, index))
        with self.spent.clock("checksum"):
            packed.checksums()
        self.rows.append(
            {
                "changed_elements": changed / (stats.full_bytes / self.dtype.itemsize),
                "changed_chunks": stats.num_changed / stats.num_chunks,
                "full_chunks": stats.num_full / stats.num_chunks,
                "update_mb": num_bytes / 1e6,
                "full_mb": stats.full_bytes / 1e6,
                "share": num_bytes / stats.full_bytes,
            }
        )

    def row(self) -> dict[str, float]:
        """Medians over the measured updates."""
        figures = {name: statistics.median(row[name] for row in self.rows) for name in self.rows[0]}
        return figures | self.spent.medians()


def _num_changed(before: torch.Tensor, after: torch.Tensor, itemsize: int) -> int:
    words = {2: torch.int16, 4: torch.int32}[itemsize]
    return int((before.view(words) != after.view(words)).sum())


def token_stream(folder: str, vocab_size: int, num_tokens: int) -> torch.Tensor:
    """The Python code of this package as tokens, or random tokens where the model has no tokenizer."""
    if not (Path(folder) / "tokenizer.json").exists():
        return torch.randint(vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(0))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
    return torch.tensor(tokenizer(text[: 8 * num_tokens]).input_ids[:num_tokens])


def measure_rate(args: argparse.Namespace, lr: float) -> list[dict[str, object]]:
    """Train with one learning rate, and measure the last updates in each dtype."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, local_files_only=True).train()
    optimizer = build_optimizer(model, LearnerConfig(lr=lr))
    tokens = token_stream(args.model, model.config.vocab_size, 200 * args.tokens)
    pairs = [StorePair(model, dtype, args.chunk_bytes) for dtype in args.dtype]
    for step in range(args.steps):
        start = int(torch.randint(len(tokens) - args.tokens, ()))
        sample = tokens[None, start : start + args.tokens]
        model(input_ids=sample, labels=sample).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= args.steps - args.updates - 1:
            for pair in pairs:
                pair.update(model, step, measured=step >= args.steps - args.updates)
    return [
        {
            "lr": lr,
            "dtype": dtype,
            **pair.row(),
            "codings": {name: size / pair.codings["full"] for name, size in pair.codings.items()},
        }
        for dtype, pair in zip(args.dtype, pairs, strict=True)
    ]


def delta_table(rows: list[dict[str, object]]) -> str:
    """For docs/log.md."""
    heads = [
        "lr",
        "dtype",
        "elements",
        "chunks",
        "MB",
        "of MB",
        "share",
        "in full",
        "encode s",
        "decode s",
        "digest s",
        "checksum s",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        shares = [
            f"{100 * float(str(row[name])):.3g} %" for name in ("changed_elements", "changed_chunks", "share", "full_chunks")
        ]
        sizes = [f"{float(str(row[name])):.4g}" for name in ("update_mb", "full_mb")]
        seconds = [f"{float(str(row[f'{name}_cpu_s'])):.2g}" for name in ("encode", "decode", "digest", "checksum")]
        cells = [f"{row['lr']:g}", str(row["dtype"]), *shares[:2], *sizes, *shares[2:], *seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench weights-delta", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(SHIPPED), help="a folder with a model that transformers loads")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-6, 1e-5, 1e-4])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--steps", type=int, default=8, help="of AdamW with each learning rate")
    parser.add_argument("--updates", type=int, default=2, help="the last ones, which are measured")
    parser.add_argument("--tokens", type=int, default=256, help="of one step")
    parser.add_argument("--chunk-bytes", type=int, default=CHUNK_BYTES)
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    if not 1 <= args.updates < args.steps:
        parser.error(f"--updates {args.updates}: expected from 1 to one less than --steps, {args.steps}")
    rows = [row for lr in args.lr for row in measure_rate(args, lr)]
    if args.json:
        report({"rows": rows}, as_json=True)
    else:
        print(delta_table(rows))
        for row in rows:
            print(f"\nof a full copy, {row['dtype']} at {row['lr']:g}:")
            report(dict(row["codings"]), as_json=False)  # type: ignore[call-overload]
    return 0
