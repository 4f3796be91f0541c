"""Signs of trouble in what was sampled and judged: constant answers, verifiers that fail. Rewards are learned from these."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from ...common.types import Group, Rollout, VerdictStatus
from .diagnosis import Finding
from .run_records import RunRecords
from .windows import StepWindow, held, windows_of

TAIL = 12  # tokens at the end of a completion that stand for its answer
CONSTANT = 0.8  # share of a task's rollouts with one and the same ending
MIN_PROMPTS, MIN_ROLLOUTS = 8, 32  # of a task: with fewer nothing can be said
MANY_NONE, MIN_VERDICTS = 0.05, 20  # verdicts without a reward, as a share; verdicts of a window
MANY_UNREAD = 0.5  # share of a task's rollouts in which no answer was found, or none that can be judged


def rollout_findings(run: RunRecords) -> list[Finding]:
    """What the rules of this page find."""
    by_task: dict[str, list[Group]] = defaultdict(list)
    # what is sampled now: the journal of a long run holds old groups as well, if it keeps its history
    for group in run.groups[len(run.groups) // 2 :]:
        by_task[f"{group.prompt.domain}/{group.prompt.task}"].append(group)
    found = [none_verdicts(run)]
    for task, groups in sorted(by_task.items()):
        found += [constant_answers(task, groups), unread_answers(task, groups)]
    return [finding for finding in found if finding is not None]


def none_verdicts(run: RunRecords) -> Finding | None:
    """Verifiers often give no reward: rollouts are dropped, perhaps those of one kind more than others."""
    none, all_ = (windows_of(run.records, f"actor/{name}") for name in ("none_verdicts", "verifiers/verdicts"))
    shares = [
        StepWindow(each.first, each.last, missing.value / each.value)
        for missing, each in zip(none, all_, strict=False)
        if each.value >= MIN_VERDICTS
    ]
    sign = held(shares, lambda window: window.value > MANY_NONE, lambda window: window.value)
    if sign is None:
        return None
    return Finding(
        rule="none_verdicts",
        title="Verifiers give no verdict",
        step=sign.step,
        last_step=sign.last_step,
        words=f"up to {sign.worst.value:.0%} of the verdicts had no reward, because a verifier took too long or failed",
        numbers={"none_share": sign.worst.value},
        advice="the actors' logs name verifier and reason. Give it more time (verifiers.timeout_s), "
        "or mend the verifier: prolong verifier --try FILE runs it by itself",
    )


def constant_answers(task: str, groups: Sequence[Group]) -> Finding | None:
    """Different prompts get the same answer: what is left when a reward can be had without the question."""
    endings = Counter(ending for group in groups for ending in map(_ending, group.rollouts))
    num_rollouts, num_prompts = sum(endings.values()), len({group.prompt.uid for group in groups})
    answers = len({group.prompt.answer for group in groups})
    if num_prompts < MIN_PROMPTS or num_rollouts < MIN_ROLLOUTS or answers < MIN_PROMPTS:
        return None
    ending, count = endings.most_common(1)[0]
    share = count / num_rollouts
    if share < CONSTANT:
        return None
    rewards = [rollout.verdict.reward or 0.0 for group in groups for rollout in group.rollouts if _ending(rollout) == ending]
    reward = sum(rewards) / len(rewards)
    return Finding(
        rule="constant_answers",
        title=f"Constant answers in {task}",
        step=_step(groups[0]),
        last_step=_step(groups[-1]),
        words=f"{share:.0%} of the rollouts of {num_prompts} prompts of {task} end with the same {TAIL} tokens, and earn "
        f"{reward:.2f} on the mean",
        numbers={"share": share, "prompts": float(num_prompts), "reward": reward},
        advice="a verifier that rewards this can be fooled: read the rollouts. Without a reward "
        "it is a policy that has collapsed: go back to an earlier checkpoint",
    )


def unread_answers(task: str, groups: Sequence[Group]) -> Finding | None:
    """The verifier finds no answer in most completions, or rejects them."""
    statuses = Counter(rollout.verdict.status for group in groups for rollout in group.rollouts)
    num_rollouts = sum(statuses.values())
    unread = statuses[VerdictStatus.no_answer] + statuses[VerdictStatus.input_rejected]
    if num_rollouts < MIN_ROLLOUTS or unread / num_rollouts < MANY_UNREAD:
        return None
    return Finding(
        rule="unread_answers",
        title=f"No answer found in {task}",
        step=_step(groups[0]),
        last_step=_step(groups[-1]),
        words=f"in {unread / num_rollouts:.0%} of {num_rollouts} rollouts of {task} the verifier found no answer to judge",
        numbers={"share": unread / num_rollouts, "rollouts": float(num_rollouts)},
        advice="say in the prompt how the answer is to be given; prolong data show prints what the model reads",
    )


def _ending(rollout: Rollout) -> bytes:
    return bytes(rollout.token_ids[-4 * TAIL :])


def _step(group: Group) -> int:
    """The step that starts from the version that sampled it last."""
    return max((span.version for rollout in group.rollouts for span in rollout.spans), default=0) + 1
