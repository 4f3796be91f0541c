"""Whether a run may go on from its newest checkpoint with these settings: asked by every command before it writes a file.

    config.yaml, buffer.yaml (the last start)  \\
                                             >  settings that cannot change, each with both values
    the settings of this start              /
    the newest checkpoint                   -->  whether `model.path` is still the model that was trained
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from ..buffer.journal.journal import read_journal
from ..common.config.resume import FixedSetting, fixed_settings
from ..common.config.run_files import find_checkpoints, load_config, run_paths
from ..common.config.sections import Config
from ..common.errors import ConfigError, ModelError, UserError
from ..common.model_folder import read_model_config, text_settings
from ..common.tokenizer import Tokenizer, tokenizer_folder

log = logging.getLogger(__name__)

# what makes a model another one, by the names of several families
_SHAPE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_local_experts", "num_experts", "n_embd", "n_layer", "n_head",
)  # fmt: skip


def check_resume(cfg: Config) -> None:
    """Raise UserError naming every setting that cannot change, with both values, when there is a checkpoint to go on from."""
    paths = run_paths(cfg)
    found = find_checkpoints(paths.checkpoints)
    if not cfg.run.resume or not found:
        return
    version, newest = list(found.items())[-1]
    changed = [*_changed_settings(cfg, paths.config, _stage_of(newest)), *_changed_model(cfg, newest)]
    _refuse(changed, f"{paths.folder} cannot go on from step {version}", f"run.name=ANOTHER model.path={newest}")


def check_buffer_resume(cfg: Config) -> None:
    """`check_resume` for the buffer alone. Its folder holds no checkpoints where the learner has another disk."""
    check_resume(cfg)
    paths = run_paths(cfg)
    if not cfg.run.resume or not (paths.journal / "data.mdb").is_file():
        return
    journal = read_journal(paths.journal)
    try:
        state = journal.load_state()
    finally:
        journal.close()
    if state is not None and state.checkpoints:
        changed = list(_changed_settings(cfg, paths.buffer_config, state.stage))
        _refuse(changed, f"{paths.journal} cannot go on from step {state.checkpoints[-1]}", "run.name=ANOTHER")


def _refuse(changed: list[FixedSetting], what: str, other_run: str) -> None:
    """Raise UserError if any setting changed that cannot."""
    if changed:
        reasons, keys = "; ".join(each.sentence() for each in changed), ", ".join(each.key for each in changed)
        raise UserError(
            f"{what} with other settings: {reasons}. Give {keys} the former value, or begin another run with the model of that "
            f"step: {other_run}"
        )


def _changed_settings(cfg: Config, path: Path, stage: int) -> Iterator[FixedSetting]:
    """Compare with the settings of the last start, which are in the file `path`."""
    if not path.is_file():
        return
    try:
        recorded = load_config(path)
    except ConfigError as error:
        log.warning("the settings of this run's last start cannot be compared: %s", error)
        return
    yield from fixed_settings(recorded, cfg, stage)


def _stage_of(checkpoint: Path) -> int:
    """The stage that the run is in, from 0; 0 too where the state cannot be read, which the learner reports."""
    try:
        return int(json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["stage"]["index"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _changed_model(cfg: Config, newest: Path) -> Iterator[FixedSetting]:
    """The first feature in which the model of `model.path` is not that of the checkpoint, or its tokenizer."""
    try:
        folder = tokenizer_folder(cfg.model.path)
        before, after = (text_settings(read_model_config(each)) for each in (newest, folder))
    except ModelError:
        # whoever loads them says what is wrong with the files
        return
    for name in _SHAPE:
        if name in before and name in after and before[name] != after[name]:
            why = f"its checkpoints are of the model whose {name} is {before[name]}"
            yield FixedSetting("model.path", f"{name} {before[name]}", f"{cfg.model.path} with {name} {after[name]}", why)
            return
    if (newest / "tokenizer.json").is_file() and (folder / "tokenizer.json").is_file():
        recorded, given = Tokenizer(newest).fingerprint, Tokenizer(folder).fingerprint
        if recorded != given:
            why = "the token ids of its recorded groups are of the former tokenizer"
            yield FixedSetting("model.path", f"tokenizer {recorded}", f"{cfg.model.path} with tokenizer {given}", why)
