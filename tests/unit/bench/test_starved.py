"""The bench of starved runs: its moves, its table, and the engine that sleeps."""

import asyncio

import pytest
from msgspec.structs import replace as replace_struct
from prolong.bench.sleeping_engine import EngineDevice, SleepingEngine
from prolong.bench.starved import HEALTHY, STARVED, Compared, made, move_of, table_of
from prolong.common.messages import UpdateWeights
from prolong.common.types import Manifest, Rendezvous, Ticket, TicketKind
from prolong.launch.diagnosis.diagnosis import BindingRoof, Diagnosis, Improvement

from tests.unit.buffer.scene import SAMPLING, prompt

DEVICE = EngineDevice(
    step_base_s=0.001, step_per_rollout_s=0.0, publish_s=0.001, pause_s=0.001, tokens_mean=20, tokens_spread=0.3
)


def move(part: str, *settings: str, gain: float = 1.5) -> Improvement:
    return Improvement(
        part=part, words="", settings=settings, gain=gain, steps_per_s=1.0, staleness_mean=0.0, binds_after="learner"
    )


def said_of(part: str, *moves: Improvement) -> Diagnosis:
    return Diagnosis(
        run="run",
        steps=20,
        wall_s=1.0,
        steps_per_s=1.0,
        sides=(),
        roof=BindingRoof(part=part, words="", evidence=(), shares={}),
        moves=moves,
        no_moves="" if moves else "it is too short",
        simulated_steps_per_s=1.0,
        simulated_part=part,
        findings=(),
    )


def test_a_move_changes_the_devices_as_it_says() -> None:
    assert made(HEALTHY, move("actors", "launch.actors=4")).actors == 4
    assert made(HEALTHY, move("staleness", "buffer.eta=7")).eta == 7
    assert made(HEALTHY, move("verifiers", "verifiers.workers=2")).workers == 2
    slow = STARVED["learner"]
    assert made(slow, move("learner")).learner.base_s == slow.learner.base_s / 2
    assert made(STARVED["weights"], move("weights", "weights.transport=pull")).engine.publish_s == 2.0


def test_the_move_that_is_made_is_the_best_one_of_the_part_that_was_named() -> None:
    moves = move("staleness", "buffer.eta=3"), move("verifiers"), move("verifiers", "verifiers.workers=2")
    assert move_of(said_of("verifiers", *moves)) is moves[2]
    assert move_of(said_of("staleness", *moves)) is moves[0]
    with pytest.raises(RuntimeError, match="it is too short"):
        move_of(said_of("staleness"))


def test_the_table_has_the_error_of_every_gain() -> None:
    row = Compared(
        cause="learner", named="actors", move="m", steps_per_s=1.0, simulated_steps_per_s=1.1,
        predicted_gain=2.2, measured_gain=2.0, best_move="actors 2.00",
    )  # fmt: skip
    assert row.error == pytest.approx(0.1)
    assert "+10.0%" in table_of([row])


def test_an_engine_that_sleeps_makes_whole_rollouts_whose_spans_follow_the_weights() -> None:
    async def scene() -> list[tuple[int, list[tuple[int, int]]]]:
        engine = SleepingEngine(DEVICE, most_running=4, max_tokens=64)
        engine.begin()
        nowhere = Rendezvous(transport="collective", address=b"")
        update = UpdateWeights(
            generation=1, version=5, epoch=0, member=0, num_members=1, rendezvous=nowhere, manifest=Manifest(buckets=[])
        )
        assert await engine.apply_weights(update, 1.0) == []
        ticket = Ticket(
            ordinal=1,
            kind=TicketKind.train,
            prompt=prompt(),
            sampling=replace_struct(SAMPLING, n=6, max_tokens=64),
            seed=3,
            generation=1,
            version=5,
            lease_s=9.0,
        )
        made: list[tuple[int, list[tuple[int, int]]]] = []
        async for index, completion in engine.generate(ticket):
            made.append((index, [(span.version, span.end - span.start) for span in completion.spans]))
            if len(made) == 1:
                await engine.apply_weights(replace_struct(update, version=6), 1.0)
        await engine.close()
        # six rollouts for four places: some had to wait, none is left
        assert engine.load.waiting > 0
        assert engine.num_unfinished == 0
        assert engine.paused_s == pytest.approx(0.002)
        return made

    made = asyncio.run(scene())
    assert sorted(index for index, _ in made) == list(range(6))
    assert made[0][1][0][0] == 5
    assert made[-1][1][-1][0] == 6
    lengths = [sum(tokens for _, tokens in spans) for _, spans in made]
    assert all(1 <= length <= 64 for length in lengths)
    assert len(set(lengths)) > 1
