"""Real sandboxed verdicts on code through the pool: while workers and sandboxes are killed, and where there is no sandbox."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from prolong.common.errors import ConfigError
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.sandbox.sandbox import FIRST_UID, NUM_UIDS
from prolong.verifiers.workers import process
from prolong.verifiers.workers.local_pool import LocalPool
from prolong.verifiers.workers.process import WorkerState

from tests.support.pools import run, running
from tests.support.runs import living, wait_until
from tests.support.sandboxes import BACKENDS, abandoned, missing, names_in

pytestmark = pytest.mark.skipif(all(map(missing, BACKENDS.values())), reason="no sandbox on this machine")
ADD = {"function": "add", "tests": [{"args": [n, 2], "output": n + 2} for n in range(3)]}
LINES = {"tests": [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "1 1\n", "stdout": "2\n"}]}
SUM = "a, b = map(int, input().split())\nprint(a + b)"
CPP = LINES | {"language": "cpp"}
CPP_SUM = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }"
EVERY = (  # problem, program, language, reward
    (ADD, "def add(a, b): return a + b", "python", 1.0),
    (ADD, "def add(a, b): return 2 * a", "python", 1 / 3),
    (ADD, "import os\ndef add(a, b): os._exit(0)", "python", 0.0),
    (LINES, SUM, "python", 1.0),
    (LINES, "print(7)", "python", 0.5),
)
NUM_STRIKES, NUM_WAITING = 10, 100
# imitates a kernel without Landlock: a filter fails its first system call, then the interpreter starts
WITHOUT_LANDLOCK = """#!{python}
import ctypes, errno, os, struct, sys
def op(code, value, yes=0, no=0): return struct.pack("<HBBI", code, yes, no, value)
code = op(0x20, 0) + op(0x15, 444, 0, 1) + op(0x06, 0x00050000 | errno.ENOSYS) + op(0x06, 0x7FFF0000)
instructions = ctypes.create_string_buffer(code, len(code))
header = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(instructions)))
libc, zero = ctypes.CDLL(None), ctypes.c_ulong(0)
assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
assert libc.prctl(22, ctypes.c_ulong(2), header, zero, zero) == 0
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


def asked(pool: LocalPool, problem: dict[str, Any], program: str, language: str = "python") -> Awaitable[Verdict]:
    prompt = Prompt(uid="u", domain="d", task="t", text="?", token_ids=b"", verifier="code", answer=json.dumps(problem))
    return pool.verify(prompt, f"<think>hm</think>\n```{language}\n{program}\n```\n", FinishReason.stop)


def descendants(pids: list[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found += psutil.Process(pid).children(recursive=True)
    return found


def launchers_of(family: list[psutil.Process]) -> list[psutil.Process]:
    """A sandbox's launcher, and the program that it runs behind it."""
    return [process for process, name in names_in(family) if name != "bwrap"]


class Trouble:
    """Kills and stops workers and sandboxes at random moments; remembers each of their processes that it saw.

    done: what it did so far, of NUM_STRIKES.
    """

    def __init__(self, pool: LocalPool, seed: int) -> None:
        self._pool, self.random = pool, random.Random(seed)
        self.workers, self.hit, self.inside = set[int](), set[int](), set[psutil.Process]()
        self.done = Counter[str]()
        # one stop, because it takes a deadline
        self._next = [*("worker", "sandbox", "launcher") * 3, "stop"]
        self.random.shuffle(self._next)

    def look(self) -> None:
        self.workers |= {worker.pid for worker in self._pool.statuses()}
        self.inside |= set(descendants([worker.pid for worker in self._pool.statuses()]))

    def strike(self) -> None:
        self.look()
        started = [worker for worker in self._pool.statuses() if worker.state is not WorkerState.starting]
        busy = [worker for worker in started if worker.num_jobs and worker.pid not in self.hit]
        if not busy:
            return
        worker, what = self.random.choice(busy), self._next[0]
        family = descendants([worker.pid])
        with suppress(ProcessLookupError, psutil.NoSuchProcess, IndexError):
            if what in ("worker", "stop"):
                self.hit.add(worker.pid)
                os.kill(worker.pid, signal.SIGKILL if what == "worker" else signal.SIGSTOP)
            elif what == "sandbox":
                family[0].kill()
            else:
                # not the program that it runs, which would then count as a wrong one
                launchers_of(family)[0].kill()
            self.done[what] += 1
            self._next.pop(0)

    def survivors(self) -> list[psutil.Process]:
        # also unseen ones, because a worker's sandbox has a user of its own
        users = {FIRST_UID + pid % NUM_UIDS for pid in self.workers}
        return living(self.inside) + ([] if os.getuid() else abandoned(users))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_under_load_leave_one_verdict_per_program_and_take_no_reward_away(seed: int):
    async def scenario() -> None:
        async with running(2, timeout_s=6.0, preload=("code",)) as pool:
            trouble, settled = Trouble(pool, seed), Counter[int]()

            async def judge(number: int) -> Verdict:
                problem, program, language, _ = EVERY[number % len(EVERY)]
                verdict = await asked(pool, problem, program, language)
                settled[number] += 1
                return verdict

            jobs: list[asyncio.Future[Verdict]] = []
            while trouble.done.total() < NUM_STRIKES:
                # more than the workers hold, so that whatever is struck had work to do
                for _ in range(NUM_WAITING - sum(not job.done() for job in jobs)):
                    jobs.append(asyncio.ensure_future(judge(len(jobs))))
                await asyncio.sleep(trouble.random.uniform(0.05, 0.5))
                trouble.strike()
            verdicts = await asyncio.gather(*jobs)
            assert settled == dict.fromkeys(range(len(jobs)), 1)
            assert pool.counters["verdicts"] == len(jobs)
            wrong = [
                (number, v) for number, v in enumerate(verdicts) if v.reward not in (None, pytest.approx(EVERY[number % 5][3]))
            ]
            assert wrong == []
            num_none = sum(verdict.reward is None for verdict in verdicts)
            assert num_none == pool.counters["status/crash"] + pool.counters["status/timeout"]
            assert num_none <= NUM_STRIKES / 2, "only what was under two kills"
            assert pool.counters["restarts"] >= len(trouble.hit) >= 4
            assert pool.counters["timeouts"] >= trouble.done["stop"]
            again = await asyncio.gather(*(asked(pool, *EVERY[0][:3]) for _ in range(8)))
            assert [verdict.reward for verdict in again] == [1.0] * 8
            trouble.look()
        await asyncio.to_thread(wait_until, "the end of all", lambda: not trouble.survivors(), 60)

    run(scenario)


def test_programs_of_every_kind_are_judged_beside_each_other():
    async def scenario() -> None:
        async with running(2) as pool:
            wrong = CPP_SUM.replace("a + b", "a * 2 + 1")
            kinds = [*EVERY, (CPP, CPP_SUM, "cpp", 1.0), (CPP, wrong, "cpp", 0.5), (CPP, "int main() {", "cpp", 0.0)]
            verdicts = await asyncio.gather(*(asked(pool, *kind[:3]) for kind in kinds))
            assert [verdict.reward for verdict in verdicts] == pytest.approx([kind[3] for kind in kinds])
            assert all(verdict.status == "ok" and "unsafe_code" not in verdict.metrics for verdict in verdicts)
            assert pool.counters["retries"] == 0

    run(scenario)


def test_a_worker_that_is_stopped_past_its_deadline_costs_the_program_nothing():
    async def scenario() -> None:
        async with running(timeout_s=2.0, preload=("code",)) as pool:
            await pool.usable()
            (stopped,) = pool.statuses()
            family = descendants([stopped.pid])
            assert family, "its sandbox is open"
            os.kill(stopped.pid, signal.SIGSTOP)
            verdict = await asked(pool, LINES, SUM)
            assert (verdict.reward, pool.counters["timeouts"]) == (1.0, 1)
            await asyncio.to_thread(wait_until, "its sandbox's end", lambda: not living(family), 60)

    run(scenario)


def test_a_program_whose_sandbox_is_killed_every_time_has_no_reward():
    async def scenario() -> None:
        async with running(preload=("code",)) as pool:
            await pool.usable()
            problem = {"tests": [{"stdin": "", "stdout": "1"}], "time_limit_s": 200, "test_time_limit_s": 60}
            job = asyncio.ensure_future(asked(pool, problem, "import time\ntime.sleep(60)\nprint(1)"))
            killed = set[int]()
            while not job.done() and len(killed) < 2:
                await asyncio.sleep(0.2)
                launchers = launchers_of(descendants([pool.statuses()[0].pid]))
                if len(launchers) > 1 and launchers[0].pid not in killed:  # it has started a program
                    killed.add(launchers[0].pid)
                    launchers[0].kill()
            verdict = await job
            assert (len(killed), verdict.reward, verdict.status) == (2, None, "crash")
            assert "launcher" in verdict.detail
            assert (await asked(pool, LINES, SUM)).reward == 1.0

    run(scenario)


@pytest.fixture
def no_landlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers see a kernel without Landlock, as old ones are: neither bubblewrap nor the jail passes the self-test."""
    wrapper = tmp_path / "python"
    wrapper.write_text(WITHOUT_LANDLOCK.format(python=sys.executable))
    wrapper.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(wrapper))


@pytest.mark.usefixtures("no_landlock")
@pytest.mark.parametrize("preload", [(), ("code",)])
def test_without_a_sandbox_the_pool_refuses_code_in_a_sentence(preload: tuple[str, ...]):
    async def scenario() -> None:
        async with running(preload=preload) as pool:
            for _ in range(2):
                with pytest.raises(ConfigError, match=r"verifier code: no sandbox .*no Landlock.*verifiers.allow_unsafe_code"):
                    await asked(pool, LINES, SUM)
            assert pool.broken

    run(scenario)


@pytest.mark.usefixtures("no_landlock")
@pytest.mark.parametrize(("setting", "code", "said"), [("false", 2, "no sandbox for untrusted code"), ("true", 0, "")])
def test_without_a_sandbox_a_command_ends_with_2_and_the_reason(setting: str, code: int, said: str, tmp_path: Path):
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"verifier": "code", "answer": LINES, "completion": f"```python\n{SUM}\n```"}))
    command = [sys.executable, "-m", "prolong.launch.cli", "verifier", "--try", str(cases)]
    command.append(f"verifiers.allow_unsafe_code={setting}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert ("unsafe_code" in done.stdout) == (code == 0)


def test_without_a_compiler_a_command_ends_with_2_and_the_reason(tmp_path: Path):
    """The pool starts, because nobody knows then which programs will come; the first one in C++ ends it."""
    cases = tmp_path / "cases.jsonl"
    rows = [(LINES, f"```python\n{SUM}\n```"), (CPP, "no program"), (CPP, f"```cpp\n{CPP_SUM}\n```")]
    for number, code in ((2, 0), (3, 2)):
        texts = [json.dumps({"verifier": "code", "answer": answer, "completion": text}) for answer, text in rows[:number]]
        cases.write_text("\n".join(texts))
        command = [sys.executable, "-m", "prolong.launch.cli", "verifier", "--try", str(cases), "verifiers.workers=1"]
        environment = os.environ | {"PATH": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert done.returncode == code, done.stderr
        assert ("verifier code: no C++ compiler on this machine" in done.stderr) == (code == 2)


@pytest.mark.usefixtures("no_landlock")
def test_unsafe_code_that_is_allowed_is_judged_and_marked():
    async def scenario() -> None:
        async with running(allow_unsafe_code=True) as pool:
            verdicts = await asyncio.gather(*(asked(pool, *kind[:3]) for kind in EVERY))
            assert [verdict.reward for verdict in verdicts] == pytest.approx([kind[3] for kind in EVERY])
            assert [verdict.metrics["unsafe_code"] for verdict in verdicts] == [1.0] * len(EVERY)

    run(scenario)


def test_a_pool_that_may_run_unsafe_code_does_not_where_there_is_a_sandbox():
    async def scenario() -> None:
        async with running(allow_unsafe_code=True) as pool:
            verdict = await asked(pool, LINES, SUM)
            assert (verdict.reward, "unsafe_code" in verdict.metrics) == (1.0, False)

    run(scenario)
