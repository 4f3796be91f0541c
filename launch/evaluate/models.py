"""What MODELS name: folders of models, names of the hub, checkpoints of a run, or a run, for its newest checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ...common.config.run_files import find_checkpoints
from ...common.errors import UserError
from ...common.json_object import JsonObject
from ...common.model_folder import CONFIG, read_model_config
from ...common.tokenizer import tokenizer_folder
from ..model_check import is_folder_name
from ..status import find_run

# of config.json: they say where a model came from and not how it computes
UNRELATED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model by the name that tables give it. `path`: a folder or a hub name; `checkpoint`: to be exported there first."""

    name: str
    path: str
    checkpoint: Path | None = None
    step: int | None = None  # of a run's checkpoint


def models_named(arguments: list[str], exports: Path) -> list[EvaluatedModel]:
    """The models, each with a name of its own. `exports`: where models are made of checkpoints. Raises: UserError."""
    models = [_resolve(argument.rstrip("/"), exports) for argument in arguments]
    for model in models:
        if sum(other.name == model.name for other in models) > 1:
            paths = ", ".join(other.path for other in models if other.name == model.name)
            raise UserError(f"{paths}: tables would call each of them {model.name}; give folders of different names")
    return models


def _resolve(argument: str, exports: Path) -> EvaluatedModel:
    path = Path(argument).expanduser()
    if (path / "state.json").is_file():
        return _checkpoint(path, exports)
    if (path / CONFIG).is_file():
        return EvaluatedModel(name=path.resolve().name, path=str(path))
    if path.exists() or is_folder_name(argument) or Path("runs", argument).exists():
        folder = find_run(argument).checkpoints
        found = find_checkpoints(folder)
        if not found:
            raise UserError(f"{folder} holds no checkpoint yet: the first one is saved after checkpoint.every steps")
        return _checkpoint(list(found.values())[-1], exports)
    return EvaluatedModel(name=argument.replace("/", "--"), path=argument)


def _checkpoint(folder: Path, exports: Path) -> EvaluatedModel:
    """A checkpoint: as it is where its files are those of a model, else by way of an export."""
    folder = folder.resolve()
    step = folder.name.removeprefix("step-")
    in_run = folder.parent.name == "checkpoints" and step.isdecimal()
    name = f"{folder.parent.parent.name}-{int(step)}" if in_run else folder.name
    whole = (folder / "model.safetensors").is_file()
    return EvaluatedModel(
        name=name,
        path=str(folder if whole else exports / f"{name}-{_state_of(folder)}"),
        checkpoint=None if whole else folder,
        step=int(step) if in_run else None,
    )


def _state_of(checkpoint: Path) -> str:
    """A word that changes when the files of a checkpoint are written anew: another run may have the name of one before it."""
    files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in checkpoint.iterdir())
    return hashlib.blake2b(json.dumps(files).encode(), digest_size=4).hexdigest()


def export_if_needed(model: EvaluatedModel) -> None:
    """Make a model of a checkpoint of several ranks, or of adapters: whole or not at all, by however many processes at once.

    Raises: ModelError, OSError.
    """
    path = Path(model.path)
    if model.checkpoint is None or path.is_dir():
        return
    from ...learner.checkpoints.export import export_checkpoint

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        made = Path(scratch, "model")
        export_checkpoint(model.checkpoint, made, dtype=None)
        try:
            made.rename(path)
        except OSError:
            # another process was faster
            if not path.is_dir():
                raise


def architecture(model: EvaluatedModel) -> str:
    """A text that is the same for models whose weights one engine can hold in turn. Raises: ModelError."""
    config: JsonObject = read_model_config(tokenizer_folder(model.path))
    return json.dumps({name: value for name, value in config.items() if name not in UNRELATED}, sort_keys=True)
