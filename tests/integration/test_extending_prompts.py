"""The prompt source of docs/extending.md in a copy of the product: a real buffer draws from it, and is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prolong.buffer.journal.journal import read_journal
from prolong.common.config.run_files import save_config
from prolong.common.config.sections import Config
from prolong.common.types import Ticket

from tests.support.buffer_process import BufferProcess, make_config
from tests.support.extension import ROOT, diff_of, extended_tree, touched_files
from tests.support.runs import wait_until
from tests.support.scripted_peers import start_actor, start_learner

NUM_PROMPTS = 5
# The configuration of this process does not have the extension's knob.
PROGRAM = """
from pathlib import Path
from prolong.buffer.main import main
from prolong.common.config.run_files import load_config
cfg = load_config(Path({!r}))
cfg.data.stream = True
main(cfg)
"""


def lines_of_two_steps(buffer: BufferProcess, cfg: Config, version: int, num_tickets: int = 0) -> list[int]:
    """Let a learner make two steps from `version` with one actor, and kill the buffer once the actor has enough tickets.

    Returns the lines of the actor's prompts, in order of issue.
    """
    learner = start_learner(cfg, buffer.address, version=version, generation=1 if version else -1)
    actor = start_actor(cfg, buffer.address)
    learner.publish(version)
    learner.step(version)
    learner.publish(version + 1)
    learner.step(version + 1)
    wait_until("the actor's tickets", lambda: len(actor.tickets) >= num_tickets, 60)
    buffer.kill()
    for client in (actor.client, learner.client):
        client.close(0.1)
    return [line_of(ticket) for ticket in actor.tickets]


def line_of(ticket: Ticket) -> int:
    """The line of a ticket's prompt: its uid ends with it."""
    return int(ticket.prompt.uid.rpartition("/")[2])


@pytest.mark.timeout(400)
def test_a_stream_of_prompts_goes_on_after_a_kill(tmp_path: Path) -> None:
    environment = extended_tree("A prompt source", tmp_path / "tree")
    cfg = make_config(tmp_path, num_prompts=NUM_PROMPTS, steps=8, silence_s=60.0)
    with BufferProcess(cfg, program=PROGRAM, environment=environment) as buffer:
        before = lines_of_two_steps(buffer, cfg, version=0)
    assert before == in_order(0, len(before)), "the order of the file, round after round"
    num_drawn, unfinished = left_behind(buffer)
    with BufferProcess(cfg, program=PROGRAM, environment=environment) as buffer:
        after = lines_of_two_steps(buffer, cfg, version=2, num_tickets=len(unfinished) + 2)
    again, fresh = after[: len(unfinished)], after[len(unfinished) :]
    assert again == unfinished, "prompts that were under way are found in the file, and issued again first"
    assert fresh == in_order(num_drawn, len(fresh))


def in_order(start: int, count: int) -> list[int]:
    """Lines of a file that is read round after round."""
    return [1 + index % NUM_PROMPTS for index in range(start, start + count)]


def left_behind(buffer: BufferProcess) -> tuple[int, list[int]]:
    """Of the journal of a killed buffer: the number of prompts drawn, and the lines of the prompts that were leased."""
    journal = read_journal(buffer.paths.journal)
    state, stored = journal.load_state(), set(journal.groups())
    leased = [record.ticket for record in journal.tickets() if record.ticket.ordinal not in stored]
    journal.close()
    assert state is not None
    assert not state.retries
    rounds, drawn = map(int, state.cursor.position.split())
    return rounds * NUM_PROMPTS + drawn, [line_of(ticket) for ticket in leased]


CONTRACT = """
from pathlib import Path
from prolong.buffer.tickets.prompts import load_training_prompts
from prolong.common.config.run_files import load_config
from prolong.common.tokenizer import Tokenizer
from tests.support.prompt_source import check_prompt_source
cfg = load_config(Path({!r}))
cfg.data.stream = True
check_prompt_source(lambda: load_training_prompts(cfg, Tokenizer.load(cfg.model.path)), [1.0])
"""


def test_it_keeps_the_contract_of_a_prompt_source(tmp_path: Path) -> None:
    environment = extended_tree("A prompt source", tmp_path / "tree")
    environment["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    cfg = make_config(tmp_path, num_prompts=NUM_PROMPTS)
    save_config(cfg, tmp_path / "config.yaml")
    program = CONTRACT.format(str(tmp_path / "config.yaml"))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_touches_three_files() -> None:
    assert touched_files(diff_of("A prompt source")) == [
        "common/config/sections.py",
        "buffer/tickets/prompts.py",
        "buffer/tickets/stream.py",
    ]
