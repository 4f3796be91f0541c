"""The worker's judgement of failures, with judges that fail on purpose."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prolong.common.errors import UserError, VerifierFailure
from prolong.verifiers import registry
from prolong.verifiers.api import Answer, Score, Task, Verifier
from prolong.verifiers.workers import worker as worker_module
from prolong.verifiers.workers.frames import (
    FrameReader,
    FromWorker,
    Job,
    Loading,
    Probed,
    Raised,
    Ready,
    Scored,
    StillRunning,
    to_frame,
)
from prolong.verifiers.workers.worker import SIGN_OF_LIFE_S, CannotLoad, Worker, raised_by


def faulty(task: Task) -> Score:
    raise {"value": ValueError, "exit": SystemExit, "memory": MemoryError, "deep": RecursionError, "box": VerifierFailure}[
        task.completion
    ]("on purpose")


class Judge(Verifier):
    """A verifier whose score is a function, and which cannot tell whose fault a failure is."""

    def __init__(self, score: Callable[[Task], Score] = faulty) -> None:
        self._score = score

    def check(self, answer: Answer) -> None:
        """Accepts every answer."""

    def gold(self, answer: Answer) -> str | None:
        return None

    def score(self, task: Task) -> Score:
        return self._score(task)


class Probing(Judge):
    def probe(self, answer: Answer) -> bool:
        if answer.get("gold") == "broken":
            raise ValueError("the stored answer cannot be judged")
        return True


class InSandbox(Probing):
    """Notes its hooks in `opened`; an answer says whether it needs the sandbox."""

    def __init__(self, score: Callable[[Task], Score], error: UserError | None = None, lacks: UserError | None = None) -> None:
        super().__init__(score)
        self.opened, self.error, self.lacks = list[str](), error, lacks

    def load(self) -> None:
        self.opened.append("imports")

    def needs_sandbox(self, answer: Answer) -> bool:
        return answer.get("runs", False)

    def check_machine(self, answer: Answer) -> None:
        if self.lacks and answer.get("compiles"):
            raise self.lacks

    def open_sandbox(self, *, allow_unsafe: bool) -> None:
        if self.error:
            raise self.error
        self.opened.append("unsafe sandbox" if allow_unsafe else "sandbox")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(registry.VERIFIERS, "faulty", Probing())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Worker(theirs), ours


def job(completion: str, gold: str = "fine", **changes: Any) -> Job:
    return Job(number=3, verifier="faulty", completion=completion, answer=json.dumps({"gold": gold}), **changes)


def sent(ours: socket.socket) -> list[Any]:
    ours.setblocking(False)
    return [msgspec.msgpack.decode(payload, type=FromWorker) for payload in FrameReader().feed(ours.recv(1 << 16))]


@pytest.mark.parametrize("error", ["value", "exit", "deep"])
def test_a_judge_that_raises_on_this_completion_alone_rejects_it(worker: tuple[Worker, socket.socket], error: str):
    scored = worker[0].judge(job(error))
    assert scored.score is not None
    assert (scored.score.reward, scored.score.status) == (0.0, "input_rejected")


def test_what_a_judge_raises_is_told_with_its_place_and_the_way_there(worker: tuple[Worker, socket.socket]):
    def raised(completion: str, **answer: str) -> Raised | None:
        return worker[0].judge(job(completion, **answer)).raised

    rejected, broken = raised("value"), raised("value", gold="broken")
    assert rejected
    assert broken
    here, line = Path(__file__).name, faulty.__code__.co_firstlineno + 1
    assert re.fullmatch(rf"ValueError at .*/{here}:{line}", rejected.kind)
    assert "in faulty" in rejected.traceback
    assert rejected.traceback.endswith("ValueError('on purpose')")
    assert "in probe" in broken.traceback
    assert rejected.kind != broken.kind
    assert raised("deep") != rejected
    assert raised("box") is None, "a failing sandbox says so by itself"
    deep = raised_by(RecursionError("x\n" * 10_000))
    assert len(deep.traceback) < 400
    assert "\n" not in deep.traceback


def test_a_judge_that_raises_on_the_stored_answer_too_gives_no_score(worker: tuple[Worker, socket.socket]):
    scored = worker[0].judge(job("value", gold="broken"))
    assert scored.score is None
    assert "stored answer" in scored.error


def test_a_failing_sandbox_is_never_the_completions_doing(worker: tuple[Worker, socket.socket]):
    scored = worker[0].judge(job("box"))
    assert scored.score is None
    assert "on purpose" in scored.error


@pytest.mark.parametrize(("runs", "blames"), [(False, True), (True, False)])
def test_what_runs_in_a_sandbox_is_not_blamed_for_a_worker_that_hangs(runs: bool, blames: bool):
    """Probed is what lets the pool blame the completion."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.VERIFIERS, "some", InSandbox(lambda task: Score(reward=1.0)))
        answer = json.dumps({"runs": runs})
        Worker(theirs).judge(Job(number=1, verifier="some", completion="x", answer=answer, last_try=True))
        assert (Probed(1) in sent(ours)) is blames


def test_signs_of_life_are_rare(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(theirs)
        now = [5.0]
        with monkeypatch.context() as clock:
            clock.setattr(worker_module.time, "monotonic", lambda: now[0])
            for _ in range(100):
                worker.say_alive()
            assert sent(ours) == [StillRunning()]
            now[0] += SIGN_OF_LIFE_S + 0.1
            worker.say_alive()
            assert sent(ours) == [StillRunning()]


@pytest.mark.parametrize("allow_unsafe", [False, True])
def test_a_sandbox_is_opened_for_the_first_answer_that_needs_one_with_the_clock_standing_still(allow_unsafe: bool):
    verifier = InSandbox(lambda task: Score(reward=1.0))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.VERIFIERS, "some", verifier)
        worker = Worker(theirs, allow_unsafe=allow_unsafe)
        for answer, expected in (("{}", [Loading(), Ready()]), ('{"runs": true}', [Loading(), Ready()]), ("{}", [])):
            assert worker.judge(Job(number=1, verifier="some", completion="x", answer=answer)).score is not None
            worker.send(Probed(1))  # marks the end
            assert sent(ours) == [*expected, Probed(1)]
            ours.setblocking(True)
        assert verifier.opened == ["imports", "unsafe sandbox" if allow_unsafe else "sandbox"]


def test_a_sandbox_that_cannot_be_opened_is_nobodys_verdict():
    verifier = InSandbox(faulty, UserError("no sandbox on this machine"))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.VERIFIERS, "some", verifier)
        with pytest.raises(CannotLoad, match="verifier some: no sandbox on this machine"):
            Worker(theirs).judge(Job(number=1, verifier="some", completion="value", answer='{"runs": true}'))


def test_a_machine_that_lacks_what_an_answer_takes_is_nobodys_verdict():
    verifier = InSandbox(lambda task: Score(reward=1.0), lacks=UserError("no compiler on this machine"))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.VERIFIERS, "some", verifier)
        worker = Worker(theirs)
        assert worker.judge(Job(number=1, verifier="some", completion="x", answer='{"runs": true}')).score is not None
        with pytest.raises(CannotLoad, match="verifier some: no compiler on this machine"):
            worker.judge(Job(number=1, verifier="some", completion="x", answer='{"compiles": true, "runs": true}'))


def test_exhausted_memory_ends_the_worker(worker: tuple[Worker, socket.socket]):
    with pytest.raises(MemoryError):
        worker[0].judge(job("memory"))


def test_the_last_try_says_that_the_stored_answer_passed_before_it_judges(worker: tuple[Worker, socket.socket]):
    with pytest.raises(MemoryError):
        worker[0].judge(job("memory", last_try=True))
    assert sent(worker[1]) == [Loading(), Ready(), Probed(3)]


def test_an_unknown_verifier_is_an_error_not_a_death(worker: tuple[Worker, socket.socket]):
    scored = worker[0].judge(Job(number=1, verifier="nobody", completion="x", answer="{}"))
    assert scored.score is None
    assert "unknown verifier" in scored.error


def test_code_that_is_not_ours_is_never_the_completions_fault():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        own = {"theirs": Judge()}
        worker = Worker(theirs, own)
        for error in ("value", "exit", "deep"):
            asked = Job(number=1, verifier="theirs", completion=error, answer="{}", last_try=True)
            scored = worker.judge(asked)
            assert scored.score is None
            assert "on purpose" in scored.error


def test_code_that_is_not_ours_is_told_the_prompt():
    seen: list[Task] = []

    def judge(task: Task) -> Score:
        seen.append(task)
        return Score(reward=1.0)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(theirs, {"theirs": Judge(judge)})
        prompt_ids, completion_ids = b"\1\0\0\0", b"\2\0\0\0"
        worker.judge(
            Job(
                number=1,
                verifier="theirs",
                completion="x",
                answer='{"a": 1}',
                prompt="2+2?",
                prompt_ids=prompt_ids,
                completion_ids=completion_ids,
            )
        )
    assert seen == [Task(completion="x", answer={"a": 1}, prompt="2+2?", prompt_ids=prompt_ids, completion_ids=completion_ids)]


def test_frames_are_cut_at_any_boundary():
    messages = [Probed(1), Scored(number=2, score=Score(reward=0.5), seconds=0.1), Ready()]
    stream = b"".join(map(to_frame, messages))
    for step in (1, 3, 7, len(stream)):
        frames = FrameReader()
        payloads = [p for at in range(0, len(stream), step) for p in frames.feed(stream[at : at + step])]
        assert [msgspec.msgpack.decode(p, type=FromWorker) for p in payloads] == messages


@pytest.mark.parametrize("sent", [b"", to_frame(Job(number=1, verifier="math", answer="{}", completion="1"))])
def test_a_pool_that_goes_away_ends_its_worker_without_a_word(sent: bytes):
    """Closing an end with unread bytes, here Ready, resets the connection."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "prolong.verifiers.workers.worker", str(theirs.fileno()), "4096", "sandbox"]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as worker:
        theirs.close()
        ours.recv(1, socket.MSG_PEEK)
        ours.sendall(sent)
        ours.close()
        _, said = worker.communicate(timeout=60)
    assert (worker.returncode, said) == (0, b"")
