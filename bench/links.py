"""Seconds of a weight update over slow, far and lossy links: in full and by deltas, against what the link allows.

Two hosts are network namespaces of this machine, joined by a link (slow_link.py); needs root. A process on one serves random
bfloat16 weights under keys, a process on the other pulls them. Rounds alternate deltas and snapshots within one run.
`share` is the time that the bytes take at the link's rate, with one round trip, divided by the time that they took; `tcp` is
that share for a plain TCP connection that sends as many bytes as the snapshot has. The MTU is 1500, and 9000 from 1000 Mbit/s.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from ..common.errors import UserError
from ..common.json_object import JsonObject
from ..common.transport.keys import make_keys
from .measure import report
from .networks import Network, network, why_no_links

ANSWER_TIMEOUT_S = 900.0
COLUMNS = "Mbit/s   ms  loss  streams    full s  share    tcp   delta s  share      MB"


class End:
    """A process of link_ends.py on one of the hosts."""

    def __init__(self, within: list[str], *arguments: str) -> None:
        command = [*within, sys.executable, "-m", "prolong.bench.link_ends", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def ask(self, name: str, *arguments: str | int) -> JsonObject:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode([name, *arguments]).decode() + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> JsonObject:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"an end of the link ended with exit code {self._process.wait(ANSWER_TIMEOUT_S)}")
        return msgspec.json.decode(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure_link(
    hosts: Network, learner: End, actor: End, *, rate_mbit: float, delay_ms: float, loss: float, streams: int, rounds: int
) -> JsonObject:
    """Medians under one set of conditions."""
    hosts.shape("actor", rate_mbit=rate_mbit, delay_ms=delay_ms, loss=loss)
    actor.ask("begin", streams)
    version = learner.ask("step")
    actor.ask("delta", version["update"])
    seconds: dict[str, list[float]] = {"full": [], "delta": [], "tcp": []}
    num_bytes = {"full": version["full_bytes"], "delta": 0, "tcp": version["full_bytes"]}
    for _ in range(rounds):
        version = learner.ask("step")
        for kind in ("delta", "full"):
            pulled = actor.ask(kind, version["update"])
            seconds[kind].append(pulled["seconds"])
            num_bytes[kind] = pulled["num_bytes"]
        seconds["tcp"].append(actor.ask("stream", version["full_bytes"])["seconds"])

    def share(kind: str) -> float:
        limit_s = num_bytes[kind] * 8 / (rate_mbit * 1e6) + 2 * delay_ms / 1e3
        return limit_s / statistics.median(seconds[kind])

    figures = {f"{kind}_s": statistics.median(each) for kind, each in seconds.items()}
    figures |= {f"{kind}_share": share(kind) for kind in seconds} | {"delta_mb": num_bytes["delta"] / 1e6}
    return {"rate_mbit": rate_mbit, "delay_ms": delay_ms, "loss": loss, "streams": streams, **figures}


def print_link(cell: JsonObject) -> None:
    link = f"{cell['rate_mbit']:6g} {cell['delay_ms']:4g} {cell['loss']:5.0%} {cell['streams']:8d}"
    full = f"{cell['full_s']:9.3f} {cell['full_share']:6.0%} {cell['tcp_share']:6.0%}"
    sys.stdout.write(f"{link} {full} {cell['delta_s']:9.3f} {cell['delta_share']:6.0%} {cell['delta_mb']:7.2f}\n")
    sys.stdout.flush()


def measure_links(args: argparse.Namespace, rate_mbit: float) -> list[JsonObject]:
    """All conditions of links with one rate, on a network of their own."""
    cells = []
    with (
        tempfile.TemporaryDirectory() as folder,
        network("learner", "actor", mtu=9000 if rate_mbit >= 1000 else 1500, congestion=args.congestion) as hosts,
    ):
        make_keys(Path(folder), ["learner", "actor"])
        ends: list[End] = []
        try:
            for kind, name, *sizes in (("serve", "learner", str(args.mb), str(args.changed)), ("pull", "actor")):
                keys = str(Path(folder) / "hosts" / name)
                ends.append(End(hosts.within(name), kind, hosts.address("learner"), keys, *sizes))
            for delay_ms, loss, streams in itertools.product(args.delay_ms, args.loss, args.streams):
                conditions = {"rate_mbit": rate_mbit, "delay_ms": delay_ms, "loss": loss, "streams": streams}
                cells.append(measure_link(hosts, *ends, **conditions, rounds=args.rounds))
                if not args.json:
                    print_link(cells[-1])
        finally:
            for end in ends:
                end.close()
    return cells


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench links", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--mb", type=float, default=8.0, help="size of the weights, about")
    parser.add_argument("--changed", type=float, default=0.02, help="share of the elements that each version changes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--congestion", default="reno", help="how TCP answers losses: reno, or bbr where the kernel allows it")
    parser.add_argument("--rate-mbit", type=float, nargs="+", default=[1000.0, 100.0])
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0.0, 50.0], help="each way")
    parser.add_argument("--loss", type=float, nargs="+", default=[0.0, 0.01])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args(argv)
    if reason := why_no_links():
        raise UserError(f"this bench makes links between network namespaces, as root: {reason}")
    if not args.json:
        sys.stdout.write(COLUMNS + "\n")
    cells = [cell for rate_mbit in args.rate_mbit for cell in measure_links(args, rate_mbit)]
    if args.json:
        report({"links": cells}, as_json=True)
    return 0
