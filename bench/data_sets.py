"""What `prolong data convert` makes of every public data set that it knows: shape, verifier, and two completions judged.

The records are ours, in the columns of the sets: tests/data/public_sets/records.jsonl of a checkout. Each names a completion
that obeys the prompt and one that is wrong, or the reason why it has to be left out. The table is that of docs/data.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from ..common.config.verifiers import VerifiersConfig
from ..common.errors import UserError
from ..common.json_object import JsonObject
from ..launch.data.convert import ConvertSettings, converted, prove_prompt
from ..launch.data.proving import Prover, outcome, prompt_of
from ..launch.entry import exit_code_of
from ..verifiers.data.fields import LeftOut
from ..verifiers.data.made import Made

CHECKOUT_FILE = Path(__file__).resolve().parent.parent / "tests" / "data" / "public_sets" / "records.jsonl"
HEADER = "| data set | shape | verifier | obeying earn 1 | wrong earn 0 | left out because |\n" + "| --- " * 6 + "|"


class SetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a set. left_out: a part of the reason for which it is left out; "" for one that becomes a prompt."""

    name: str = msgspec.field(name="set")
    record: JsonObject
    right: str = ""
    wrong: str = ""
    asks: str = ""  # a part of the prompt that says where the answer goes
    left_out: str = ""
    gold: str = ""


@dataclass(kw_only=True)
class SetTrial:
    """What became of the records of one set. problems: sentences about what is not as it should be."""

    shapes: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)
    num_right: int = 0  # obeying completions that earned 1
    num_wrong: int = 0  # wrong ones that earned 0
    num_prompts: int = 0
    reasons: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def row(self, name: str) -> str:
        shapes, verifiers = ", ".join(sorted(self.shapes)), ", ".join(f"`{one}`" for one in sorted(self.verifiers))
        counts = [f"{count} of {self.num_prompts}" if self.num_prompts else "" for count in (self.num_right, self.num_wrong)]
        return f"| {name} | {shapes} | {verifiers} | {counts[0]} | {counts[1]} | {'; '.join(self.reasons)} |"


def read_set_records(path: Path = CHECKOUT_FILE) -> list[SetRecord]:
    """Raises: UserError where the file is not there."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: the records are in a checkout, not in the wheel; name them by --file")
    return [msgspec.json.decode(line, type=SetRecord) for line in path.read_text(encoding="utf-8").splitlines()]


async def try_sets(records: Sequence[SetRecord], cfg: VerifiersConfig) -> dict[str, SetTrial]:
    """Convert every record, and judge the converter's own completions and those that the record names."""
    trials: defaultdict[str, SetTrial] = defaultdict(SetTrial)
    prover = Prover(cfg)
    try:
        await asyncio.gather(*(_try_record(one, trials[one.name], prover) for one in records))
    finally:
        await prover.close()
    return trials


async def _try_record(one: SetRecord, trial: SetTrial, prover: Prover) -> None:
    result = converted(one.record, ConvertSettings())
    if isinstance(result, LeftOut):
        trial.reasons.append(result.reason)
        if not one.left_out or one.left_out not in str(result):
            trial.problems.append(f"{one.name}: left out, {result}")
        return
    made = result.made
    trial.shapes.add(result.shape.name)
    trial.verifiers.add(made.verifier)
    trial.num_prompts += 1
    if one.left_out or one.asks not in made.prompt:
        trial.problems.append(f"{one.name}: it became {made.prompt!r:.200}; expected {one.left_out or one.asks!r}")
    await _judge(one, made, trial, prover)


async def _judge(one: SetRecord, made: Made, trial: SetTrial, prover: Prover) -> None:
    own = await prove_prompt(made, prover)
    if own.failure:
        trial.problems.append(f"{one.name}: the converter leaves it out: {': '.join(own.failure)}")
    for completion, expected in ((one.right, 1.0), (one.wrong, 0.0)):
        verdict = await prover.judge(prompt_of(made.prompt, made.verifier, made.answer), completion)
        trial.num_right += verdict.reward == expected == 1.0
        trial.num_wrong += verdict.reward == expected == 0.0
        if verdict.reward != expected:
            trial.problems.append(f"{one.name}: expected {expected:g}, {outcome(completion, verdict)}")


def table_of_sets(trials: dict[str, SetTrial]) -> str:
    return "\n".join([HEADER, *(trial.row(name) for name, trial in trials.items())])


def data_sets(argv: list[str]) -> int:
    """Print the table; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="prolong bench data-sets", description=__doc__)
    parser.add_argument("--file", type=Path, default=CHECKOUT_FILE)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    trials = asyncio.run(try_sets(read_set_records(args.file), replace(VerifiersConfig(), workers=args.workers)))
    print(table_of_sets(trials))
    problems = [problem for trial in trials.values() for problem in trial.problems]
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


def main(argv: list[str]) -> int:
    return exit_code_of("bench data-sets", lambda: data_sets(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
