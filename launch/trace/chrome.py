"""Events in Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Every process of the run is a process there, the lanes of its groups and verdicts are its threads. Arrows lead from a group to
the step that trained it, and from a step to the weights that it published.
Source: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ...common.json_object import JsonObject
from ...common.trace import TraceSpan
from .clocks import clock_offsets, host_of, trace_of_the_clock
from .lanes import assign_lanes, gaps_between
from .recorded import ProcessTrace

IDLE_S = 0.01  # shorter pauses between two groups are not shown as waiting
# names of the learner's own spans without their group, in one lane: they nest
LEARNER_SPANS = {"learner/wait": "waits for a batch", "learner/publish": "publish", "learner/checkpoint": "checkpoint"}
# numbers of a step that are drawn as curves
CURVES = ("mean", "staleness_max", "ess")
MICRO = 1e6  # the format counts in microseconds


@dataclass(frozen=True, slots=True)
class _Arrow:
    """An arrow to or from the step that made `version`; this is its other end."""

    version: int
    to_step: bool
    end: JsonObject  # process, lane and time


@dataclass(slots=True)
class _Sheet:
    """The events of one process of the trace."""

    pid: int
    offset_s: float  # from the process's clock to the time of the trace
    events: list[JsonObject] = field(default_factory=list)
    arrows: list[_Arrow] = field(default_factory=list)
    steps: dict[int, JsonObject] = field(default_factory=dict)  # version that was made -> its slice
    num_loose: int = 0
    _lanes: dict[str, int] = field(default_factory=dict)

    def at(self, seconds: float) -> float:
        return round((seconds + self.offset_s) * MICRO, 3)

    def lane(self, name: str) -> int:
        """The number of a lane; its first use names it."""
        if name not in self._lanes:
            self._lanes[name] = number = len(self._lanes) + 1
            where = {"ph": "M", "pid": self.pid, "tid": number}
            self.events.append({**where, "name": "thread_name", "args": {"name": name}})
            self.events.append({**where, "name": "thread_sort_index", "args": {"sort_index": number}})
        return self._lanes[name]

    def span(self, lane: str, name: str, began_s: float, ended_s: float, category: str, **args: object) -> None:
        """A slice; of no length it is still one, which is drawn as a line."""
        times = {"ts": self.at(began_s), "dur": round(max(0.0, ended_s - began_s) * MICRO, 3)}
        where = {"pid": self.pid, "tid": self.lane(lane)}
        self.events.append({"ph": "X", "name": name, "cat": category, **where, **times, "args": args})

    def loose_span(self, name: str, began_s: float, ended_s: float, category: str, **args: object) -> None:
        """A span that overlaps others of its name, of which there may be hundreds at once: the viewer stacks them."""
        self.num_loose += 1
        about = {"name": name, "cat": category, "pid": self.pid, "tid": 0, "id2": {"local": self.num_loose}}
        self.events.append({"ph": "b", **about, "ts": self.at(began_s), "args": args})
        self.events.append({"ph": "e", **about, "ts": self.at(max(began_s, ended_s))})

    def arrow(self, lane: str, version: int, at_s: float, *, to_step: bool) -> None:
        """An arrow between the slice of the lane that is there at that time, and a step."""
        end = {"pid": self.pid, "tid": self.lane(lane), "ts": self.at(at_s)}
        self.arrows.append(_Arrow(version, to_step, end))

    def curve(self, name: str, at_s: float, **values: float) -> None:
        where = {"pid": self.pid, "tid": 0, "ts": self.at(at_s)}
        self.events.append({"ph": "C", "name": name, **where, "args": values})


def chrome_trace(traces: Sequence[ProcessTrace], last_s: float = 0.0) -> JsonObject:
    """The whole trace as one JSON object. last_s: of the end, only so many seconds; 0: everything."""
    offsets = clock_offsets(traces)
    ends = [span.at + span.s + offsets[host_of(trace)] for trace in traces for span in trace.spans]
    first_s = max(ends) - last_s if ends and last_s > 0 else float("-inf")
    kept = [_since(trace, first_s - offsets[host_of(trace)]) for trace in traces]
    begins = [span.at + offsets[host_of(trace)] for trace in kept for span in trace.spans]
    zero_s = min(begins, default=0.0)
    trained = {ordinal: version + 1 for trace in kept for version, ordinal in _trained(trace)}
    sheets = [_Sheet(pid, offsets[host_of(trace)] - zero_s) for pid, trace in enumerate(kept, start=1)]
    for trace, sheet in zip(kept, sheets, strict=True):
        sheet.events += _named(trace, sheet.pid)
        _lay_out(trace, sheet, trained)
        if trace.head.role == "learner":
            _updates(kept, sheet, lambda other, mine=trace: offsets[host_of(other)] - offsets[host_of(mine)])
    events = [event for sheet in sheets for event in sheet.events] + list(_whole_arrows(sheets))
    clock = trace_of_the_clock(traces)
    began = zero_s + (clock.head.unix - clock.head.monotonic if clock is not None else 0.0)
    about = {"began_unix_s": began, "clock": "that of the buffer's host, from the first span on"}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _since(trace: ProcessTrace, first_s: float) -> ProcessTrace:
    return ProcessTrace(trace.head, [span for span in trace.spans if span.at + span.s >= first_s])


def _named(trace: ProcessTrace, pid: int) -> Iterator[JsonObject]:
    where, head = {"ph": "M", "pid": pid, "tid": 0}, trace.head
    yield {**where, "name": "process_name", "args": {"name": f"{head.process} on {head.host}, pid {head.pid}"}}
    yield {**where, "name": "process_sort_index", "args": {"sort_index": pid}}


def _trained(trace: ProcessTrace) -> Iterator[tuple[int, int]]:
    """(version that was trained, ordinal) of every group in a batch."""
    for span in trace.named("batch"):
        ordinals, version = span.args.get("ordinals"), span.args.get("version")
        for ordinal in ordinals if isinstance(ordinals, list) and isinstance(version, int) else []:
            yield int(version), int(ordinal)  # pyright: ignore[reportArgumentType]


def _lay_out(trace: ProcessTrace, sheet: _Sheet, trained: dict[int, int]) -> None:
    """Every span of one process in a lane."""
    groups = trace.named("group")
    for span in trace.spans:
        if span.name == "step":
            _step(span, sheet)
        elif span.name in LEARNER_SPANS:
            sheet.span("learner", LEARNER_SPANS[span.name], span.at, span.at + span.s, "learner", **span.args)
        elif span.name == "batch":
            version = span.args.get("version")
            sheet.span("batches", f"forms batch {version}", span.at, span.at + span.s, "buffer", **_short(span))
        elif span.name == "weights":
            version = span.args.get("version")
            sheet.span("weights", f"takes weights {version}", span.at, span.at + span.s, "weights", **span.args)
            if isinstance(version, int) and not span.args.get("error"):
                sheet.arrow("weights", version, span.at + span.s / 2, to_step=False)
        elif span.name != "group":
            sheet.span("other", span.name, span.at, span.at + span.s, "other", **span.args)
    for began, ended in gaps_between(((span.at, span.at + span.s) for span in groups), IDLE_S):
        sheet.span("no group", "no group in flight", began, ended, "idle")
    lanes = assign_lanes([(span.at, span.at + span.s) for span in groups])
    # viewers show lanes in the order of their numbers
    for lane, span in sorted(zip(lanes, groups, strict=True), key=lambda pair: pair[0]):
        _group(span, f"groups {lane + 1}", sheet, trained)
    _rollouts(groups, sheet)


def _step(span: TraceSpan, sheet: _Sheet) -> None:
    version = span.args.get("version")
    sheet.span("learner", f"step {version}", span.at, span.at + span.s, "learner", **span.args)
    if isinstance(version, int):
        # of a step that was made again, the last one counts
        sheet.steps[version] = sheet.events[-1]
    for name in CURVES:
        if isinstance(value := span.args.get(name), int | float):
            sheet.curve("reward" if name == "mean" else name, span.at + span.s, value=float(value))


def _updates(traces: Sequence[ProcessTrace], sheet: _Sheet, apart_s: Callable[[ProcessTrace], float]) -> None:
    """How long each version took to reach all that took it, beside the learner. apart_s: of a process's clock to its own."""
    taken: dict[int, list[tuple[float, float]]] = {}
    for trace in traces:
        for span in trace.named("weights"):
            if isinstance(version := span.args.get("version"), int) and not span.args.get("error"):
                began = span.at + apart_s(trace)
                taken.setdefault(version, []).append((began, began + span.s))
    spans = [(min(began for began, _ in times), max(ended for _, ended in times)) for times in taken.values()]
    for (version, times), span, lane in zip(taken.items(), spans, assign_lanes(spans), strict=True):
        sheet.span(f"weights {lane + 1}", f"version {version} arrives", *span, "weights", receivers=len(times))


def _group(span: TraceSpan, lane: str, sheet: _Sheet, trained: dict[int, int]) -> None:
    """A group, with the time in which its rollouts were generated inside, and an arrow to the step that trained it."""
    sheet.span(lane, str(span.args.get("task", "group")), span.at, span.at + span.s, "group", **_short(span))
    ended = _seconds(span, "ended")
    if ended:
        sheet.span(lane, "generates", span.at, span.at + min(max(ended), span.s), "group", rollouts=len(ended))
    ordinal = span.args.get("ordinal")
    if isinstance(ordinal, int) and ordinal in trained:
        sheet.arrow(lane, trained[ordinal], span.at + span.s / 2, to_step=True)


def _rollouts(groups: Sequence[TraceSpan], sheet: _Sheet) -> None:
    """Every rollout's time with its verifier, and how many rollouts were generated or judged at any time."""
    changes: list[tuple[float, int, int]] = []  # (when, rollouts more that are generated, more that are judged)
    for group in groups:
        ends, verdicts = _seconds(group, "ended"), _seconds(group, "judged")
        changes.append((group.at, len(ends), 0))
        for ended, known in zip(ends, verdicts, strict=False):
            judged = max(ended, known)
            changes += [(group.at + ended, -1, 1), (group.at + judged, 0, -1)]
            sheet.loose_span("verdict", group.at + ended, group.at + judged, "verifier", task=group.args.get("task", ""))
    generated = judging = 0
    for at, more_generated, more_judging in sorted(changes):
        generated, judging = generated + more_generated, judging + more_judging
        sheet.curve("rollouts", at, generated=generated, judged=judging)


def _seconds(span: TraceSpan, name: str) -> list[float]:
    values = span.args.get(name)
    return [float(value) for value in values] if isinstance(values, list) else []


def _short(span: TraceSpan) -> dict[str, object]:
    """The arguments without lists, which are drawn."""
    return {name: value for name, value in span.args.items() if not isinstance(value, list)}


def _whole_arrows(sheets: Sequence[_Sheet]) -> Iterator[JsonObject]:
    """Both ends of every arrow whose step is in the trace; none leads back in time."""
    steps = {version: step for sheet in sheets for version, step in sheet.steps.items()}
    # Perfetto drops arrows whose identity is no number
    for identity, arrow in enumerate((arrow for sheet in sheets for arrow in sheet.arrows), start=1):
        step = steps.get(arrow.version)
        if step is None:
            continue
        inside = step["ts"] if arrow.to_step else step["ts"] + step["dur"] / 2
        at_step = {"pid": step["pid"], "tid": step["tid"], "ts": round(inside, 3)}
        start, end = (arrow.end, at_step) if arrow.to_step else (at_step, arrow.end)
        if start["ts"] <= end["ts"]:
            about = {"name": "trained" if arrow.to_step else "weights", "cat": "flow", "id": identity}
            yield {"ph": "s", **about, **start}
            yield {"ph": "f", "bp": "e", **about, **end}
