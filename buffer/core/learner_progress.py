"""The learner's side of the run: the steps that it makes, and the batch that it waits for.

    TakeBatch -> take, try_serve    StepDone -> advance    CheckpointSaved -> checkpoint    Finish -> finish

Every batch is recorded before it is sent, so that a learner that restarts is served the very same ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import fmean

import msgspec

from ...common.config.sections import CheckpointConfig
from ...common.messages import LearnerPace
from ...common.trace import NO_TRACE
from ...common.types import Batch, StepEvidence
from .peers import Peers
from .run_state import HELD_S, RunState

RECENT = 10  # steps that the pace is a mean of
_MEANS = ("step_s", "wait_s", "ess", "kl")


class LearnerProgress:
    """Follows the one learner through the run."""

    def __init__(self, run: RunState, checkpoint: CheckpointConfig, steps: int) -> None:
        """`steps`: the most that the run can take."""
        self._run, self._checkpoint, self._steps = run, checkpoint, steps
        # version of the batch that the learner waits for
        self._waiting: int | None = None
        # CPU seconds of this process so far: none in a simulation
        self.cpu_clock: Callable[[], float] = lambda: 0.0
        self._cpu_at_batch_s = 0.0
        # records every batch, when time is that of this host
        self.tracer = NO_TRACE
        # the last steps with the time that eta held their batches back, and that time of the batch that is out
        self._recent: deque[tuple[StepEvidence, float]] = deque(maxlen=RECENT)
        self._held_s = 0.0
        # when the buffer first looked for the batch that the learner waits for
        self._since_s: float | None = None

    def stop_waiting(self) -> None:
        """The learner is gone, or greets (it asks for its batch after that): it waits for none now."""
        self._waiting, self._since_s = None, None

    @property
    def waits(self) -> bool:
        """Whether the learner waits for a batch."""
        return self._waiting is not None

    def take(self, version: int) -> bool:
        """The learner asks for the batch of `version`. False when the history has no such step.

        To ask is to say that it made `version`: the message that said so may have been lost.
        """
        self.advance(version)
        if version != self._run.store.version:
            return False
        self._waiting = version
        return True

    def try_serve(self, peers: Peers, now: float) -> Batch | None:
        """The batch that the learner waits for, if there is one: a recorded one, or one that is formed now."""
        if self._waiting is None:
            return None
        self._since_s = now if self._since_s is None else self._since_s
        is_recorded = self._waiting < self._run.store.head
        batch = self._recorded(self._waiting) if is_recorded else self._form(peers, now)
        if batch is not None:
            ordinals = [group.ordinal for group in batch.groups] if self.tracer.on else []
            self.tracer.add("batch", self._since_s, now, version=batch.version, ordinals=ordinals, recorded=int(is_recorded))
            self.stop_waiting()
        return batch

    def _recorded(self, version: int) -> Batch:
        self._run.collect()  # its groups may have come since the last commit
        batch = self._run.journal.batch(version)
        assert batch is not None, f"the batch of version {version} was forgotten"
        return batch

    def _form(self, peers: Peers, now: float) -> Batch | None:
        """The next batch with the numbers of this step, recorded."""
        run = self._run
        batch = run.store.try_take()
        if batch is None:
            return None
        metrics = batch.metrics | self._lags(peers) | peers.actor_metrics() | run.forecast.metrics() | run.counters.next_step()
        self._held_s = run.held.take(now)
        metrics |= {} if run.curriculum is None else run.curriculum.metrics()
        metrics |= {"buffer/eta": float(run.store.contract.eta), HELD_S: self._held_s}
        cpu_s = self.cpu_clock()
        metrics["buffer/cpu_s"] = cpu_s - self._cpu_at_batch_s
        self._cpu_at_batch_s = cpu_s
        batch = msgspec.structs.replace(batch, metrics=metrics, validation=run.validation.take_unreported())
        run.journal.log_batch(batch)
        return batch

    def _lags(self, peers: Peers) -> dict[str, float]:
        """How many versions the actors that may generate are behind the learner."""
        found = (self._run.lag_of(actor.name) for actor in peers.workers())
        lags = [lag for lag in found if lag is not None]
        return {"weights/lag_mean": fmean(lags), "weights/lag_max": float(max(lags))} if lags else {}

    def advance(self, version: int, stage: int = 0, *, saves: bool = False, evidence: StepEvidence | None = None) -> None:
        """The learner says that it made `version`, is in `stage`, and `saves` it. Repeated messages change nothing.

        `evidence`: of that step; None when the message with it was lost.
        """
        run = self._run
        if version == run.store.version + 1 and version <= run.store.head:
            run.store.step_done()
            # before the state of a checkpoint is recorded: a history that begins there must not decide this again
            if evidence is not None:
                run.adapt(version, evidence)
                self._recent.append((evidence, self._held_s))
            run.maybe_plan(version)
            if version < self._steps:
                run.validation.maybe_start_between(version)
            if saves or version % self._checkpoint.every == 0:
                run.save_state_of_checkpoint(version)
        if version == run.store.version:
            run.store.enter_later(stage)

    def checkpoint(self, version: int) -> bool:
        """A checkpoint of `version` is durable.

        False for a version that the learner has not made: batches that it has yet to train would be forgotten.
        """
        if not 0 <= version <= self._run.store.version:
            return False
        self._run.checkpoint_saved(version, self._checkpoint.keep)
        return True

    def finish(self, version: int) -> bool:
        """The learner made its last version, perhaps before the last step: drop what is under way, start the last sweep.

        False for a version that was not made.
        """
        self.advance(version)
        if version != self._run.store.version:
            return False
        self.stop_waiting()
        self._run.end_at(version)
        self._run.validation.start_whole(version, blocks=False)
        return True

    def pace(self, now: float) -> LearnerPace:
        """How the learner gets on."""
        steps, held = [step for step, _ in self._recent], [held_s for _, held_s in self._recent]
        # sum and not fmean, which raises for numbers that are infinite or huge
        means = {} if not steps else {name: sum(getattr(step, name) for step in steps) / len(steps) for name in _MEANS}
        return LearnerPace(
            batch_groups=self._run.store.batch_groups,
            waits_s=-1.0 if self._since_s is None else now - self._since_s,
            num_steps=len(steps),
            held_s=sum(held) / len(held) if held else 0.0,
            **means,
        )
