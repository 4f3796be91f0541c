"""The tokenizer of a run, without torch or transformers: it renders prompts, converts text, and has a fingerprint to compare.

It reads the files that transformers writes: tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json;
and in config.json how many token ids the model knows: a tokenizer may have more, which no prompt may hold.
Chat templates run in jinja2's sandbox with the filters and globals that transformers gives them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import numpy as np
import tokenizers
import tokenizers.decoders

from .errors import DataError, ModelError
from .json_object import JsonObject
from .model_folder import text_settings, vocabulary_size

FILES = [
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json",
    "config.json",
]  # fmt: skip
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """One tokenizer; `Tokenizer.load` reads it."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError when `folder` holds no tokenizer.json, or one that cannot be read."""
        source = _read_json(folder / "tokenizer.json", required=True)
        config = _read_json(folder / "tokenizer_config.json")
        self._tokenizer = _build(folder / "tokenizer.json")
        self._special = _special_tokens(config, _read_json(folder / "special_tokens_map.json"))
        self._template_text = _chat_template(folder, config)
        self._template = _compile(self._template_text, folder) if self._template_text else None
        # names that the template reads and a source may set: data.*.template
        self.template_arguments = _arguments(self._template_text) - self._special.keys()
        self.eos_ids = self._eos_ids(_read_json(folder / "generation_config.json"))
        # the number of token ids that the model knows; None where config.json is missing or does not say
        self.model_ids = vocabulary_size(_read_json(folder / "config.json"))
        # the file that holds the chat template; empty where there is none
        self.template_file = _template_file(folder) if self._template_text else ""
        self.special_ids = frozenset(i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)
        bos = self._special.get("bos_token")
        self.bos_id = self._tokenizer.token_to_id(bos) if bos is not None else None
        unknown = self._special.get("unk_token")
        self.unknown_id = self._tokenizer.token_to_id(unknown) if unknown is not None else None
        # the token that config.json says a text begins with; some families name one and never use it
        self.model_bos_id = text_settings(_read_json(folder / "config.json")).get("bos_token_id")
        self.fingerprint = _fingerprint(source, self._special, self._template_text)
        self._pieces: dict[int, str] = {}  # of tokens that were spelled

    @classmethod
    def load(cls, path: str) -> Tokenizer:
        """The tokenizer of a model folder, or of a hub name (only its tokenizer files are fetched).

        Raises ModelError, also for a tokenizer with tokens that the model's embedding has no row for.
        """
        tokenizer = cls(tokenizer_folder(path))
        token, largest = tokenizer.largest_token
        if tokenizer.model_ids is not None and largest >= tokenizer.model_ids:
            raise ModelError(
                f"model.path = {path!r}: its tokenizer has the token {token!r} with id {largest}, but ids end at "
                f"{tokenizer.model_ids - 1}, as config.json says (vocab_size); give the model a larger embedding "
                "(resize_token_embeddings, then save_pretrained), or remove the tokens that were added"
            )
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def largest_token(self) -> tuple[str, int]:
        """The token with the largest id, and the id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda pair: pair[1], default=("", -1))

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def render(self, prompt: str | list[JsonObject], arguments: Mapping[str, object] = MappingProxyType({})) -> str:
        """The text that the model is to continue: a string unchanged, messages through the chat template with its `arguments`.

        Raises DataError when there is no template, it does not read an argument, or it raises an error for these messages.
        """
        if isinstance(prompt, str):
            return prompt
        if self._template is None:
            raise DataError(
                "the prompt is a list of messages, but the tokenizer has no chat template; give texts, and no chat: true of "
                "their source"
            )
        if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt):
            raise DataError(f"prompt = {prompt!r}: expected messages with a role and a content")
        for name in arguments:
            if name not in self.template_arguments:
                known = ", ".join(sorted(self.template_arguments)) or "no arguments"
                raise DataError(f"template.{name}: the chat template does not read it; expected one of {known}")
        given = {"tools": None, "documents": None, **arguments}
        try:
            return self._template.render(messages=prompt, add_generation_prompt=True, **given, **self._special)
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise DataError(f"the chat template refused the prompt: {error}") from error

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """Token ids, [T] int32. `special` adds the tokens that the tokenizer puts around a bare text (a BOS, for some).

        A text that begins with the BOS that the tokenizer adds keeps one of the two.
        Raises DataError for a token that the model lacks.
        """
        encoded = self._tokenizer.encode(text, add_special_tokens=special)
        if self.model_ids is not None and max(encoded.ids, default=0) >= self.model_ids:
            token, unknown = next(pair for pair in zip(encoded.tokens, encoded.ids, strict=True) if pair[1] >= self.model_ids)
            raise DataError(
                f"the token {token!r} of the text has id {unknown}, the model knows ids below {self.model_ids} only; "
                "leave it out, or give the model a larger embedding"
            )
        ids = encoded.ids
        if special and self.bos_id is not None and ids[:2] == [self.bos_id, self.bos_id]:
            ids = ids[1:]
        return np.asarray(ids, dtype="<i4")

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = False) -> str:
        """Text of token ids; special tokens are spelled out unless skipped."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def spell(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text, special ones too. Of a character that several tokens make, the last one adds it."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        pieces = [self._piece(token) for token in ids]
        if "".join(pieces) == text:
            return pieces
        # tokens that depend on their neighbours: parts of a character, or spaces that only the first one drops
        stream = tokenizers.decoders.DecodeStream(skip_special_tokens=False)
        pieces = [stream.step(self._tokenizer, token) or "" for token in ids]
        if pieces:
            pieces[-1] += text[len("".join(pieces)) :]
        return pieces

    def _piece(self, token: int) -> str:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._tokenizer.decode([token], skip_special_tokens=False)
        return piece

    def _eos_ids(self, generation: JsonObject) -> tuple[int, ...]:
        """Ids that end a completion, from tokenizer_config.json and generation_config.json, ascending."""
        ids: set[int] = set()
        eos = self._special.get("eos_token")
        if eos is not None:
            token_id = self._tokenizer.token_to_id(eos)
            if token_id is not None:
                ids.add(token_id)
        listed = generation.get("eos_token_id")
        for token_id in listed if isinstance(listed, list) else [listed] if listed is not None else []:
            if type(token_id) is not int or token_id < 0:
                raise ModelError(
                    f"generation_config.json has eos_token_id = {listed!r}: expected a token id, or a list of them"
                )
            ids.add(token_id)
        return tuple(sorted(ids))


def _read_json(path: Path, *, required: bool = False) -> JsonObject:
    if not path.is_file():
        if required:
            raise ModelError(
                f"{path.parent} holds no {path.name}; model.path must be a folder or hub name with a fast tokenizer"
            )
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _build(path: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ModelError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenizer_folder(path: str) -> Path:
    """The folder of a model's tokenizer files: its own, or a copy fetched from the hub. Raises ModelError."""
    folder = Path(path)
    return folder if folder.is_dir() else _fetch(path)


def _fetch(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        # more lines of the hub's advise to look at the connection
        why = str(error).partition("\n")[0]
        raise ModelError(f"model.path = {name!r} is not a folder, and cannot be fetched from the hub: {why}") from error


def _special_tokens(config: JsonObject, legacy: JsonObject) -> dict[str, str]:
    """The texts of bos_token, eos_token ..., for chat templates."""
    special: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        token = config.get(name, legacy.get(name))
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            special[name] = content
    return special


def _template_file(folder: Path) -> str:
    """The name of the file whose template is taken, if there is one."""
    return "chat_template.jinja" if (folder / "chat_template.jinja").is_file() else "tokenizer_config.json"


def _chat_template(folder: Path, config: JsonObject) -> str:
    """The template's text; empty when there is none. The file has priority; of named templates, "default" is taken."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template") or ""
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default", "")
    return template


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's part for trainers; here it renders as its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _arguments(template: str) -> frozenset[str]:
    """The names that a template takes from its caller, without those that every chat has."""
    environment = _environment()
    names = jinja2.meta.find_undeclared_variables(environment.parse(template))
    return frozenset(names - {"messages", "add_generation_prompt", *environment.globals})


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """transformers' environment of chat templates."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _compile(template: str, folder: Path) -> jinja2.Template:
    """The template, ready to render. Raises ModelError for a syntax error."""
    try:
        return _environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template of {folder} has an error in line {error.lineno}: {error}") from error


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja2's own tojson escapes HTML; templates expect plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _fingerprint(source: JsonObject, special: dict[str, str], template: str) -> str:
    """16 hex digits of the SHA-256 of all parts that determine the ids of a prompt."""
    decisive = {key: value for key, value in source.items() if key not in ("version", "truncation", "padding")}
    text = json.dumps([decisive, special, template], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
