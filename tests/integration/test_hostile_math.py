"""Boxed answers made to stall, crash or bloat the judge, through the real pool: nobody waits past the deadline."""

import asyncio
import json
import subprocess
import sys

import psutil
import pytest
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.workers.local_pool import LocalPool

NUM_WORKERS = 2
TIMEOUT_S = 0.8
MEMORY_MB = 1024
HOSTILE = {
    "tower of powers": "9^{9^{9^{9}}}",
    "tower with parentheses": "((9^9)^(9^9))^(9^9)",
    "negative tower": "2^{-9^{9^{9}}}",
    "root of a huge order": "\\sqrt[10^{9}]{2^{10^{12}}}",
    "factorial of a factorial": "((9!)!)!",
    "factorials all the way": "5!!!!!!!!",
    "large factorial": "10000000!",
    "binomial": "\\binom{10^{12}}{5\\cdot 10^{11}}",
    "huge sum": "\\sum_{k=1}^{10^{15}} \\frac{1}{k^2+k+1}",
    "sum of factorials": "\\sum_{k=1}^{10^{9}} k!",
    "product": "\\prod_{k=1}^{10^{9}} (k^2+1)",
    "integral": "\\int_0^1 x^{x^{x^{x^{x}}}} dx",
    "expansion": "(a+b+c+d+e+f+g+h)^{60}-(a+b+c+d+e+f+g+h)^{59}",
    "polynomial with huge degree": "x^{10^{18}}-1",
    "determinant": "\\det\\begin{pmatrix}"
    + "\\\\".join("&".join(f"x_{{{i}{j}}}" for j in range(9)) for i in range(9))
    + "\\end{pmatrix}",
    "power of a matrix": "\\begin{pmatrix}1&1\\\\1&0\\end{pmatrix}^{10^{12}}",
    "deep fractions": "\\frac{1}{1+" * 90 + "1" + "}" * 90,
    "deep roots": "\\sqrt{" * 250 + "2" + "}" * 250,
    "many digits": "7" * 1900 + ".5",
    "huge exponent of ten": "10^{999999999999}",
    "tiny number": "10^{-999999999999}+\\sqrt{3}",
    "long sum of roots": "+".join(f"\\sqrt{{{n}}}" for n in range(2, 180)),
    "long product": "\\cdot ".join(f"(x^{{{n}}}+{n})" for n in range(1, 90)),
    "nested absolute values": "|" * 300 + "x" + "|" * 300,
    "inequalities": "<".join(f"x^{n}" for n in range(1, 120)),
    "equations to solve": "\\sin(x^5+x+e^x)=\\cos(x^7)+\\ln x",
    "set of powers": "\\{" + ",".join(f"{n}^{{{n}^{{{n}}}}}" for n in range(5, 30)) + "\\}",
    "pretended code": "__import__('os').system('echo hacked > /tmp/hacked-by-math')",
    "tail of commas": "1" + "," * 1900,
    "control characters": "\x00\x01\ue000\ue001\u202e\ufeff" * 50 + "2",
    "surrogates and digits of other scripts": "٣" * 300 + "²" * 200 + "\U0001d7d7^\U0001d7d7",
}


def prompt(answer: str) -> Prompt:
    return Prompt(
        uid="u", domain="math", task="t", text="?", token_ids=b"", verifier="math", answer=json.dumps({"answer": answer})
    )


class Watch:
    """The largest resident memory of any worker, sampled while the pool works."""

    def __init__(self, pool: LocalPool) -> None:
        self.pool, self.largest_mb = pool, 0.0

    async def run(self) -> None:
        while True:
            for worker in self.pool.statuses():
                try:
                    self.largest_mb = max(self.largest_mb, psutil.Process(worker.pid).memory_info().rss / (1 << 20))
                except psutil.NoSuchProcess:
                    continue
            await asyncio.sleep(0.05)


async def judged(pool: LocalPool) -> dict[str, Verdict]:
    """Verdicts; as many at a time as there are workers, so that none waits for another."""
    free_worker = asyncio.Semaphore(NUM_WORKERS)

    async def one(text: str) -> Verdict:
        async with free_worker:
            return await pool.verify(prompt("2\\sqrt{3}"), f"\\boxed{{{text}}}", FinishReason.stop)

    return dict(zip(HOSTILE, await asyncio.gather(*map(one, HOSTILE.values())), strict=True))


# what a job imports counts towards its deadline, and where processors are slow that is all there is of a short one
FIRST_ANSWERS = """
import sys
from prolong.verifiers.math import MATH
MATH.load()
loaded = set(sys.modules)
for stored in ("2\\\\sqrt{3}", "x^2+1", "\\\\{1,2\\\\}", "(1,2)"):
    MATH.probe({"answer": stored})
print(sorted(set(sys.modules) - loaded))
"""


def test_a_judge_that_is_loaded_imports_nothing_more_for_its_first_answers():
    done = subprocess.run([sys.executable, "-c", FIRST_ANSWERS], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_hostile_answer_holds_the_pool_past_its_deadline_or_earns_anything():
    assert len(HOSTILE) >= 25

    async def scenario() -> None:
        pool = LocalPool(NUM_WORKERS, TIMEOUT_S, memory_mb=MEMORY_MB)
        await pool.start()
        watch = Watch(pool)
        watching = asyncio.ensure_future(watch.run())
        try:
            verdicts = await judged(pool)
            for name, verdict in verdicts.items():
                assert verdict.reward == 0.0, f"{name}: {verdict}"
            rejected = [verdict for verdict in verdicts.values() if verdict.status == "input_rejected"]
            assert sum("failed twice" in verdict.detail for verdict in rejected) >= 5, (
                "nothing stalled: these strings test nothing"
            )
            assert watch.largest_mb < MEMORY_MB
            assert pool.counters["restarts"] == pool.counters["timeouts"] + pool.counters["crashes"] >= 10
            right = await pool.verify(prompt("2\\sqrt{3}"), "\\boxed{\\sqrt{12}}", FinishReason.stop)
            assert right.reward == 1.0
        finally:
            watching.cancel()
            await pool.close()

    # judged without a deadline, these strings take far longer
    asyncio.run(asyncio.wait_for(scenario(), 390))
