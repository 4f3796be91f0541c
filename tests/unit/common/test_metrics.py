"""Metrics: a torn line hurts nobody, a resume forgets the dead timeline, TensorBoard reads what we write."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prolong.common.errors import UserError
from prolong.common.metrics import MetricsTail, MetricsWriter, read_metrics
from prolong.common.telemetry import EventWriter, Spans


def write_steps(folder: Path, *steps: int, **options) -> None:
    with MetricsWriter(folder, tensorboard=False, **options) as writer:
        for step in steps:
            writer.write(step, {"learner/loss": step / 2})


def test_a_record_is_readable_as_soon_as_write_returns(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"learner/loss": 0.5, "learner/tokens": 12})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "learner/loss": 0.5, "learner/tokens": 12}]


def test_numpy_scalars_and_non_finite_numbers_make_strict_json(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"a/b": np.float32(0.25), "a/nan": math.nan, "a/inf": -math.inf, "a/huge": -1e200})
    written = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert written == {"step": 1, "a/b": 0.25, "a/nan": None, "a/inf": None, "a/huge": None}


@pytest.mark.parametrize("torn", [b'{"step": 3, "learner/lo', b"{", b"\x00\x00"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    write_steps(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("line", ['{"step": 2, "learner/loss": "x"}', '{"learner/loss": 1}', '{"step": 2.5}', '{"step": NaN}'])
def test_a_line_that_holds_no_numbers_of_a_step_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "learner/loss": null}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: .*expected"):
        read_metrics(tmp_path / "metrics.jsonl")


BROKEN = [b"\x00\xff\x00", b'{"step": 2', b'{"learner/loss": 1}', b'{"step": 2, "learner/loss": "x"}', b"nonsense"]


@pytest.mark.parametrize("line", BROKEN)
def test_a_reader_that_shows_what_there_is_leaves_a_broken_line_out_and_says_so_once(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n' + line + b'\n{"step": 5}\n{"st')
    assert [record["step"] for record in read_metrics(path, exact=False)] == [1, 3, 5]
    (said,) = caplog.messages
    assert f"{path}, line 2: " in said
    assert "It is left out with 1 more; the disk" in said


@pytest.mark.parametrize("line", BROKEN)
def test_the_tail_goes_on_behind_a_broken_line_counts_it_and_says_so_once(tmp_path: Path, line: bytes) -> None:
    path, said = tmp_path / "metrics.jsonl", list[str]()
    tail = MetricsTail(path, tell=said.append)
    path.write_bytes(b'{"step": 1}\n')
    tail.read()
    for step in (3, 5):
        with path.open("ab") as file:
            file.write(line + b'\n{"step": %d}\n' % step)
        assert tail.read() == ([{"step": step}], False)
    assert tail.num_broken == 2
    assert len(said) == 1
    assert f"{path}, line 2: " in said[0]
    resumed = tmp_path / "resumed"
    resumed.write_bytes(b'{"step": 1}\n')
    resumed.replace(path)
    assert (tail.read(), tail.num_broken) == (([{"step": 1}], True), 0)


def test_an_exact_tail_refuses_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2"):
        MetricsTail(tmp_path / "metrics.jsonl", exact=True).read()


def test_a_resume_refuses_a_broken_line_in_the_middle(tmp_path: Path) -> None:
    """What lies behind it may be of a history that it would drop."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2"):
        MetricsWriter(tmp_path, resume_step=3, tensorboard=False)


def test_the_tail_gives_whole_records_once_and_starts_over_when_the_file_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == ([], False)
    path.write_text(json.dumps({"step": 1, "a": 1.0, "b": None}) + '\n{"step": 2')
    assert tail.read() == ([{"step": 1, "a": 1.0}], False)
    path.write_text(path.read_text() + ', "a": 2.0}\n')
    assert tail.read() == ([{"step": 2, "a": 2.0}], False)
    resumed = tmp_path / "resumed"  # MetricsWriter puts the cut file in the place of the other, and goes on at once
    resumed.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 9)))
    assert resumed.stat().st_size > path.stat().st_size
    resumed.replace(path)
    assert tail.read() == ([{"step": step} for step in range(1, 9)], True)


def test_a_resume_keeps_the_records_of_its_history_only(tmp_path):
    write_steps(tmp_path, 1, 2, 3, 4, 5)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "lear')
    write_steps(tmp_path, 4, 5, resume_step=3)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_fresh_run_starts_an_empty_file(tmp_path):
    write_steps(tmp_path, 1, 2)
    write_steps(tmp_path, 1)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def tensorboard_events(folder: Path) -> list:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    events: Any = event_pb2  # generated at import: type checkers do not see its contents
    (file,) = folder.iterdir()
    return [events.Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load()]


def test_tensorboards_own_reader_finds_every_scalar(tmp_path):
    writer = EventWriter(tmp_path, first_step=3)
    for step in range(3, 8):
        writer.write(step, {"reward/mean": step / 10, "learner/loss": -float(step)})
    writer.close()
    version, start, *points = tensorboard_events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, 1)
    assert [(p.step, [(v.tag, round(v.simple_value, 6)) for v in p.summary.value]) for p in points] == [
        (step, [("reward/mean", step / 10), ("learner/loss", -float(step))]) for step in range(3, 8)
    ]


def test_the_tensorboard_writer_imports_neither_tensorflow_nor_torch(tmp_path):
    code = (
        "import sys, pathlib; from prolong.common.metrics import MetricsWriter\n"
        "with MetricsWriter(pathlib.Path(sys.argv[1])) as writer: writer.write(1, {'a/b': 1.0})\n"
        "found = {'tensorflow', 'torch', 'tensorboard.compat.tensorflow_stub'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_spans_add_up_over_threads_and_are_taken_once():
    span = Spans()

    def work() -> None:
        for _ in range(100):
            with span("learner/step"):
                pass
            span.add("learner/wait", 0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = span.take()
    assert taken["learner/wait_s"] == pytest.approx(200.0)
    assert taken["learner/step_s"] > 0
    assert span.take() == {}


def test_a_span_counts_when_its_body_raises():
    span = Spans()
    with pytest.raises(KeyError), span("learner/step"):
        raise KeyError("x")
    assert "learner/step_s" in span.take()
