"""`prolong data convert`: prompts made of the records of a public data set, each proved on its own verifier.

read_records --> shapes.convert_record --> verifier.check --> proving.Prover --> the prompt file
                     '--> left out, with the reason and its line --------------> report.Report

One record after the other: a window of records is in memory, and the file is there as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from ...common.config.verifiers import VerifiersConfig
from ...common.data.records import DataRecord, is_unicode, read_records
from ...common.errors import DataError, UserError
from ...verifiers.data.fields import LeftOut
from ...verifiers.data.made import Made
from ...verifiers.data.proofs import attempts
from ...verifiers.data.shapes import Conversion, check_family, convert_record
from ...verifiers.registry import find
from .files import record_writer
from .proving import Proof, Prover, prompt_of
from .report import Report

WINDOW = 64  # records whose proofs are under way


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSettings:
    """family: --format, "" for the columns to tell. prove: records of each source that are proved, None for all."""

    family: str = ""
    judge: bool = False
    prove: int | None = None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record of the source: what became of it."""

    number: int
    result: Conversion | DataError


ProvedRow = tuple[SourceRow, Proof | None]


def convert_file(source: Path, target: Path, settings: ConvertSettings, cfg: VerifiersConfig) -> int:
    """Write the prompts and print the report; 1 if a record was left out, or all were. Raises: UserError."""
    check_family(settings.family)
    if source.resolve() == target.resolve():
        raise UserError(f"IN and OUT are both {source}: give OUT another name")
    if not source.is_file():
        raise DataError(f"{source} does not exist or is not a file")
    report = Report(source, target, settings.family)
    try:
        asyncio.run(_convert(source, target, settings, cfg, report))
    except asyncio.CancelledError:
        # SIGTERM ends a conversion as Ctrl-C does: without a file, and without one that is half written
        raise KeyboardInterrupt from None
    report.show()
    return 0 if report.num_written and not report.num_left_out else 1


async def _convert(source: Path, target: Path, settings: ConvertSettings, cfg: VerifiersConfig, report: Report) -> None:
    running, prover = asyncio.current_task(), Prover(cfg)
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        with record_writer(target) as write:
            async with aclosing(_proved(_rows(source, settings), prover, settings.prove)) as proofs:
                async for row, proof in proofs:
                    # a signal is heard here, also where no proof is waited for
                    await asyncio.sleep(0)
                    report.progress(row.number)
                    written = _usable(row, proof, report)
                    if written is not None:
                        shape, made = written
                        name = settings.family or shape.lower().replace(" ", "_")
                        write(made.record(f"{name}/{source.stem}/{row.number}"))
    finally:
        await prover.close()


def _rows(source: Path, settings: ConvertSettings) -> Iterator[SourceRow]:
    for number, record in read_records(source):
        yield SourceRow(number, record if isinstance(record, DataError) else converted(record, settings))


def converted(record: DataRecord, settings: ConvertSettings) -> Conversion | LeftOut:
    """The prompt of a record, if its verifier can judge it and the file can hold it."""
    try:
        conversion = convert_record(record, settings.family, judge=settings.judge)
    except (LeftOut, RecursionError) as error:
        return error if isinstance(error, LeftOut) else LeftOut("its values are nested too deep")
    made = conversion.made
    try:
        if not is_unicode([made.prompt, made.answer, made.golds]):
            raise LeftOut("half of a surrogate pair in a text")
        json.dumps(made.answer, allow_nan=False)
        find(made.verifier).check(made.answer)
    except LeftOut as error:
        return error
    except UserError as error:
        return LeftOut(f"the verifier {made.verifier} cannot judge its answer", str(error))
    except (ValueError, TypeError) as error:
        return LeftOut("its answer is not JSON", str(error))
    return conversion


async def _proved(rows: Iterator[SourceRow], prover: Prover, most: int | None) -> AsyncGenerator[ProvedRow, None]:
    """Every row in its order, with its proof; None for a row without a prompt, and for those beyond `most` of a source."""
    under_way: deque[tuple[SourceRow, asyncio.Task[Proof] | None]] = deque()
    started: Counter[str] = Counter()
    try:
        for row in rows:
            task = None
            if not isinstance(row.result, DataError):
                started[row.result.made.task] += 1
                if most is None or started[row.result.made.task] <= most:
                    task = asyncio.create_task(prove_prompt(row.result.made, prover))
            under_way.append((row, task))
            while len(under_way) >= WINDOW or (under_way and under_way[0][1] is None):
                first, its_task = under_way[0]
                yield first, await its_task if its_task else None
                under_way.popleft()
        while under_way:
            row, task = under_way[0]
            yield row, await task if task else None
            under_way.popleft()
    finally:
        # a conversion that is ended waits for no proof, and none may fail unheard when its pool is closed
        left = [task for _, task in under_way if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def prove_prompt(made: Made, prover: Prover) -> Proof:
    """Judge what `proofs.attempts` makes of a prompt."""
    gold = find(made.verifier).gold(made.answer)
    tried = attempts(made.prompt, made.verifier, made.answer, gold, made.golds)
    return await prover.prove(prompt_of(made.prompt, made.verifier, made.answer), tried)


def _usable(row: SourceRow, proof: Proof | None, report: Report) -> tuple[str, Made] | None:
    """Shape and prompt of a row, with the solution that passed; None for one that is left out. Both are counted."""
    if isinstance(row.result, DataError):
        report.leave_out(row.number, row.result)
        return None
    if proof is not None and proof.failure is not None:
        report.leave_out(row.number, LeftOut(*proof.failure))
        return None
    report.count(row.result, proof)
    made = row.result.made
    if made.golds and proof is not None and proof.gold:
        made = replace(made, golds=(proof.gold,))
    return row.result.shape.name, made
