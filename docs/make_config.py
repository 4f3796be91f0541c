"""Writes docs/config.md from the dataclasses, enums and constants of the code: `make docs`. A test compares them.

Comments are read too, so the sources are parsed; of our modules only the list of verifiers is imported.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import NamedTuple

from prolong.common.config.resume import change_of
from prolong.verifiers.registry import VERIFIERS

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("sections", "algorithm", "learner", "weights", "pools", "verifiers", "alerts", "curriculum")
FILES = [f"common/config/{name}.py" for name in NAMES]
SECTIONS, ALGORITHM, *_ = FILES
CHOICES = "common/config/choices.py"
PAGE = ROOT / "docs" / "config.md"

HEAD = """# Settings

Generated from `common/config/` by `make docs`; defaults live there and nowhere else. A recipe
(`launch/conf/*.yaml`, or your own YAML file) overrides them, and the command line overrides the recipe:

    prolong train --recipe demo run.steps=80 buffer.eta=1 data.train='[{file: a.jsonl, weight: 2}, {file: b.parquet}]'

`model=X` is short for `model.path=X`, and `preset=X` lays the settings of a paper over the recipe ([recipe.md](recipe.md)).
An unknown key, a wrong type or a value out of range is refused with the key, what was got, what was expected and the nearest
key. Every command of one run takes the same settings; `prolong train` writes them to `runs/NAME/config.yaml`, which is a
recipe itself (`--recipe runs/NAME/config.yaml`).

The last column says what a run that goes on from a checkpoint may change. **any time**: where and how fast it works, not what
it learns. **next step**: tickets and steps from now on follow the new value, recorded ones keep theirs. **limited**, **never**:
what is recorded or under way depends on the value, and a change that is impossible is refused before anything starts, with both
values, the reason, and how to begin another run with the model of that step (`model.path=runs/NAME/checkpoints/step-...`).

| limited | |
| --- | --- |
| `model.path` | another place, but the same model and tokenizer |
| `data.train` | files and weights, but not the names, `only` and the order of the sources |
| `buffer.eta`, `buffer.adaptive` | the largest eta that may be, `buffer.adaptive.max` or else `buffer.eta`, may grow |
| `objective.kl_beta` | any value, but not from 0 to another one |
| `reference.source` | from `best` to `current` |
| `stages` | the stages after the present one |

## Prompt files

JSONL (one object a line) or parquet (one row a prompt):

| field | content |
| --- | --- |
| `prompt` | a text, or a list of chat messages `{"role", "content"}`, which the tokenizer's chat template renders |
| `domain`, `task` | names by which rewards and pass rates are reported, as `domain/task` |
| `verifier` | a name of the list below, or one of `verifiers.own` |
| `answer` | the JSON that the verifier needs: for example `{"answer": "932"}` |
| `uid` | optional; unique and stable, otherwise made of the file's name and the line number |

`prolong data check FILE` names every line that cannot be used, in the words of the buffer.

## Trackers

`trackers={NAME: {ARGUMENT: VALUE}}` copies the metrics of a run to `wandb`, `trackio` and `mlflow`
([monitoring.md](monitoring.md#trackers)); on resume: any time.

## Verifiers
"""

# constants of the code that bound what a user can do: (file, name); each has a comment
LIMITS = (
    (SECTIONS, "MAX_MESSAGE_MB"),
    ("common/types.py", "MAX_DETAIL"),
    ("common/transport/sockets.py", "FRAMES_AHEAD"),
    ("common/transport/sockets.py", "FRAMES_BEHIND"),
    ("buffer/tickets/store.py", "MAX_ATTEMPTS"),
    ("buffer/tickets/group_checks.py", "MAX_METRICS"),
)


# settings that are mappings: key -> the class that describes one
MAPPINGS = {
    "verifiers.judge": "JudgeConfig",
    "learner.lr_schedule": "LrScheduleConfig",
    "model.lora": "LoraConfig",
    "pools.NAME": "PoolConfig",
    "buffer.adaptive": "AdaptiveConfig",
    "alerts": "AlertsConfig",
    "buffer.curriculum": "CurriculumConfig",
}


class Source(NamedTuple):
    """A parsed file with its lines, which hold the comments."""

    tree: ast.Module
    lines: list[str]

    @classmethod
    def read(cls, path: str) -> Source:
        text = (ROOT / path).read_text(encoding="utf-8")
        return cls(ast.parse(text), text.splitlines())

    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    def constant(self, name: str) -> ast.Assign:
        """The assignment to `name`. Raises: KeyError."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return node
        raise KeyError(name)

    def comment(self, node: ast.stmt) -> str:
        """The comment at the end of the statement's last line, or else the comment lines above it; empty without any."""
        _, _, behind = self.lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
        above: list[str] = []
        for line in reversed(self.lines[: node.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip().removeprefix("# "))
        return (behind or " ".join(above)).replace("|", "\\|")


def page() -> str:
    """The text of docs/config.md."""
    files = [Source.read(path) for path in FILES]
    sections, algorithm, *_ = files
    choices = Source.read(CHOICES)
    sources = {name: source for source in files for name in source.classes()}
    parts = [HEAD, *_verifiers(), "", "## Every setting\n"]
    for section in _fields(sections.classes()["Config"]):
        kind = ast.unparse(section.annotation)
        if kind in sources:
            parts.append(_section(_name(section), sources[kind], kind))
    parts += [_section(key, sources[kind], kind) for key, kind in MAPPINGS.items()]
    parts.append(_section("stages[]", algorithm, "StageConfig"))
    parts.append(_section("data.train[] and data.heldout[]", sections, "SourceConfig"))
    parts.append("## Choices\n")
    users = _users(*files)
    parts += [_choices(", ".join(users[node.name]), node, choices) for node in choices.classes().values()]
    parts.append("## Limits\n\nConstants of the code:\n\n| limit | value | |\n| --- | --- | --- |")
    parts += [_limit(path, name) for path, name in LIMITS]
    return "\n".join(parts) + "\n"


def _verifiers() -> list[str]:
    """A line for each verifier: the first sentence of its class; docs/verifiers.md says more."""
    sentences = {name: (inspect.getdoc(type(verifier)) or "").splitlines()[0] for name, verifier in VERIFIERS.items()}
    return [f"- `{name}`: {sentence[0].lower()}{sentence[1:]}" for name, sentence in sentences.items()]


def _section(title: str, source: Source, name: str) -> str:
    node = source.classes()[name]
    rows = [
        f"### {title}\n",
        f"{ast.get_docstring(node)}\n",
        "| setting | type | default | | on resume |",
        "| --- | --- | --- | --- | --- |",
    ]
    for field in _fields(node):
        kind, change = ast.unparse(field.annotation), change_of(f"{title.partition(' and ')[0]}.{_name(field)}")
        rows.append(f"| `{_name(field)}` | {kind} | {_default(field)} | {source.comment(field)} | {change.value} |")
    return "\n".join(rows) + "\n"


def _users(*sources: Source) -> dict[str, list[str]]:
    """Name of a type -> the settings of that type, as section.key."""
    classes = {name: node for source in sources for name, node in source.classes().items()}
    users: dict[str, list[str]] = {}
    for section in _fields(classes["Config"]):
        kind = ast.unparse(section.annotation)
        for field in _fields(classes[kind]) if kind in classes else []:
            users.setdefault(ast.unparse(field.annotation), []).append(f"{_name(section)}.{_name(field)}")
    for key, kind in MAPPINGS.items():
        for field in _fields(classes[kind]):
            users.setdefault(ast.unparse(field.annotation), []).append(f"{key}.{_name(field)}")
    return users


def _choices(title: str, node: ast.ClassDef, source: Source) -> str:
    rows = [f"### {title}\n", f"{ast.get_docstring(node)}\n", "| choice | |", "| --- | --- |"]
    members = [item for item in node.body if isinstance(item, ast.Assign)]
    rows += [f"| `{ast.unparse(item.targets[0])}` | {source.comment(item)} |" for item in members]
    return "\n".join(rows) + "\n"


def _limit(path: str, name: str) -> str:
    source = Source.read(path)
    node = source.constant(name)
    return f"| `{name}` in `{path}` | {ast.literal_eval(node.value):,} | {source.comment(node)} |"


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [item for item in node.body if isinstance(item, ast.AnnAssign)]


def _name(field: ast.AnnAssign) -> str:
    return ast.unparse(field.target)


def _default(field: ast.AnnAssign) -> str:
    value = ast.unparse(field.value) if field.value is not None else ""
    if value == "'???'":
        return "must be given"
    value = {"field(default_factory=list)": "[]", "field(default_factory=dict)": "{}"}.get(value, value)
    return f"`{re.sub(r'^[A-Z][A-Za-z]+[.]', '', value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
