"""`prolong status`: the ledger of a run, from its buffer while it runs, and from its summary once it has ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from ..buffer.client.observer import request_status
from ..common.config.run_files import RunPaths, load_config
from ..common.errors import BufferUnreachable, UserError
from ..common.json_object import JsonObject
from ..common.messages import Status
from ..common.metrics import MetricsRecord, read_metrics
from ..common.transport.sockets import is_loopback
from ..common.types import TicketState
from .summary import agreement_text, newest_agreement, read_summary
from .terminal import TerminalConsole


def find_run(name: str, root: str = "runs") -> RunPaths:
    """The run folder of that name or path. Raises: UserError that lists the runs in `root`."""
    for folder in (Path(name), Path(root) / name):
        paths = RunPaths(folder)
        if any(path.exists() for path in (paths.config, paths.journal, paths.metrics, paths.summary)):
            return paths
    known = sorted(path.parent.name for path in Path(root).glob("*/journal"))
    listed = ", ".join(known) if known else "(no runs yet)"
    raise UserError(f"run {name!r}: expected a run folder or one of {listed} in {root}/")


def run_status(paths: RunPaths, timeout_s: float = 3.0) -> JsonObject:
    """The state of a run ("live", "ended" or "stopped"), its version and its ledger, which is None for a stopped run."""
    note = buffer_note(paths)
    if note is not None:
        status = _ask_buffer(paths.folder.name, note, timeout_s)
        if status is not None:
            return _from_buffer(status)
    if paths.summary.exists():
        summary = read_summary(paths.summary)
        ledger = _with_total(summary["ledger"])
        steps = summary["steps"]
        return {
            "state": "ended",
            "run": paths.folder.name,
            "version": steps,
            "steps": steps,
            **_ledger(ledger),
            "summary": summary,
        }
    records = _records(paths)
    step = int(records[-1]["step"]) if records else 0
    return {"state": "stopped", "run": paths.folder.name, "version": step, "ledger": None, "balanced": None}


def _records(paths: RunPaths) -> list[MetricsRecord]:
    return read_metrics(paths.metrics, exact=False) if paths.metrics.exists() else []


class BufferNote(NamedTuple):
    """Where a run's buffer listens, and the folder of keys that admits this host; "" without keys."""

    address: str
    keys: str


def buffer_note(paths: RunPaths) -> BufferNote | None:
    """Where the buffer of the run is, or was last: on this host by its own file, on another by the learner's settings."""
    if paths.buffer.exists():
        note = json.loads(paths.buffer.read_text())
        return BufferNote(note["address"], note.get("keys", ""))
    if paths.summary.exists() or not paths.config.exists():
        return None
    cfg = load_config(paths.config).buffer
    # a buffer of this host has no file only if it does not run
    host = cfg.address.removeprefix("tcp://").rpartition(":")[0]
    return None if is_loopback(host) else BufferNote(cfg.address, cfg.keys)


def _ask_buffer(run: str, note: BufferNote, timeout_s: float) -> Status | None:
    """None when the buffer does not answer, or when the buffer of another run has taken the port."""
    try:
        status = request_status(note.address, timeout_s, keys=note.keys)
    except BufferUnreachable:
        return None
    return status if status.run == run else None


def _from_buffer(status: Status) -> JsonObject:
    return {
        "state": "live",
        "run": status.run,
        "version": status.version,
        "steps": status.steps,
        "generation": status.generation,
        "ledger": _with_total(status.ledger),
        "balanced": status.balanced,
        "peers": status.peers,
        "num_peers": status.num_peers,
        "counters": status.counters,
        "eta": status.eta,
        "eta_why": status.eta_why,
        "waits_for": status.waits_for,
        "validation": [msgspec.structs.asdict(score) for score in status.validation],
    }


def _with_total(ledger: dict[str, int]) -> dict[str, int]:
    return {"total": sum(ledger.values()), **ledger} if "total" not in ledger else ledger


def _ledger(ledger: dict[str, int]) -> JsonObject:
    return {"ledger": ledger, "balanced": ledger["total"] == sum(ledger.values()) - ledger["total"]}


def show_status(name: str, *, as_json: bool) -> int:
    """Print the status; 1 when the ledger does not balance."""
    paths = find_run(name)
    known = run_status(paths) | {"agreement": newest_agreement(_records(paths))}
    if as_json:
        sys.stdout.write(json.dumps(known) + "\n")
    else:
        _print(known, paths)
    return 1 if known["balanced"] is False else 0


def _print(known: JsonObject, paths: RunPaths) -> None:
    console = TerminalConsole()
    of = f" of {known['steps']}" if known.get("steps") else ""
    console.print(f"[bold]{escape(known['run'])}[/]: {known['state']}, version {known['version']}{of}", highlight=False)
    if known["ledger"] is None:
        if paths.config.exists():
            console.print(
                f"resume it with: prolong train --recipe {paths.config}", highlight=False, soft_wrap=True, markup=False
            )
        return
    console.print(f"agreement: {agreement_text(known['agreement'])}", highlight=False, soft_wrap=True)
    if known.get("waits_for"):
        console.print(known["waits_for"], highlight=False, soft_wrap=True, markup=False)
    if "eta" in known:
        console.print(eta_line(known["eta"], known["eta_why"]), highlight=False, soft_wrap=True, markup=False)
    console.print(ledger_table(known["ledger"]))
    console.print(conservation_law(known["ledger"], known["balanced"]), highlight=False, soft_wrap=True)
    counters = known["counters"] if "counters" in known else known.get("summary", {}).get("counters", {})
    if handed_over := handover_line(counters):
        console.print(handed_over, highlight=False, soft_wrap=True)
    if known.get("peers"):
        console.print(peers_table(known["peers"]))
        if known.get("num_peers", 0) > len(known["peers"]):
            console.print(
                f"these are {len(known['peers'])} of {known['num_peers']:,} clients; so are the tables below", highlight=False
            )
        if any("pool" in peer for peer in known["peers"].values()):
            console.print(pools_table(known["peers"]))
        if any("transport" in peer for peer in known["peers"].values()):
            console.print(weights_table(known["peers"]))
        for name, peer in known["peers"].items():
            if peer.get("weights_error"):
                console.print(
                    f"{name} has no new weights: {peer['weights_error']}", highlight=False, soft_wrap=True, markup=False
                )


def eta_line(eta: int, why: str) -> str:
    """The eta of tickets that are issued now, and why it was last changed."""
    return f"eta: {eta}" + (f", because {why}" if why else "")


def handover_line(counters: Mapping[str, int]) -> str:
    """What actors that left handed over, and what became of it; empty if they handed nothing over."""
    tickets, tokens, saved, lost = (
        counters.get(f"buffer/{name}", 0) for name in ("handed_over", "handed_over_tokens", "saved_tokens", "lost_tokens")
    )
    return f"handed over: {tickets:,} tickets with {tokens:,} tokens, {saved:,} saved, {lost:,} lost" if tickets else ""


def ledger_table(ledger: dict[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tickets")
    table.add_column("count", justify="right")
    for state in TicketState:
        table.add_row(state.value, f"{ledger.get(state.value, 0):,}")
    table.add_section()
    table.add_row("[bold]total", f"[bold]{ledger['total']:,}")
    return table


def peers_table(peers: dict[str, dict[str, float | str]]) -> Table:
    """The connected clients, and how each actor has spent its time."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)  # nine columns in 80 characters
    for column in ("peer", "state", "version", "leases", "running", "silent", "busy", "idle", "weights"):
        table.add_column(column, justify="left" if column in ("peer", "state") else "right")
    for name, peer in peers.items():
        counts = [_figure(peer, key, ".0f") for key in ("version", "leases")]
        counts.append(f"{_figure(peer, 'rollouts', '.0f')}/{_figure(peer, 'room', '.0f')}" if "room" in peer else "")
        seconds = [_seconds(peer, key) for key in ("silence_s", "busy_s", "idle_s", "weights_s")]
        table.add_row(escape(name), str(peer.get("state", "")), *counts, *seconds)
    return table


def pools_table(peers: Mapping[str, Mapping[str, float | str]]) -> Table:
    """The given actors of every pool together, since each began: tokens by all time that passed, and the busy share of it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("pool", "actors", "rollouts", "tokens/s", "busy"):
        table.add_column(column, justify="left" if column == "pool" else "right")
    for pool in sorted({str(peer["pool"]) for peer in peers.values() if "pool" in peer}):
        actors = [peer for peer in peers.values() if peer.get("pool") == pool]
        passed_s = sum(_time_of(actor) for actor in actors)
        speed = sum(_sum_of([actor], "engine_tokens") / max(_time_of(actor), 1e-9) for actor in actors)
        busy = f"{_sum_of(actors, 'busy_s') / passed_s:.0%}" if passed_s else ""
        rollouts = f"{_sum_of(actors, 'rollouts'):.0f} of {_sum_of(actors, 'room'):.0f}"
        table.add_row(escape(pool), str(len(actors)), rollouts, f"{speed:,.0f}", busy)
    return table


def weights_table(peers: dict[str, dict[str, float | str]]) -> Table:
    """The weights of every actor and relay: how many versions behind the learner, what it received, and from whom."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("weights", "behind", "last update", "all updates", "from"):
        table.add_column(column, justify="left" if column in ("weights", "from") else "right")
    for name, peer in peers.items():
        if "transport" in peer:
            last, in_all = (_received(peer, f"{which}_bytes", f"{which}_s") for which in ("update", "updates"))
            # without sources: of a broadcast
            source = str(peer.get("sources") or peer["transport"]).partition(",")[0]
            table.add_row(escape(name), _figure(peer, "lag", ".0f"), last, in_all, escape(source))
    return table


def _sum_of(peers: Sequence[Mapping[str, float | str]], key: str) -> float:
    return sum(value for peer in peers if isinstance(value := peer.get(key, 0.0), int | float))


def _time_of(actor: Mapping[str, float | str]) -> float:
    return sum(_sum_of([actor], key) for key in ("busy_s", "idle_s", "weights_s"))


def _received(peer: dict[str, float | str], num_bytes: str, seconds: str) -> str:
    """Bytes and seconds of updates, "21.3 MB in 1.8 s"; empty before the first one."""
    size, took_s = peer.get(num_bytes, ""), peer.get(seconds, "")
    if isinstance(size, str) or isinstance(took_s, str) or not peer.get("num_updates"):
        return ""
    return f"{size / 1e9:,.2f} GB in {took_s:.1f} s" if size >= 1e9 else f"{size / 1e6:.2f} MB in {took_s:.1f} s"


def _seconds(peer: dict[str, float | str], key: str) -> str:
    value = peer.get(key)
    return "" if not isinstance(value, int | float) else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _figure(peer: dict[str, float | str], key: str, form: str, unit: str = "") -> str:
    value = peer.get(key)
    return f"{value:{form}}{unit}" if isinstance(value, int | float) else ""


def conservation_law(ledger: dict[str, int], balanced: bool) -> str:
    """The conservation law with its numbers."""
    parts = " + ".join(f"{ledger.get(state.value, 0):,} {state.value}" for state in TicketState)
    return f"{ledger['total']:,} tickets = {parts}: {'balanced' if balanced else 'NOT BALANCED'}"
