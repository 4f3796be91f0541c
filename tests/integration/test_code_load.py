"""Programs on a busy machine, and programs that take longer than the pool's deadline: right ones are paid all the same."""

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.sandbox.clocks import readable
from prolong.verifiers.sandbox.launcher import Limits
from prolong.verifiers.sandbox.sandbox import Sandbox
from prolong.verifiers.workers.local_pool import LocalPool
from prolong.verifiers.workers.process import WorkerState

from tests.support.pools import run, running
from tests.support.runs import wait_until
from tests.support.sandboxes import BACKENDS, missing, opened

pytestmark = [
    pytest.mark.skipif(all(map(missing, BACKENDS.values())), reason="no sandbox on this machine"),
    pytest.mark.skipif(not readable(), reason="this kernel keeps no scheduler statistics"),
]
# so much CPU time, however fast the machine is
WORK = "import time\nwhile time.process_time() < 0.3: pass\nprint(1)"
NUM_LOOPS = 8
WALL_S = 1.2  # the work takes over two seconds beside the loops; what a busy host takes from both is below the rest


@pytest.fixture
def on_one_busy_processor() -> Iterator[None]:
    """This process, and all that it starts, share one processor with busy loops."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    # the kernel shares a processor between sessions first, so each loop has its own, as the program has
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(NUM_LOOPS)]
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.fixture(params=sorted(BACKENDS))
def box(request: pytest.FixtureRequest, on_one_busy_processor: None) -> Iterator[Sandbox]:
    with opened(BACKENDS[request.param]) as sandbox:
        yield sandbox


def test_a_program_that_waits_for_its_processor_is_not_out_of_time(box: Sandbox):
    result = box.run(WORK, "", Limits(cpu_s=2, wall_s=WALL_S))
    assert (result.status, result.stdout) == ("ok", b"1\n"), result
    assert result.seconds > WALL_S, "it took longer than its limit of wall time"
    assert result.seconds - result.waited_s < WALL_S
    assert box.run("import time\ntime.sleep(30)", "", Limits(cpu_s=2, wall_s=0.3)).status == "timeout"
    assert box.run("while True: pass", "", Limits(cpu_s=0.2, wall_s=30)).status == "timeout"


def asked(pool: LocalPool, program: str, **answer: object) -> asyncio.Future[Verdict]:
    problem = {"tests": [{"stdin": "", "stdout": "1"}]} | answer
    prompt = Prompt(uid="u", domain="d", task="t", text="?", token_ids=b"", verifier="code", answer=json.dumps(problem))
    return asyncio.ensure_future(pool.verify(prompt, f"```python\n{program}\n```\n", FinishReason.stop))


def judging(pool: LocalPool) -> bool:
    return any(worker.state is WorkerState.ready and worker.num_jobs for worker in pool.statuses())


def has_missed(pool: LocalPool, number: int) -> bool:
    return pool.counters["timeouts"] >= number


def test_a_limit_beyond_the_deadline_of_the_pool_is_granted():
    async def scenario() -> None:
        async with running(timeout_s=3.0, preload=("code",)) as pool:
            await pool.usable()
            waits = await asked(pool, "import time\ntime.sleep(5)\nprint(1)", time_limit_s=20)
            assert (waits.reward, pool.counters["timeouts"]) == (1.0, 0)
            assert waits.seconds > 3.0

    run(scenario)


def test_a_worker_that_misses_its_deadline_twice_gives_no_reward():
    async def scenario() -> None:
        async with running(timeout_s=1.5, preload=("code",)) as pool:
            await pool.usable()
            job = asked(pool, "import time\ntime.sleep(60)\nprint(1)", time_limit_s=200, test_time_limit_s=60)
            for number in (1, 2):
                await asyncio.to_thread(wait_until, "a worker with the program", lambda: judging(pool), 60)
                (worker,) = pool.statuses()
                os.kill(worker.pid, signal.SIGSTOP)
                await asyncio.to_thread(wait_until, "its end", functools.partial(has_missed, pool, number), 60)
            verdict = await job
            assert (verdict.reward, verdict.status) == (None, "timeout")

    run(scenario)
