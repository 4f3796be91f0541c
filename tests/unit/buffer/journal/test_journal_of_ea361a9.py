"""A journal that an earlier version wrote means the same to this one: read, audited, and continued by a buffer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prolong.buffer.audit import audit
from prolong.buffer.core.core import BufferCore
from prolong.buffer.core.settings import RunSettings
from prolong.buffer.journal.journal import Journal, open_journal, read_journal
from prolong.buffer.tickets.prompts import load_heldout, load_training_prompts
from prolong.common import messages as m
from prolong.common.config.run_files import load_config
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import TicketKind
from prolong.launch.journal import check_journal

from tests.support.buffer_process import answer, hello

RECORDED = Path(__file__).parents[3] / "data" / "journal-ea361a9"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run's folder; its configuration names files relative to where it lies."""
    shutil.copytree(RECORDED, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy" / "recorded"


@pytest.fixture
def journal(run: Path) -> Iterator[Journal]:
    opened = open_journal(run / "journal", max_gb=0.01, keep_history=False)
    yield opened
    opened.close()


@pytest.fixture
def expected() -> dict[str, Any]:
    """Every record, as the version that wrote the journal read it."""
    return json.loads((RECORDED / "expected.json").read_text())


# fields that did not exist then, with the values that a record without them is read as
ADDED: dict[str, Any] = {
    "started": [],
    "waits": False,
    "eta": None,
    "skips": [],
    **dict.fromkeys(("buffer/handed_over", "buffer/saved_tokens", "buffer/lost_tokens"), 0),
}


def plain(value: object) -> Any:
    """As JSON would have it: keys are text, and so are bytes. Without what no record could hold then."""
    return without_added(json.loads(msgspec.json.encode(value)))


def without_added(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_added(v) for k, v in value.items() if k not in ADDED or v != ADDED[k]}
    if not isinstance(value, list):
        return value
    # a span: version, first token, end, and the name of no other actor
    is_span = len(value) == 4 and value[3] == "" and all(isinstance(number, int) for number in value[:3])
    return value[:3] if is_span else [without_added(each) for each in value]


def test_every_record_reads_as_it_did(run: Path, expected: dict[str, Any]) -> None:
    journal = read_journal(run / "journal")
    first, moves = journal.moves()
    read = {
        "state": journal.load_state(),
        "states": {version: journal.load_state(version) for version in journal.states()},
        "batches": {version: journal.batch(version) for version in journal.versions()},
        "batch_ordinals": {version: journal.batch_record(version).ordinals for version in journal.versions()},
        "groups": {ordinal: journal.group(ordinal) for ordinal in journal.groups()},
        "tickets": journal.tickets(),
        "sweeps": journal.sweeps(),
        "scores": journal.scores(),
        "moves": [first, moves],
    }
    journal.close()
    assert plain(read) == expected


def test_it_is_sound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_journal(str(run), as_json=False) == 0
    told = capsys.readouterr().out
    assert "15 issued = 1 leased, 1 stored, 2 batched, 8 trained, 1 filtered, 2 failed" in told
    assert "sound: every record reads, every ticket is accounted for" in told


def restart(run: Path, journal: Journal) -> BufferCore:
    cfg = load_config(run / "config.yaml")
    tokenizer = Tokenizer.load(cfg.model.path)
    prompts, heldout = load_training_prompts(cfg, tokenizer), load_heldout(cfg, tokenizer)
    return BufferCore.open(RunSettings.from_config(cfg), prompts, heldout, tokenizer.fingerprint, journal)


def test_a_restarted_buffer_is_what_the_killed_one_was(run: Path, journal: Journal, expected: dict[str, Any]) -> None:
    core = restart(run, journal)
    # they are records of their own now
    retries = [[prompt.uid, attempt] for prompt, attempt in core.run.store.retries]
    assert plain(core.run.state()) | {"retries": retries} == expected["state"]
    assert plain([lease.ticket for lease in core.run.leases.held_by("actor-0")]) == [
        record["ticket"] for record in expected["tickets"] if record["ticket"]["ordinal"] in (19, 20)
    ]
    core.commit()
    assert audit(journal).findings == []


def test_a_run_goes_on_where_it_was_killed(run: Path, journal: Journal, expected: dict[str, Any]) -> None:
    cfg, core = load_config(run / "config.yaml"), restart(run, journal)
    greeting = hello(cfg, m.Role.learner, "learner", version=4, generation=1, stage=1)
    ((_, welcome),) = core.handle(b"learner", greeting, 1.0)
    assert isinstance(welcome, m.Welcome)
    assert (welcome.generation, welcome.version) == (1, 4)
    out = core.handle(b"learner", m.TakeBatch(generation=1, version=4), 1.0)
    (ready,) = (message for _, message in out if isinstance(message, m.BatchReady))
    assert plain(ready.batch) == expected["batches"]["4"], "the batch that was handed out is served again"
    out = core.handle(b"actor", hello(cfg, m.Role.actor, "actor-0", version=4), 1.0)
    (resent,) = (message for _, message in out if isinstance(message, m.Tickets))
    assert [ticket.ordinal for ticket in resent.tickets] == [19, 20]
    for ticket in resent.tickets:
        ((_, ack),) = core.handle(b"actor", m.GroupResult(group=answer(ticket, "actor-0")), 1.0)
        assert isinstance(ack, m.GroupAck)
        assert ack.accepted, ack.reason
    core.handle(b"learner", m.StepDone(generation=1, version=5, stage=1), 1.0)
    out = core.handle(b"learner", m.TakeBatch(generation=1, version=5), 1.0)
    (ready,) = (message for _, message in out if isinstance(message, m.BatchReady))
    assert [group.ordinal for group in ready.batch.groups] == [16, 20]
    assert ready.batch.reset_requested, "it was requested before the kill"
    assert [score.version for score in ready.batch.validation] == [4]
    assert all(group.kind is TicketKind.train for group in ready.batch.groups)
    core.tick(1.0)
    core.commit()
    assert audit(journal).findings == []
