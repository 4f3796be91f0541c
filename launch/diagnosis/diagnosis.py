"""What `diagnose` says of a run: plain values, which a command prints and a report draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ...common.json_object import JsonObject

# what can hold a run up
PARTS = ("actors", "learner", "staleness", "verifiers", "weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePart:
    """Seconds that a side spent on one thing."""

    name: str  # one word or two, unique within its side
    seconds: float
    meaning: str  # for a reader who sees the name for the first time


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One side of the run, and where all of its seconds went."""

    name: str  # learner, actors, verifiers, weights; of an ended run also each actor by its name
    processes: float  # whose seconds are added up; a mean, where their number changed
    total_s: float  # the wall clock, times the processes
    spent: tuple[TimePart, ...]  # they add up to total_s; the last one is what no record names

    def seconds(self, name: str) -> float:
        """What was spent on this; 0 for a name that the side does not have."""
        return sum(part.seconds for part in self.spent if part.name == name)

    def share(self, name: str) -> float:
        """The same, as a share of all its seconds."""
        return self.seconds(name) / self.total_s if self.total_s else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BindingRoof:
    """What holds the run up, and how that is known."""

    part: str  # one of PARTS
    words: str  # one sentence
    evidence: tuple[str, ...]  # a sentence with its numbers each
    shares: dict[str, float]  # of the learner's time, after the start, by the part it worked or waited for: they add up to 1
    # steps per second that each part allows by itself, by the closed form of the planner; empty where it cannot say
    roofs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Improvement:
    """Something that could be changed, and what the planner expects of it."""

    part: str  # one of PARTS: the one that it relieves
    words: str  # what to do
    settings: tuple[str, ...]  # section.key=value each; empty where it takes other machines or code
    gain: float  # steps per second after it over those before, by the simulation: 1.4 is 40 % more
    steps_per_s: float  # after it, by the simulation
    staleness_mean: float  # after it, by the simulation
    binds_after: str  # one of PARTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something in the records that a rule knows as a sign of trouble."""

    rule: str  # its name, such as entropy_collapse
    title: str  # for a heading
    step: int  # the first step at which it held
    last_step: int  # the last one at which it still held
    words: str  # what was seen, with its numbers
    numbers: dict[str, float]
    advice: str  # what to do
    settings: tuple[str, ...] = ()  # section.key=value each, as a first thing to try


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All that is said of one run."""

    run: str  # name of its folder
    steps: int  # that are recorded
    wall_s: float
    steps_per_s: float  # without start and end, where the run is long enough to leave them out
    sides: tuple[Side, ...]
    roof: BindingRoof | None  # None: no step is recorded
    moves: tuple[Improvement, ...]  # the largest gain first
    no_moves: str  # why no gain was predicted; empty if it was
    simulated_steps_per_s: float  # of the run as it was, by the planner's model: how far the gains can be believed; 0 without
    simulated_part: str  # one of PARTS: what binds there; another one than that of `roof` says that the model misses something
    findings: tuple[Finding, ...]  # in the order of their steps

    def as_json(self) -> JsonObject:
        """For `--json`."""
        return asdict(self)
