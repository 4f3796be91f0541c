"""The entry of every process of prolong: its log, and how an error becomes an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from ..common.errors import ProlongError


def log_to_stderr() -> None:
    """Log from INFO on; `prolong train` redirects stderr to runs/NAME/logs/."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def exit_code_of(command: str, work: Callable[[], int]) -> int:
    """The exit code that `work` returns, or that of its ProlongError, which is printed to stderr as one sentence."""
    try:
        return work()
    except ProlongError as error:
        sys.stderr.write(f"prolong {command}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
