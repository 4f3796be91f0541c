"""An actor that the buffer refuses: from the buffer's answer to the exit code."""

from __future__ import annotations

from collections import Counter

import pytest
from prolong.buffer.client.session import Session
from prolong.buffer.core.peers import Peers, refuse_hello
from prolong.common.messages import PROTOCOL_VERSION, Hello, Role
from prolong.launch.entry import exit_code_of


def test_an_actor_with_another_tokenizer_is_refused_with_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]):
    hello = Hello(role=Role.actor, name="b", protocol=PROTOCOL_VERSION, tokenizer="of the actor", host="h", pid=1)
    refused = refuse_hello(hello, Peers(), "of the run", 1)
    assert refused is not None
    session = Session(hello, "tcp://there:1", 0.0, 5.0, Counter())
    session.connected(0.0)
    session.tick(0.0)
    session.receive(refused, 0.1)
    assert session.ended is not None
    ended = session.ended

    def work() -> int:
        raise ended

    assert exit_code_of("actor", work) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("prolong actor: ")
    assert "tokenizer" in sentence
    assert "of the actor" in sentence
    assert "of the run" in sentence
