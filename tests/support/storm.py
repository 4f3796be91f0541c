"""A storm over a whole run: kill -9 and SIGSTOP of its real processes, in an order drawn from a seed, with progress in between.

blows(seed) -> strike() -> what must happen before the next blow: a step that was not there, or the victim's successor
"""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import psutil

from tests.support.runs import Run

VICTIMS = ("buffer", "learner", "actor", "verifier")
ENGINE = "engine"  # the process that vLLM generates in; other engines are threads of their actor
ON_COMMAND_LINE = {"engine": "EngineCore", "verifier": "prolong.verifiers.workers.worker"}  # of an actor's children
PROGRESS_S = 150.0  # for a step that was not there: several restarts on a busy machine, and steps done again


@dataclass(frozen=True)
class Blow:
    """One fault. `stopped_s`: 0 for SIGKILL, else SIGSTOP for so long. `lull`: whether a step must be made before the next."""

    victim: str
    stopped_s: float
    lull: bool

    @property
    def kind(self) -> str:
        return f"{'stop' if self.stopped_s else 'kill'} {self.victim}"


@dataclass
class Storm:
    """What was done to a run, and what it cost."""

    run: Run
    struck: Counter[str] = field(default_factory=Counter)
    absent: int = 0  # blows that waited for a victim that was being started again
    redone: int = 0  # steps that were recorded and came after the checkpoint that a killed learner left behind
    slowest_s: float = 0.0  # from a blow to the next step
    log: list[str] = field(default_factory=list)

    def strike(self, blow: Blow, rng: random.Random) -> None:
        """Hit one process of that role, and wait for the run to go on."""
        self.absent += not self.victims(blow.victim)
        step, began = self.step, monotonic()
        self._wait(f"a {blow.victim} to hit", lambda: self._hit(blow, rng))
        self.struck[blow.kind] += 1
        if blow.lull:
            self._wait(f"a step after {step}, where {blow} struck", lambda: self.step > step)
            self.slowest_s = max(self.slowest_s, monotonic() - began)
        self.log.append(f"{blow.kind} {blow.stopped_s:.1f} s at step {step}: {monotonic() - began:.1f} s to step {self.step}")

    def _hit(self, blow: Blow, rng: random.Random) -> bool:
        """Whether there was somebody to hit: for a kill, until the successor is there; for a stop, until it goes on."""
        found = self.victims(blow.victim)
        try:
            victim = rng.choice(found)
            (victim.suspend if blow.stopped_s else victim.kill)()
        except (IndexError, psutil.NoSuchProcess):  # it is just being started again, or ended by itself
            return False
        psutil.wait_procs([victim], timeout=blow.stopped_s or 10.0)
        if blow.stopped_s:
            with contextlib.suppress(psutil.NoSuchProcess):  # a verifier that hangs is killed by its pool meanwhile
                victim.resume()
        else:
            self.redone += self.step - self._saved if blow.victim == "learner" else 0
            self._wait(f"the successor of {blow.victim} {victim.pid}", lambda: set(self.victims(blow.victim)) - set(found))
        return True

    def victims(self, role: str) -> list[psutil.Process]:
        """Living processes of that role: for buffer and learner the one that there is, else one or more an actor."""
        if role not in ON_COMMAND_LINE:
            return self.run.find(role)
        return [child for actor in self.run.find("actor") for child in children(actor, ON_COMMAND_LINE[role])]

    @property
    def step(self) -> int:
        """The newest that is recorded: less than before while a learner does steps again."""
        return max((record["step"] for record in self.run.metrics()), default=0)

    @property
    def _saved(self) -> int:
        return max((int(path.name.removeprefix("step-")) for path in self.run.folder.glob("checkpoints/step-*")), default=0)

    def _wait(self, what: str, condition: Callable[[], object]) -> object:
        def met() -> object:
            ended = [name for name, process in self.run.processes.items() if process.poll() is not None]
            assert not ended, f"{ended} ended before {what}"
            return condition()

        return self.run.wait(what, met, PROGRESS_S)


def children(actor: psutil.Process, word: str) -> list[psutil.Process]:
    """An actor's processes with `word` on their command line."""
    try:
        return [child for child in actor.children() if word in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:  # it is being killed, or a child ended meanwhile: look again
        return []


def blows(rng: random.Random, victims: Sequence[str], rounds: int, longest_s: float) -> list[Blow]:
    """`rounds` times a kill and a stop of each victim, shuffled.

    Two of three blows wait for a step; the others hit a run that is still recovering. A quarter of the stops last `longest_s`,
    the others may be as short as .5 s.
    """
    drawn = []
    for _ in range(rounds):
        for victim in victims:
            stopped_s = longest_s if rng.random() < 0.25 else rng.uniform(0.5, longest_s)
            drawn += [Blow(victim, 0.0, rng.random() < 2 / 3), Blow(victim, stopped_s, rng.random() < 2 / 3)]
    rng.shuffle(drawn)
    return drawn


def restarts(train_log: Path) -> Counter[str]:
    """By process, as `prolong train` noted them."""
    return Counter(re.findall(r"^! (\S+) ended with code", train_log.read_text(), re.MULTILINE))
