"""Reward functions of other libraries in real workers, and `prolong verifier --try`, which judges with them in one command."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prolong.common.errors import ConfigError, UserError
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.workers.local_pool import LocalPool

from tests.support.runs import CLI

# The functions of the documentation, as it prints them.
# reward_func: TRL, docs/source/grpo_trainer.md, "Example 3: Reward completions based on a reference" (Apache-2.0)
# length_reward: the same page, example 1. my_reward_fn: verl, docs/preparation/reward_function.rst, "Customized" (Apache-2.0)
# compute_score: what that page says of the GSM8k example: 1 for the number behind ####, a share for the format, 0 without
REWARDS = r"""
import os
import re
import time

from prolong.verifiers import adapters


def reward_func(completions, ground_truth, **kwargs):
    # Regular expression to capture content inside \boxed{}
    matches = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    # Reward 1 if the content is the same as the ground truth, 0 otherwise
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]


def length_reward(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def my_reward_fn(data_source, solution_str, ground_truth, extra_info=None):
  return len(solution_str)/100


def compute_score(solution_str, ground_truth, method="strict", format_score=0.0, score=1.0):
    solutions = re.findall("#### (\\-?[0-9\\.\\,]+)", solution_str)
    if not solutions:
        return 0
    return score if solutions[-1].replace(",", "") == ground_truth else format_score


async def patient(completion, answer):
    import asyncio
    await asyncio.sleep(0.01)
    return answer["pays"]


def faulty(completion, answer):
    if completion == "raise":
        raise RuntimeError("on purpose")
    if completion == "none":
        return None
    if completion == "exit":
        os._exit(3)
    if completion == "leave":
        raise SystemExit
    if completion == "hang":
        time.sleep(60)
    return 1.0


boxed = adapters.from_trl(reward_func)
long = adapters.from_trl(length_reward)
verl = adapters.from_verl(my_reward_fn)
gsm8k = adapters.from_verl(compute_score, format_score=0.1)
spelling = adapters.from_reasoning_gym("spell_backward")
"""
NAMES = ("boxed", "long", "verl", "gsm8k", "spelling", "patient", "faulty")
OWN = {name: f"rewards_of_a_test:{name}" for name in NAMES}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the user's module in it."""
    (tmp_path / "rewards_of_a_test.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompt(verifier: str, **answer: Any) -> Prompt:
    return Prompt(uid="u", domain="d", task="t", text="?", token_ids=b"", verifier=verifier, answer=json.dumps(answer))


def judged(own: dict[str, str], work: Callable[[LocalPool], Awaitable[None]], timeout_s: float = 20.0) -> None:
    async def scenario() -> None:
        pool = LocalPool(1, timeout_s, own=own)
        await pool.start()
        try:
            await work(pool)
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 280))


def stop(pool: LocalPool, verifier: str, completion: str, **answer: Any) -> Awaitable[Verdict]:
    return pool.verify(prompt(verifier, **answer), completion, FinishReason.stop)


def test_functions_of_the_documentation_of_trl_and_verl_run_unmodified(folder: Path):
    async def work(pool: LocalPool) -> None:
        async def reward(*args: Any, **answer: Any) -> float | None:
            return (await stop(pool, *args, **answer)).reward

        assert await reward("boxed", r" The solution is \boxed{2}.", ground_truth="2") == 1.0
        assert await reward("boxed", r" The solution is \boxed{6}.", ground_truth="5") == 0.0
        assert await reward("verl", "x" * 50, data_source="any", ground_truth="4") == 0.5
        assert await reward("gsm8k", "so it is #### 1,234", data_source="openai/gsm8k", ground_truth="1234") == 1.0
        assert await reward("gsm8k", "so it is #### 12", ground_truth="1234") == 0.1
        assert await reward("gsm8k", "so it is 1234", ground_truth="1234") == 0.0
        assert await reward("spelling", "<answer>tenalp</answer>", entry={"answer": "tenalp", "metadata": {}}) == 1.0
        assert await reward("patient", "x", pays=0.25) == 0.25
        assert await reward("math", "\\boxed{5}", answer="5") == 1.0, "ours serve beside them"
        ids = (5).to_bytes(4, "little") * 3
        assert (await pool.verify(prompt("long"), "abc", FinishReason.length, ids)).reward == 3.0

    judged(OWN, work)


@pytest.mark.parametrize(
    ("completion", "status"),
    [("raise", "crash"), ("none", "crash"), ("leave", "crash"), ("exit", "crash"), ("hang", "timeout")],
)
def test_whatever_goes_wrong_in_their_code_is_no_reward_and_never_a_0(folder: Path, completion: str, status: str):
    async def work(pool: LocalPool) -> None:
        wrong, *right = await asyncio.gather(*(stop(pool, "faulty", text) for text in (completion, *"abcdef")))
        assert (wrong.reward, wrong.status) == (None, status)
        assert [verdict.reward for verdict in right] == [1.0] * 6, "those behind it in the same worker"
        assert pool.counters["status/input_rejected"] == 0
        assert pool.counters["verdicts"] == 7

    judged(OWN, work, timeout_s=1.0)


@pytest.mark.parametrize(
    ("target", "why"),
    [("rewards_of_a_test:absent", "absent"), ("no_such_module:f", "ModuleNotFoundError"), ("broken:f", "ZeroDivisionError")],
)
def test_a_module_that_cannot_be_imported_is_said_at_once_to_everybody(folder: Path, target: str, why: str):
    (folder / "broken.py").write_text("1 / 0\n")

    async def work(pool: LocalPool) -> None:
        asked = asyncio.ensure_future(stop(pool, "mine", "x"))
        for waiting in (pool.usable(), asked, stop(pool, "math", "\\boxed{5}", answer="5")):
            with pytest.raises(ConfigError, match=rf"verifiers\.own\.mine = '{target}'.*{why}"):
                await waiting
        assert pool.counters["restarts"] == 0

    judged({"mine": target}, work)


def test_a_prompt_cannot_name_code(folder: Path):
    async def work(pool: LocalPool) -> None:
        for name in ("rewards_of_a_test:boxed", "os:getcwd", "boxed=os:getcwd"):
            with pytest.raises(UserError, match="unknown verifier"):
                await stop(pool, name, "x")

    judged({"boxed": OWN["boxed"]}, work)


class Judge(BaseHTTPRequestHandler):
    """A judge over HTTP; records requests, and sends the replies that it was given."""

    requests: list[dict[str, Any]]
    replies: list[tuple[int, bytes]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        code, text = self.replies.pop(0)
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@pytest.fixture
def judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Judge]]:
    handler = type("ThisJudge", (Judge,), {"requests": [], "replies": []})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/verify"
        (folder / "judges.py").write_text(f"from prolong.verifiers.adapters import from_http\ngym = from_http({url!r})\n")
        yield handler
        server.shutdown()
        thread.join(timeout=10)


def test_a_judge_behind_http_is_asked_as_nemo_gym_is(judge: type[Judge]):
    judge.replies += [(200, b'{"reward": 0.5, "more": 1}'), (503, b"busy"), (200, b'{"reward": 1}')]
    bad = [(404, b"no"), (200, b"[]"), (200, b'{"reward": "1"}'), (200, b'{"reward": NaN}'), (200, b"{"), (200, b"")]
    judge.replies += [*bad, (500, b""), (500, b"")]

    async def work(pool: LocalPool) -> None:
        assert (await stop(pool, "gym", "it is 4", expected_answer="4")).reward == 0.5
        asked = judge.requests[0]
        assert asked["expected_answer"] == "4"
        assert asked["responses_create_params"] == {"input": [{"role": "user", "content": "?"}]}
        assert asked["response"]["output"][0]["content"][0]["text"] == "it is 4"
        assert (await stop(pool, "gym", "again")).reward == 1.0, "503 is tried once more"
        for _ in range(len(bad) + 1):
            verdict = await stop(pool, "gym", "x")
            assert (verdict.reward, verdict.status) == (None, "crash")
        assert judge.replies == []

    judged({"gym": "judges:gym"}, work)


def test_an_environment_without_the_package_verifiers_is_said_at_the_start(folder: Path):
    line = f"toy = adapters.from_verifiers('toy', python={sys.executable!r})\n"
    (folder / "environments.py").write_text("from prolong.verifiers import adapters\n" + line)

    async def work(pool: LocalPool) -> None:
        with pytest.raises(ConfigError, match=r"verifiers\.own\.toy.*No module named .*verifiers"):
            await stop(pool, "toy", "x")

    judged({"toy": "environments:toy"}, work)


TOY_ENVIRONMENT = """
import verifiers.v1 as vf


class ToyData(vf.TaskData):
    answer: str


class ToyTask(vf.Task[ToyData]):
    @vf.reward(weight=2.0)
    async def correct(self, task, trace) -> float:
        print("noise")
        return float(task.answer in trace.last_reply)

    @vf.metric
    async def length(self, trace) -> float:
        return float(len(trace.last_reply))


class Toy(vf.Taskset[ToyTask]):
    def load(self):
        return []


__all__ = ["Toy"]
"""


@pytest.mark.skipif("PROLONG_VERIFIERS_PYTHON" not in os.environ, reason="needs an environment with `pip install verifiers`")
def test_a_task_of_the_package_verifiers_is_judged_in_its_own_environment(folder: Path):
    python = os.environ["PROLONG_VERIFIERS_PYTHON"]
    command = [python, "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip())
    (site / "prolong_toy_environment.py").write_text(TOY_ENVIRONMENT)
    line = f"toy = adapters.from_verifiers('prolong-toy-environment', python={python!r})\n"
    (folder / "environments.py").write_text("from prolong.verifiers import adapters\n" + line)

    async def work(pool: LocalPool) -> None:
        right, wrong, unfit = await asyncio.gather(
            stop(pool, "toy", "it is 4", answer="4"), stop(pool, "toy", "it is 5", answer="4"), stop(pool, "toy", "it is 5")
        )
        assert (right.reward, right.metrics) == (2.0, {"length": 7.0})
        assert wrong.reward == 0.0
        assert (unfit.reward, unfit.status) == (None, "crash")
        os.killpg(pool.statuses()[0].pid, signal.SIGKILL)
        assert (await stop(pool, "toy", "it is 4", answer="4")).reward == 2.0

    judged({"toy": "environments:toy"}, work)


def test_one_command_judges_with_functions_of_trl_and_verl(folder: Path):
    cases = [
        {"verifier": "boxed", "answer": {"ground_truth": "2"}, "completion": r"The solution is \boxed{2}."},
        {"verifier": "gsm8k", "answer": {"ground_truth": "72"}, "completion": "#### 71"},
        {"verifier": "math", "answer": "72", "completion": r"\boxed{72}"},
        {"verifier": "faulty", "completion": "raise"},
    ]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    own = [f"verifiers.own.{name}=rewards_of_a_test:{name}" for name in ("boxed", "gsm8k", "faulty")]
    done = subprocess.run([*CLI, "verifier", "--try", "cases.jsonl", *own], capture_output=True, text=True, timeout=120)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [verdict["reward"] for verdict in verdicts] == [1.0, 0.1, 1.0, None], done.stderr
    assert done.returncode == 1, "one case has no reward"
    (folder / "cases.jsonl").write_text(json.dumps(cases[0]) + "\n")
    done = subprocess.run([*CLI, "verifier", "--try", "cases.jsonl"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cases.jsonl, line 1: unknown verifier 'boxed'" in done.stderr
