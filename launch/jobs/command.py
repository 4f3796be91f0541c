"""`prolong launch TARGET RECIPE`: write the files that start a run under a scheduler, print them, or hand them over to it."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from ...common.config.run_files import config_text, run_folder
from ...common.config.sections import Config
from ...common.errors import ProlongError, UserError
from ...common.files import write_atomically
from ...common.temporary_folder import TemporaryFolder
from ...common.transport.keys import make_keys
from ..recipes import compose
from .api import BUFFER, CONFIG, KEYS, SECRET, LaunchJob, Rendered, RenderedFile, Target, component_names
from .kubernetes import Kubernetes
from .skypilot import SkyPilot
from .slurm import Slurm

TARGETS: dict[str, Target] = {"slurm": Slurm(), "kubernetes": Kubernetes(), "skypilot": SkyPilot()}
SUBMIT_S = 300.0  # for one command of --submit


def launch_job(args: argparse.Namespace) -> int:
    """Run the command; 0, or the exit code of the first command of --submit that failed. Raises: UserError."""
    if args.learner_nodes < 1:
        raise UserError(f"--learner-nodes {args.learner_nodes}: expected at least 1")
    cfg = compose(args.recipe, args.overrides)
    folder = (args.out or run_folder(cfg) / "launch").absolute()
    keys = _keys_with_those_in(folder / KEYS, cfg)
    settings = _read_settings(args.settings, component_names(cfg))
    job = LaunchJob(cfg=cfg, folder=folder, nodes=args.learner_nodes, settings=settings, keys=keys)
    rendered = TARGETS[args.target].render(job)
    files = {CONFIG: RenderedFile(text=config_text(cfg)), **rendered.files}
    if args.dry_run:
        _print_files(files, rendered)
        return 0
    _write_files(files, folder)
    _write_keys(keys, folder / KEYS)
    return _submit(rendered) if args.submit else _print_next(files, rendered, folder)


def _read_settings(given: list[str], known: list[str]) -> dict[str, dict[str, str]]:
    """Component -> key -> value of all --set; those for all components under "". Raises: UserError."""
    settings: dict[str, dict[str, str]] = defaultdict(dict)
    for each in given:
        name, equals, value = each.partition("=")
        component, colon, key = name.rpartition(":")
        if not equals or not key or (colon and component not in known):
            raise UserError(f"--set {each}: expected KEY=VALUE, or COMPONENT:KEY=VALUE with one of {', '.join(known)}")
        settings[component][key] = value
    return settings


def _keys_with_those_in(folder: Path, cfg: Config) -> dict[str, str]:
    """The run's keys, those in `folder` and new ones that are missing: file name -> text. Nothing is left on the disk."""
    with TemporaryFolder("keys") as scratch:
        made = scratch / KEYS
        _write_keys(_read_keys(folder), made)
        make_keys(made, [name for name in component_names(cfg) if name != BUFFER])
        return _read_keys(made)


def _read_keys(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def _write_keys(keys: dict[str, str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for name, text in keys.items():
        path = folder / name
        for each in reversed([parent for parent in path.parents if parent.is_relative_to(folder)]):
            each.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, text, mode=SECRET if path.suffix == ".key" else 0o644)


def _write_files(files: dict[str, RenderedFile], folder: Path) -> None:
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, file.text, mode=file.mode)


def _print_files(files: dict[str, RenderedFile], rendered: Rendered) -> None:
    for name, file in files.items():
        text = f"# a secret of {len(file.text)} characters" if file.secret else file.text.removesuffix("\n")
        sys.stdout.write(f"# ==== {name} (mode {file.mode:04o})\n{text}\n")
    sys.stdout.write(f"# ==== {KEYS}/ (mode 0700): keys of the buffer and of each component, secrets with mode {SECRET:04o}\n")
    sys.stdout.write("".join(f"# {note}\n" for note in rendered.notes))
    sys.stdout.write("".join(f"# then: {shlex.join(command)}\n" for command in rendered.commands))


def _print_next(files: dict[str, RenderedFile], rendered: Rendered, folder: Path) -> int:
    lines = [f"{folder} has {', '.join(files)} and {KEYS}/", *rendered.notes]
    lines += [f"start it with: {shlex.join(command)}" for command in rendered.commands]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _submit(rendered: Rendered) -> int:
    """Run the commands. Returns 0, or the exit code of the first that failed."""
    for command in rendered.commands:
        sys.stdout.write(f"{shlex.join(command)}\n")
        sys.stdout.flush()
        try:
            code = subprocess.run(command, timeout=SUBMIT_S, check=False).returncode
        except FileNotFoundError as error:
            raise UserError(f"--submit: there is no {command[0]} here; run `{shlex.join(command)}` where it is") from error
        except subprocess.TimeoutExpired as error:
            raise ProlongError(f"--submit: `{shlex.join(command)}` did not end within {SUBMIT_S:g} s") from error
        if code:
            return code
    return 0
