"""The import contracts of pyproject.toml hold on the tree, and each of them breaks on an import that it must refuse.

A contract that names a module which no longer exists, or a configuration that sees no module at all, would be kept for ever.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = tuple(PROJECT["tool"]["setuptools"]["package-dir"].values())
CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]

# contract -> (module, import to plant there, module that the contract must name as imported)
OFFENCES = {
    "Imports point one way": ("common/types.py", "from ..buffer.tickets import ledger", "prolong.buffer.tickets.ledger"),
    "The learner never judges": ("learner/ranks.py", "from ..verifiers import registry", "prolong.verifiers.registry"),
    "Actor and learner know the buffer by its client alone": (
        "learner/step.py",
        "from ..buffer.tickets import store",
        "prolong.buffer.tickets.store",
    ),
    "Rooms of the buffer: imports point one way": (
        "buffer/journal/records.py",
        "from ..serving import output_commit",
        "prolong.buffer.serving.output_commit",
    ),
    "The buffer's client knows no other room of the buffer": (
        "buffer/client/session.py",
        "from ..tickets import leases",
        "prolong.buffer.tickets.leases",
    ),
    "Core of the buffer: imports point one way": (
        "buffer/core/dispatch.py",
        "from . import learner_progress",
        "prolong.buffer.core.learner_progress",
    ),
    "Tickets of the buffer: imports point one way": (
        "buffer/tickets/staleness.py",
        "from . import ledger",
        "prolong.buffer.tickets.ledger",
    ),
    "The learner's mathematics: imports point one way": (
        "learner/algorithm/api.py",
        "from .losses import table",
        "prolong.learner.algorithm.losses.table",
    ),
    "Rooms of verifiers: imports point one way": (
        "verifiers/answers/units.py",
        "from .. import registry\n",
        "prolong.verifiers.registry",
    ),
    "A sandbox does not know its self-test": (
        "verifiers/sandbox/sandbox.py",
        "from . import selftest\n",
        "prolong.verifiers.sandbox.selftest",
    ),
    "Pools of verifier workers: imports point one way": (
        "verifiers/workers/process.py",
        "from . import pool\n",
        "prolong.verifiers.workers.pool",
    ),
    "Rooms of the learner: imports point one way": (
        "learner/batches/packing.py",
        "from ..checkpoints import saver",
        "prolong.learner.checkpoints.saver",
    ),
    "Rooms of common: imports point one way": (
        "common/files.py",
        "from .transport import wire",
        "prolong.common.transport.wire",
    ),
    "prolong launch: targets know their protocol and not each other": (
        "launch/jobs/slurm.py",
        "from . import kubernetes\n",
        "prolong.launch.jobs.kubernetes",
    ),
    "Trackers: imports point one way": (
        "launch/trackers/follow.py",
        "from . import process",
        "prolong.launch.trackers.process",
    ),
    "Rooms of launch: imports point one way": (
        "launch/recipes.py",
        "from .local import train",
        "prolong.launch.local.train",
    ),
    "prolong train and prolong replay: imports point one way": (
        "launch/local/process.py",
        "from . import supervisor",
        "prolong.launch.local.supervisor",
    ),
    "Rooms of the weights plane: imports point one way": (
        "common/weights/api.py",
        "from . import collective_group",
        "prolong.common.weights.collective_group",
    ),
    "Pulled weights: imports point one way": (
        "common/weights/pull/delta.py",
        "from . import store",
        "prolong.common.weights.pull.store",
    ),
    "Weight transports are known to their table alone": (
        "learner/weights/sender.py",
        "from ...common.weights import collective",
        "prolong.common.weights.collective",
    ),
    "Buffer and verifiers start without torch": ("buffer/tickets/ledger.py", "import torch", "torch"),
    "Rooms of the actor: imports point one way": (
        "actor/engines/noise.py",
        "from .. import stats",
        "prolong.actor.stats",
    ),
    "Engines know their protocol and not each other": (
        "actor/engines/transformers/batch.py",
        "from ..vllm import segments",
        "prolong.actor.engines.vllm.segments",
    ),
    "vLLM has one door": ("launch/local/train.py", "import vllm", "vllm"),
}


def lint(folder: Path, *, path: Path | None = None) -> str:
    """The report of import-linter with the configuration in `folder`; `path`: where to find another `prolong`."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    # wide, because the report wraps its lines
    env = {**os.environ, "PYTHONPATH": str(path or ""), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a copy of our folders that holds every offence."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / "prolong" / folder, ignore=shutil.ignore_patterns("__pycache__", "conf"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for file, line, _ in OFFENCES.values():
        with (tree / "prolong" / file).open("a") as module:
            module.write(f"{line}\n")
    return lint(tree, path=tree)


def findings(report: str, contract: str) -> str:
    """The section of the report on one broken contract."""
    match = re.search(rf"^{re.escape(contract)}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", report, re.MULTILINE | re.DOTALL)
    assert match, f"no section on {contract!r} in\n{report}"
    return match.group(1)


def test_every_contract_has_an_offence() -> None:
    assert OFFENCES.keys() == set(CONTRACTS)


def test_the_tree_keeps_every_contract() -> None:
    report = lint(ROOT)
    assert [contract for contract in CONTRACTS if f"{contract} KEPT" not in report] == [], report
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in report


@pytest.mark.parametrize("contract", CONTRACTS)
def test_an_offence_breaks_its_contract(planted: str, contract: str) -> None:
    assert f"{contract} BROKEN" in planted
    file, _, imported = OFFENCES[contract]
    importer = ".".join(("prolong", *Path(file).with_suffix("").parts))
    assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)}\b", findings(planted, contract))
