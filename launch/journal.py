"""`prolong journal check RUN`: check every record of a journal, and the conservation law of its ledger."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from time import perf_counter

from ..buffer.audit import Audit, audit
from ..buffer.journal.journal import read_journal
from .status import find_run


def check_journal(run: str, *, as_json: bool) -> int:
    """Print the findings; 0 when the journal is sound, else 1. Raises: UserError, JournalError when there is no journal."""
    folder = find_run(run).journal
    journal = read_journal(folder)
    began = perf_counter()
    try:
        found = audit(journal)
    finally:
        journal.close()
    sys.stdout.write(json.dumps(asdict(found)) + "\n" if as_json else audit_page(str(folder), found, perf_counter() - began))
    return 1 if found.num_findings else 0


def audit_page(folder: str, found: Audit, seconds: float) -> str:
    """The findings as text."""
    # what is still issued was handed over, and waits for an actor
    names = {"issued": "handed over"}
    counts = [f"{count} {names.get(state, state)}" for state, count in found.ledger.items() if count and state != "total"]
    ledger = ", ".join(counts) if counts else "nothing"
    kept = f"batches {found.batches[0]} to {found.batches[-1]}" if found.batches else "no batch"
    lines = [
        f"{folder}: {found.num_records} records, {found.num_bytes / 2**20:.1f} MiB, {kept}, {found.num_moves} ledger moves",
        f"ledger: {found.ledger.get('total', 0)} issued = {ledger}",
        *([f"eta: {found.num_decisions} decisions were made again from their numbers"] if found.num_decisions else []),
        *([f"curriculum: {found.num_plans} plans"] if found.num_plans else []),
        *found.findings,
    ]
    hidden = found.num_findings - len(found.findings)
    if hidden > 0:
        lines.append(f"... and {hidden} more")
    sound = f"sound: every record reads, every ticket is accounted for ({seconds:.1f} s)"
    lines.append(f"{found.num_findings} findings" if found.num_findings else sound)
    return "\n".join(lines) + "\n"
