"""The entry of a process of prolong: its log, and how errors become exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from ..common.errors import ProlongError


def log_to_stderr() -> None:
    """What a component says while it runs; `prolong train` sends it to runs/NAME/logs/."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def exit_code_of(command: str, work: Callable[[], int]) -> int:
    """What `work` returns; a ProlongError becomes its one sentence on stderr and its exit code."""
    try:
        return work()
    except ProlongError as error:
        sys.stderr.write(f"prolong {command}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
