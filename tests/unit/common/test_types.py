"""Statuses and settings are enums with the texts of earlier versions, which journals hold."""

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from prolong.common.types import (
    Prompt,
    Sampling,
    Ticket,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    float32_array,
    int32_array,
    rollout_seed,
)


def verdict(status: Any) -> bytes:
    return msgspec.msgpack.encode({"reward": None, "status": status, "verifier": "v", "seconds": 0.0})


@pytest.mark.parametrize("text", ["ok", "no_answer", "truncated", "timeout", "crash", "input_rejected"])
def test_the_statuses_of_earlier_versions_are_read_and_written_as_they_were(text: str) -> None:
    read = msgspec.msgpack.decode(verdict(text), type=Verdict)
    assert read.status is VerdictStatus(text)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(read))["status"] == text


def test_a_status_that_a_users_verifier_chose_is_read_as_custom() -> None:
    assert msgspec.msgpack.decode(verdict("half right"), type=Verdict).status is VerdictStatus.custom
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(verdict(7), type=Verdict)


def test_a_training_ticket_has_no_validation_setting_and_writes_an_empty_text() -> None:
    ticket = Ticket(
        ordinal=0,
        kind=TicketKind.train,
        prompt=Prompt(uid="u", domain="d", task="t", text="x", token_ids=b"", verifier="v"),
        sampling=Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=1),
        seed=1,
        generation=1,
        version=0,
        lease_s=1.0,
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ticket))["setting"] == ""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ticket), type=Ticket) == ticket
    assert [setting.value for setting in ValidationSetting] == ["sampled", "greedy", ""]


def test_the_sampling_of_earlier_versions_is_read_and_written_as_it_was() -> None:
    earlier = {"n": 2, "temperature": 0.5, "top_p": 1.0, "max_tokens": 8}
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(earlier), type=Sampling)
    assert (read.top_k, read.min_p, read.stop, read.is_cut) == (0, 0.0, (), False)
    assert msgspec.msgpack.encode(read) == msgspec.msgpack.encode(earlier)
    cut = msgspec.structs.replace(read, top_k=20, min_p=0.1, stop=("</a>",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(cut), type=Sampling) == cut
    assert cut.is_cut


def test_arrays_are_viewed_as_little_endian() -> None:
    assert int32_array(b"\1\0\0\0\xff\xff\xff\xff").tolist() == [1, -1]
    assert float32_array(np.float32(-0.5).tobytes()).tolist() == [-0.5]


def test_seeds_are_consecutive_in_a_ticket_and_far_apart_between_tickets() -> None:
    assert [rollout_seed(5, index) - rollout_seed(5, 0) for index in range(3)] == [0, 1, 2]
    firsts = sorted(rollout_seed(seed, 0) for seed in range(50))
    assert min(later - first for first, later in itertools.pairwise(firsts)) > 1000
