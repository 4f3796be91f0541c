"""The report of `prolong data convert`: what every record became, by source and shape, and what was left out, by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ...common.errors import DataError
from ...verifiers.data.fields import LeftOut
from ...verifiers.data.shapes import Conversion
from .printing import BAD_LINES_SHOWN, NUMBERS_SHOWN, Progress, first_numbers, print_bad_lines
from .proving import Proof

KINDS_SHOWN = 40


@dataclass
class Reason:
    """The records that were left out for one reason: how many, and the first of their lines."""

    count: int = 0
    lines: list[int] = field(default_factory=list)


class Report:
    """Counts of one conversion; memory grows with the number of sources and of reasons, not of records."""

    def __init__(self, source: Path, target: Path, family: str) -> None:
        self._source, self._target, self._family = source, target, family
        self.num_written = 0
        self.num_left_out = 0
        self._progress = Progress()
        self._kinds: Counter[tuple[str, str, str]] = Counter()  # source, shape, verifier
        self._proved: Counter[tuple[str, str, str]] = Counter()
        self._unproved: Counter[str] = Counter()
        self._other_shapes: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._reasons: defaultdict[str, Reason] = defaultdict(Reason)
        self._first: list[str] = []

    def count(self, conversion: Conversion, proof: Proof | None) -> None:
        """Count a record that became a prompt."""
        made = conversion.made
        kind = (made.task, conversion.shape.name, made.verifier)
        self.num_written += 1
        self._kinds[kind] += 1
        self._notes.update(made.notes)
        if not conversion.as_told:
            self._other_shapes[conversion.shape.name] += 1
        if proof is None:
            self._unproved["not asked for"] += 1
        elif proof.unproved:
            self._unproved[proof.unproved] += 1
        else:
            self._proved[kind] += 1

    def leave_out(self, line: int, error: DataError) -> None:
        """Count a record that is left out; the first ones are named."""
        self.num_left_out += 1
        reason = self._reasons[error.reason if isinstance(error, LeftOut) else f"{error}".partition(":")[0]]
        reason.count += 1
        if len(reason.lines) < NUMBERS_SHOWN:
            reason.lines.append(line)
        if len(self._first) < BAD_LINES_SHOWN:
            self._first.append(f"line {line}: {error}")

    def progress(self, line: int) -> None:
        """Write to stderr from time to time how far it is."""
        self._progress.tell(f"line {line} of {self._source}; {self.num_written} prompts, {self.num_left_out} left out")

    def show(self) -> None:
        """Print the whole report; the first records that were left out go to stderr."""
        print(f"{self._target}: {self.num_written} prompts, {self.num_left_out} records left out")
        for kind, count in sorted(self._kinds.most_common(KINDS_SHOWN)):
            task, shape, verifier = kind
            print(f"  {count:8d}  {task}: shape {shape}, verifier {verifier}; {self._proved[kind]} proved")
        if len(self._kinds) > KINDS_SHOWN:
            rest = self.num_written - sum(count for _, count in self._kinds.most_common(KINDS_SHOWN))
            print(f"  {rest:8d}  of {len(self._kinds) - KINDS_SHOWN} more sources")
        for shape, count in self._other_shapes.items():
            print(
                f"  {count:8d}  are no {self._family}: their columns are those of the shape {shape}, and so they were converted"
            )
        for why, count in self._unproved.items():
            print(f"  {count:8d}  not proved: {why}")
        for note, count in self._notes.items():
            print(f"  {count:8d}  {note}")
        for name, reason in sorted(self._reasons.items(), key=lambda item: -item[1].count):
            print(f"  {reason.count:8d}  left out: {name} (line {first_numbers(reason.lines, reason.count)})")
        if self._first:
            title = f"{self._source}: {self.num_left_out} records were left out"
            print_bad_lines(title, self._first, self.num_left_out)
