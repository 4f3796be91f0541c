"""The entry of every process of prolong: its log, and how an error becomes an exit code."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from ..common.errors import ProlongError

# what steers a terminal
_CONTROLS = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n")
QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning", "TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_LOGS": "-torch._library"}


def log_to_stderr() -> None:
    """Log from INFO on; `prolong train` redirects stderr to runs/NAME/logs/."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class PlainFormatter(logging.Formatter):
    """A log line holds names and errors of other processes, which do not steer the terminal that shows it."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


def without_controls(text: str) -> str:
    """The text without characters that steer a terminal; lines stay lines."""
    return text.translate(_CONTROLS)


def quiet_libraries() -> None:
    """Leave out what vLLM and torch say about themselves at every start, here and in child processes; before their import."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    # the level of vLLM's logger would not last: it is set when vLLM is imported
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno > logging.INFO or not record.name.startswith("vllm"))


def exit_code_of(command: str, work: Callable[[], int]) -> int:
    """The exit code that `work` returns, or that of its ProlongError, which is printed to stderr as one sentence."""
    try:
        return work()
    except ProlongError as error:
        sys.stderr.write(without_controls(f"prolong {command}: {error}\n"))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def end_process(code: int) -> NoReturn:
    """End this process at once with `code`; everything that must be closed is closed.

    Python itself would need seconds to dismantle vLLM and torch, and would abort where a thread is still inside torch: its
    daemon threads are ended in the middle of C++ code, which answers with SIGABRT.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
