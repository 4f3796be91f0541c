"""`prolong evaluate`: every model in turn samples the held-out prompts; then one table, one picture and evaluation.json.

arguments --> models.py, held_out.py --> PlannedModel, one for each model: everything that can be wrong is found here
PlannedModel --> fed_engine.py + generation.py --> store.py (a journal) --> scores.py --> results.py, printing.py, picture.py
"""

from __future__ import annotations

import asyncio
import copy
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...actor.rollouts import RolloutWorker, answer_ids
from ...actor.stats import ActorStats
from ...common.config.sections import Config, SourceConfig
from ...common.errors import UserError
from ...common.files import write_atomically
from ...common.model_folder import longest_context, weights_fingerprint
from ...common.tokenizer import Tokenizer
from ...common.types import Rollout
from ...verifiers.workers.pool import make_pool
from ..model_check import check_model, is_folder_name, read_config_of, settle_dtype
from ..recipes import compose
from .arguments import Evaluation
from .deadlines import unless_hung
from .fed_engine import FedEngine
from .generation import sample_missing
from .held_out import HeldOut, read_held_out
from .models import EvaluatedModel, architecture, export_if_needed, models_named
from .picture import draw_evaluation
from .printing import print_evaluation
from .progress import RolloutProgress
from .results import Evaluated, encode_evaluation
from .scores import Outcomes, outcome_of
from .store import Asked, EvaluationStore, digest_of

UNBOUNDED = 1 << 20  # tokens of a model whose config.json does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """One model with all that sampling from it takes."""

    model: EvaluatedModel
    cfg: Config
    tokenizer: Tokenizer
    held_out: HeldOut
    asked: Asked

    @property
    def engine_key(self) -> tuple[str, tuple[int, ...], int]:
        """The same for models that one engine can hold in turn."""
        return architecture(self.model), self.tokenizer.eos_ids, self.cfg.model.max_context


def evaluate_models(wanted: Evaluation) -> int:
    """Run `prolong evaluate`; returns the exit code. Raises: UserError, ProlongError."""
    cfg = compose(wanted.recipe, ["model.path=unused", *wanted.overrides])
    planned = [_plan(model, wanted, cfg) for model in models_named(wanted.models, wanted.out / "exports")]
    outcomes = asyncio.run(_sample_all(planned, wanted))
    if wanted.part != (0, 1):
        sys.stdout.write(f"part {wanted.part[0]} of {wanted.part[1]} is sampled; without --part the command makes the table\n")
        return 0
    if not any(outcomes):
        cause = "no rollout has a reward, because every verdict failed"
        raise UserError(f"{cause}: see to the verifiers, remove {wanted.out}, and give the command again")
    results = [
        Evaluated.of(
            one.model.name,
            one.model.step,
            each,
            wanted.ks,
            outcomes[0],
            num_rollouts=wanted.n * len(one.held_out.prompts),
        )
        for one, each in zip(planned, outcomes, strict=True)
    ]
    written = encode_evaluation(results, planned[0].asked, wanted.n, planned[0].held_out.left_out)
    write_atomically(wanted.out / "evaluation.json", written + "\n")
    write_atomically(wanted.out / "evaluation.svg", draw_evaluation(results))
    if wanted.as_json:
        sys.stdout.write(written + "\n")
    else:
        print_evaluation(results, wanted.n, wanted.out)
    return 0


def _plan(model: EvaluatedModel, wanted: Evaluation, composed: Config) -> PlannedModel:
    """Read the prompts with the model's tokenizer and settle its context and dtype. Raises: UserError."""
    export_if_needed(model)
    cfg = copy.deepcopy(composed)
    cfg.model.path, cfg.model.lora = model.path, {}
    longest = longest_context(read_config_of(model.path)) or UNBOUNDED
    if any(word.startswith("model.max_context=") for word in wanted.overrides):
        longest = min(longest, cfg.model.max_context)
    tokenizer = Tokenizer.load(model.path)
    sources = [SourceConfig(file=str(file), chat=wanted.chat, system=wanted.system) for file in wanted.data]
    sources = sources or cfg.data.heldout
    held_out = read_held_out(sources, tokenizer, longest, cfg.verifiers, wanted.out / "data", first=wanted.prompts)
    cfg.model.max_context = min(longest, max(len(one.token_ids) // 4 for one in held_out.prompts) + wanted.max_tokens)
    check_model(cfg)
    settle_dtype(cfg)
    asked = Asked(
        weights=_fingerprint(model.path),
        prompts=digest_of(held_out.prompts),
        temperature=wanted.temperature,
        top_p=1.0 if wanted.temperature == 0 else wanted.top_p,
        top_k=0,
        min_p=0.0,
        stop=list(cfg.validation.stop),
        max_tokens=wanted.max_tokens,
        seed=wanted.seed,
        context=cfg.model.max_context,
        dtype=cfg.model.dtype,
        engine=cfg.actor.engine.name,
    )
    return PlannedModel(model=model, cfg=cfg, tokenizer=tokenizer, held_out=held_out, asked=asked)


def _fingerprint(path: str) -> str:
    if not is_folder_name(path):
        return path
    return "".join(f"{part & (2**64 - 1):016x}" for part in weights_fingerprint(Path(path).expanduser()))


async def _sample_all(planned: list[PlannedModel], wanted: Evaluation) -> list[Outcomes]:
    """The outcomes of every model. One engine serves neighbours of one architecture. Raises: ProlongError."""
    engine: FedEngine | None = None
    held, version, found = None, 0, []
    try:
        for one in planned:
            with closing(_store(one, wanted)) as store:
                num_missing = store.num_missing
            # the engine may be forked: it must not inherit the journal's lock
            if num_missing and (engine is None or held != one.engine_key):
                if engine is not None:
                    former, engine = engine, None
                    await former.close()
                sys.stderr.write(f"{one.model.name}: {num_missing:,} rollouts to sample; the engine starts\n")
                engine, held = await FedEngine.start(one.cfg, one.tokenizer.eos_ids), one.engine_key
            with closing(_store(one, wanted)) as store:
                if num_missing and engine is not None:
                    await engine.load(one.cfg.model, version)
                    version += 1
                    await _sample(one, store, engine, RolloutProgress(one.model.name, num_missing, store.num_asked))
                found.append(_outcomes(one, store))
    finally:
        if engine is not None:
            await engine.close()
    return found


def _store(one: PlannedModel, wanted: Evaluation) -> EvaluationStore:
    return EvaluationStore(wanted.out / one.model.name, one.asked, one.held_out.prompts, wanted.n, wanted.part)


async def _sample(one: PlannedModel, store: EvaluationStore, fed: FedEngine, progress: RolloutProgress) -> None:
    pool = make_pool(one.cfg.verifiers)
    try:
        await pool.start()
        await pool.usable()
        stats = ActorStats(one.cfg.verifiers.max_none_rate, pool.counters, lambda: fed.engine.load)
        worker = RolloutWorker(fed.engine, one.tokenizer, pool, stats, "evaluate")
        sampling = sample_missing(worker, store, one.cfg.actor.capacity, progress.count)
        await unless_hung(sampling, fed.engine, stats, one.cfg.buffer.lease_s)
    finally:
        await pool.close()


def _outcomes(one: PlannedModel, store: EvaluationStore) -> Outcomes:
    def text(rollout: Rollout) -> str:
        return one.tokenizer.decode(answer_ids(rollout, one.tokenizer.eos_ids))

    each = (outcome_of(prompt, store.groups_of(index), text) for index, prompt in enumerate(one.held_out.prompts))
    return {outcome.uid: outcome for outcome in each if outcome is not None}
