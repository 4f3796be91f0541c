"""The trace of a run as a file for Perfetto: one clock, lanes without overlaps, arrows with two ends."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.errors import UserError
from prolong.common.trace import TraceHead, Tracer, TraceSpan, open_trace
from prolong.launch.trace.chrome import chrome_trace
from prolong.launch.trace.clocks import clock_offsets
from prolong.launch.trace.command import write_trace
from prolong.launch.trace.lanes import assign_lanes, gaps_between
from prolong.launch.trace.recorded import ProcessTrace, read_traces


def process(name: str, *spans: TraceSpan, host: str = "one", offset_s: float = 0.0) -> ProcessTrace:
    """A process on a host whose wall clock is `offset_s` fast, and whose monotonic clock began at another time."""
    began = {"one": 0.0, "two": 5000.0}[host]
    head = TraceHead(
        process=name, role=name.partition("-")[0], host=host, boot=host, pid=1, monotonic=began, unix=1e9 + offset_s
    )
    return ProcessTrace(head, [TraceSpan(name=s.name, at=s.at + began, s=s.s, args=s.args) for s in spans])


def span(name: str, at: float, s: float, **args: Any) -> TraceSpan:
    return TraceSpan(name=name, at=at, s=s, args=args)


def recorded_run(host: str = "one", offset_s: float = 0.0) -> list[ProcessTrace]:
    """Two groups of an actor, the batch of them, the step, and the weights that it made."""
    learner = process(
        "learner",
        span("learner/wait", 0.0, 3.0),
        span("learner/publish", 4.0, 0.1),
        span("step", 3.0, 1.2, version=1, mean=0.5, ess=0.99),
    )
    buffer = process("buffer", span("batch", 0.05, 2.9, version=0, ordinals=[0, 1], recorded=0))
    actor = process(
        "actor-0",
        span("group", 0.5, 2.0, ordinal=0, task="math/sum", ended=[1.0, 1.5], judged=[1.2, 2.0]),
        span("group", 0.6, 1.0, ordinal=1, task="math/sum", ended=[0.9], judged=[1.0]),
        span("weights", 4.2, 0.3, version=1, bytes=10, error=""),
        span("group", 4.5, 1.0, ordinal=2, task="logic/x", ended=[0.5], judged=[1.0]),
        host=host,
        offset_s=offset_s,
    )
    return [learner, buffer, actor]


def slices(trace: dict[str, Any]) -> dict[tuple[int, int], list[tuple[float, float, str]]]:
    found: dict[tuple[int, int], list[tuple[float, float, str]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    return found


def assert_well_formed(trace: dict[str, Any]) -> None:
    """What a viewer relies on: slices of a thread nest, arrows have both ends in slices, and no time is negative."""
    by_thread = slices(trace)
    for thread in by_thread.values():
        open_until: list[float] = []
        for began, ended, name in sorted(thread, key=lambda s: (s[0], -s[1])):
            assert began >= 0
            while open_until and open_until[-1] <= began + 1e-3:
                open_until.pop()
            assert not open_until or ended <= open_until[-1] + 1e-3, f"{name} overlaps another slice and is not inside it"
            open_until.append(ended)
    ends = {end: {e["id"]: e for e in trace["traceEvents"] if e["ph"] == end} for end in ("s", "f")}
    assert ends["s"].keys() == ends["f"].keys()
    for identity, start in ends["s"].items():
        assert start["ts"] <= ends["f"][identity]["ts"]
        for end in (start, ends["f"][identity]):
            assert any(began <= end["ts"] <= ended for began, ended, _ in by_thread[end["pid"], end["tid"]])
    loose = {
        end: {(e["pid"], e["id2"]["local"]): e["ts"] for e in trace["traceEvents"] if e["ph"] == end} for end in ("b", "e")
    }
    assert loose["b"].keys() == loose["e"].keys()
    assert all(began <= loose["e"][identity] for identity, began in loose["b"].items())
    named = {event["pid"] for event in trace["traceEvents"] if event.get("name") == "process_name"}
    assert named == {event["pid"] for event in trace["traceEvents"]}


def test_every_process_and_what_it_did_is_in_the_trace() -> None:
    trace = chrome_trace(recorded_run())
    assert_well_formed(trace)
    names = [name for thread in slices(trace).values() for _, _, name in thread]
    for name in ("step 1", "waits for a batch", "publish", "forms batch 0", "takes weights 1", "math/sum", "generates"):
        assert name in names
    verdicts = [event for event in trace["traceEvents"] if event["ph"] == "b"]
    assert [event["args"]["task"] for event in verdicts] == ["math/sum", "math/sum", "math/sum", "logic/x"]
    assert names.count("no group in flight") == 1
    lanes = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"]
    assert lanes == ["learner", "weights 1", "batches", "weights", "no group", "groups 1", "groups 2"]
    [arrives] = [event for event in trace["traceEvents"] if event["name"] == "version 1 arrives"]
    assert (arrives["pid"], arrives["ts"], arrives["dur"], arrives["args"]) == (1, 4.2e6, 0.3e6, {"receivers": 1})
    arrows = sorted((event["name"], event["pid"]) for event in trace["traceEvents"] if event["ph"] == "s")
    assert arrows == [("trained", 3), ("trained", 3), ("weights", 1)]
    # Perfetto drops arrows that have another kind of identity
    assert all(isinstance(event["id"], int) for event in trace["traceEvents"] if event["ph"] == "s")
    curves = [(event["name"], event["args"]) for event in trace["traceEvents"] if event["ph"] == "C"]
    assert ("reward", {"value": 0.5}) in curves
    rollouts = [(args["generated"], args["judged"]) for name, args in curves if name == "rollouts"]
    assert rollouts[:3] == [(2, 0), (3, 0), (2, 1)]
    assert rollouts[-1] == (0, 0)


def test_the_end_of_a_run_can_be_cut_out() -> None:
    trace = chrome_trace(recorded_run(), last_s=1.5)
    assert_well_formed(trace)
    names = {name for thread in slices(trace).values() for _, _, name in thread}
    assert "logic/x" in names
    assert "math/sum" not in names


@pytest.mark.parametrize("offset_s", [0.0, 0.001, 7.0, -7.0])
def test_another_host_is_put_where_causes_come_before_their_effects(offset_s: float) -> None:
    run = recorded_run("two", offset_s)
    offsets = clock_offsets(run)
    learner, buffer, actor = ([span.at + offsets[trace.head.boot] for span in trace.spans] for trace in run)
    # groups end before their batch is formed, weights arrive after their step began
    assert actor[0] + 2.0 <= buffer[0] + 2.9 + 1e-6
    assert actor[2] + 0.3 >= learner[2] - 1e-6
    if abs(offset_s) < 0.01:
        assert offsets["two"] == pytest.approx(offset_s - 5000.0), "a clock that breaks no order stays as it is"
    assert_well_formed(chrome_trace(run))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=40))
def test_no_two_spans_of_a_lane_overlap_and_there_are_no_more_lanes_than_spans_at_once(
    spans: list[tuple[float, float]],
) -> None:
    times = [(began, began + length) for began, length in spans]
    lanes = assign_lanes(times)
    by_lane: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for lane, time in zip(lanes, times, strict=True):
        by_lane[lane].append(time)
    for members in by_lane.values():
        members.sort()
        assert all(former[1] <= later[0] for former, later in pairwise(members))
    at_once = max((sum(b <= began and (began < e or b == began) for b, e in times) for began, _ in times), default=0)
    assert len(by_lane) <= at_once


def test_gaps_are_the_times_without_any_span() -> None:
    assert gaps_between([(0, 1), (0.5, 2), (3, 4), (4.001, 5)], 0.01) == [(2, 3)]
    assert gaps_between([], 0.01) == []


def test_files_are_read_whole_or_up_to_a_torn_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracer = Tracer(tmp_path / "trace", "actor", "actor-0")
    tracer.add("group", 1.0, 2.0, ordinal=3, task="a/b", ended=[0.5], judged=[1.0])
    tracer.close()
    [path] = (tmp_path / "trace").iterdir()
    path.write_bytes(path.read_bytes() + b'{"name":"group","at":5.0')
    (tmp_path / "trace" / "empty.1.jsonl").touch()
    found = read_traces([tmp_path / "trace"])
    assert (len(found.processes), len(found.processes[0].spans), found.num_broken) == (1, 1, 1)
    assert write_trace([str(tmp_path)], tmp_path / "out.json.gz", 0.0) == 0
    assert "1 broken lines" in capsys.readouterr().out
    assert_well_formed(json.loads(gzip.decompress((tmp_path / "out.json.gz").read_bytes())))


def test_what_a_process_did_before_it_was_started_again_is_kept_though_its_number_is_the_same(tmp_path: Path) -> None:
    for ordinal in (1, 2):
        with open_trace(tmp_path, "actor", "actor-0") as tracer:
            tracer.add("group", ordinal, ordinal + 0.5, ordinal=ordinal)
    [found] = read_traces([tmp_path]).processes
    assert [span.args["ordinal"] for span in found.spans] == [1, 2]


def test_absurd_times_leave_a_file_that_a_viewer_reads(tmp_path: Path) -> None:
    with open_trace(tmp_path / "trace", "actor", "actor-0") as tracer:
        tracer.add("group", 1.0, 2.0, ordinal=1, ended=[1e308], judged=[-1e308])
        tracer.add("group", 1e308, -1e308, ordinal=2)
        tracer.add("step", 1.0, 1e308, version=1, ess=1e308)
    assert write_trace([str(tmp_path)], None, 1.0) == 0
    # unlike json.loads, it refuses NaN and Infinity, as JSON.parse does
    assert msgspec.json.decode((tmp_path / "trace.json").read_bytes())["traceEvents"]


def test_a_run_without_spans_is_said(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    with pytest.raises(UserError, match="no spans are recorded"):
        write_trace([str(tmp_path)], None, 0.0)


def test_a_file_in_a_folder_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "trace", "actor", "actor-0")
    tracer.add("group", 1.0, 2.0)
    tracer.close()
    with pytest.raises(UserError, match="there is no folder"):
        write_trace([str(tmp_path)], tmp_path / "missing" / "trace.json", 0.0)
