"""Whether engine and learner agree on tiny random models of many families, with the first weights and after an update.

    prolong bench architectures [--family NAME ...] [--table docs/architectures.md] [--json]

Every family runs in a process of its own with a deadline: an engine may hang or die. `--table` rewrites the rows of these
families between the marks of that page, and keeps the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ..common.architectures import model_refusal
from ..common.config.sections import ActorConfig, Config, LearnerConfig, ModelConfig, SamplingConfig, ValidationConfig
from ..common.errors import ProlongError
from ..launch.agreement.probe import Examination, examine_pair
from .marked_page import marked_part, replace_marked
from .tiny_families import CONTEXT, FAMILIES, make_family_model

# run as a program its __name__ would be another
MODULE = "prolong.bench.architectures"
DEADLINE_S = 400.0
# what vLLM's engine process writes when it dies, and what the actor is told of it
ENGINE_ERROR = re.compile(r"\(EngineCore .*\] (\w+Error: .*)")
ENGINE_DIED = "EngineCore encountered an issue"
TOKEN_BUDGET = 512
BEGIN, END = "<!-- table of prolong bench architectures: begin -->", "<!-- end -->"
HEAD = (
    "| family | what is special | dtype | first weights: ess, gap | after an update: ess, gap | verdict |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """The result of one family."""

    family: str
    verdict: str  # "trained", or why not
    first: str = ""  # effective sample size and mean |difference| with the first weights
    updated: str = ""  # after an update
    stage: str = ""  # the first one that differs, if they do not agree

    def line(self) -> str:
        family = FAMILIES[self.family]
        cells = (self.family, family.kind, family.dtype, self.first or "-", self.updated or "-", self.verdict)
        return "| " + " | ".join(cells) + " |"


def try_family(name: str, folder: Path) -> FamilyRow:
    """Compare engine and learner on the family's model in `folder`, in this process."""
    refusal = model_refusal(json.loads((folder / "config.json").read_text()))
    if refusal is not None:
        return FamilyRow(name, f"refused: {refusal}")
    cfg = Config(
        model=ModelConfig(path=str(folder), max_context=CONTEXT, dtype=FAMILIES[name].dtype),
        sampling=SamplingConfig(max_tokens=CONTEXT // 2),
        validation=ValidationConfig(max_tokens=CONTEXT // 2),
        actor=ActorConfig(kv_cache_gib=0.25),
        learner=LearnerConfig(token_budget=TOKEN_BUDGET),
    )
    try:
        return family_row(name, asyncio.run(examine_pair(cfg)))
    except ProlongError as error:
        return FamilyRow(name, f"refused: {short(str(error).replace(str(folder), name))}")


def family_row(name: str, examinations: list[Examination]) -> FamilyRow:
    """The row of a family whose engine started."""
    dtype = FAMILIES[name].dtype
    figures = ["" if found.apart is None else f"{found.apart.ess:.3f}, {found.apart.gap:.1e}" for found in examinations]
    first, updated = [*figures, "", ""][:2]
    failed = next((found for found in examinations if not found.agrees(dtype)), None)
    if failed is None:
        return FamilyRow(name, "trained", first, updated)
    if failed.error:
        return FamilyRow(name, f"stops: {short(failed.error)}", first, updated)
    stage = failed.first_apart(dtype) or "head"
    return FamilyRow(name, f"stops at the first batch: they differ from {stage} on", first, updated, stage)


def short(text: str) -> str:
    """The first sentence of an error, fit for a cell."""
    return text.strip().splitlines()[0].replace("|", "/")[:140]


def try_elsewhere(name: str, folder: Path) -> FamilyRow:
    """`try_family` in a process of its own."""
    command = [sys.executable, "-m", MODULE, "--here", name, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        return FamilyRow(name, f"stops: nothing within {DEADLINE_S:g} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return FamilyRow(name, f"stops: exit code {done.returncode}: {short(done.stderr[-300:])}")
    causes = [found.group(1) for line in (done.stdout + done.stderr).splitlines() if (found := ENGINE_ERROR.search(line))]
    if causes and ENGINE_DIED in lines[-1]:
        return FamilyRow(name, f"stops: the engine dies: {short(causes[-1])}")
    return FamilyRow(**json.loads(lines[-1]))


def write_table(page: Path, rows: list[FamilyRow]) -> None:
    """Put the rows into the page's table, in the order of FAMILIES; rows of other families stay."""
    _, table, _ = marked_part(page, BEGIN, END)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    lines |= {row.family: row.line() for row in rows}
    body = "".join(f"{lines[name]}\n" for name in FAMILIES if name in lines)
    replace_marked(page, BEGIN, END, f"\n{HEAD}{body}\n")


def main(argv: list[str] | None = None) -> int:
    """Print one line a family, and the rows as one JSON line."""
    parser = argparse.ArgumentParser(
        prog="prolong bench architectures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--table", type=Path, help="the page whose table is rewritten")
    parser.add_argument("--json", action="store_true", help="no lines, only the JSON")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        sys.stdout.write(json.dumps(asdict(try_family(args.here[0], Path(args.here[1])))) + "\n")
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as root:
        # here, not where the engine is: torch's threads would forbid to fork it
        for name in args.family:
            make_family_model(FAMILIES[name], Path(root) / name)
            rows.append(try_elsewhere(name, Path(root) / name))
            if args.table:
                write_table(args.table, rows)
            if not args.json:
                sys.stdout.write(rows[-1].line() + "\n")
                sys.stdout.flush()
    sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
