"""Rules over rollouts and verdicts: constant answers, answers that no verifier can read, verifiers that fail."""

import numpy as np
from msgspec.structs import replace
from prolong.common.types import Group, Prompt, Rollout, Ticket, TicketKind, VerdictStatus
from prolong.launch.diagnosis.diagnosis import Finding
from prolong.launch.diagnosis.rollout_rules import rollout_findings
from prolong.launch.diagnosis.run_records import RunRecords

from tests.support.recorded_steps import planned_config
from tests.unit.buffer.scene import SAMPLING, prompt, rollout

ENDING = [7] * 12


def answered(tokens: list[int], *, reward: float = 1.0, status: VerdictStatus = VerdictStatus.ok) -> Rollout:
    plain = rollout(3, reward=reward, tokens=len(tokens))
    ids = np.asarray(tokens, dtype="<i4").tobytes()
    return replace(plain, token_ids=ids, verdict=replace(plain.verdict, status=status))


def group(number: int, rollouts: list[Rollout], *, answer: str = "") -> Group:
    asked: Prompt = replace(prompt(number), answer=answer or f'{{"answer": "{number}"}}')
    ticket = Ticket(
        ordinal=number, kind=TicketKind.train, prompt=asked, sampling=SAMPLING, seed=0, generation=1, version=3, lease_s=9.0
    )
    return Group.for_ticket(ticket, rollouts, actor="a", seconds=1.0)


def found_in(groups: list[Group], records: list[dict] | None = None) -> list[Finding]:
    # the first half is what was sampled earlier
    return rollout_findings(RunRecords(name="run", cfg=planned_config(), records=records or [], groups=groups + groups))


def varied(number: int, place: int) -> Rollout:
    return answered([number, place, *range(12)] if place % 2 else [*range(12), number, place])


def test_different_answers_keep_every_rule_quiet() -> None:
    assert found_in([group(number, [varied(number, place) for place in range(8)]) for number in range(10)]) == []
    assert found_in([]) == []


def test_one_answer_to_every_prompt_is_found_with_what_it_earns() -> None:
    groups = [
        group(number, [answered([number, place, *ENDING], reward=place % 2) for place in range(8)]) for number in range(10)
    ]
    (found,) = found_in(groups)
    assert found.rule == "constant_answers"
    assert found.numbers == {"share": 1.0, "prompts": 10.0, "reward": 0.5}
    assert found.step == 4
    assert "math/sum" in found.title


def test_one_answer_is_no_sign_where_it_is_the_right_one() -> None:
    # yes or no: few answers, few endings
    groups = [group(number, [answered([number, *ENDING])] * 8, answer='{"answer": "yes"}') for number in range(10)]
    assert found_in(groups) == []


def test_answers_that_no_verifier_can_read_are_found() -> None:
    unread = [VerdictStatus.no_answer, VerdictStatus.no_answer, VerdictStatus.input_rejected, VerdictStatus.ok]
    groups = [
        group(number, [answered([number, place, *range(place)], status=unread[place]) for place in range(4)])
        for number in range(10)
    ]
    (found,) = found_in(groups)
    assert found.rule == "unread_answers"
    assert found.numbers["share"] == 0.75


def test_verdicts_without_a_reward_are_found_by_their_share() -> None:
    records = [
        {"step": step, "actor/none_verdicts": 0.0 if step <= 50 else 10.0, "actor/verifiers/verdicts": 100.0}
        for step in range(1, 101)
    ]
    (found,) = found_in([], records)
    assert found.rule == "none_verdicts"
    assert found.step == 60
    assert found.numbers["none_share"] == 0.1
