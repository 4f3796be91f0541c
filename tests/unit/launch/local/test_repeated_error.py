"""Which ends of a log show an error of the program, and when two of them are the same."""

import pytest
from prolong.launch.local.repeated_error import ProgramError, last_error

PLAIN = """\
2026-01-01 10:00:00 INFO prolong.learner.main: learner at version 0 of 2, generation 1
Traceback (most recent call last):
  File "/x/learner/main.py", line 133, in run
    metrics = self.trainer.train(batch)
  File "/x/learner/batches/attention.py", line 61, in documents_attention
    raise NotImplementedError("not this")
NotImplementedError: not this
E1129 21:22:09.738000 29438 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 0
"""
RANK = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/x/learner/main.py", line 133, in run
[rank1]: torch.nn.modules.module.ModuleAttributeError: no
[rank1]:   File "/x/learner/step.py", line 7, in train
[rank1]: KeyError: 'exp_avg'
"""
ENGINE = """\
(EngineCore pid=7) ERROR 11-29 21:15:29 [core.py:1512]   File "/x/nn/modules/module.py", line 1967, in __getattr__
(EngineCore pid=7) ERROR 11-29 21:15:29 [core.py:1512]     raise AttributeError(
(EngineCore pid=7) ERROR 11-29 21:15:29 [core.py:1512] AttributeError: 'ParallelLMHead' object has no attribute 'bias'
(MainProcess pid=8) ERROR 11-29 21:15:29 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: see above
prolong actor: ticket 0: vLLM failed: EngineCore encountered an issue.
"""
THREAD = "prolong actor: the transformers engine failed: IndexError: index 64 is out of bounds for dimension 0 with size 64\n"
ENCODING = "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud83d' in position 3: surrogates not allowed\n"


@pytest.mark.parametrize(
    ("log", "sentence", "place"),
    [
        (PLAIN, "NotImplementedError: not this", "/x/learner/batches/attention.py:61"),
        (RANK, "KeyError: 'exp_avg'", "/x/learner/step.py:7"),
        (ENGINE, "AttributeError: 'ParallelLMHead' object has no attribute 'bias'", "/x/nn/modules/module.py:1967"),
        (THREAD, "IndexError: index 64 is out of bounds for dimension 0 with size 64", ""),
        (ENCODING, ENCODING.strip(), ""),
        ("AssertionError\n", "AssertionError", ""),
    ],
)
def test_an_error_of_the_program_is_found_with_its_place(log: str, sentence: str, place: str) -> None:
    assert last_error(log.splitlines()) == ProgramError(sentence, place)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "OSError: [Errno 28] No space left on device",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "prolong actor: no heartbeat of the buffer for 10 s",
        "2026-01-01 10:00:00 WARNING prolong.verifiers: a worker crashed: ValueError: no number",
        "zmq.error.ZMQError: Address already in use",
    ],
)
def test_what_comes_from_outside_is_no_error_of_the_program(line: str) -> None:
    assert last_error(["prolong starts", line]) is None


def test_numbers_may_differ_between_two_of_the_same_error_but_place_and_words_may_not() -> None:
    error = ProgramError("IndexError: index 64 is out of bounds for dimension 0 with size 64", "a.py:3")
    assert error.repeats(ProgramError("IndexError: index 71 is out of bounds for dimension 0 with size 64", "a.py:3"))
    assert not error.repeats(ProgramError(error.sentence, "a.py:4"))
    assert not error.repeats(ProgramError("IndexError: list index out of range", "a.py:3"))
    assert not error.repeats(None)
