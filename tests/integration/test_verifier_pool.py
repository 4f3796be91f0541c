"""The worker pool with real worker processes: deadlines, deaths, memory and blame."""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prolong.common.errors import UserError, VerifierFailure
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.workers import process
from prolong.verifiers.workers.local_pool import LocalPool, WorkerStatus
from prolong.verifiers.workers.process import WorkerState

from tests.support.pools import RunWithPool, run, running, shared_pool

MEMORY_FOR_IMPORTS_MB = 130  # of address space: a worker without sympy has enough with 100, one with it needs 170
STALLS_SYMPY = "\\boxed{\\int_0^1 x^{x^{x^{x^{x}}}} dx}"
SPELL = {"dataset": "spell_backward", "entry": {"answer": "tenalp", "metadata": {}}}


@pytest.fixture(scope="module")
def with_pool() -> Iterator[RunWithPool]:
    """A pool of one worker for tests that leave it as they found it."""
    with shared_pool() as run_with_pool:
        yield run_with_pool


def prompt(verifier: str, text: str = "?", **answer: Any) -> Prompt:
    return Prompt(uid="u", domain="d", task="t", text=text, token_ids=b"", verifier=verifier, answer=json.dumps(answer))


def stop(pool: LocalPool, prompt: Prompt, completion: str) -> Awaitable[Verdict]:
    return pool.verify(prompt, completion, FinishReason.stop)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def ready(pool: LocalPool) -> None:
    await until(lambda: all(worker.state is WorkerState.ready for worker in pool.statuses()))


def only_worker(pool: LocalPool) -> WorkerStatus:
    (worker,) = pool.statuses()
    return worker


def test_verdicts_come_back_to_those_who_asked():
    async def scenario() -> None:
        async with running(2, preload=("reasoning_gym",)) as pool:
            asked = [stop(pool, prompt("math", answer=str(i)), f"\\boxed{{{i - i % 3}}}") for i in range(300)]
            asked += [stop(pool, prompt("reasoning_gym", **SPELL), "<answer>tenalp</answer>") for _ in range(20)]
            verdicts = await asyncio.gather(*asked)
            assert [v.reward for v in verdicts] == [float(i % 3 == 0) for i in range(300)] + [1.0] * 20
            assert pool.counters["verdicts"] == 320

    run(scenario)


def test_half_a_surrogate_pair_is_judged_like_any_other_character(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        assert (await stop(pool, prompt("math", answer="1"), "\ud800 \\boxed{1}")).reward == 1.0
        assert (await stop(pool, prompt("math", answer="1"), "\\boxed{\ud800}")).reward == 0.0

    with_pool(scenario)


def test_easy_verdicts_are_cheap(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        await stop(pool, prompt("math", answer="1"), "\\boxed{1}")
        worker = psutil.Process(only_worker(pool).pid)

        def cpu_s() -> float:
            return time.process_time() + sum(worker.cpu_times()[:2])

        before = cpu_s()
        await asyncio.gather(*(stop(pool, prompt("math", answer=str(i)), f"\\boxed{{{i}}}") for i in range(2000)))
        # this process and its worker judged 10,000 a second on one core
        assert cpu_s() - before < 4

    with_pool(scenario)


def test_a_rollout_that_was_cut_off_is_judged_by_the_answer_that_it_gave_before(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        async def cut(name: str, text: str) -> tuple[float | None, str]:
            verdict = await pool.verify(prompt(name, answer="5"), text, FinishReason.length)
            return verdict.reward, verdict.status

        for name in ("math", "number"):
            assert await cut(name, "\\boxed{5} and so") == (1.0, "ok")
            assert await cut(name, "\\boxed{6} and so") == (0.0, "ok")
            assert await cut(name, "so it is \\boxed{5") == (0.0, "truncated")
            assert await cut(name, "<think>so it is \\boxed{5}") == (0.0, "truncated")
        assert await cut("number", "it is 5") == (0.0, "truncated"), "it may have become 57"
        assert (await stop(pool, prompt("number", answer="5"), "it is 5")).reward == 1.0
        spelled = await pool.verify(prompt("reasoning_gym", **SPELL), "<answer>tenalp</answer> for", FinishReason.length)
        assert (spelled.reward, spelled.status) == (1.0, "ok")

    with_pool(scenario)


def test_a_rollout_that_was_given_up_needs_no_worker(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        aborted = await pool.verify(prompt("math", answer="5"), "\\boxed{5}", FinishReason.abort)
        assert aborted.reward is None

    with_pool(scenario)


def test_a_prompt_that_opens_the_thinking_makes_its_boxes_worthless(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        opened = prompt("math", "2+3=?\n<think>\n", answer="5")
        assert (await stop(pool, opened, "\\boxed{5}")).status == "no_answer"
        assert (await stop(pool, opened, "hm</think>\\boxed{5}")).reward == 1.0

    with_pool(scenario)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_killed_in_the_middle_of_a_job_costs_the_rollout_nothing(signal_number: int):
    async def scenario() -> None:
        async with running() as pool:
            await ready(pool)
            pid = only_worker(pool).pid
            os.kill(pid, signal.SIGSTOP)  # it holds the jobs and will not finish them
            asked = [asyncio.ensure_future(stop(pool, prompt("math", answer=str(i)), f"\\boxed{{{i}}}")) for i in range(20)]
            await until(lambda: only_worker(pool).num_jobs > 0)
            os.kill(pid, signal_number)
            os.kill(pid, signal.SIGCONT)
            verdicts = await asyncio.gather(*asked)
            assert [v.reward for v in verdicts] == [1.0] * 20
            assert pool.counters["verdicts"] == 20
            assert (pool.counters["restarts"], pool.counters["retries"]) == (1, 1)

    run(scenario)


@pytest.mark.parametrize("seed", [0, 1])
def test_kills_under_load_leave_one_verdict_per_job_and_none_of_them_is_a_0_because_of_us(seed: int):
    """Workers are killed at random moments, also while they import, and sometimes twice under the same job."""
    rng = random.Random(seed)

    async def scenario() -> None:
        async with running(3, timeout_s=10.0) as pool:
            num_settled = Counter[int]()

            async def judge(number: int) -> Verdict:
                answer = f"{number}\\sqrt{{3}}" if number % 5 == 0 else str(number)  # every fifth needs the slow library
                text = f"\\sqrt{{3}}\\cdot {number}" if number % 5 == 0 else str(number)
                verdict = await stop(pool, prompt("math", answer=answer), f"\\boxed{{{text}}}")
                num_settled[number] += 1
                return verdict

            asked = [asyncio.ensure_future(judge(number)) for number in range(1, 401)]
            kills = 0
            while not all(job.done() for job in asked):
                victim = rng.choice(pool.statuses())
                has_started = victim.state is not WorkerState.starting
                if kills < 15 and has_started and (victim.num_jobs or rng.random() < 0.1):
                    os.kill(victim.pid, signal.SIGKILL)
                    kills += 1
                await asyncio.sleep(rng.uniform(0.0, 0.3))
            verdicts = [job.result() for job in asked]
            assert set(num_settled.values()) == {1}
            assert {verdict.reward for verdict in verdicts} <= {1.0, None}
            assert pool.counters["verdicts"] == 400
            assert kills >= 5
            assert pool.counters["crashes"] > 0
            num_none = sum(verdict.reward is None for verdict in verdicts)
            assert num_none == pool.counters["status/crash"] <= kills / 2, "only what was under two kills"

    run(scenario)


def test_a_job_whose_worker_somebody_kills_twice_has_no_reward():
    async def scenario() -> None:
        async with running() as pool:
            await ready(pool)
            asked = asyncio.ensure_future(stop(pool, prompt("math", answer="2\\sqrt{3}"), STALLS_SYMPY))
            await until(lambda: only_worker(pool).num_jobs == 1)
            os.kill(only_worker(pool).pid, signal.SIGKILL)
            await until(lambda: pool.counters["retries"] == 1 and only_worker(pool).probed)
            os.kill(only_worker(pool).pid, signal.SIGKILL)
            verdict = await asked
            assert (verdict.reward, verdict.status) == (None, "crash")

    run(scenario)


def test_a_hung_worker_is_replaced_and_the_rollout_keeps_its_reward():
    async def scenario() -> None:
        async with running(timeout_s=2.0) as pool:
            await ready(pool)
            os.kill(only_worker(pool).pid, signal.SIGSTOP)
            verdict = await stop(pool, prompt("math", answer="5"), "\\boxed{5}")
            assert verdict.reward == 1.0
            assert pool.counters["timeouts"] == 1

    run(scenario)


@pytest.mark.parametrize("hostile", ["9^{9^{9^{9}}}", "((9!)!)!", "\\int_0^1 x^{x^{x^{x^{x}}}} dx + 9^{9^{9^{9}}}"])
def test_an_answer_that_stalls_the_judge_earns_zero_and_is_counted_apart(hostile: str):
    async def scenario() -> None:
        async with running(timeout_s=1.5) as pool:
            asked = [stop(pool, prompt("math", answer="2\\sqrt{3}"), f"\\boxed{{{hostile}}}")]
            asked += [stop(pool, prompt("math", answer=str(i)), f"\\boxed{{{i}}}") for i in range(12)]
            verdict, *innocent = await asyncio.gather(*asked)
            assert (verdict.reward, verdict.status) == (0.0, "input_rejected")
            assert [v.reward for v in innocent] == [1.0] * 12  # those behind it in the same worker
            assert pool.counters["status/input_rejected"] == 1

    run(scenario)


def test_a_stored_answer_that_stalls_the_judge_gives_no_reward():
    async def scenario() -> None:
        async with running(timeout_s=1.5) as pool:
            verdict = await stop(pool, prompt("math", answer="9^{9^{9^{9}}}"), "\\boxed{2\\sqrt{3}}")
            assert (verdict.reward, verdict.status) == (None, "timeout")

    run(scenario)


def test_a_worker_without_memory_for_its_judge_gives_no_reward():
    async def scenario() -> None:
        async with running(memory_mb=MEMORY_FOR_IMPORTS_MB) as pool:
            assert (await stop(pool, prompt("math", answer="7"), "\\boxed{7}")).reward == 1.0
            verdict = await stop(pool, prompt("math", answer="2\\sqrt{3}"), "\\boxed{\\sqrt{12}}")
            assert verdict.reward is None
            assert (await stop(pool, prompt("math", answer="7"), "\\boxed{7}")).reward == 1.0

    run(scenario)


def test_what_a_verifier_raises_is_counted_and_the_first_of_each_kind_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "divides.py").write_text("def judge(completion, answer):\n    return 1 / int(completion)\n")
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        async with running(own={"divides": "divides:judge"}) as pool:
            texts = ("0", "1", "0", "x", "0", "y")
            verdicts = await asyncio.gather(*(stop(pool, prompt("divides"), text) for text in texts))
            assert [v.reward for v in verdicts] == [None, 1.0, None, None, None, None]
            assert pool.counters["raised"] == 5

    run(scenario)
    told = [record.getMessage() for record in caplog.records if "raised" in record.getMessage()]
    assert [text.splitlines()[-1][:17] for text in told] == ["ZeroDivisionError", 'ValueError("inval']
    assert all('divides.py", line 2, in judge' in text for text in told)


def test_the_first_import_does_not_count_against_the_deadline():
    async def scenario() -> None:
        async with running(timeout_s=0.4) as pool:  # reasoning_gym takes longer to import
            verdict = await stop(pool, prompt("reasoning_gym", **SPELL), "<answer>tenalp</answer>")
            assert verdict.reward == 1.0
            assert pool.counters["timeouts"] == 0

    run(scenario)


def test_workers_are_recycled_without_losing_a_verdict():
    async def scenario() -> None:
        async with running(2, recycle_after=100) as pool:
            for _ in range(4):
                verdicts = await asyncio.gather(*(stop(pool, prompt("math", answer="5"), "\\boxed{5}") for _ in range(300)))
                assert [v.reward for v in verdicts] == [1.0] * 300
            await until(lambda: [worker.state for worker in pool.statuses()] == [WorkerState.ready] * 2)
            assert pool.counters["recycled"] >= 2
            assert pool.counters["restarts"] == 0

    run(scenario)


def test_a_cancelled_wait_does_not_disturb_the_others(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        given_up = asyncio.ensure_future(stop(pool, prompt("math", answer="1"), "\\boxed{1}"))
        kept = asyncio.ensure_future(stop(pool, prompt("math", answer="2"), "\\boxed{2}"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await kept).reward == 1.0

    with_pool(scenario)


def test_closing_leaves_no_process_and_cancels_what_waits():
    async def scenario() -> None:
        async with running(2) as pool:
            await ready(pool)
            pids = [worker.pid for worker in pool.statuses()]
            waiting = asyncio.ensure_future(stop(pool, prompt("math", answer="2\\sqrt{3}"), STALLS_SYMPY))
            await until(lambda: any(worker.num_jobs for worker in pool.statuses()))
            await pool.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not any(psutil.pid_exists(pid) for pid in pids)
            with pytest.raises(VerifierFailure, match="closed"):
                await stop(pool, prompt("math", answer="1"), "\\boxed{1}")

    run(scenario)


def test_workers_that_cannot_start_are_an_error_not_a_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process.sys, "executable", "/bin/false")

    async def scenario() -> None:
        async with running() as pool:
            with pytest.raises(VerifierFailure, match="before they were ready"):
                await stop(pool, prompt("math", answer="1"), "\\boxed{1}")
            with pytest.raises(VerifierFailure):
                await stop(pool, prompt("math", answer="1"), "\\boxed{1}")

    run(scenario)


def test_an_unknown_verifier_is_refused(with_pool: RunWithPool):
    async def scenario(pool: LocalPool) -> None:
        with pytest.raises(UserError, match="unknown verifier"):
            await stop(pool, prompt("nobody"), "x")
        with pytest.raises(UserError, match="unknown verifier"):
            LocalPool(1, 1.0, preload=("nobody",))

    with_pool(scenario)
