"""Faults of our own in the connection of a pool with other hosts: no job hangs, and every fault is reported."""

import asyncio
import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from prolong.common.transport.wire import encode
from prolong.common.types import FinishReason, Prompt
from prolong.verifiers.workers.host_messages import VERIFIER_PROTOCOL, Attach, Attached, Declined
from prolong.verifiers.workers.local_pool import LocalPool
from prolong.verifiers.workers.shared_pool import SharedPool

from tests.support.runs import CLI

PROMPT = Prompt(uid="u", domain="d", task="t", text="?", token_ids=b"", verifier="math", answer=json.dumps({"answer": "2"}))


class Faulty:
    """A decoder with a fault."""

    def decode(self, frame: bytes) -> Any:
        raise KeyError("a fault of ours")


def test_a_fault_of_ours_in_the_listening_leaves_no_job_waiting_and_is_told(caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        context = zmq.asyncio.Context()
        router = context.socket(zmq.ROUTER)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        pool = SharedPool(LocalPool(1, 1000.0), [f"tcp://127.0.0.1:{port}"])
        await pool.start()
        try:
            peer, _ = await router.recv_multipart()
            told = Attached(protocol=VERIFIER_PROTOCOL, workers=100, verifiers=["math"])
            await router.send_multipart((peer, encode(told)))
            host = pool.hosts[0]
            await asyncio.wait_for(host.attached.wait(), 90)
            here = asyncio.ensure_future(pool.verify(PROMPT, "\\boxed{2}", FinishReason.stop))
            # the only worker here holds it now, so the host has fewer jobs per worker
            await asyncio.sleep(0)
            asked = asyncio.ensure_future(pool.verify(PROMPT, "\\boxed{2}", FinishReason.stop))
            await router.recv_multipart()
            host._decoder = Faulty()  # pyright: ignore[reportAttributeAccessIssue]
            for _ in range(2):  # the old decoder takes the first one
                await router.send_multipart((peer, encode(Declined(number=99, reason=""))))
            verdict = await asyncio.wait_for(asked, 150)  # its deadline is in 50 minutes
            assert verdict.reward == (await asyncio.wait_for(here, 150)).reward == 1.0
            assert (pool.counters["hosts/broken"], host.num_workers, host.attached.is_set()) == (1, 0, False)
            assert "a fault of ours" in caplog.text
        finally:
            await pool.close()
            router.close(linger=0)
            context.term()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_named_as_it_was_given(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*CLI, "verifier", "--address", address], cwd=tmp_path, capture_output=True, timeout=150, check=False
        )
    assert done.returncode == 2
    assert f"--address {address}: in use" in done.stderr.decode()
    assert "buffer.address" not in done.stderr.decode()


def test_what_a_host_counted_is_told_at_its_end(tmp_path: Path):
    command = [*CLI, "verifier", "--address", "tcp://127.0.0.1:0", "verifiers.workers=1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process, zmq.Context() as context:
        assert process.stdout is not None
        dealer = context.socket(zmq.DEALER)
        dealer.connect(process.stdout.readline().decode().split()[-1])
        dealer.setsockopt(zmq.RCVTIMEO, 90_000)
        dealer.send(b"garbage")
        dealer.send(b"garbage")
        dealer.send(encode(Attach(protocol=VERIFIER_PROTOCOL)))
        dealer.recv()
        dealer.close(linger=0)
        process.send_signal(signal.SIGTERM)
        assert "rejected_frames 2" in process.communicate(timeout=90)[0].decode()
        assert process.returncode == 0
