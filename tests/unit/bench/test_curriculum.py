"""The study of the curriculum draws from the buffer's sources, and pays for the groups that it drops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from prolong.bench.curriculum import ARMS, GROUPS, LEARNABLE, SETTINGS, TERMS, sum_prompts
from prolong.common.config.trees import curriculum_config
from prolong.launch.recipes import compose

from tests.support.character_tokenizer import make_character_tokenizer


def test_prompts_are_of_the_kinds_that_the_study_names_and_none_twice(tmp_path: Path) -> None:
    tokenizer = make_character_tokenizer(tmp_path)
    prompts = sum_prompts(tokenizer, counts=TERMS, seed=1, name="train")
    assert Counter(prompt.task for prompt in prompts) == {"4-6-terms": TERMS[LEARNABLE], "8-12-terms": TERMS[8, 12]}
    assert len({prompt.text for prompt in prompts}) == len({prompt.uid for prompt in prompts}) == len(prompts)
    assert prompts == sum_prompts(tokenizer, counts=TERMS, seed=1, name="train")


def test_the_arms_differ_in_the_curriculum_alone() -> None:
    made = {arm: compose("demo", [*SETTINGS, f"buffer.curriculum={ARMS[arm]}"]) for arm in ARMS}
    assert curriculum_config(made["shuffled"]) is None
    assert curriculum_config(made["curriculum"]) is not None
    made["curriculum"].buffer.curriculum = {}
    assert made["shuffled"] == made["curriculum"]
    assert made["shuffled"].buffer.batch_groups == GROUPS
