"""The files of a run: where each lies, and its configuration, which `load_config` reads back as `save_config` wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import ConfigError
from ..files import write_atomically
from .sections import Config
from .trees import build_section, to_tree


@dataclass(frozen=True)
class RunPaths:
    """The paths in the folder of a run."""

    folder: Path  # runs/NAME

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def buffer(self) -> Path:
        return self.folder / "buffer.json"

    @property
    def buffer_config(self) -> Path:
        return self.folder / "buffer.yaml"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def endpoints(self) -> Path:
        return self.folder / "endpoints"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """The complete checkpoints in `folder`, by version, ascending: a folder step-VERSION with a state.json is complete."""
    found = {path.name.removeprefix("step-"): path for path in folder.glob("step-*") if (path / "state.json").is_file()}
    return dict(sorted((int(version), path) for version, path in found.items() if version.isdecimal()))


def run_folder(cfg: Config) -> Path:
    """The folder of this run; it is not created."""
    return Path(cfg.run.root) / cfg.run.name


def run_paths(cfg: Config) -> RunPaths:
    return RunPaths(run_folder(cfg))


def config_text(cfg: Config) -> str:
    """Every setting as YAML, in the order of `Config`; `load_config` reads it."""
    return yaml.safe_dump(to_tree(cfg), sort_keys=False, allow_unicode=True)


def save_config(cfg: Config, path: Path) -> None:
    """Write the text of the configuration. Creates the folder of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, config_text(cfg))


def load_config(path: Path) -> Config:
    """The Config that `save_config` wrote, in this version or an earlier one.

    Raises: ConfigError naming the file, and the setting that this version does not know or does not take.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error
    try:
        return build_section(Config, tree)
    except ConfigError as error:
        hint = "another version of prolong may have written it: give this setting its present name and value (docs/config.md)"
        raise ConfigError(f"{path}: {error}; {hint}") from error
