"""What completions cost that a policy writes when it degenerates: brackets within brackets, repeated text, endless chains.

Degenerate and ordinary completions, as many of each, go to one worker of a pool one after the other, so that every wait is the
cost of one verdict. The stored answers are a number, a formula, a list and, for `stem`, a number with a unit and a phrase.
Printed for both: seconds in all, the longest verdict, the 99th percentile, verdicts per second; of the degenerate ones also how
many were refused by their shape and by the budget of CPU time, and how often the worker was killed at its deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from time import perf_counter

from ..common.types import FinishReason, Prompt, Verdict
from ..verifiers.workers.local_pool import LocalPool
from .measure import report

SIZES = (8, 12, 20, 30, 60, 120, 400, 900)
STORED = (
    ("math", "\\frac{1}{2}"), ("math", "x^2+2x+1"), ("math", "7"), ("math", "(1, 2)"), ("math", "2\\sqrt{3}"),
    ("math", "\\text{even}"),
    ("stem", "9.8 m/s^2"), ("stem", "\\frac{1}{2}mv^2"), ("stem", "photosynthesis"), ("stem", "B"),
)  # fmt: skip
ORDINARY = (
    ("math", "\\frac{1}{2}", "0.5"), ("math", "\\frac{1}{2}", "\\frac{2}{3}"), ("math", "x^2+2x+1", "(x+1)^2"),
    ("math", "x^2+2x+1", "x^2+1"), ("math", "7", "7"), ("math", "(1, 2)", "(1,2)"), ("math", "2\\sqrt{3}", "\\sqrt{12}"),
    ("math", "2\\sqrt{3}", "3.46"), ("stem", "9.8 m/s^2", "9.81\\text{ m/s}^2"),
    ("stem", "\\frac{1}{2}mv^2", "\\frac{mv^2}{2}"),
    ("stem", "photosynthesis", "\\text{respiration}"), ("stem", "B", "(C)"),
)  # fmt: skip
BoxMaker = Callable[[int, str, str], str]  # size, a number, a letter -> the content of a box
SHAPES: dict[str, BoxMaker] = {
    "brackets": lambda n, a, v: "(" * n + a + ")" * n,
    "brackets around a sum": lambda n, a, v: "(" * n + f"{v}+{a}" + ")" * n,
    "square brackets": lambda n, a, v: "[" * n + v + "]" * n,
    "two kinds of brackets": lambda n, a, v: "([" * n + a + "])" * n,
    "sized brackets": lambda n, a, v: "\\left(" * n + v + "\\right)" * n,
    "open brackets": lambda n, a, v: "(" * n,
    "closed brackets": lambda n, a, v: ")" * n,
    "braces": lambda n, a, v: "{" * n + v + "}" * n,
    "set braces": lambda n, a, v: "\\{" * n + a + "\\}" * n,
    "nested sums": lambda n, a, v: "(" * n + v + "+1)" * n,
    "nested products": lambda n, a, v: "2(" * n + v + ")" * n,
    "nested signs": lambda n, a, v: "-(" * n + v + ")" * n,
    "nested points": lambda n, a, v: f"({a}," * n + "2" + ")" * n,
    "nested fractions": lambda n, a, v: "\\frac{" * n + v + "}{2}" * n,
    "continued fraction": lambda n, a, v: "\\frac{1}{1+" * n + v + "}" * n,
    "nested roots": lambda n, a, v: "\\sqrt{1+" * n + v + "}" * n,
    "nested powers": lambda n, a, v: "2^{" * n + v + "}" * n,
    "nested exponentials": lambda n, a, v: "e^{" * n + v + "}" * n,
    "nested indices": lambda n, a, v: f"{v}_{{" * n + "1" + "}" * n,
    "nested functions": lambda n, a, v: "f(" * n + v + ")" * n,
    "nested sines": lambda n, a, v: "\\sin(" * n + v + ")" * n,
    "nested boxes": lambda n, a, v: "\\boxed{" * n + a + "}" * n,
    "nested matrices": lambda n, a, v: "\\begin{pmatrix}" * n + a + "\\end{pmatrix}" * n,
    "nested bars": lambda n, a, v: "|" + f"|{v}" * n + "|",
    "bars": lambda n, a, v: "|" * n + v + "|" * n,
    "norms": lambda n, a, v: "\\|" * n + v + "\\|" * n,
    "carets": lambda n, a, v: v + "^" * n,
    "chain of powers": lambda n, a, v: "^".join([v] * n),
    "chain of equals": lambda n, a, v: "=".join(str(i) for i in range(n)),
    "equals between letters": lambda n, a, v: "=".join([v] * n),
    "chain of inequalities": lambda n, a, v: "<".join(f"{v}^{i}" for i in range(n)),
    "commas": lambda n, a, v: a + "," * n,
    "long list": lambda n, a, v: ",".join(str(i) for i in range(n)),
    "list of equations": lambda n, a, v: f"{v} = {a}, " * n,
    "long sum": lambda n, a, v: "+".join([v] * n),
    "signs": lambda n, a, v: "-" * n + a,
    "letters": lambda n, a, v: v * n,
    "long product": lambda n, a, v: "\\cdot ".join([v] * n),
    "product of brackets": lambda n, a, v: "".join(f"({v}+{i})" for i in range(n)),
    "polynomial": lambda n, a, v: "+".join(f"{v}^{{{i}}}" for i in range(n)),
    "power of a sum": lambda n, a, v: f"(a+b+c+{v})^{{{n}}}",
    "sum of roots": lambda n, a, v: "+".join(f"\\sqrt{{{i}}}" for i in range(2, n + 2)),
    "digits": lambda n, a, v: a * n,
    "factorials": lambda n, a, v: a + "!" * n,
    "binomial": lambda n, a, v: f"\\binom{{{n * 100}}}{{{n * 50}}}",
    "integrals": lambda n, a, v: "\\int_0^1 " * n + v,
    "sums": lambda n, a, v: "\\sum_{k=1}^{n} " * n + v,
    "limits": lambda n, a, v: "\\lim_{x\\to 0} " * n + v,
    "floors": lambda n, a, v: "\\lfloor " * n + v + "\\rfloor" * n,
    "plus or minus": lambda n, a, v: ",".join([f"\\pm {a}"] * n),
    "unions": lambda n, a, v: "\\cup ".join(["(0,1)"] * n),
    "wide matrix": lambda n, a, v: "\\begin{pmatrix}" + "\\\\".join("&".join([v] * 6) for _ in range(n)) + "\\end{pmatrix}",
    "repeated words": lambda n, a, v: "the answer is " * n,
    "repeated sentence": lambda n, a, v: f"We have $x = {a}$. " * n,
    "repeated text": lambda n, a, v: "\\text{" + "so we get " * n + "}",
    "repeated unit": lambda n, a, v: f"{a} \\text{{" + "m " * n + "}",
    "repeated unit vector": lambda n, a, v: "+".join(["\\hat{i}"] * n),
    "repeated formula": lambda n, a, v: f"\\frac{{{a}}}{{7}} + " * n + v,
    "repeated and": lambda n, a, v: " \\text{ and } ".join([a] * n),
    "repeated or": lambda n, a, v: " or ".join(["B"] * n),
    "slashes": lambda n, a, v: "/".join([a] * n),
    "colons": lambda n, a, v: ":".join([a] * n),
    "backslashes": lambda n, a, v: "\\" * n,
    "dollars": lambda n, a, v: "$" * n + a + "$" * n,
    "spaces": lambda n, a, v: a + " " * n + a,
    "junk": lambda n, a, v: " ".join(
        random.Random(n).choices(["\\frac", "(", ")", "{", "}", "^", "_", v, a, "=", "|", ","], k=n)
    ),
}
# whole completions, around the content of a box
TEXTS: dict[str, Callable[[int, str], str]] = {
    "one box": lambda n, boxed: f"So \\boxed{{{boxed}}}.",
    "behind a repeated sentence": lambda n, boxed: "Wait, let me check that again. " * (50 * n) + f"\\boxed{{{boxed}}}",
    "many boxes": lambda n, boxed: f"\\boxed{{{boxed[:60]}}} " * (10 * n),
    "boxes that never end": lambda n, boxed: "\\boxed{" * (10 * n) + boxed,
    "many thoughts": lambda n, boxed: "</think>" * (10 * n) + f"\\boxed{{{boxed}}}",
}


def stored_prompt(verifier: str, answer: str) -> Prompt:
    spec = json.dumps({"answer": answer})
    return Prompt(uid="u", domain="math", task="t", text="?", token_ids=b"", verifier=verifier, answer=spec)


def degenerate(count: int, seed: int) -> list[tuple[Prompt, str]]:
    """Completions of every shape in turn; one in five is more than a box."""
    rng, jobs = random.Random(seed), []
    for at in range(count):
        make = list(SHAPES.values())[at % len(SHAPES)]
        size = rng.choice(SIZES)
        boxed = make(size, str(rng.randint(2, 99)), rng.choice("xyzabn"))
        text = rng.choice(list(TEXTS.values())) if rng.random() < 0.2 else TEXTS["one box"]
        jobs.append((stored_prompt(*rng.choice(STORED)), text(size, boxed)))
    return jobs


def ordinary(count: int) -> list[tuple[Prompt, str]]:
    cases = [ORDINARY[at % len(ORDINARY)] for at in range(count)]
    return [(stored_prompt(verifier, stored), f"So the answer is \\boxed{{{boxed}}}.") for verifier, stored, boxed in cases]


async def judged_in_turn(pool: LocalPool, jobs: list[tuple[Prompt, str]]) -> tuple[list[float], list[Verdict]]:
    """Seconds of every verdict, and the verdicts."""
    waits, verdicts = [], []
    for asked, text in jobs:
        began = perf_counter()
        verdicts.append(await pool.verify(asked, text, FinishReason.stop))
        waits.append(perf_counter() - began)
    return waits, verdicts


def figures(name: str, waits: list[float]) -> dict[str, float]:
    ordered = sorted(waits)
    return {
        f"{name}_s": sum(waits),
        f"{name}_worst_s": ordered[-1],
        f"{name}_p99_s": ordered[int(0.99 * (len(ordered) - 1))],
        f"{name}_verdicts_per_s": len(waits) / sum(waits),
    }


async def judge_both(count: int, timeout_s: float, seed: int) -> dict[str, float]:
    """Judge both kinds with one worker. Raises RuntimeError if a degenerate completion is paid."""
    pool = LocalPool(1, timeout_s, preload=("math", "stem"))
    await pool.start()
    try:
        await pool.usable()
        await judged_in_turn(pool, ordinary(len(ORDINARY)))  # imports, and the parser's tables
        ordinary_waits, _ = await judged_in_turn(pool, ordinary(count))
        jobs = degenerate(count, seed)
        waits, verdicts = await judged_in_turn(pool, jobs)
        deadlines = float(pool.counters["timeouts"] + pool.counters["crashes"])
    finally:
        await pool.close()
    refused = Counter(name for verdict in verdicts for name in ("over_bounds", "over_budget") if verdict.metrics.get(name))
    paid = [text for (_, text), verdict in zip(jobs, verdicts, strict=True) if verdict.reward]
    return figures("ordinary", ordinary_waits) | figures("degenerate", waits) | {
        "refused_by_shape": float(refused["over_bounds"]),
        "refused_by_budget": float(refused["over_budget"]),
        "worker_killed": deadlines,
        "without_reward": float(sum(verdict.reward is None for verdict in verdicts)),
        "paid": float(len(paid)),
    }  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench degenerate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--count", type=int, default=1000, help="completions of each kind")
    parser.add_argument("--timeout-s", type=float, default=30.0, help="verifiers.timeout_s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    report(asyncio.run(judge_both(args.count, args.timeout_s, args.seed)), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
