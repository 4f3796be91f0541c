"""The demo's six tasks: problems, their prompts, and the demonstrations that the warm-up imitates. No torch.

    math/addition         What is 347+585?              12 13 9      -> \\boxed{932}     (sums of the columns, from the right)
    math/digit_sum        What is 4+7+2+9?              11 13 22     -> \\boxed{22}      (running totals)
    logic/number_sorting  Reasoning Gym, exact          1447         -> <answer>['12', '41', '45', '78']</answer> (tens, sorted)
    logic/spell_backward  Reasoning Gym, partial credit planet       -> <answer>tenalp</answer>
    code/arithmetic       take x, add 3, multiply by 4  x+=3 x*=4    -> a Python function, called in the sandbox
    instructions/bullets  IFEval, all or nothing        3 sun map    -> * sun * map * hat (one a line)

A demonstration is *careful* (it writes the middle column, between <think> and </think> or as the lines of a program, and is
right) or *hasty* (it answers at once, mostly with a mistake that people make). The warm-up sees mostly hasty ones: its model
usually guesses, and is able to think. Reinforcement learning finds that thinking is rewarded. The skill comes from the
demonstrations; RL selects and sharpens it.

Prompts of training, held-out prompts and demonstrations never share a question (`split`).
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.json_object import JsonObject

BOX_INSTRUCTION = "? Put the answer in \\boxed{}."
TAG_INSTRUCTION = "\nPut the answer in <answer> tags."
CAREFUL_SHARE = 0.3  # share of careful demonstrations
LUCKY_SHARE = 0.1  # share of right answers among the hasty ones
READ_ME = "What is "
CODE_REQUEST = "Write f(x) in Python: take x"
OPERATIONS = {"+": ", add ", "-": ", subtract ", "*": ", multiply by "}
# this and the next two are the words of IFEval
BULLETS_REQUEST = "Name a few things. Your answer must contain exactly "
BULLETS_RULE = " bullet points. Use the markdown bullets such as:\n* This is point 1. \n* This is point 2\nInclude keywords "
KEYWORDS_END = " in the response."
THINGS: str = (
    "ant ape art bag bat bed bee box bus cab cap car cat cow cup day dog ear egg eye fan fig fly fox gas gem gum ham hat "
    "hen ice ink jam jar jet joy key kid kit lab lap leg lid log map mix mud net nut oak oil owl pan pen pet pie pig pot "
    "rat red row rug sea sky sun tea tie toe top toy van wax web zoo"
)


@dataclass(frozen=True)
class Level:
    """The size of problems: (least, most) for each task."""

    digits: tuple[int, int]  # of the two numbers to add
    terms: tuple[int, int]  # of a digit sum
    numbers: tuple[int, int]  # numbers to sort
    letters: tuple[int, int]  # of a word
    operations: tuple[int, int] = (3, 3)  # of a program
    bullets: tuple[int, int] = (2, 4)  # points of a list


DEMO_LEVEL = Level(digits=(3, 3), terms=(4, 6), numbers=(3, 5), letters=(3, 6))
# for prolonged runs: bench/prolonged.py
WIDE_LEVEL = Level(digits=(2, 5), terms=(4, 9), numbers=(3, 7), letters=(3, 9))


@dataclass(frozen=True)
class DemoProblem:
    """One task instance, with a demonstration of either kind."""

    prompt: str
    verifier: str
    answer: JsonObject  # as the verifier needs it
    careful: str  # a right completion, step by step
    hasty: str  # a completion that answers at once


def boxed(value: object) -> str:
    return f"\\boxed{{{value}}}"


def tagged(value: object) -> str:
    return f"<answer>{value}</answer>"


def addition_problem(rng: random.Random, level: Level) -> DemoProblem:
    """Add two numbers of the same length. Hasty: adds column by column and forgets every carry."""
    least, most = level.digits
    digits = least if least == most else rng.randint(least, most)
    a, b = (rng.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
    columns, carry = [], 0
    for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
        columns.append(int(x) + int(y) + carry)
        carry = columns[-1] // 10
    carryless = "".join(str((int(x) + int(y)) % 10) for x, y in zip(str(a), str(b), strict=True))
    guess = a + b if rng.random() < LUCKY_SHARE else int(carryless)
    return DemoProblem(
        prompt=f"{READ_ME}{a}+{b}{BOX_INSTRUCTION}",
        verifier="math",
        answer={"answer": str(a + b)},
        careful=f"<think>{' '.join(map(str, columns))}</think>{boxed(a + b)}",
        hasty=boxed(guess),
    )


def digit_sum_problem(rng: random.Random, level: Level) -> DemoProblem:
    """Add a few digits. Hasty: the sum is off by up to 4."""
    digits = [rng.randint(1, 9) for _ in range(rng.randint(*level.terms))]
    totals = [sum(digits[: i + 1]) for i in range(1, len(digits))]
    slip = 0 if rng.random() < LUCKY_SHARE else rng.choice([-4, -3, -2, -1, 1, 2, 3, 4])
    return DemoProblem(
        prompt=f"{READ_ME}{'+'.join(map(str, digits))}{BOX_INSTRUCTION}",
        verifier="math",
        answer={"answer": str(totals[-1])},
        careful=f"<think>{' '.join(map(str, totals))}</think>{boxed(totals[-1])}",
        hasty=boxed(max(1, totals[-1] + slip)),
    )


def sorting_problem(rng: random.Random, level: Level) -> DemoProblem:
    """Sort a few two-digit numbers. Hasty: the right numbers in a wrong order."""
    entry = _gym("number_sorting", level)[rng.randrange(2**31)]
    metadata = entry["metadata"]
    numbers = [str(int(float(x))) for x in metadata["sorted_numbers"]]
    shuffled = numbers if rng.random() < LUCKY_SHARE else rng.sample(numbers, len(numbers))
    return DemoProblem(
        prompt=entry["question"] + TAG_INSTRUCTION,
        verifier="reasoning_gym",
        answer=_stored("number_sorting", entry, ("direction", "sorted_numbers")),
        careful=f"<think>{''.join(n[0] for n in numbers)}</think>{tagged(_quoted(numbers))}",
        hasty=tagged(_quoted(shuffled)),
    )


def spelling_problem(rng: random.Random, level: Level) -> DemoProblem:
    """Spell a word of lower-case letters backward. Hasty: spells it forward."""
    dataset = _gym("spell_backward", level)
    entry = dataset[rng.randrange(2**31)]
    while not (entry["metadata"]["word"].isascii() and entry["metadata"]["word"].islower()):
        entry = dataset[rng.randrange(2**31)]
    word = entry["metadata"]["word"]
    return DemoProblem(
        prompt=entry["question"] + TAG_INSTRUCTION,
        verifier="reasoning_gym",
        answer=_stored("spell_backward", entry, ("word",)),
        careful=f"<think>{word}</think>{tagged(word[::-1])}",
        hasty=tagged(word[::-1] if rng.random() < LUCKY_SHARE else word),
    )


def program_problem(rng: random.Random, level: Level) -> DemoProblem:
    """Write a program of a few steps on x. Hasty: one expression without the brackets that a product after a sum needs.

    One test, which the slip fails: a call in the sandbox costs 11 ms of CPU time.
    """
    operators: list[str] = []
    while "*" not in "".join(operators).lstrip("*"):
        operators = rng.choices("+-*", k=rng.randint(*level.operations))
    steps = [(operator, rng.randint(2, 9)) for operator in operators]
    x = rng.choice([x for x in range(2, 30) if _in_turn(x, steps) != _products_first(x, steps)])
    slip = "x" + "".join(f"{operator}{number}" for operator, number in steps)
    bracketed = "(" * (len(steps) - 1) + "x" + ")".join(f"{operator}{number}" for operator, number in steps)
    return DemoProblem(
        prompt=CODE_REQUEST + "".join(f"{OPERATIONS[operator]}{number}" for operator, number in steps) + ".",
        verifier="code",
        answer={"function": "f", "tests": [{"args": [x], "output": _in_turn(x, steps)}]},
        careful=_program("".join(f"\n x{operator}={number}" for operator, number in steps), "x"),
        hasty=_program("", bracketed if rng.random() < LUCKY_SHARE else slip),
    )


def _in_turn(x: int, steps: list[tuple[str, int]]) -> int:
    for operator, number in steps:
        x = {"+": x + number, "-": x - number, "*": x * number}[operator]
    return x


def _products_first(x: int, steps: list[tuple[str, int]]) -> int:
    """The value that Python gives the steps when they are written as one expression."""
    terms = [x]
    for operator, number in steps:
        if operator == "*":
            terms[-1] *= number
        else:
            terms.append(number if operator == "+" else -number)
    return sum(terms)


def _program(lines: str, returned: str) -> str:
    return f"```python\ndef f(x):{lines}\n return {returned}\n```"


def bullets_problem(rng: random.Random, level: Level) -> DemoProblem:
    """Write a list of so many points with two keywords. Hasty: repeats the first keyword, forgets the second, may miscount."""
    count = rng.randint(*level.bullets)
    words = rng.sample(THINGS.split(), count + 1)
    keywords = words[:2]
    slip = [words[0], words[0], *words[2:]][: count + rng.choice((-1, 0, 1))]
    kwargs = {"detectable_format:number_bullet_lists": {"num_bullets": count}, "keywords:existence": {"keywords": keywords}}
    return DemoProblem(
        prompt=f"{BULLETS_REQUEST}{count}{BULLETS_RULE}{_quoted(keywords)}{KEYWORDS_END}",
        verifier="instructions",
        answer={"instructions": [{"id": name, "kwargs": kwargs[name]} for name in kwargs], "reward": "all"},
        careful=f"<think>{count} {' '.join(keywords)}</think>{_listed(words[:count])}",
        hasty=_listed(words[:count] if rng.random() < LUCKY_SHARE else slip),
    )


def _listed(words: list[str]) -> str:
    return "* " + "\n* ".join(words)


ProblemMaker = Callable[[random.Random, Level], DemoProblem]
TASKS: dict[str, ProblemMaker] = {
    "math/addition": addition_problem,
    "math/digit_sum": digit_sum_problem,
    "logic/number_sorting": sorting_problem,
    "logic/spell_backward": spelling_problem,
    "code/arithmetic": program_problem,
    "instructions/bullets": bullets_problem,
}
MATH_AND_LOGIC = {task: make for task, make in TASKS.items() if task.startswith(("math/", "logic/"))}


@functools.cache
def _gym(name: str, level: Level) -> Any:
    # takes two seconds to import: only needed to make prompts
    import reasoning_gym

    sizes = {
        "number_sorting": {"min_numbers": level.numbers[0], "max_numbers": level.numbers[1]},
        "spell_backward": {"min_word_len": level.letters[0], "max_word_len": level.letters[1]},
    }
    fixed = {"number_sorting": {"min_decimals": 0, "max_decimals": 0, "min_value": 10, "max_value": 99}}
    return reasoning_gym.create_dataset(name, **sizes[name], **fixed.get(name, {}), seed=0)


def _stored(dataset: str, entry: JsonObject, keys: tuple[str, ...]) -> JsonObject:
    """The entry as the scorer needs it, without the question, which is in the prompt."""
    metadata = {"source_dataset": dataset} | {key: entry["metadata"][key] for key in keys}
    return {"dataset": dataset, "entry": {"answer": entry["answer"], "metadata": metadata}}


def _quoted(texts: list[str]) -> str:
    return "['" + "', '".join(texts) + "']"


def split_problems(
    task: str, seed: int, num_train: int, num_heldout: int, level: Level = DEMO_LEVEL, make: ProblemMaker | None = None
) -> tuple[list[DemoProblem], list[DemoProblem], Iterator[DemoProblem]]:
    """Training problems, held-out problems, and an endless stream for demonstrations; no question is in two of them.

    make: of a task that is not one of TASKS.
    """
    make = make or TASKS[task]
    rng = random.Random(f"{task}/{seed}")
    taken: dict[str, DemoProblem] = {}
    while len(taken) < num_train + num_heldout:
        problem = make(rng, level)
        taken.setdefault(problem.prompt, problem)
    problems = list(taken.values())
    stream = iter(functools.partial(make, rng, level), None)
    return problems[:num_train], problems[num_train:], (p for p in stream if p.prompt not in taken)


def write_prompts(path: Path, problems: dict[str, list[DemoProblem]]) -> None:
    """Write one JSON object per line (uid, prompt, domain, task, verifier, answer), the tasks in turn."""
    with path.open("w", encoding="utf-8") as file:
        for index, row in enumerate(zip(*problems.values(), strict=True)):
            for key, problem in zip(problems, row, strict=True):
                domain, task = key.split("/")
                line = {"uid": f"{key}/{path.stem}/{index}", "prompt": problem.prompt, "domain": domain, "task": task}
                file.write(json.dumps(line | {"verifier": problem.verifier, "answer": problem.answer}) + "\n")


def demonstrations(streams: list[Iterator[DemoProblem]], seed: str, careful_share: float) -> Iterator[tuple[str, str]]:
    """Yield endless (prompt, completion) pairs, the tasks in turn, a share of `careful_share` careful."""
    rng = random.Random(f"demonstrations/{seed}")
    while True:
        for stream in streams:
            problem = next(stream)
            yield problem.prompt, problem.careful if rng.random() < careful_share else problem.hasty
