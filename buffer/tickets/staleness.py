"""The staleness contract: which actor may be issued a ticket, by when its group must be trained, what a batch may hold.

`head` is the version of the next batch to be formed. A ticket whose oldest token may be of version v has the deadline v + eta:
the last head that may take it. The contract of the policy `wait` is one inequality, which holds at every moment:

    for every k in 0..maximum:   untrained tickets with deadline <= head + k   <=   (k + 1) * B                         (F)

eta may move between 0 and `maximum` (adaptive.py). A ticket keeps the eta that it was issued under, so its deadline is fixed: a
larger eta admits more tickets at once, a smaller one admits none until enough of those that are there are trained.

Admission keeps it when tickets are issued, selection keeps it when head moves on, and every other event only removes tickets.
So a batch that meets every deadline always exists once the right groups have arrived. (This is the scheduling of unit jobs with
deadlines on a machine that does B jobs a slot: (F) is the exact test of feasibility, and earliest deadline first attains it.)
The policies `evict` and `mask` issue tickets without (F), and drop groups that missed their deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ...common.config.sections import Preference, Straggler
from ...common.errors import LedgerError
from .ordinals import Ordinals


def required(pending: Sequence[int], batch: int) -> list[int]:
    """The least number of tickets of the k + 1 earliest deadlines that the next batch must hold so that (F) holds after it.

    `pending[k]`: untrained tickets with deadline head + k, stored or not. The result ascends; above `batch`, (F) is broken.
    """
    late = (total - k * batch for k, total in enumerate(accumulate(pending)))
    return list(accumulate((max(count, 0) for count in late), max))


def choose_counts(stored: Sequence[int], need: Sequence[int], batch: int, preference: Preference) -> list[int] | None:
    """The number of stored groups of each deadline that the batch takes, or None when no choice meets `need`.

    `stored[k]`: stored groups with deadline head + k. `need[k]`: the least number of groups of deadlines head .. head + k.
    Both preferences find a choice whenever one exists: `earliest_deadline` takes the most of every prefix of deadlines,
    `freshest` the least that `need` allows.
    """
    if sum(stored) < batch or any(have < least for have, least in zip(accumulate(stored), need, strict=True)):
        return None
    if need and need[-1] > batch:
        return None
    counts = [0] * len(stored)
    left = batch
    if preference is Preference.earliest_deadline:
        for k, have in enumerate(stored):
            counts[k] = min(have, left)
            left -= counts[k]
        return counts
    for k in reversed(range(len(stored))):
        reserved = need[k - 1] if k > 0 else 0
        counts[k] = min(stored[k], left - reserved)
        left -= counts[k]
    return counts


class StalenessContract:
    """The tickets that need a batch, by deadline.

    With n of them a group that comes or goes costs O(log n), a batch O(B log n). Admission costs as many steps as the versions
    that the actor lags, and eta is below its maximum.
    """

    def __init__(
        self,
        *,
        eta: int,
        batch: int,
        steps: int,
        straggler: Straggler,
        preference: Preference,
        maximum: int | None = None,
    ) -> None:
        """`eta`: of the tickets that are issued now; `maximum`: the largest that it may become, None: `eta`."""
        self.eta, self.batch, self.steps = eta, batch, steps
        self.maximum = eta if maximum is None else maximum
        self.straggler, self.preference = straggler, preference
        self.head = 0
        # ordinal -> eta that it was issued under, of every ticket that needs a batch
        self._etas: dict[int, int] = {}
        # ordinal -> deadline, of every ticket that needs a batch
        self._deadlines: dict[int, int] = {}
        # deadline -> number of tickets that are not stored yet
        self._waiting: dict[int, int] = {}
        # deadline -> ordinals of stored groups
        self._stored: dict[int, Ordinals] = {}
        self._num_stored = 0

    def move(self, eta: int) -> None:
        """Issue tickets under `eta` from now on; those under way keep theirs."""
        if not 0 <= eta <= self.maximum:
            raise LedgerError(f"eta = {eta} is not in 0..{self.maximum}")
        self.eta = eta

    def admits(self, version: int, learner_version: int, untrained: int) -> bool:
        """Whether a ticket may be issued to an actor that holds `version`.

        At most (eta + 1) B tickets are untrained, no more than the steps left can take, and this one must be trainable.
        """
        return self._admits_under(self.eta, version, learner_version, untrained)

    def refuses_for_eta(self, version: int, learner_version: int, untrained: int) -> bool:
        """Whether a ticket that is not admitted would be if eta were larger by one."""
        admitted = (self._admits_under(eta, version, learner_version, untrained) for eta in (self.eta, self.eta + 1))
        return [*admitted] == [False, True]

    def _admits_under(self, eta: int, version: int, learner_version: int, untrained: int) -> bool:
        room = untrained < (eta + 1) * self.batch and learner_version * self.batch + untrained < self.steps * self.batch
        if not room or version > self.head or version + eta < self.head:
            return False
        return self.straggler is not Straggler.wait or self._feasible_with(version + eta)

    def _feasible_with(self, deadline: int) -> bool:
        """Whether (F) holds with one more ticket of this deadline."""
        # from the last deadline, which has all of them, to this one: later inequalities alone change
        total = len(self._deadlines)
        for k in range(self.maximum, deadline - self.head - 1, -1):
            if total >= (k + 1) * self.batch:
                return False
            total -= self._num_pending(self.head + k)
        return True

    def _num_pending(self, deadline: int) -> int:
        return self._waiting.get(deadline, 0) + len(self._stored.get(deadline, ()))

    def _pending(self) -> list[int]:
        return [self._num_pending(deadline) for deadline in self._classes()]

    def _classes(self) -> range:
        return range(self.head, self.head + self.maximum + 1)

    def issue(self, ordinal: int, version: int, eta: int | None = None) -> None:
        """A ticket was issued to an actor that held `version`, under `eta` (None: that of now)."""
        eta = self.eta if eta is None else eta
        deadline = version + eta
        self._etas[ordinal] = eta
        self._deadlines[ordinal] = deadline
        self._waiting[deadline] = self._waiting.get(deadline, 0) + 1

    def in_time(self, ordinal: int, version: int) -> bool:
        """Whether the next batch may hold tokens of `version` of a ticket."""
        return version + self._etas[ordinal] >= self.head

    def store(self, ordinal: int, version: int) -> None:
        """A ticket's group arrived: `version`, of its oldest token (`mask`: of its newest), decides the deadline now."""
        eta = self._etas[ordinal]
        self._forget_waiting(ordinal)
        deadline = version + eta
        self._etas[ordinal] = eta
        self._deadlines[ordinal] = deadline
        if deadline not in self._stored:
            self._stored[deadline] = Ordinals()
        self._stored[deadline].add(ordinal)
        self._num_stored += 1

    def drop(self, ordinal: int) -> None:
        """A ticket needs no batch any more, because it is filtered, stale or failed: another one may be issued for it."""
        deadline = self._deadlines[ordinal]
        if ordinal in self._stored.get(deadline, ()):
            self._forget_stored(ordinal)
        else:
            self._forget_waiting(ordinal)

    def is_due(self, ordinal: int) -> bool:
        """Whether the deadline of a ticket is the next batch, or past."""
        return self._deadlines[ordinal] <= self.head

    def _forget_waiting(self, ordinal: int) -> None:
        del self._etas[ordinal]
        deadline = self._deadlines.pop(ordinal)
        self._waiting[deadline] -= 1
        if self._waiting[deadline] == 0:
            del self._waiting[deadline]

    def _forget_stored(self, ordinal: int) -> None:
        del self._etas[ordinal]
        deadline = self._deadlines.pop(ordinal)
        self._stored[deadline].discard(ordinal)
        self._num_stored -= 1
        if not self._stored[deadline]:
            del self._stored[deadline]

    def choose(self) -> list[int] | None:
        """Ordinals of the next batch in order of issue, or None while the contract allows no choice. Changes nothing."""
        if self._num_stored < self.batch:
            return None
        stored = [len(self._stored.get(d, ())) for d in self._classes()]
        need = required(self._pending(), self.batch) if self.straggler is Straggler.wait else [0] * len(stored)
        if need[-1] > self.batch:
            raise LedgerError(f"no choice can meet the deadlines: {self._pending()} tickets by class, {self.batch} a batch")
        counts = choose_counts(stored, need, self.batch, self.preference)
        if counts is None:
            return None
        chosen: list[int] = []
        for deadline, count in zip(self._classes(), counts, strict=True):
            if count > 0:
                chosen += self._stored[deadline].first(count)
        return sorted(chosen)

    def held_up_until(self) -> int | None:
        """The last deadline whose tickets a batch waits for; None when it waits for no ticket in particular."""
        stored = [len(self._stored.get(d, ())) for d in self._classes()]
        need = required(self._pending(), self.batch) if self.straggler is Straggler.wait else [0] * len(stored)
        short = [d for d, have, least in zip(self._classes(), accumulate(stored), need, strict=True) if have < least]
        return short[-1] if short else None

    def deadline_of(self, ordinal: int) -> int:
        """The deadline of a ticket that needs a batch. Raises KeyError for any other."""
        return self._deadlines[ordinal]

    def take(self, chosen: list[int]) -> list[int]:
        """Remove a batch, move head on, and return the ordinals of stored groups that missed their deadline (`wait`: none).

        Raises LedgerError when a ticket is past its deadline under `wait`: the contract would be broken.
        """
        for ordinal in chosen:
            self._forget_stored(ordinal)
        self.head += 1
        late = [ordinal for deadline, group in self._stored.items() if deadline < self.head for ordinal in group]
        if self.straggler is Straggler.wait and (late or any(deadline < self.head for deadline in self._waiting)):
            raise LedgerError(f"tickets were left past their deadline at version {self.head}: {late or self._waiting}")
        for ordinal in late:
            self._forget_stored(ordinal)
        return late

    @property
    def deadlines(self) -> dict[int, int]:
        """The deadline of every ticket that needs a batch, by ordinal. A copy."""
        return dict(self._deadlines)

    def clear(self, head: int) -> None:
        """Forget every ticket: a generation begins at `head`."""
        self._etas.clear()
        self._deadlines.clear()
        self._waiting.clear()
        self._stored.clear()
        self._num_stored = 0
        self.head = head
