"""The recorder of spans: bounded, whole at any time, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

import msgspec
import pytest
from prolong.common import trace
from prolong.common.telemetry import Spans
from prolong.common.trace import NO_TRACE, TraceHead, Tracer, TraceSpan, open_trace, trace_name


def spans_in(path: Path) -> list[TraceSpan]:
    return [msgspec.json.decode(line, type=TraceSpan) for line in path.read_bytes().splitlines()[1:]]


def only_file(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def test_spans_are_written_with_a_head_that_names_the_process_and_its_clocks(tmp_path: Path) -> None:
    with open_trace(tmp_path / "trace", "actor", "far/1") as tracer:
        tracer.add("group", 10.0, 12.5, ordinal=7, task="math/sum", ended=[0.5, 1.0])
        with tracer.span("update", version=3):
            pass
    path = only_file(tmp_path / "trace")
    assert path.name == f"far_1.{os.getpid()}.jsonl"
    head = msgspec.json.decode(path.read_bytes().splitlines()[0], type=TraceHead)
    assert (head.process, head.role, head.pid) == ("far/1", "actor", os.getpid())
    assert abs(head.monotonic - monotonic()) < 60
    group, update = spans_in(path)
    assert group == TraceSpan(name="group", at=10.0, s=2.5, args={"ordinal": 7, "task": "math/sum", "ended": [0.5, 1.0]})
    assert (update.name, update.args) == ("update", {"version": 3})


def test_a_reader_sees_every_span_at_once(tmp_path: Path) -> None:
    with open_trace(tmp_path, "actor", "a") as tracer:
        for number in range(1, 4):
            tracer.add("group", 0.0, 1.0)
            assert len(spans_in(only_file(tmp_path))) == number


def test_a_span_is_recorded_when_its_block_raises_too(tmp_path: Path) -> None:
    with open_trace(tmp_path, "learner", "learner") as tracer, pytest.raises(KeyError), tracer.span("step"):
        raise KeyError
    assert [span.name for span in spans_in(only_file(tmp_path))] == ["step"]


def test_the_file_keeps_the_newest_spans_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "SEGMENT_BYTES", 2000)
    with open_trace(tmp_path, "buffer", "buffer") as tracer:
        for index in range(500):
            tracer.add("batch", float(index), float(index), version=index)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert all(path.stat().st_size <= 2000 for path in files)
    kept = [span.args["version"] for path in files for span in spans_in(path)]
    assert kept[-1] == 499
    assert kept == list(range(500 - len(kept), 500)), "the last ones, without a gap"
    assert len(kept) > 20


def test_the_folder_forgets_the_oldest_processes_when_it_has_grown_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "FOLDER_BYTES", 2500)
    for age, name in enumerate(["newest", "middle", "oldest"]):
        (tmp_path / f"{name}.1.jsonl").write_bytes(b"x" * 1000)
        os.utime(tmp_path / f"{name}.1.jsonl", (1e9 - age, 1e9 - age))
    with open_trace(tmp_path, "actor", "a"):
        assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"newest", "middle", "a"}


def test_a_file_that_another_process_removed_meanwhile_does_not_end_the_recording(tmp_path: Path) -> None:
    (tmp_path / "gone.1.jsonl").symlink_to(tmp_path / "nowhere")
    with open_trace(tmp_path, "actor", "a") as tracer:
        assert tracer.on


def test_a_disk_that_fails_ends_the_recording_and_not_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "trace").write_text("a file where the folder should be")
    with open_trace(tmp_path / "trace", "actor", "a") as tracer:
        assert not tracer.on
        tracer.add("group", 0.0, 1.0)
    assert "no more spans are recorded" in caplog.text


def test_a_full_disk_ends_the_recording_and_not_the_process(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with open_trace(tmp_path, "actor", "a") as tracer, Path("/dev/full").open("wb", buffering=0) as full:
        assert tracer._file is not None
        tracer._file.close()
        tracer._file = full
        tracer.add("group", 0.0, 1.0)
        assert not tracer.on
        tracer.add("group", 1.0, 2.0)
    assert "No space left" in caplog.text


def test_timing_spans_are_recorded_too(tmp_path: Path) -> None:
    with open_trace(tmp_path, "learner", "learner") as tracer:
        spans = Spans(tracer)
        with spans("learner/wait"):
            pass
    [span] = spans_in(only_file(tmp_path))
    assert span.name == "learner/wait"
    assert spans.take()["learner/wait_s"] == pytest.approx(span.s)
    assert abs(span.at - monotonic()) < 60


def test_without_a_folder_nothing_is_recorded() -> None:
    NO_TRACE.add("step", 0.0, 1.0)
    assert not NO_TRACE.on
    assert trace_name("actor-0") == "actor-0"
    assert len(trace_name("演" * 200).encode()) == 99
    assert Tracer().on is False
