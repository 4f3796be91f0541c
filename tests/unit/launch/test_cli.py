"""The command line: cheap help, one sentence per mistake, honest exit codes."""

import os
import resource
import subprocess
import sys

import pytest
from prolong.common.errors import RunStopped
from prolong.launch import cli
from prolong.launch.cli import COMMANDS, Command

HEAVY = ("torch", "transformers", "vllm", "hydra", "numpy")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_cheap_and_imports_nothing_heavy(command: str) -> None:
    """The promise is 0.5 s of CPU time; a busy machine gets as much again."""
    program = f"""
import sys
from prolong.launch.cli import main
try:
    code = main([*{command.split()!r}, "--help"])
except SystemExit as exit:
    code = exit.code
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "usage: prolong" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_every_command_is_listed_with_a_summary() -> None:
    for name, command in COMMANDS.items():
        assert command.summary
        assert f"  {name:10s} {command.summary}" in cli.usage()


def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--recipe", "demo", "buffer.etaa=1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "buffer.etaa" in captured.err
    assert "buffer.eta?" in captured.err


@pytest.mark.parametrize("argv", [["nonsense"], ["bench", "nonsense"]])
def test_an_unknown_name_lists_the_known_ones(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "'nonsense': expected one of" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "soon"])
@pytest.mark.parametrize(
    "argv",
    [
        ["top", "--once", "--every"],
        ["trace", "mine", "--last"],
        ["report", "mine", "--megabytes"],
        ["diagnose", "mine", "--cores"],
        ["plan", "mine.yaml", "--cores"],
    ],
)
def test_a_number_that_cannot_be_is_a_mistake(argv: list[str], number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*argv, number])
    assert ended.value.code == 2
    assert f"argument {argv[-1]}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["caf\udce9", "a\nb", "a" * 201])
def test_a_name_that_no_frame_can_hold_is_a_mistake(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes of the command line that are not UTF-8 arrive as halves of surrogate pairs."""
    monkeypatch.setattr("prolong.launch.model_check.check_model", lambda _: None)
    assert cli.main(["actor", "--name", name, "model.path=m"]) == 2
    assert "expected at most 200 printable characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(RunStopped("over"), 0), (RunStopped("bad", failed=True), 1), (KeyboardInterrupt(), 130)]
)
def test_errors_become_their_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "status", Command(fail, "fails"))
    assert cli.main(["status"]) == code


def test_the_installed_command_is_this_one() -> None:
    command = os.path.join(os.path.dirname(sys.executable), "prolong")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == cli.usage() + "\n"
