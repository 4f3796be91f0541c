"""The demo's rewards of math and logic as a function for TRL, in which neither prolong nor its verifiers are installed.

A test holds them against the verifiers: a race to a reward is one only if both sides pay the same for the same answer.
Comparing with the stored answer is cheaper than what the verifiers do, to TRL's advantage.
"""

import re

NUMBER_PATTERN = re.compile(r"-?\d+(?:\.\d+)?")
PATTERNS = {"math": re.compile(r"\\boxed\{([^{}]*)\}"), "reasoning_gym": re.compile(r"<answer>(.*?)</answer>", re.DOTALL)}


def target_of(row: dict) -> str:
    """The right answer of a prompt, a line of train.jsonl."""
    answer = row["answer"]
    return str(answer["entry"]["answer"] if "entry" in answer else answer["answer"])


def demo_reward(text: str, verifier: str, target: str, task: str) -> float:
    """The reward of a completion that ended: that of the last answer in it, 0 without one."""
    found = PATTERNS[verifier].findall(text.split("</think>")[-1].partition("<think>")[0])
    judge = _spelled if task == "spell_backward" else _same_items
    return judge(found[-1], target) if found else 0.0


def _same_items(found: str, target: str) -> float:
    return float(_items(found) == _items(target))


def _items(text: str) -> list[float | str]:
    """The items of a list, with or without brackets and quotes; numbers are compared as numbers."""
    items = (item.strip("' ") for item in text.strip().strip("[]").split(","))
    return [float(item) if NUMBER_PATTERN.fullmatch(item) else item for item in items]


def _spelled(found: str, target: str) -> float:
    """The share of letters before the first mistake, in a word of the right length."""
    found = "".join(found.split())
    if len(found) != len(target):
        return 0.0
    return next((at for at, (a, b) in enumerate(zip(found, target, strict=True)) if a != b), len(target)) / len(target)
