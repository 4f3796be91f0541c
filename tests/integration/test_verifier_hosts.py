"""`prolong verifier` in processes of its own, and a pool that shares its jobs with them: kills, keys, strangers."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from prolong.common.errors import ConfigError
from prolong.common.transport.keys import make_keys
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import FinishReason, Prompt, Verdict
from prolong.verifiers.workers import shared_pool
from prolong.verifiers.workers.host_messages import Attach, Declined, FromHost, Judge
from prolong.verifiers.workers.local_pool import LocalPool
from prolong.verifiers.workers.shared_pool import SharedPool

from tests.support.endpoints import fetch, number_of, targets_of
from tests.support.runs import CLI, free_port, wait_until

DELAY = "import time\ndef slow(completion, answer):\n    time.sleep(answer['s'])\n    return 1.0\n"


def prompt(verifier: str = "math", **answer: Any) -> Prompt:
    return Prompt(uid="u", domain="d", task="t", text="?", token_ids=b"", verifier=verifier, answer=json.dumps(answer))


@contextmanager
def serving(folder: Path, *overrides: str, address: str = "tcp://127.0.0.1:0", workers: int = 2) -> Iterator[tuple[Any, str]]:
    """A `prolong verifier` and its address."""
    command = [*CLI, "verifier", "--address", address, f"verifiers.workers={workers}", *overrides]
    with (folder / "host.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert "workers at" in line, (folder / "host.log").read_text()
        yield process, line.split()[-1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 200))


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@asynccontextmanager
async def shared(*addresses: str, timeout_s: float = 20.0, keys: str = "", own: dict[str, str] | None = None):
    pool = SharedPool(LocalPool(1, timeout_s, own=own or {}), addresses, keys=keys)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def attached(pool: SharedPool) -> None:
    await until(lambda: all(host.num_workers for host in pool.hosts))


def judge(pool: SharedPool, number: int) -> Awaitable[Verdict]:
    """Ask for a verdict on an answer that is right for every third number."""
    return pool.verify(prompt(answer=str(number)), f"\\boxed{{{number - (number % 3 > 0)}}}", FinishReason.stop)


def test_hosts_judge_their_share_and_what_comes_back_is_right(tmp_path: Path):
    watched = f"run.http_port={free_port()}"
    with serving(tmp_path, watched) as (process, one), serving(tmp_path, watched) as (_, two):

        async def scenario() -> None:
            async with shared(one, two) as pool:
                await attached(pool)
                verdicts = await asyncio.gather(*(judge(pool, number) for number in range(600)))
                assert [verdict.reward for verdict in verdicts] == [float(number % 3 == 0) for number in range(600)]
                assert pool.counters["hosts/verdicts"] > 200
                assert pool.counters["verdicts"] > 100, "own workers take their share"
                assert pool.counters["hosts/verdicts"] + pool.counters["verdicts"] == 600

        run(scenario)
        targets = targets_of(tmp_path / "runs" / "default").values()
        assert len(targets) == 2

        def told() -> float:
            pages = [fetch(target, "metrics") for target in targets]
            return sum(number_of("prolong_verifier_verdicts_total", page) for page in pages)

        # they look at their counters once a second
        wait_until("their verdicts are told", lambda: told() > 200, 60.0)
        assert all(json.loads(fetch(target, "readyz"))["state"] == "judges" for target in targets)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_a_host_killed_under_load_costs_no_rollout_anything_and_is_used_again_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "delays.py").write_text(DELAY)
    monkeypatch.chdir(tmp_path)
    address = f"tcp://127.0.0.1:{free_port()}"

    async def scenario() -> None:
        async with shared(address, timeout_s=200.0, own={"slow": "delays:slow"}) as pool:
            with serving(tmp_path, "verifiers.own.slow=delays:slow", address=address) as (process, _):
                await attached(pool)
                jobs = [pool.verify(prompt("slow", s=0.05), "x", FinishReason.stop) for _ in range(100)]
                asked = [asyncio.ensure_future(job) for job in jobs]
                await until(lambda: pool.counters["hosts/verdicts"] > 5)
                assert pool.hosts[0].num_waiting > 10
                os.killpg(process.pid, signal.SIGKILL)
                verdicts = await asyncio.wait_for(asyncio.gather(*asked), 90)  # at once, not at their deadlines
                assert [verdict.reward for verdict in verdicts] == [1.0] * 100
                assert pool.counters["hosts/lost"] == 1
                assert pool.counters["hosts/judged_here_instead"] > 5
                assert pool.counters["hosts/verdicts"] + pool.counters["verdicts"] == 100, "each ended once"
            before = pool.counters["hosts/verdicts"]
            with serving(tmp_path, address=address):
                await attached(pool)
                verdicts = await asyncio.gather(*(judge(pool, number) for number in range(60)))
                assert sum(verdict.reward or 0.0 for verdict in verdicts) == 20
                assert pool.counters["hosts/verdicts"] > before

    run(scenario)


def test_a_host_that_stands_still_is_given_up_and_what_it_says_later_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared_pool, "REMOTE_SLACK_S", 0.2)

    async def scenario() -> None:
        with serving(tmp_path) as (process, address):
            async with shared(address, timeout_s=0.6) as pool:
                await pool.usable()
                await attached(pool)
                process.send_signal(signal.SIGSTOP)
                verdicts = await asyncio.gather(*(judge(pool, 3 * number) for number in range(20)))
                assert [verdict.reward for verdict in verdicts] == [1.0] * 20
                given_up = pool.counters["hosts/judged_here_instead"]
                assert given_up > 0
                process.send_signal(signal.SIGCONT)
                await until(lambda: pool.counters["hosts/late_verdicts"] == given_up)

    run(scenario)


def test_a_host_without_ones_own_verifier_is_not_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "delays.py").write_text(DELAY)
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        with serving(tmp_path) as (_, address):
            async with shared(address, own={"slow": "delays:slow"}) as pool:
                await attached(pool)
                jobs = [pool.verify(prompt("slow", s=0), "x", FinishReason.stop) for _ in range(10)]
                assert [verdict.reward for verdict in await asyncio.gather(*jobs)] == [1.0] * 10
                assert pool.counters["hosts/verdicts"] == pool.counters["hosts/judged_here_instead"] == 0

    run(scenario)


def test_strangers_are_declined_and_garbage_is_not_listened_to(tmp_path: Path):
    with serving(tmp_path) as (process, address), zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 90_000)
        dealer.connect(address)
        dealer.send(encode(Judge(number=4, prompt=prompt("os:getcwd"), completion="x", finish_reason=FinishReason.stop)))
        declined = Decoder(FromHost, 1 << 20).decode(dealer.recv())
        assert isinstance(declined, Declined)
        assert "unknown verifier 'os:getcwd'" in declined.reason
        for _ in range(100):
            dealer.send(b"garbage")
        dealer.send(encode(Attach(protocol=1)))
        dealer.setsockopt(zmq.RCVTIMEO, 500)
        with pytest.raises(zmq.Again):
            dealer.recv()
        assert process.poll() is None

        async def scenario() -> None:
            async with shared(address) as pool:
                await attached(pool)

        run(scenario)


def test_with_keys_only_those_who_have_one_are_let_in(tmp_path: Path):
    keys, others = tmp_path / "keys", tmp_path / "others"
    make_keys(keys, ["gpu-1"])
    make_keys(others, ["gpu-1"])

    async def judged_by_host(address: str, folder: Path) -> int:
        async with shared(address, keys=str(folder)) as pool:
            if folder.is_relative_to(keys):
                await attached(pool)
            else:
                await pool.usable()
            verdicts = await asyncio.gather(*(judge(pool, 3 * number) for number in range(40)))
            assert [verdict.reward for verdict in verdicts] == [1.0] * 40
        return pool.counters["hosts/verdicts"]

    with serving(tmp_path, f"verifiers.keys={keys}") as (_, address):
        assert asyncio.run(judged_by_host(address, keys / "hosts" / "gpu-1")) > 0
        stolen = others / "hosts" / "gpu-1"
        (stolen / "server.pub").write_bytes((keys / "server.pub").read_bytes())
        assert asyncio.run(judged_by_host(address, stolen)) == 0


def test_beyond_loopback_neither_side_goes_without_keys(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"verifiers\.hosts.*loopback"):
        SharedPool(LocalPool(1, 1.0), ["tcp://10.0.0.1:5720"])
    command = [*CLI, "verifier", "--address", "tcp://0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 2
    assert "verifiers.keys" in done.stderr
