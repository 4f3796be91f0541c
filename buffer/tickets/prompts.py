"""The prompts of a run, from the files that the configuration lists: for training, and for validation."""

from __future__ import annotations

from ...common.config.sections import Config
from ...common.config.stages import staged_configs
from ...common.config.trees import curriculum_config
from ...common.data.prompts import load_prompts
from ...common.errors import DataError
from ...common.tokenizer import Tokenizer
from ...common.types import Prompt
from .api import PromptSource
from .mixture import PromptMixture
from .planned_mixture import PlannedMixture


def load_training_prompts(cfg: Config, tokenizer: Tokenizer) -> PromptSource:
    """The source of training prompts, for all stages, with room for the longest completion of any. Raises: DataError.

    This is the one place that decides which kind of source a run has.
    """
    if not cfg.data.train:
        raise DataError("there are no training prompts; list prompt files in data.train")
    max_tokens = longest_completion(cfg)
    prompts = [load_prompts(source, tokenizer, cfg.model.max_context, max_tokens) for source in cfg.data.train]
    sources, rules = list(zip(prompts, cfg.data.mixture, strict=True)), curriculum_config(cfg)
    return PromptMixture(sources, cfg.run.seed) if rules is None else PlannedMixture(sources, cfg.run.seed, rules)


def longest_completion(cfg: Config) -> int:
    """The largest `sampling.max_tokens` of any stage; every training prompt must leave room for so many tokens."""
    return max(staged.sampling.max_tokens for staged in staged_configs(cfg))


def load_heldout(cfg: Config, tokenizer: Tokenizer) -> list[Prompt]:
    """The validation prompts of a run, possibly none. Raises: DataError."""
    sources = [load_prompts(source, tokenizer, cfg.model.max_context, cfg.validation.max_tokens) for source in cfg.data.heldout]
    return [prompt for prompts in sources for prompt in prompts]
