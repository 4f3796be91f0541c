"""Signs of trouble in the numbers of the steps: what a long run shows before it stops to learn. Each rule is one function.

The thresholds are rules of thumb from what reports of long runs describe (ProRL, arXiv 2507.12507; DAPO, arXiv 2503.14476),
wide enough that a healthy run keeps quiet. A finding says what was seen; it does not prove that something is wrong.
"""

from __future__ import annotations

from statistics import median

from ...common.metrics import MetricsRecord
from .diagnosis import Finding
from .run_records import RunRecords
from .windows import StepWindow, held, noise_of, windows_of

LOW_ENTROPY, LOST_ENTROPY = 0.1, 0.25  # nats a token; share of what the run began with
SOLVED = 0.9  # mean reward or score above which little is left to learn
HIGH_KL = 0.3  # nats a token
LOW_ESS = 0.5  # effective sample size of a step's tokens, as a share
POINTS = 5  # scores without progress that make a plateau
LONGER, SHORTER = 2.0, 0.4  # mean length beside that at the start
GAINED = 0.02  # of reward: less is no gain
MANY_CUT = 0.3  # share of completions that reach the limit
MANY_DROPPED = 0.6  # share of finished groups whose rewards were all equal
GRADIENT_GROWTH = 10.0  # times the median of the run
LEAST_NORMS = 20  # steps before a gradient can be called unusual
LOST_LONG = 0.8  # survival of the longest tenth, beside the shortest one
APART = 0.05  # by which training rewards rise while held-out scores fall


def learning_findings(run: RunRecords) -> list[Finding]:
    """What the rules of this page find."""
    found = [rule(run) for rule in RULES]
    return [finding for finding in found if finding is not None]


def entropy_collapse(run: RunRecords) -> Finding | None:
    """The policy has become nearly deterministic, and the task is not solved."""
    windows, rewards = windows_of(run.records, "learner/entropy"), windows_of(run.records, "reward/mean")
    if len(windows) < 2 or not rewards or rewards[-1].value >= SOLVED:
        return None
    limit = min(LOW_ENTROPY, LOST_ENTROPY * windows[0].value)
    sign = held(windows, lambda window: window.value < limit, lambda window: -window.value)
    if sign is None:
        return None
    settings = ["objective.entropy_target=0.2"] if run.cfg.objective.entropy_target == 0 else []
    return Finding(
        rule="entropy_collapse",
        title="Entropy collapse",
        step=sign.step,
        last_step=sign.last_step,
        words=f"entropy fell from {windows[0].value:.2f} to {sign.worst.value:.3f} nats a token, with rewards at "
        f"{rewards[-1].value:.2f}: rollouts of one prompt are nearly the same, and nothing new is tried",
        numbers={"entropy_first": windows[0].value, "entropy": sign.worst.value, "reward": rewards[-1].value},
        advice="let rare tokens grow (objective.clip_high above clip_low), hold the entropy up, sample warmer, or reset the "
        "reference and raise its weight (prolong reset, objective.kl_beta)",
        settings=(*settings, *(["objective.clip_high=0.4"] if run.cfg.objective.clip_high < 0.28 else [])),
    )


def kl_alarm(run: RunRecords) -> Finding | None:
    """The policy stays far from its reference."""
    windows = [window for window in windows_of(run.records, "reference/kl") if window.value > 0]
    sign = held(windows, lambda window: window.value > HIGH_KL, lambda window: window.value)
    if sign is None:
        return None
    usual = median(window.value for window in windows)
    return Finding(
        rule="kl_alarm",
        title="Far from the reference",
        step=sign.step,
        last_step=sign.last_step,
        words=f"the mean KL to the reference reached {sign.worst.value:.2f} nats a token around step {sign.worst.last}; half "
        f"of the run was below {usual:.3f}",
        numbers={"kl": sign.worst.value, "kl_median": usual},
        advice="let a reset follow the policy when it is far away (reference.kl_above), or reset now with prolong reset; if "
        "rewards fall as well, lower learner.lr",
        settings=(f"reference.kl_above={HIGH_KL}",) if run.cfg.reference.kl_above == 0 else (),
    )


def stale_data(run: RunRecords) -> Finding | None:
    """Few tokens carry the update: those that train it are too far from the policy."""
    windows = windows_of(run.records, "policy/ess")
    sign = held(windows, lambda window: window.value < LOW_ESS, lambda window: -window.value)
    if sign is None:
        return None
    eta = run.cfg.buffer.eta
    return Finding(
        rule="stale_data",
        title="Data far from the policy",
        step=sign.step,
        last_step=sign.last_step,
        words=f"the effective sample size fell to {sign.worst.value:.2f} of a step's tokens: a few of them outweigh the rest",
        numbers={"ess": sign.worst.value, "eta": float(eta)},
        advice="a smaller eta, fewer updates a batch (learner.minibatches), or a smaller learner.lr; docs/staleness.md",
        settings=(f"buffer.eta={eta - 1}",) if eta > 0 else (),
    )


def score_windows(records: list[MetricsRecord]) -> tuple[str, list[StepWindow]]:
    """The held-out scores, one for each sweep; of a run without any, means of the training rewards."""
    for name in ("validation/sampled/mean", "validation/greedy/mean"):
        points = [StepWindow(int(r["step"]), int(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
        if len(points) > POINTS:
            return name, points
    return "reward/mean", windows_of(records, "reward/mean")


def plateau(run: RunRecords) -> Finding | None:
    """No better score for a third of the run, and at least POINTS of them."""
    name, scores = score_windows(run.records)
    values = [score.value for score in scores]
    if len(scores) < 2 * POINTS:
        return None
    noise, reached = noise_of(values), values[0]
    since = 0
    for index, value in enumerate(values):
        if value > reached + noise:
            reached, since = value, index
    waited = len(values) - 1 - since
    if waited < max(POINTS, len(values) // 3) or reached >= SOLVED:
        return None
    triggers = run.cfg.reference
    return Finding(
        rule="plateau",
        title="Plateau",
        step=scores[since].last,
        last_step=scores[-1].last,
        words=f"{name} has not risen by more than its noise ({noise:.3f}) since step {scores[since].last}, where it was "
        f"{values[since]:.3f}; it is {values[-1]:.3f} now, {waited} scores later",
        numbers={"score": values[-1], "reached": values[since], "noise": noise, "scores_since": float(waited)},
        advice="reset the reference (docs/prolonged.md), bring new prompts or a harder mixture, more rollouts a prompt "
        "(sampling.n), longer answers (sampling.max_tokens); or end the run here",
        settings=("reference.plateau=3",) if triggers.plateau == 0 and run.cfg.objective.kl_beta > 0 else (),
    )


def length_change(run: RunRecords) -> Finding | None:
    """Answers have become much longer, or much shorter, and rewards no better."""
    lengths, rewards = windows_of(run.records, "rollout/tokens_mean"), windows_of(run.records, "reward/mean")
    if len(lengths) < 3 or len(rewards) != len(lengths):
        return None
    first, gained = lengths[0].value, rewards[-1].value - rewards[0].value

    def is_other(window: StepWindow) -> bool:
        return not SHORTER * first < window.value < LONGER * first

    sign = held(lengths, is_other, lambda window: abs(window.value - first))
    if sign is None or gained > GAINED or not is_other(lengths[-1]):
        return None
    grew = lengths[-1].value > first
    advice = (
        "shape rewards by length (rewards.overlong_share), or look whether wrong answers are what grows: docs/recipe.md"
        if grew
        else "look at rollouts: short answers that are rewarded, or an answer without the reasoning before it"
    )
    return Finding(
        rule="length_blow_up" if grew else "length_collapse",
        title="Answers get longer, not better" if grew else "Answers get shorter, not better",
        step=sign.step,
        last_step=sign.last_step,
        words=f"completions went from {first:.0f} to {lengths[-1].value:.0f} tokens, the mean reward changed by {gained:+.3f}",
        numbers={"tokens_first": first, "tokens": lengths[-1].value, "reward_change": gained},
        advice=advice,
        settings=("rewards.overlong_share=0.2",) if grew and run.cfg.rewards.overlong_share == 0 else (),
    )


def cut_answers(run: RunRecords) -> Finding | None:
    """Many completions reach their limit, and earn nothing for what they would have said."""
    windows = windows_of(run.records, "rollout/truncated")
    sign = held(windows, lambda window: window.value > MANY_CUT, lambda window: window.value)
    if sign is None:
        return None
    limit = run.cfg.sampling.max_tokens
    return Finding(
        rule="cut_answers",
        title="Answers are cut",
        step=sign.step,
        last_step=sign.last_step,
        words=f"up to {sign.worst.value:.0%} of the completions reach sampling.max_tokens = {limit}",
        numbers={"truncated": sign.worst.value, "max_tokens": float(limit)},
        advice="a larger limit, if the context and the memory allow it (prolong plan memory); or rewards that shape lengths",
        settings=(f"sampling.max_tokens={2 * limit}",) if 2 * limit < run.cfg.model.max_context else (),
    )


def no_signal(run: RunRecords) -> Finding | None:
    """Most groups are dropped, because their rewards are all equal."""
    batch = run.cfg.buffer.batch_groups
    windows = [
        StepWindow(window.first, window.last, window.value / (window.value + batch))
        for window in windows_of(run.records, "buffer/filtered")
    ]
    sign = held(windows, lambda window: window.value > MANY_DROPPED, lambda window: window.value)
    if sign is None:
        return None
    rewards = windows_of(run.records, "reward/mean")
    return Finding(
        rule="no_signal",
        title="Groups without signal",
        step=sign.step,
        last_step=sign.last_step,
        words=f"up to {sign.worst.value:.0%} of the finished groups were dropped, because all their rollouts earned the same; "
        f"the mean reward of the others is {rewards[-1].value if rewards else 0.0:.2f}",
        numbers={"dropped": sign.worst.value},
        advice="prompts that the policy solves sometimes: other files or weights of data.train, or more rollouts a prompt "
        "(sampling.n)",
    )


def rewards_without_skill(run: RunRecords) -> Finding | None:
    """Training rewards rise while held-out scores fall: the policy learns the verifier, or the prompts, and not the task."""
    name, scores = score_windows(run.records)
    rewards = windows_of(run.records, "reward/mean")
    if not name.startswith("validation/") or len(rewards) < 4:
        return None
    half = len(scores) // 2
    best = max(scores[: half + 1], key=lambda score: score.value)
    later = [score for score in scores if score.last > best.last]
    fallen = best.value - (sum(score.value for score in later) / len(later) if later else best.value)
    before = [window.value for window in rewards if window.last <= best.last] or [rewards[0].value]
    risen = rewards[-1].value - before[-1]
    if risen < APART or fallen < max(APART, 2 * noise_of([score.value for score in scores])):
        return None
    return Finding(
        rule="rewards_without_skill",
        title="Rewards rise, scores fall",
        step=best.last,
        last_step=scores[-1].last,
        words=f"since step {best.last} training rewards rose by {risen:.2f}, and {name} fell by {fallen:.2f}",
        numbers={"reward_risen": risen, "score_fallen": fallen, "score_best": best.value},
        advice="read rollouts with high rewards: the verifier may reward what it should not; or there are too few prompts, and "
        "they are learned by heart",
    )


def wild_gradients(run: RunRecords) -> Finding | None:
    """Updates that were skipped because of numbers that are not finite, or gradients far above the usual ones."""
    norms = [(int(r["step"]), float(r["learner/grad_norm"])) for r in run.records if r.get("learner/grad_norm") is not None]
    skipped = [int(r["step"]) for r in run.records if (r.get("learner/skipped") or 0.0) > 0]
    if len(norms) < LEAST_NORMS:
        return None
    usual = median(norm for _, norm in norms)
    wild = [(step, norm) for step, norm in norms if norm > GRADIENT_GROWTH * usual > 0]
    if not skipped and len(wild) < 2:
        return None
    steps = sorted([step for step, _ in wild] + skipped[:1])
    largest = max((norm for _, norm in wild), default=usual)
    count = max((float(record.get("learner/skipped") or 0.0) for record in run.records), default=0.0)
    return Finding(
        rule="wild_gradients",
        title="Wild gradients",
        step=steps[0],
        last_step=steps[-1],
        words=f"{count:.0f} updates were skipped because of numbers that are not finite; {len(wild)} gradients were more than "
        f"{GRADIENT_GROWTH:.0f} times the usual norm of {usual:.2g}, up to {largest:.2g}",
        numbers={"skipped": count, "grad_norm": largest, "grad_norm_median": usual},
        advice="a smaller learner.lr or learner.grad_clip, or bound the weights of stale tokens (objective.truncation)",
        settings=(f"learner.lr={run.cfg.learner.lr / 2:g}",),
    )


def long_answers_lost(run: RunRecords) -> Finding | None:
    """The bound on staleness drops long answers more often than short ones, which biases what is learned."""
    shortest, longest = (windows_of(run.records, f"buffer/survival_d{decile}") for decile in (0, 9))
    pairs = [
        StepWindow(long.first, long.last, long.value / max(short.value, 1e-9))
        for short, long in zip(shortest, longest, strict=False)
    ]
    sign = held(pairs, lambda window: window.value < LOST_LONG, lambda window: -window.value)
    if sign is None:
        return None
    return Finding(
        rule="long_answers_lost",
        title="Long answers are lost",
        step=sign.step,
        last_step=sign.last_step,
        words=f"groups with the longest tenth of answers are trained {sign.worst.value:.0%} as often as the shortest",
        numbers={"survival_ratio": sign.worst.value},
        advice="wait for stragglers in place of dropping them, or a larger eta: docs/staleness.md",
        settings=("buffer.straggler=wait",) if run.cfg.buffer.straggler.name != "wait" else (),
    )


RULES = (
    entropy_collapse,
    kl_alarm,
    stale_data,
    plateau,
    length_change,
    cut_answers,
    no_signal,
    rewards_without_skill,
    wild_gradients,
    long_answers_lost,
)
