"""Fixtures that several kinds of tests share."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped demo model with its prompt files, as `prolong bootstrap` lays it down."""
    folder = tmp_path_factory.mktemp("demo") / "model"
    command = [sys.executable, "-m", "prolong.launch.cli", "bootstrap", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=120)
    return folder
