"""The import contracts of pyproject.toml can really be broken: a configuration that sees no module keeps every contract."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actor", "learner", "buffer", "verifiers", "common", "launch", "bench")


def lint(tree: Path, offence: dict[str, str]) -> str:
    """What lint-imports says about a copy of our folders with lines added to some files."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / "prolong" / folder, ignore=shutil.ignore_patterns("__pycache__", "conf"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for file, text in offence.items():
        with (tree / "prolong" / file).open("a") as module:
            module.write(text)
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


OFFENCES = {
    "Imports point one way": {"common/types.py": "from ..buffer.tickets import ledger\n"},
    "The learner never judges": {"learner/step.py": "from ..verifiers import registry\n"},
    "Actor and learner know the buffer by its client alone": {"learner/step.py": "from ..buffer.tickets import ledger\n"},
    "Buffer and verifiers start without torch": {"buffer/tickets/ledger.py": "import torch\n"},
    "vLLM has one door": {"launch/local/train.py": "import vllm\n"},
}


@pytest.mark.parametrize(("contract", "offence"), OFFENCES.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_offence_breaks_its_contract(contract: str, offence: dict[str, str], tmp_path: Path) -> None:
    assert f"{contract} BROKEN" in lint(tmp_path, offence)
