"""Whether sampler and learner give the same tokens the same log-probabilities.

Compared are the tokens of a batch that the policy at its start has sampled itself (staleness 0), before it changes: rollouts
carry the sampler's log-probabilities, and the step computes the learner's in any case. The two may differ by rounding alone.
A generation begins with such a batch, because every rollout of it is of the version that the learner published first; later
batches have such tokens as far as groups are trained by the version that sampled them.

Left out: groups that were cut (top_p, top_k, min_p), whose log-probabilities are of another distribution, and, where the cache
of keys and values survives new weights (actor.clear_kv=false), rollouts that met new weights on their way.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ...common.errors import PolicyMismatch
from ...common.types import Group, Rollout
from .ratios import exp_ratio

# Mean |difference| of log-probabilities, in nats, above which a run stops; `prolong bench architectures` measures it
# (docs/architectures.md).
TOLERANCE = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.05}
# fewer tokens are no evidence
LEAST_TOKENS = 32
PREFIX = "agreement/"
GAP, KL, ESS, TOKENS = f"{PREFIX}logprob_gap", f"{PREFIX}kl", f"{PREFIX}ess", f"{PREFIX}tokens"


def comparable_tokens(group: Group, rollout: Rollout, staleness: np.ndarray, *, kv_kept: bool) -> np.ndarray:
    """[T] bool: the tokens whose log-probabilities engine and learner must agree on. staleness [T] is that of the tokens.

    kv_kept: the engine keeps its cache when new weights arrive.
    """
    whole = len(rollout.spans) == 1 or not kv_kept
    return (staleness == 0) & (not group.sampling.is_cut and whole)


def agreement_rows(log_ratio: Tensor, compared: Tensor) -> dict[str, Tensor]:
    """Per-token quantities [M], to be summed. log_ratio is the learner's minus the sampler's log-probability.

    compared: 1 for the tokens that count, else 0.
    """
    weight = exp_ratio(log_ratio)
    return {
        "compared": compared,
        "compared_gap": compared * log_ratio.abs(),
        "compared_k3": compared * (weight - log_ratio - 1.0),
        "compared_weight": compared * weight,
        "compared_weight_squared": compared * weight.square(),
    }


def agreement_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the sums over all tokens of `agreement_rows`; without a token to compare, only that there was none."""
    tokens = sums["compared"]
    if tokens == 0:
        return {TOKENS: 0.0}
    return {
        TOKENS: tokens,
        GAP: sums["compared_gap"] / tokens,
        KL: sums["compared_k3"] / tokens,
        ESS: sums["compared_weight"] ** 2 / (tokens * max(sums["compared_weight_squared"], 1e-30)),
    }


def check_agreement(metrics: Mapping[str, float], tolerance: float) -> None:
    """Raise PolicyMismatch if enough tokens were compared and they differ by more than `tolerance`; 0 checks nothing."""
    if tolerance == 0.0 or metrics[TOKENS] < LEAST_TOKENS or metrics[GAP] <= tolerance:
        return
    raise PolicyMismatch(
        f"sampler and learner disagree: over {metrics[TOKENS]:.0f} tokens of one policy version their log-probabilities differ "
        f"by {metrics[GAP]:.3g} nats on average, expected at most {tolerance:g} (KL {metrics[KL]:.3g}, effective sample size "
        f"{metrics[ESS]:.3f}); no step was taken on them. The engine computes another policy than the learner: usually a part "
        "of the weights that it does not load under the names it gets, or an attention, router or rope that the two compute "
        "differently. `prolong doctor --agreement` with the settings of this run says which layer is the first to differ; "
        "docs/architectures.md lists the families that were tried; learner.agreement_tolerance=0 switches the check off"
    )
