"""The entry of a process: how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from prolong.common.errors import ConfigError
from prolong.launch.entry import exit_code_of

SCRIPT = """
import atexit, sys
from prolong.launch.entry import end_process
atexit.register(print, "dismantled")
print("said")
sys.stderr.write("warned")
end_process(3)
"""


def test_a_process_that_is_ended_has_said_everything_and_is_not_dismantled():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "warned")


RANK_SCRIPT = """
import atexit, runpy, sys
atexit.register(print, "dismantled")
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize(
    "arguments", [["prolong.launch.torchrun", "none.yaml"], ["prolong.launch.replay.rerun", "none.yaml", "none", "1"]]
)
def test_a_rank_of_a_learner_is_not_dismantled(arguments: list[str], tmp_path: Path) -> None:
    """A thread may still be inside torch, in a broadcast to an actor that came at the end: it would abort the process."""
    line = [sys.executable, "-c", RANK_SCRIPT, *arguments]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert "none.yaml" in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_an_error_of_ours_is_one_sentence_and_its_exit_code(capsys):
    def fail() -> int:
        raise ConfigError("run.steps = 0: expected at least 1")

    assert exit_code_of("train", fail) == 2
    assert capsys.readouterr().err == "prolong train: run.steps = 0: expected at least 1\n"


def test_an_error_that_quotes_others_does_not_steer_the_terminal(capsys):
    def fail() -> int:
        raise ConfigError("the buffer refused: \x1b[2J\x9b1mfar")

    assert exit_code_of("actor", fail) == 2
    assert capsys.readouterr().err == "prolong actor: the buffer refused: [2J1mfar\n"


QUIET_SCRIPT = r"""
import logging, os, subprocess, sys, warnings
from prolong.launch.entry import log_to_stderr, quiet_libraries
log_to_stderr()
quiet_libraries()
logging.getLogger("vllm.importing").info("no Triton")
logging.getLogger("prolong").info("kept %s", "\x1b[2J")
warnings.warn("deprecated", FutureWarning)
subprocess.run([sys.executable, "-c", "import warnings; warnings.warn('of a child', FutureWarning)"], check=True)
"""


def test_what_libraries_say_of_themselves_is_left_out_here_and_in_children():
    done = subprocess.run([sys.executable, "-c", QUIET_SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert [line.partition("INFO ")[2] for line in done.stderr.splitlines()] == ["prolong: kept [2J"]
