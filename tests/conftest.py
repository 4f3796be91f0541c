"""Fixtures that several kinds of tests share, the lanes of `make test`, and where tests compute."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.gpus import asked_for, hide_gpus, skip_what_cannot_run

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.support.lanes import LaneScheduling


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LaneScheduling:
    # imported here: the environment of `make parity` has no pytest-xdist, and never calls this
    from tests.support.lanes import make_scheduler

    return make_scheduler(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if not asked_for(config):
        hide_gpus()
    # imported here: the environment of `make parity` has none
    if find_spec("hypothesis") is not None:
        from hypothesis import HealthCheck, settings

        # by default examples are drawn anew each time, and fail when one takes 200 ms, or when drawing the first ten takes a
        # second, as on a busy machine
        slow = [HealthCheck.too_slow]
        settings.register_profile("any machine", deadline=None, derandomize=True, suppress_health_check=slow)
        settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest lanes first. Every worker of pytest-xdist must collect the same order."""
    skip_what_cannot_run(config, items)
    if hasattr(config, "workerinput"):
        from tests.support.lanes import sort_key

        items.sort(key=lambda item: sort_key(item.nodeid))


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped demo model with its prompt files, as `prolong bootstrap` writes them."""
    folder = tmp_path_factory.mktemp("demo") / "model"
    command = [sys.executable, "-m", "prolong.launch.cli", "bootstrap", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=120)
    return folder
