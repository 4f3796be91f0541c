"""Functions that stay in this process, asked over a socket as workers ask them."""

import os
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from prolong.common.errors import ConfigError, UserError, VerifierFailure
from prolong.verifiers.adapters import RewardFunction, from_trl
from prolong.verifiers.api import Task, Verifier
from prolong.verifiers.function_server import FunctionServer
from prolong.verifiers.services.served import SERVED, FunctionRaised, ServedVerifier
from prolong.verifiers.user_verifiers import declared, imported


class Serving:
    """Servers that are closed at the end of a test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, functions: Mapping[str, RewardFunction | Verifier]) -> FunctionServer:
        server = FunctionServer(functions)
        server.open()
        self._stack.callback(server.close)
        return server


@pytest.fixture
def serving() -> Iterator[Serving]:
    with ExitStack() as stack:
        yield Serving(stack)


def test_a_closure_judges_in_its_own_process(serving: Serving) -> None:
    seen: list[tuple[int, str]] = []

    def exact(completion: str, answer: dict) -> dict:
        seen.append((os.getpid(), threading.current_thread().name))
        return {"score": float(completion == answer["text"]), "characters": len(completion)}

    verifier = imported(serving({"exact": exact}).targets)["exact"]
    score = verifier.score(Task(completion="19", answer={"text": "19"}))
    assert (score.reward, score.metrics) == (1.0, {"characters": 2.0})
    assert verifier.score(Task(completion="20", answer={"text": "19"})).reward == 0.0
    (pid, thread), _ = seen
    assert pid == os.getpid()
    assert thread != threading.main_thread().name


def test_the_task_arrives_as_it_was_sent(serving: Serving) -> None:
    """Integers of any size, line ends inside of texts, and token ids for functions of TRL's form."""

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], largest: list[int]) -> list[float]:
        return [float((prompts, completions, completion_ids, largest) == (["1\n2"], ["a\nb é"], [[7, 8]], [2**80]))]

    verifier = imported(serving({"trl": from_trl(reward)}).targets)["trl"]
    ids = (7).to_bytes(4, "little") + (8).to_bytes(4, "little")
    task = Task(completion="a\nb é", answer={"largest": 2**80}, prompt="1\n2", completion_ids=ids)
    assert verifier.score(task).reward == 1.0


def test_an_exception_is_no_reward_and_is_shown_once(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(completion: str, answer: dict) -> float:
        return 1.0 / answer["zero"]

    verifier = imported(serving({"broken": broken}).targets)["broken"]
    for _ in range(3):
        with pytest.raises(FunctionRaised, match="ZeroDivisionError"):
            verifier.score(Task(completion="", answer={"zero": 0}))
    assert verifier.score(Task(completion="", answer={"zero": 1})).reward == 1.0, "the connection is still good"
    shown = capsys.readouterr().err
    assert shown.count('return 1.0 / answer["zero"]') == 1
    assert "reward function broken raised" in shown


def test_what_is_no_number_is_no_reward(serving: Serving) -> None:
    verifier = imported(serving({"words": lambda completion, answer: "good"}).targets)["words"]
    with pytest.raises(FunctionRaised, match="expected a finite number"):
        verifier.score(Task(completion="", answer={}))


def test_two_workers_never_call_at_once(serving: Serving) -> None:
    inside: list[int] = []
    begun = threading.Event()

    def counting(completion: str, answer: dict) -> float:
        inside.append(1)
        begun.set()
        # long enough for the other thread to come in, if it could
        threading.Event().wait(0.05)
        return float(inside.pop() and len(inside))

    targets = serving({"counting": counting}).targets
    scores: list[float] = []

    def work() -> None:
        scores.append(imported(targets)["counting"].score(Task(completion="", answer={})).reward)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert begun.is_set()
    assert scores == [0.0, 0.0, 0.0]


def test_only_the_owner_reaches_the_socket_and_nothing_is_left(serving: Serving) -> None:
    server = serving({"any": lambda completion, answer: 0.0})
    path = Path(server.targets["any"].removeprefix(SERVED))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    server.close()
    assert not path.parent.exists()


def test_a_function_whose_process_is_gone_says_what_to_do(serving: Serving) -> None:
    server = serving({"exact": lambda completion, answer: 1.0})
    server.close()
    with pytest.raises(UserError, match=r"verifiers.own.exact = 'unix:.*start it from Python again"):
        imported(server.targets)


def test_a_connection_that_breaks_is_not_the_completions_fault() -> None:
    ours, far = socket.socketpair()
    verifier = ServedVerifier("exact", "unused")
    lines = verifier._lines = ours.makefile("rwb")
    # the far end dies with the question in hand
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(VerifierFailure, match=r"the process that serves .* is gone"):
        verifier.score(Task(completion="", answer={}))
    for each in (lines, ours, far):
        each.close()


def test_processes_that_read_prompts_neither_connect_nor_import() -> None:
    assert set(declared({"exact": "unix:/nowhere"})) == {"exact"}
    with pytest.raises(ConfigError, match="expected MODULE:ATTRIBUTE"):
        declared({"exact": "tcp://127.0.0.1:1"})


def test_what_is_no_function_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"rewards\['exact'\] = 3: expected a function"):
        FunctionServer({"exact": 3})  # pyright: ignore[reportArgumentType]
