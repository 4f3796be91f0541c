"""A link with a rate, a delay and losses: a process that passes frames between two TAP devices, in both directions.

`tc netem` does the same where the kernel has that module, which many do not. One link for every machine loses the same frames
for the same seed. It passes about 20,000 frames a second each way: 100 Mbit/s at an MTU of 1500, 1000 Mbit/s at 9000.

`Network.shape` (networks.py) starts one. It prints a line once it passes frames, answers every line on its standard input with
its counters as JSON, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import select
import struct
import sys
from collections import Counter, deque
from dataclasses import dataclass
from time import monotonic

import msgspec

# from linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
# an Ethernet header with a VLAN tag
HEADER_BYTES = 18
# what a frame costs on a real cable beyond what a TAP device sees of it: preamble, checksum, gap
CABLE_BYTES = 24
# frames that would wait longer than this for the cable are dropped, as by a router whose queue is full
QUEUE_S = 0.1
# read from one direction before the other has its turn
BATCH_FRAMES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkConditions:
    """What a link does to frames, in each direction."""

    rate_mbit: float
    delay_ms: float = 0.0
    loss: float = 0.0  # share of the frames
    seed: int = 0
    mtu: int = 1500


class Direction:
    """The frames that travel from one device to the other. Both have descriptors that never block."""

    def __init__(self, source: int, sink: int, conditions: LinkConditions, counters: Counter[str], seed: int) -> None:
        self.source = source
        self._sink = sink
        self._delay_s = conditions.delay_ms / 1e3
        self._bytes_per_s = conditions.rate_mbit * 1e6 / 8
        self._loss = conditions.loss
        self._frame_bytes = conditions.mtu + HEADER_BYTES
        self._counters = counters
        self._random = random.Random(seed).random
        self._free_at = 0.0  # when the cable has sent everything that waits for it
        self._travelling: deque[tuple[float, bytes]] = deque()  # when each arrives, in that order

    @property
    def next_arrival(self) -> float:
        return self._travelling[0][0] if self._travelling else float("inf")

    def take_in(self) -> None:
        """Read what waits at the source; each frame is lost, dropped, or set on its way."""
        now = monotonic()
        for _ in range(BATCH_FRAMES):
            try:
                frame = os.read(self.source, self._frame_bytes)
            except BlockingIOError:
                return
            if self._loss and self._random() < self._loss:
                self._counters["lost"] += 1
            elif self._free_at > now + QUEUE_S:
                self._counters["dropped"] += 1
            else:
                self._free_at = max(self._free_at, now) + (len(frame) + CABLE_BYTES) / self._bytes_per_s
                self._travelling.append((self._free_at + self._delay_s, frame))

    def deliver(self) -> None:
        """Hand over the frames that have arrived."""
        now = monotonic()
        while self._travelling and self._travelling[0][0] <= now:
            _, frame = self._travelling.popleft()
            try:
                os.write(self._sink, frame)
                self._counters["passed"] += 1
            except OSError:  # the device is down
                self._counters["refused"] += 1


def open_tap(name: str) -> int:
    """A descriptor of the TAP device, which exists. It never blocks."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def pass_frames(near: str, far: str, conditions: LinkConditions) -> None:
    """Pass frames between the two devices until standard input ends."""
    ends = open_tap(near), open_tap(far)
    counters: Counter[str] = Counter(passed=0, lost=0, dropped=0, refused=0)
    directions = {
        ends[0]: Direction(ends[0], ends[1], conditions, counters, 2 * conditions.seed),
        ends[1]: Direction(ends[1], ends[0], conditions, counters, 2 * conditions.seed + 1),
    }
    controls = sys.stdin.fileno()
    print_line("ready")
    while True:
        wait_s = min(direction.next_arrival for direction in directions.values()) - monotonic()
        # `select` has a finer clock than `poll`, whose millisecond is eight frames at 100 Mbit/s
        readable, _, _ = select.select([controls, *ends], [], [], min(max(wait_s, 0.0), 1.0))
        for end in readable:
            if end != controls:
                directions[end].take_in()
            elif os.read(controls, 1):
                print_line(msgspec.json.encode(counters).decode())
            else:
                return
        for direction in directions.values():
            direction.deliver()


def print_line(line: str) -> None:
    """To the process that started this one."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_link() -> None:
    """Read the command line, and pass frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("near", help="a TAP device")
    parser.add_argument("far", help="another one")
    parser.add_argument("conditions", help="LinkConditions as JSON")
    args = parser.parse_args()
    pass_frames(args.near, args.far, msgspec.json.decode(args.conditions, type=LinkConditions))


if __name__ == "__main__":
    run_link()
