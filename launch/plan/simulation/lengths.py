"""Prompts of the classes of a cluster, and the lengths and rewards of their rollouts, as functions of seed and ticket alone.

So two simulations of different settings meet the same work: their difference is that of the settings.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ....buffer.tickets.mixture import PromptMixture
from ....common.types import Prompt, Ticket
from .cluster import LengthClass

PROMPTS = 997  # of each class: a prime, so that tickets meet them in another order in every epoch
DRAWS = 1 << 20  # numbers that are drawn once, and used at places that depend on the ticket
_KNUTH = 2654435761  # spreads consecutive ordinals over the draws


class Work(NamedTuple):
    """The work of one ticket."""

    lengths: list[int]  # tokens of each rollout
    rewards: list[float]


class LengthSampler:
    """Draws the work of tickets."""

    def __init__(self, classes: list[LengthClass], max_tokens: int, seed: int) -> None:
        """`max_tokens`: sampling.max_tokens."""
        self._classes = {each.name: each for each in classes}
        self._max_tokens = max_tokens
        rng = np.random.default_rng([seed, 20])
        self._normal = rng.standard_normal(DRAWS)
        self._uniform = rng.random(DRAWS)
        self._seed = seed
        self._shares: dict[tuple[str, int, int], float] = {}  # of groups without signal, by class, version and n

    def work(self, ticket: Ticket) -> Work:
        """Lengths and rewards of the rollouts of a ticket."""
        name, _, index = ticket.prompt.uid.rpartition("#")
        kind, n = self._classes[name], ticket.sampling.n
        start = ((ticket.ordinal + 1) * _KNUTH * 64 + self._seed) % (DRAWS - n - 1)
        lengths = self._lengths(kind, start, n) * (self._difficulty(kind, int(index)) * kind.at(ticket.version).scale)
        most = min(kind.max or self._max_tokens, self._max_tokens)
        whole = np.clip(np.rint(lengths), 1, most).astype(np.int64).tolist()
        return Work(whole, self._rewards(kind, ticket.version, start, n))

    def _lengths(self, kind: LengthClass, start: int, n: int) -> np.ndarray:
        """[n] float64: lengths of a prompt of mean difficulty."""
        uniform = self._uniform[start : start + n]
        if kind.samples:
            return np.asarray(kind.samples)[(uniform * len(kind.samples)).astype(np.int64)].astype(np.float64)
        if kind.tail > 0:
            # a Pareto law of this mean begins at mean (tail - 1) / tail
            return kind.mean * (kind.tail - 1) / kind.tail * (1 - uniform) ** (-1 / kind.tail)
        return kind.mean * np.exp(kind.spread * self._normal[start : start + n] - kind.spread**2 / 2)

    def _difficulty(self, kind: LengthClass, index: int) -> float:
        """How much longer the completions of one prompt are; 1 on average."""
        if kind.prompt_spread == 0 or kind.samples:
            return 1.0
        normal = self._normal[(index * _KNUTH + 7 * self._seed) % DRAWS]
        return math.exp(kind.prompt_spread * normal - kind.prompt_spread**2 / 2)

    def _rewards(self, kind: LengthClass, version: int, start: int, n: int) -> list[float]:
        """Rewards of 0 and 1; all the same in the share of groups that has no signal, and in no other."""
        pass_rate, no_signal = kind.at(version).pass_rate, self._no_signal(kind, version, n)
        uniform = self._uniform[DRAWS - n - 1 - start : DRAWS - start]
        same = uniform[n] < no_signal
        rewards = [1.0 if draw < pass_rate else 0.0 for draw in uniform[:n].tolist()]
        if same:
            return [rewards[0]] * n
        if len(set(rewards)) == 1 and n > 1:
            rewards[-1] = 1.0 - rewards[0]
        return rewards

    def _no_signal(self, kind: LengthClass, version: int, n: int) -> float:
        key = kind.name, version, n
        if key not in self._shares:
            self._shares[key] = kind.no_signal_at(version, n)
        return self._shares[key]


def simulated_prompts(classes: list[LengthClass], seed: int) -> PromptMixture:
    """The shipped source of prompts, over prompts made up for each class."""
    sources: list[tuple[list[Prompt], float]] = []
    for kind in classes:
        domain, _, task = kind.name.partition("/")
        tokens = bytes(4 * kind.prompt_tokens)
        prompts = [
            Prompt(uid=f"{kind.name}#{index}", domain=domain, task=task or domain, text="", token_ids=tokens, verifier="none")
            for index in range(PROMPTS)
        ]
        sources.append((prompts, kind.share))
    return PromptMixture(sources, seed)
