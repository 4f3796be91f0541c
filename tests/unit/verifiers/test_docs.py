"""The pages about verifiers quote the constants of the code, and list every verifier and every instruction type."""

import re
from pathlib import Path

import pytest
from prolong.buffer.tickets.group_checks import MAX_METRICS
from prolong.common.transport.quarantine import REST_S, STRIKES, WINDOW_S
from prolong.common.transport.sockets import FRAMES_AHEAD, FRAMES_BEHIND
from prolong.common.types import MAX_DETAIL
from prolong.verifiers.data.coding import MAX_SOLUTIONS
from prolong.verifiers.data.coding_tests import MAX_TEST_CHARS, MAX_TESTS
from prolong.verifiers.data.science import MAX_PHRASE_WORDS
from prolong.verifiers.instructions.rules import REFUSED, RULES
from prolong.verifiers.registry import VERIFIERS
from prolong.verifiers.workers.host_messages import MAX_MESSAGE_BYTES
from prolong.verifiers.workers.local_pool import DEFAULT_MEMORY_MB
from prolong.verifiers.workers.server import MAX_JOBS

DOCS = Path(__file__).resolve().parents[3] / "docs"
SENTENCES = [
    ("security.md", f"At most {FRAMES_AHEAD} frames of one client wait in the buffer"),
    ("security.md", f"Every connection may hold {FRAMES_AHEAD} frames of the largest size"),
    ("security.md", f"At most {FRAMES_BEHIND:,} frames wait for a client that does not read"),
    ("security.md", f"{STRIKES} malformed frames within {WINDOW_S:.0f} s put their sender in quarantine for {REST_S:.0f} s"),
    ("security.md", f"a verdict of at most {MAX_DETAIL:,} characters and {MAX_METRICS} metrics each"),
    ("verifiers.md", f"A worker may use {DEFAULT_MEMORY_MB >> 10} GiB of address space"),
    ("verifiers.md", f"encrypted frames, {MAX_MESSAGE_BYTES >> 20} MiB at most"),
    ("data.md", f"At most {MAX_TESTS} tests and {MAX_TEST_CHARS:,} characters of one problem"),
    ("data.md", "prose (more than seven words)" if MAX_PHRASE_WORDS == 7 else "?"),
    ("data.md", "at most three of them" if MAX_SOLUTIONS == 3 else "?"),
    ("verifiers.md", f"At most {MAX_JOBS:,} jobs of one client wait on a host"),
]


def text_of(page: str) -> str:
    return " ".join((DOCS / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_limits_on_a_page_are_those_of_the_code(page: str, sentence: str):
    assert sentence in text_of(page)


def test_every_verifier_is_on_the_page():
    first_table = (DOCS / "verifiers.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", first_table, flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(VERIFIERS)


def test_every_instruction_type_is_on_the_page():
    page = text_of("instructions.md")
    assert [name for name in (*RULES, *REFUSED) if f"`{name}`" not in page] == []
    assert [reason for reason in REFUSED.values() if reason not in page] == []
