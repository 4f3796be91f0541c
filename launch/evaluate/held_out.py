"""The prompts of an evaluation: prompt files as they are, and public sets, whose columns tell what they are.

source --> a prompt file?  yes --> its prompts
                           no  --> converted as `prolong data convert` does, for a chat model as a user's message
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from ...common.config.sections import SourceConfig
from ...common.config.verifiers import VerifiersConfig
from ...common.data.prompts import load_prompts
from ...common.data.records import DataRecord, read_records
from ...common.errors import DataError
from ...common.tokenizer import Tokenizer
from ...common.types import Prompt
from ...verifiers.data.fields import LeftOut
from ...verifiers.registry import check_prompt
from ...verifiers.user_verifiers import declared
from ..data.convert import ConvertSettings, converted
from ..data.files import record_writer

PROMPT_FIELDS = {"prompt", "domain", "task", "verifier"}
PUZZLES = "Reasoning Gym"  # the shape whose records name their task
LOOKED_AT = 20  # records that tell a prompt file from a public set


@dataclass(slots=True)
class HeldOut:
    """Prompts, and how many records were left out for which reason, by file."""

    prompts: list[Prompt] = field(default_factory=list)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)


def read_held_out(
    sources: list[SourceConfig], tokenizer: Tokenizer, context: int, cfg: VerifiersConfig, scratch: Path, *, first: int = 0
) -> HeldOut:
    """The prompts of all sources, each with a verifier that can judge it. Raises: UserError.

    `context`: tokens that the model can have, of which a prompt must leave one. `scratch`: where converted files are kept.
    `first`: only so many prompts of each source; 0: all.
    """
    found, own = HeldOut(), declared(cfg.own)
    for source in sources:
        asked = source
        if not is_prompt_file(Path(source.file)):
            converted_file = scratch / f"{Path(source.file).stem}.jsonl"
            found.left_out[source.file] = convert_set(Path(source.file), converted_file)
            asked = replace(source, file=str(converted_file), chat=source.chat or tokenizer.has_chat_template)
        found.prompts += load_prompts(asked, tokenizer, context, 1)[: first or None]
    uids = Counter(prompt.uid for prompt in found.prompts)
    twice = [uid for uid, count in uids.items() if count > 1]
    if twice:
        cure = "give every prompt its own, and every public set a file name of its own"
        raise DataError(f"{len(twice)} uids occur twice, such as {twice[0]!r}; {cure}")
    for prompt in found.prompts:
        check_prompt(prompt, own)
    return found


def is_prompt_file(file: Path) -> bool:
    """Whether the first records have the fields of a prompt file. Raises: DataError when no record can be read."""
    first = [record for _, record in islice(read_records(file), LOOKED_AT)]
    usable = [record for record in first if not isinstance(record, DataError)]
    if not usable:
        raise DataError(f"{file}: {first[0] if first else 'it holds no record'}")
    return all(record.keys() >= PROMPT_FIELDS for record in usable)


def convert_set(file: Path, target: Path) -> dict[str, int]:
    """Write the prompts of a public set to `target`; returns how many records were left out, by reason. Raises: DataError.

    No prompt is proved here: `prolong data convert` does that.
    """
    left_out: Counter[str] = Counter()
    written = 0
    with record_writer(target) as write:
        for record in _records_of(file):
            if isinstance(record, LeftOut):
                left_out[record.reason] += 1
            elif isinstance(record, DataError):
                left_out["it cannot be read"] += 1
            else:
                write(record)
                written += 1
        if not written:
            raise DataError(f"{file}: no record can be made a prompt ({_counted(left_out)}); docs/data.md lists what can")
    return dict(left_out)


def _records_of(file: Path) -> Iterator[DataRecord | DataError]:
    for number, record in read_records(file):
        if isinstance(record, DataError):
            yield record
            continue
        conversion = converted(record, ConvertSettings())
        if isinstance(conversion, DataError):
            yield conversion
            continue
        line = conversion.made.record(f"{file.stem}/{number}")
        # a file is a set, whose name columns do not tell; puzzles of one file are of many kinds, and say which
        line["task"] = line["task"] if conversion.shape.name == PUZZLES else file.stem
        yield line


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in left_out.most_common(3)) or "it is empty"
