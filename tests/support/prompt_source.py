"""The contract of PromptSource as a check that every source of prompts must pass."""

from __future__ import annotations

from collections.abc import Callable

from prolong.buffer.tickets.api import PromptSource

NUM_DRAWS = 40


def check_prompt_source(make: Callable[[], PromptSource], weights: list[float]) -> None:
    """`make` gives a source that was not drawn from, always of the same configuration; `weights` are those of its stage."""
    source = make()
    source.weigh(weights)
    cursors, drawn = [source.cursor], []
    for _ in range(NUM_DRAWS):
        drawn.append(source.next())
        cursors.append(source.cursor)
    for start in (0, 1, NUM_DRAWS // 2, NUM_DRAWS - 1):
        resumed = make()
        resumed.weigh(weights)
        resumed.restore(cursors[start])
        assert resumed.cursor == cursors[start], "a restored source is where it was"
        for prompt in drawn[:start]:
            assert resumed.find(prompt.uid) == prompt, "prompts that were drawn before the cursor are found"
        assert resumed.cursor == cursors[start], "to find a prompt is not to draw it"
        resumed.weigh(weights)  # the weights that are in force change nothing
        assert [resumed.next() for _ in range(NUM_DRAWS - start)] == drawn[start:], "the same prompts follow"
    assert make().find("no such prompt") is None
