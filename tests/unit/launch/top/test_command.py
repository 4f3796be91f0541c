"""Where `prolong top` attaches, and how its loop ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import pytest
from prolong.buffer.client.observer import Observer
from prolong.common.errors import UserError
from prolong.common.messages import Status
from prolong.common.metrics import MetricsTail
from prolong.launch.top import command
from prolong.launch.top.command import Top, attach
from prolong.launch.top.keyboard import Keyboard
from prolong.launch.top.speeds import StatusWindow

STATUS = Status(
    # a name that would end the page if it were read as markup
    run="[/] mine",
    generation=1,
    version=3,
    steps=9,
    ledger={},
    balanced=True,
    peers={},
    counters={},
    validation=[],
)


class SilentBuffer:
    def poll_status(self) -> Status | None:
        return None


class PressedKeys:
    def __init__(self, *keys: str) -> None:
        self.left = list(keys)

    def keys(self, wait_s: float) -> list[str]:
        return [self.left.pop(0)] if self.left else []


def top(tail: MetricsTail | None = None) -> Top:
    window = StatusWindow()
    window.add(0.0, STATUS)
    return Top(cast("Observer", SilentBuffer()), window, tail)


def test_a_broken_line_of_the_metrics_does_not_end_the_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\x00\xff\n{"step": 3}\n')
    shown = top(MetricsTail(tmp_path / "metrics.jsonl"))._shown()
    assert (shown.record, shown.num_broken) == ({"step": 3}, 1)


def test_the_loop_ends_with_a_key() -> None:
    keys = PressedKeys("s", "p", "q", "never read")
    assert top().run(cast("Keyboard", keys), 0.1, ended=lambda: False) == 0
    assert keys.left == ["never read"]


def test_the_loop_ends_with_the_run_and_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "GONE_S", -1.0)
    assert top().run(cast("Keyboard", PressedKeys()), 0.1, ended=lambda: True) == 0
    assert "the buffer of [/] mine has ended; `prolong status [/] mine`" in capsys.readouterr().out


def test_without_a_target_the_run_that_started_last_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no buffer runs in runs/"):
        attach("", "")
    for age, name in enumerate(["newer", "older"]):
        note = tmp_path / "runs" / name / "buffer.json"
        note.parent.mkdir(parents=True)
        (note.parent / "metrics.jsonl").touch()
        note.write_text(json.dumps({"address": f"tcp://127.0.0.1:{age + 1}", "pid": 1, "keys": f"{name}/keys"}))
        os.utime(note, (1e9 - age, 1e9 - age))
    found = attach("", "")
    assert (found.address, found.keys) == ("tcp://127.0.0.1:1", "newer/keys")
    assert attach("older", "mine/keys").keys == "mine/keys"
    assert attach("tcp://10.0.0.1:5710", "keys") == ("tcp://10.0.0.1:5710", "keys", None)


def test_a_run_that_has_ended_is_not_attached_to(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not running; `prolong status"):
        attach(str(tmp_path), "")
