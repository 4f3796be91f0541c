"""A real buffer under hostile frames: it lives, keeps its memory and its count, and its actor and learner go on working.

PROLONG_SOAK=1 sends ten times as many.
"""

import os
from pathlib import Path

import pytest
import zmq
from prolong.common import messages as m
from prolong.common.config.sections import Config
from prolong.common.transport.wire import encode

from tests.support.attack import Hostile, Memory, Pair, assert_sound
from tests.support.buffer_process import BufferProcess, make_config
from tests.support.fuzzing import Fuzzer, bombs, sealed

SCALE = 10 if os.environ.get("PROLONG_SOAK") else 1
MALFORMED = 100_000 * SCALE
ABSURD = 10_000 * SCALE
LIMIT_MB = 16
LIMIT = LIMIT_MB << 20


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    # silent ones are forgotten soon, and nobody is taken for silent that has to wait for a busy machine
    return make_config(tmp_path, steps=1_000_000, max_message_mb=LIMIT_MB, silence_s=3.0)


@pytest.fixture
def buffer(cfg: Config):
    with BufferProcess(cfg) as process:
        yield process


@pytest.fixture
def hostile(cfg: Config, buffer: BufferProcess):
    with zmq.Context() as context:
        yield Hostile(context, cfg, buffer.address, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(240 * SCALE)
def test_malformed_frames_are_all_counted_and_cost_nothing_but_time(cfg, buffer, hostile):
    with Pair(cfg, buffer.address) as pair:
        pair.wait_for(20)
        memory, before = Memory(buffer.process.pid), pair.num_batches
        for _ in range(10):
            hostile.send_malformed(MALFORMED // 10)
        assert pair.num_batches > before, "nobody else was served meanwhile"
        pair.wait_for(5)
        status = hostile.status()
        assert_sound(buffer, status)
        assert hostile.num_sent == MALFORMED
        assert status.counters["buffer/rejected_frames"] == MALFORMED
        assert "buffer/quarantines" not in status.counters
        assert set(status.peers) <= {"actor-0", "learner"}
        assert memory.growth() <= 2 * LIMIT


@pytest.mark.slow
@pytest.mark.timeout(120 * SCALE)
def test_absurd_messages_of_strangers_actors_and_observers_harm_nobody(cfg, buffer, hostile):
    with Pair(cfg, buffer.address) as pair:
        pair.wait_for(20)
        memory = Memory(buffer.process.pid)
        status = hostile.status()
        for number in range(ABSURD // 50):
            role = (None, m.Role.actor, m.Role.observer)[number % 3]
            greeting = [] if role is None else [encode(hostile.hello(role, f"rogue {number}"))]
            status = hostile.send_from_one([*greeting, *(hostile.fuzzer.absurd() for _ in range(50))])
            assert_sound(buffer, status)
        pair.wait_for(5)
        assert "buffer/rejected_frames" not in status.counters, "absurd frames are well-formed"
        assert status.counters["buffer/misplaced_messages"] > 0
        assert memory.growth() <= 2 * LIMIT


@pytest.mark.slow
@pytest.mark.timeout(120 * SCALE)
def test_after_an_absurd_learner_the_right_one_works(cfg, buffer, hostile):
    for number in range(ABSURD // 50):
        generation = hostile.status().generation
        greeting = hostile.hello(m.Role.learner, version=number % 3, generation=generation - number % 2)
        share = 0.05 * (number % 6)  # of the fields that are absurd; the rest fits the run
        learner = Fuzzer(number, hostile.as_learner(generation), LIMIT)
        frames = [learner.absurd(share) for _ in range(49)]
        assert_sound(buffer, hostile.send_from_one([encode(greeting), *frames]))
    with Pair(cfg, buffer.address) as pair:
        pair.wait_for(5)


@pytest.mark.slow
def test_the_largest_frames_cost_no_more_than_two_of_them(cfg, buffer, hostile):
    """One that is read, which nobody copies, and one that arrives."""
    size = LIMIT - (1 << 20)
    large = bombs(size) | {"noise": bytes(size), "sealed noise": sealed(bytes(size))}
    with Pair(cfg, buffer.address) as pair:
        pair.wait_for(20)
        memory = Memory(buffer.process.pid)
        growth = {}
        for name, frame in large.items():
            assert size // 2 < len(frame) <= LIMIT
            assert_sound(buffer, hostile.send_from_one([frame]))
            growth[name] = memory.growth() >> 20  # MB, of this frame and those before it
        assert_sound(buffer, hostile.send_from_one([bytes(LIMIT + 1)] * 5))  # refused before memory is taken for it
        growth["too large"] = memory.growth() >> 20
        pair.wait_for(5)
        assert max(growth.values()) <= 2 * LIMIT_MB, growth
