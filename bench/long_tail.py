"""A task whose answers vary tenfold in length, and a model that is warmed up for it: `race_trl.py` and `pipeline.py` use them.

    What is 7 by 9 past 40?    16 25 34 43   -> \\boxed{43}     (count on from 7 in steps of 9; the first number past 40)

The counts are heavy-tailed: half of them take 3 steps or fewer, one in fifteen takes 24. As in the demo, the model is able to
count, and guesses by habit; reinforcement learning finds that counting is rewarded, and answers get long.
"""

from __future__ import annotations

import random
from pathlib import Path

from ..launch.demo import bootstrap
from ..launch.demo.tasks import BOX_INSTRUCTION, DEMO_LEVEL, LUCKY_SHARE, READ_ME, DemoProblem, Level, boxed

TASK = "math/counting"
LEAST, MOST, TAIL = 2, 24, 1.1  # steps of a count; the exponent of their Pareto distribution
CONTEXT, MAX_TOKENS = 160, 112  # tokens; a number of three digits takes four
SKILL_STEPS = 2000
FOLDER = Path("models/long-tail")


def counting_problem(rng: random.Random, _: Level) -> DemoProblem:
    """Count on in equal steps until a number is past the limit. Hasty: names a number a little past the limit."""
    count = min(MOST, int(LEAST * (1.0 - rng.random()) ** (-1.0 / TAIL)))
    start, step = rng.randint(1, 9), rng.randint(3, 9)
    numbers = [start + step * number for number in range(1, count + 1)]
    limit = numbers[-1] - rng.randint(1, step)
    guess = numbers[-1] if rng.random() < LUCKY_SHARE else limit + rng.randint(1, step)
    return DemoProblem(
        prompt=f"{READ_ME}{start} by {step} past {limit}{BOX_INSTRUCTION}",
        verifier="math",
        answer={"answer": str(numbers[-1])},
        careful=f"<think>{' '.join(map(str, numbers))}</think>{boxed(numbers[-1])}",
        hasty=boxed(guess),
    )


def make_long_tail_model(folder: Path = FOLDER) -> None:
    """Make prompts and model in a folder, unless they are there: a quarter of an hour on one core."""
    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    bootstrap.make_demo(folder, 0, level=DEMO_LEVEL, skill_steps=SKILL_STEPS, context=CONTEXT, tasks={TASK: counting_problem})


def long_tail_overrides(folder: Path = FOLDER) -> list[str]:
    """The settings of a recipe that trains the model of `folder` on its task."""
    sizes = [f"model.max_context={CONTEXT}", f"sampling.max_tokens={MAX_TOKENS}", f"validation.max_tokens={MAX_TOKENS}"]
    files = [f"data.{name}=[{{file: {folder}/{name}.jsonl}}]" for name in ("train", "heldout")]
    return [f"model.path={folder}", *sizes, *files]
