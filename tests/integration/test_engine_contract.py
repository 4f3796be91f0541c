"""The contract of `actor/engines/api.py`: what every engine must do with a ticket. test_weight_updates.py has the weights.

An engine that is added is added to `ENGINES` of conftest.py, and passes both files.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from prolong.actor.engines.completion import Completion
from prolong.actor.engines.registry import engine_class
from prolong.actor.handover import continued, ended_before, started_rollout
from prolong.common.config.choices import EngineKind
from prolong.common.config.sections import ActorConfig, ModelConfig
from prolong.common.errors import ModelError, ProlongError
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import FinishReason, Ticket, VersionSpan, float32_array, int32_array

from tests.support.engine_rig import EOS, PROMPT, Rig, differences

# the first test of each engine waits for its start
pytestmark = pytest.mark.timeout(600)


def token_ids(completion: Completion) -> list[int]:
    return int32_array(completion.token_ids).tolist()


def first_token_probabilities(rig: Rig, temperature: float) -> np.ndarray:
    """[V] exact distribution of the first token, by transformers."""
    rig.model.load_state_dict(rig.versions[rig.version], strict=False)
    with torch.no_grad():
        logits = rig.model(torch.tensor([PROMPT])).logits[0, -1]
    return torch.softmax(logits / temperature, -1).double().numpy()


def test_rollouts_of_a_ticket_differ_and_the_same_seed_gives_the_same_rollouts(any_rig: Rig):
    once, again, other = (any_rig.generate(seed=seed) for seed in (3, 3, 4))
    assert len({completion.token_ids for completion in once}) > 12
    assert [completion.token_ids for completion in once] == [completion.token_ids for completion in again]
    assert not {completion.token_ids for completion in once if completion.num_tokens > 3} & {
        completion.token_ids for completion in other
    }


def test_a_rollout_does_not_depend_on_what_else_is_in_flight(any_rig: Rig):
    """Exactly, but for rounding: sums over another batch may differ in the last bit, and turn a token once in a long while."""

    async def in_company() -> list[Completion]:
        others = [asyncio.create_task(any_rig.collect(any_rig.ticket(seed=50 + i, max_tokens=90))) for i in range(3)]
        await any_rig.until_unfinished(lambda num: num > 0)
        completions = await any_rig.collect(any_rig.ticket(seed=7))
        await asyncio.gather(*others)
        return completions

    alone = any_rig.generate(seed=7)
    together = any_rig.run(in_company())
    same = sum(one.token_ids == other.token_ids for one, other in zip(alone, together, strict=True))
    assert same >= 15


def test_rollouts_come_out_the_moment_they_end_not_when_the_group_does(any_rig: Rig):
    async def arrivals() -> list[tuple[int, int]]:
        seen = []
        async for _, completion in any_rig.engine.generate(any_rig.ticket(max_tokens=200)):
            seen.append((completion.num_tokens, any_rig.engine.num_unfinished))
        return seen

    lengths, running = zip(*any_rig.run(arrivals()), strict=True)
    # not sorted: vLLM hears of them one by one, and may make a step in between
    assert lengths[0] < lengths[-1]
    # how many depends on when this process gets a processor
    assert running[0] > 0
    assert list(running) == sorted(running, reverse=True)


def test_steps_are_counted_while_rollouts_are_unfinished(any_rig: Rig):
    async def steps() -> tuple[int, int, int]:
        first = await any_rig.engine.num_steps()
        completions = await any_rig.collect(any_rig.ticket(n=1, max_tokens=40))
        last = await any_rig.engine.num_steps()
        return max(completion.num_tokens for completion in completions), last - first, await any_rig.engine.num_steps() - last

    longest, counted, idle = any_rig.run(steps())
    assert longest <= counted <= longest + 3
    assert idle <= 1


def test_the_event_loop_goes_on_while_the_engine_generates(any_rig: Rig):
    async def turns_of_the_loop() -> int:
        collecting, turns = asyncio.create_task(any_rig.collect(any_rig.ticket(max_tokens=200))), 0
        while not collecting.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert any_rig.run(turns_of_the_loop()) > 20


def test_a_rollout_ends_with_the_stop_token_or_at_the_limit(any_rig: Rig):
    completions = [c for seed in range(4) for c in any_rig.generate(seed=seed, max_tokens=40)]
    reasons = {completion.finish_reason for completion in completions}
    assert reasons == {FinishReason.stop, FinishReason.length}
    for completion in completions:
        ids = token_ids(completion)
        assert EOS not in ids[:-1]
        assert (ids[-1] == EOS) == (completion.finish_reason is FinishReason.stop) or len(ids) == 40
        assert len(ids) == 40 or completion.finish_reason is FinishReason.stop
        assert len(float32_array(completion.behaviour_logprobs)) == len(ids)


def test_a_rollout_that_fills_the_context_ends_there(any_rig: Rig):
    completions = [c for seed in range(4) for c in any_rig.generate(seed=seed, max_tokens=256)]
    longest = max(completions, key=lambda completion: completion.num_tokens)
    assert longest.num_tokens == 256 - len(PROMPT)  # model.max_context of the rig
    assert longest.finish_reason is FinishReason.length


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampling_follows_the_models_distribution(any_rig: Rig, temperature: float):
    """First tokens of 1,024 rollouts against the exact distribution: the noise is neither biased nor shared."""
    completions = [c for seed in range(64) for c in any_rig.generate(seed=seed, max_tokens=1, temperature=temperature)]
    first = np.array([token_ids(completion)[0] for completion in completions])
    probabilities = first_token_probabilities(any_rig, temperature)
    for token, probability in enumerate(probabilities):
        deviation = (np.mean(first == token) - probability) / np.sqrt(probability * (1 - probability) / len(first))
        assert abs(deviation) < 4.5 or probability < 1e-3, (token, probability)
    drawn = np.array([float32_array(completion.behaviour_logprobs)[0] for completion in completions])
    assert np.allclose(np.exp(drawn), probabilities[first], rtol=1e-4)


@pytest.mark.parametrize(("temperature", "n"), [(1.0, 16), (1.4, 16), (0.5, 16), (0.0, 1)])
def test_behaviour_logprobs_are_those_of_a_forward_pass(any_rig: Rig, temperature: float, n: int):
    completions = any_rig.generate(seed=21, temperature=temperature, n=n)
    assert differences(any_rig, completions, temperature, any_rig.version).max() < 1e-4


def test_temperature_0_takes_the_most_probable_token_and_ignores_top_p(any_rig: Rig):
    (plain,) = any_rig.generate(n=1, temperature=0.0, max_tokens=20)
    (cut,) = any_rig.generate(n=1, temperature=0.0, max_tokens=20, top_p=0.3, seed=9)
    assert (plain.token_ids, plain.behaviour_logprobs) == (cut.token_ids, cut.behaviour_logprobs)
    assert token_ids(plain)[0] == int(first_token_probabilities(any_rig, 1.0).argmax())


def test_top_p_keeps_the_nucleus_and_renormalises_the_behaviour_logprobs(any_rig: Rig):
    probabilities = first_token_probabilities(any_rig, 1.0)
    order = np.argsort(-probabilities)
    nucleus = order[: int(np.searchsorted(np.cumsum(probabilities[order]), 0.5)) + 1]
    completions = [c for seed in range(32) for c in any_rig.generate(seed=seed, max_tokens=1, top_p=0.5)]
    first = np.array([token_ids(completion)[0] for completion in completions])
    assert set(first) == set(nucleus.tolist())
    renormalised = probabilities[first] / probabilities[nucleus].sum()
    drawn = np.array([float32_array(completion.behaviour_logprobs)[0] for completion in completions])
    assert np.allclose(np.exp(drawn), renormalised, rtol=1e-4)


@pytest.mark.parametrize("cut", ["top_k", "min_p"])
def test_top_k_and_min_p_cut_the_distribution_and_renormalise_the_behaviour_logprobs(any_rig: Rig, cut: str):
    probabilities = first_token_probabilities(any_rig, 0.7)
    kept = np.argsort(-probabilities)[:3]
    least = float(probabilities[kept[2]] / probabilities[kept[0]])
    settings = {"top_k": 3} if cut == "top_k" else {"min_p": 0.99 * least}
    completions = [c for seed in range(32) for c in any_rig.generate(seed=seed, max_tokens=1, temperature=0.7, **settings)]
    first = np.array([token_ids(completion)[0] for completion in completions])
    assert set(first) <= set(kept.tolist())
    assert len(set(first)) > 1
    drawn = np.array([float32_array(completion.behaviour_logprobs)[0] for completion in completions])
    assert np.allclose(np.exp(drawn), probabilities[first] / probabilities[kept].sum(), rtol=1e-4)


def test_a_text_ends_a_rollout_with_the_token_that_completes_it(any_rig: Rig):
    whole = any_rig.generate(seed=13, max_tokens=60)
    ids = token_ids(max(whole, key=lambda completion: completion.num_tokens))
    tokenizer = Tokenizer.load(any_rig.path)
    text = tokenizer.decode(ids[20:22])
    stopped = any_rig.generate(seed=13, max_tokens=60, stop=(text, "never seen"))
    ended = 0
    for before, after in zip(whole, stopped, strict=True):
        given = token_ids(before)
        end = next((n for n in range(1, len(given) + 1) if text in tokenizer.decode(given[:n])), None)
        if end is None:
            assert (after.token_ids, after.finish_reason) == (before.token_ids, before.finish_reason)
            continue
        ended += 1
        assert token_ids(after) == given[:end]
        assert after.finish_reason is FinishReason.stop
        assert after.behaviour_logprobs == before.behaviour_logprobs[: 4 * end]
        assert after.spans[-1].end == end
    assert ended > 0


def test_the_engine_counts_what_it_did(any_rig: Rig):
    any_rig.generate(n=1, max_tokens=5)
    before = dataclasses.replace(any_rig.engine.load)
    completions = any_rig.generate(seed=3, max_tokens=40)
    after = any_rig.engine.load
    assert after.tokens - before.tokens == sum(completion.num_tokens for completion in completions)
    steps = after.steps - before.steps
    assert steps >= max(completion.num_tokens for completion in completions)
    assert 1 < (after.running - before.running) / steps <= 16
    assert 0 <= (after.kv_use - before.kv_use) / steps < 1
    assert after.preemptions == before.preemptions


def test_a_cancelled_ticket_leaves_nothing_running_and_others_go_on(any_rig: Rig):
    async def scenario() -> int:
        doomed = asyncio.create_task(any_rig.collect(any_rig.ticket(max_tokens=200)))
        spared = asyncio.create_task(any_rig.collect(any_rig.ticket(max_tokens=60, seed=5)))
        await any_rig.until_unfinished(lambda num: num > 0)
        doomed.cancel()
        completions = await spared
        with pytest.raises(asyncio.CancelledError):
            await doomed
        await any_rig.until_unfinished(lambda num: num == 0)
        return len(completions)

    assert any_rig.run(scenario()) == 16


@pytest.mark.parametrize("sampling", [{"n": 1, "top_p": 2.0}, {"n": 2, "temperature": 0.0}, {"n": 1, "temperature": -1.0}])
def test_a_ticket_that_is_refused_is_an_error_and_the_engine_lives(any_rig: Rig, sampling: dict[str, float]):
    with pytest.raises(ProlongError, match=r"ticket \d+: "):
        any_rig.generate(**sampling)
    assert len(any_rig.generate(n=2)) == 2


@pytest.mark.parametrize("kind", EngineKind)
def test_a_model_that_is_not_there_is_a_model_error(tmp_path: Path, kind: EngineKind):
    model, actor = ModelConfig(path=str(tmp_path / "nowhere"), dtype="float32"), ActorConfig(engine=kind)
    with pytest.raises(ModelError, match=r"model\.path = .*nowhere"):
        asyncio.run(engine_class(kind).start(model, actor, 0, [EOS]))


# --- rollouts that are interrupted, and go on elsewhere ---------------------------------------------------------------


async def made_of(rig: Rig, ticket: Ticket) -> dict[int, Completion]:
    return {index: completion async for index, completion in rig.engine.generate(ticket)}


async def interrupted(rig: Rig, ticket: Ticket) -> dict[int, Completion]:
    """The ticket's completions by index, interrupted once others that began at the same time have a few tokens.

    How many more they get by then depends on when this process gets a processor.
    """
    made = asyncio.create_task(made_of(rig, ticket))
    await rig.collect(rig.ticket(n=4, max_tokens=8))
    await rig.engine.interrupt()
    return await made


def handed_over(ticket: Ticket, completions: dict[int, Completion], actor: str = "first") -> Ticket:
    """The ticket as another actor gets it from `actor`."""
    begun = {rollout.index: rollout for rollout in ticket.started}
    wholes = ended_before(ticket)
    wholes |= {index: continued(begun.get(index), completion) for index, completion in completions.items()}
    started = [started_rollout(index, whole, None, actor) for index, whole in wholes.items() if whole.num_tokens]
    return msgspec.structs.replace(ticket, started=started)


async def go_on(rig: Rig, ticket: Ticket) -> list[Completion]:
    """All completions of a ticket that was handed over, whole, in the order of their seeds."""
    begun = {rollout.index: rollout for rollout in ticket.started}
    wholes = ended_before(ticket)
    async for index, completion in rig.engine.generate(ticket):
        assert index in ticket.unfinished()
        wholes[index] = continued(begun.get(index), completion)
    assert sorted(wholes) == list(range(ticket.sampling.n))
    return [wholes[index] for index in sorted(wholes)]


def test_an_interrupted_rollout_goes_on_as_if_it_had_never_been_interrupted(any_rig: Rig):
    """Interrupted twice: exactly the tokens of a rollout that one engine made, but for rounding."""
    rig, ticket = any_rig, any_rig.ticket(seed=41, max_tokens=200)
    alone = rig.run(rig.collect(ticket))
    first = rig.run(interrupted(rig, ticket))
    assert sorted(first) == list(range(16))
    aborted = {index: whole for index, whole in first.items() if whole.finish_reason is FinishReason.abort}
    assert aborted
    for index, completion in aborted.items():
        assert len(float32_array(completion.behaviour_logprobs)) == completion.num_tokens > 0
        assert completion.spans[-1].end == completion.num_tokens
        assert completion.num_tokens < alone[index].num_tokens
    rig.run(rig.until_unfinished(lambda num: num == 0))
    second = handed_over(ticket, first)
    assert set(second.unfinished()) == set(aborted)
    third = handed_over(second, rig.run(interrupted(rig, second)), "second")
    together = rig.run(go_on(rig, third))
    assert sum(one.token_ids == other.token_ids for one, other in zip(alone, together, strict=True)) >= 15
    assert [one.finish_reason for one in alone] == [other.finish_reason for other in together]
    assert differences(rig, together, 1.0, rig.version).max() < 1e-4
    assert ["first", "second", ""] in [[span.actor for span in completion.spans] for completion in together]


def test_a_rollout_goes_on_under_other_weights_and_is_right_on_both_sides_of_the_seam(any_rig: Rig):
    rig, ticket = any_rig, any_rig.ticket(seed=43, max_tokens=200, temperature=0.8)
    before = rig.version
    second = handed_over(ticket, rig.run(interrupted(rig, ticket)))
    rig.run(rig.push(before + 1))
    together = rig.run(go_on(rig, second))
    behind_under_the_weights_before = []
    for index in second.unfinished():
        completion, behaviour = together[index], float32_array(together[index].behaviour_logprobs)
        first, behind = completion.spans
        assert (first.version, first.actor, behind.version, behind.actor) == (before, "first", before + 1, "")
        assert 0 == first.start < first.end == behind.start < behind.end == completion.num_tokens
        for span in completion.spans:
            apart = np.abs(rig.recompute(completion, 0.8, span.version) - behaviour)[span.start : span.end]
            assert apart.max() < 1e-4
        behind_under_the_weights_before.append(np.abs(rig.recompute(completion, 0.8, before) - behaviour)[behind.start :])
    assert np.concatenate(behind_under_the_weights_before).mean() > 0.1


def test_a_text_ends_a_rollout_across_the_seam(any_rig: Rig):
    tokenizer = Tokenizer.load(any_rig.path)
    ids = token_ids(max(any_rig.generate(seed=13, max_tokens=60), key=lambda completion: completion.num_tokens))
    ticket = any_rig.ticket(seed=13, max_tokens=60, stop=(tokenizer.decode(ids[20:22]),))
    whole = any_rig.run(any_rig.collect(ticket))
    stopped = [i for i, completion in enumerate(whole) if completion.finish_reason is FinishReason.stop]
    ended = [i for i in stopped if token_ids(whole[i])[-2:] == ids[20:22]]
    assert ended
    cut = {
        index: Completion(
            token_ids=completion.token_ids[:-4],
            behaviour_logprobs=completion.behaviour_logprobs[:-4],
            spans=[VersionSpan(version=any_rig.version, start=0, end=completion.num_tokens - 1)],
            finish_reason=FinishReason.abort,
        )
        for index, completion in enumerate(whole)
    }
    together = any_rig.run(go_on(any_rig, handed_over(ticket, cut)))
    for index in ended:
        assert token_ids(together[index]) == token_ids(whole[index])
        assert together[index].finish_reason is FinishReason.stop


def test_a_rollout_without_room_for_another_token_ends_at_once_and_one_that_ended_is_not_made_again(any_rig: Rig):
    ticket = any_rig.ticket(n=3, seed=2, max_tokens=251)
    sampled = any_rig.generate(n=1, seed=5, max_tokens=30)[0]
    full = Completion(
        token_ids=np.full(251, 3, "<i4").tobytes(),
        behaviour_logprobs=bytes(4 * 251),
        spans=[VersionSpan(version=any_rig.version, start=0, end=251)],
        finish_reason=FinishReason.abort,
    )
    begun = handed_over(ticket, {0: full, 1: sampled})
    made = any_rig.run(made_of(any_rig, begun))
    assert sorted(made) == [0, 2]
    assert (made[0].num_tokens, made[0].spans, made[0].finish_reason) == (0, [], FinishReason.length)
    assert token_ids(made[2]) == token_ids(any_rig.generate(n=3, seed=2, max_tokens=251)[2])
    nothing_left = handed_over(any_rig.ticket(n=1), {0: sampled})
    assert any_rig.run(made_of(any_rig, nothing_left)) == {}


def test_an_engine_that_was_interrupted_generates_as_before(any_rig: Rig):
    before = any_rig.generate(seed=3, n=4)

    async def collect(seed: int, into: dict[int, Completion]) -> None:
        async for index, completion in any_rig.engine.generate(any_rig.ticket(seed=seed, max_tokens=200)):
            into[index] = completion

    async def scenario() -> None:
        made: list[dict[int, Completion]] = [{} for _ in range(6)]
        tasks = [asyncio.create_task(collect(seed, into)) for seed, into in enumerate(made)]
        # all have begun; some may have ended
        await any_rig.until_unfinished(lambda num: num + sum(map(len, made)) == 6 * 16)
        await any_rig.engine.interrupt()
        await asyncio.gather(*tasks)
        for completions in made:
            reasons = [completion.finish_reason for completion in completions.values()]
            assert len(reasons) == 16
            assert FinishReason.abort in reasons

    any_rig.run(scenario())
    assert any_rig.engine.num_unfinished == 0
    assert [c.token_ids for c in any_rig.generate(seed=3, n=4)] == [c.token_ids for c in before]
