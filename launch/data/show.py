"""`prolong data show`: what the model will really read, for the first prompts of every source.

    Tokenizer.load, read_prompts (the code that the buffer reads with) --> Prompt --> text, special tokens marked, ids, warnings

Nothing here renders or encodes by itself. Exit code 1 if the buffer would refuse a prompt that is shown, or a source has none.
"""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ...buffer.tickets.prompts import longest_completion
from ...common.config.sections import Config, SourceConfig
from ...common.data.prompts import ReadPrompt, read_prompts
from ...common.errors import DataError, UserError
from ...common.tokenizer import Tokenizer
from ...common.types import Prompt, int32_array
from ...verifiers.registry import check_prompt
from ...verifiers.user_verifiers import declared

MAX_LINES = 40  # of one text
IDS_AT_AN_END = 24  # token ids shown at the beginning, and at the end
MARKED, PLAIN, WARNED = "\x1b[7m", "\x1b[0m", "\x1b[33m"


@dataclass(frozen=True, slots=True)
class Page:
    """How it is printed. width: columns; colours: special tokens are reversed, where they stand in angle brackets otherwise."""

    width: int
    colours: bool

    def mark(self, text: str) -> str:
        return f"{MARKED}{text}{PLAIN}" if self.colours else f"\u27e6{text}\u27e7"

    def warning(self, text: str) -> str:
        return f"{WARNED}warning: {text}{PLAIN}" if self.colours else f"warning: {text}"


def show_prompts(cfg: Config, file: Path | None, count: int) -> int:
    """Print the first `count` prompts of every source of the recipe, or of one file. Raises: UserError."""
    sources = [("data.train", source, longest_completion(cfg)) for source in cfg.data.train]
    sources += [("data.heldout", source, cfg.validation.max_tokens) for source in cfg.data.heldout]
    if file is not None:
        sources = [("file", _source_of(cfg, file), longest_completion(cfg))]
    if not sources:
        raise UserError("there is nothing to show: name a file, or a recipe with data.train")
    page = Page(shutil.get_terminal_size((100, 24)).columns, sys.stdout.isatty())
    tokenizer = Tokenizer.load(cfg.model.path)
    lines, refused = list(about_tokenizer(cfg.model.path, tokenizer)), False
    for place, source, max_tokens in sources:
        lines += ["", f"{place}: {source.file}" + (f", only {source.only}" if source.only else "")]
        for line, is_refusal in source_lines(cfg, source, tokenizer, cfg.model.max_context - max_tokens, count, page):
            lines.append(line)
            refused |= is_refusal
    sys.stdout.write("".join(f"{visible(line)}\n" for line in lines))
    return int(refused)


def _source_of(cfg: Config, file: Path) -> SourceConfig:
    """The source of the recipe that has this file, or the file without further settings."""
    sources = (source for source in [*cfg.data.train, *cfg.data.heldout] if Path(source.file) == file)
    return next(sources, SourceConfig(file=str(file)))


def about_tokenizer(path: str, tokenizer: Tokenizer) -> Iterator[str]:
    """Sentences about the tokenizer as a whole."""
    template = f"chat template in {tokenizer.template_file}" if tokenizer.has_chat_template else "no chat template"
    bos = "no BOS" if tokenizer.bos_id is None else f"BOS {tokenizer.bos_id} {tokenizer.decode([tokenizer.bos_id])}"
    ends = ", ".join(f"{i} {tokenizer.decode([i])}" for i in tokenizer.eos_ids)
    yield f"{path}: {tokenizer.vocab_size} tokens, {bos}, {template}; a completion ends at {ends or 'no token'}"


def source_lines(
    cfg: Config, source: SourceConfig, tokenizer: Tokenizer, limit: int, count: int, page: Page
) -> Iterator[tuple[str, bool]]:
    """Yield (line, whether it says that the buffer refuses a prompt) for the first prompts of a source. Raises: DataError."""
    shown = 0
    for number, read in read_prompts(source, tokenizer):
        shown += 1
        if shown > count:
            return
        yield "", False
        if isinstance(read, DataError):
            yield page.warning(f"line {number} cannot be used: {plainly(str(read))}"), True
            continue
        yield from ((line, False) for line in prompt_lines(number, read, tokenizer, page))
        yield from ((page.warning(sentence), False) for sentence in warnings_about(read, tokenizer))
        yield from ((page.warning(sentence), True) for sentence in refusals(cfg, read.prompt, limit))
    if not shown:
        yield page.warning("there is no prompt" + (f" of {source.only}" if source.only else "")), True


def prompt_lines(number: int, read: ReadPrompt, tokenizer: Tokenizer, page: Page) -> Iterator[str]:
    """Where the prompt comes from, its text, where it ends, its ids, and how it will be judged."""
    prompt = read.prompt
    ids = int32_array(prompt.token_ids).tolist()
    origin = "bare text"
    if not isinstance(read.rendered, str):
        roles = ", ".join(str(message.get("role")) for message in read.rendered)
        wrapped_text = "text as " if isinstance(read.record["prompt"], str) else ""
        origin = f"{wrapped_text}messages ({roles}) through the template of {tokenizer.template_file}"
    yield plainly(f"line {number}, {prompt.uid}, {prompt.domain}/{prompt.task}: {origin}")
    yield f"{len(ids)} tokens, " + ("the first is BOS" if ids[0] == tokenizer.bos_id else "no BOS")
    body = list(wrapped(list(pieces_of(ids, tokenizer)), page))
    if len(body) > MAX_LINES:
        body = [*body[: MAX_LINES - 8], f"... {len(body) - MAX_LINES} more lines ...", *body[-8:]]
    yield from (f"  \u2502 {line}" for line in body)
    last = [line for line in prompt.text.splitlines(keepends=True) if line.strip()][-1:] or [prompt.text]
    thinking = "; <think> is open" if prompt.text.rstrip().endswith("<think>") else ""
    yield f"the completion begins behind {json.dumps(last[0][-60:], ensure_ascii=False)}{thinking}"
    yield "ids: " + " ".join(map(str, shortened(ids)))
    yield plainly(f"verifier {prompt.verifier}, answer {prompt.answer:.{3 * page.width}s}")


def shortened(ids: list[int]) -> list[int | str]:
    """The ids, without those in the middle of a long list."""
    if len(ids) <= 2 * IDS_AT_AN_END:
        return [*ids]
    return [*ids[:IDS_AT_AN_END], f"... {len(ids) - 2 * IDS_AT_AN_END} more ...", *ids[-IDS_AT_AN_END:]]


def pieces_of(ids: list[int], tokenizer: Tokenizer) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is one special token, text), in order."""
    for special, run in groupby(ids, key=lambda i: i in tokenizer.special_ids):
        if special:
            yield from ((True, tokenizer.decode([i])) for i in run)
        else:
            yield False, tokenizer.decode(list(run))


def wrapped(pieces: list[tuple[bool, str]], page: Page) -> Iterator[str]:
    """Lines of the page's width; a mark shows where a line of the text ends."""
    line, used, room = "", 0, max(20, page.width - 4)
    for special, text in pieces:
        parts = [text] if special else [part for whole in text.splitlines(keepends=True) for part in _cut(whole, room)]
        for part in parts:
            body, ends = plainly(part.rstrip("\n")), part.endswith("\n") and not special
            length = _columns(body) + 2 * special + ends
            if used and used + length > room:
                yield line
                line, used = "", 0
            line, used = line + (page.mark(body) if special else body) + ("\u21b5" if ends else ""), used + length
            if ends:
                yield line
                line, used = "", 0
    if line:
        yield line


def _cut(text: str, room: int) -> Iterator[str]:
    """Parts that are narrower than `room`."""
    part, used = "", 0
    for character in text:
        if used + _columns(character) >= room:
            yield part
            part, used = "", 0
        part, used = part + character, used + _columns(character)
    if part:
        yield part


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def plainly(text: str) -> str:
    """Without characters that steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible(line: str) -> str:
    """The line in characters that standard output can write."""
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def warnings_about(read: ReadPrompt, tokenizer: Tokenizer) -> Iterator[str]:
    """Sentences about what is probably not as it was meant."""
    prompt, ids, bos = read.prompt, int32_array(read.prompt.token_ids).tolist(), tokenizer.bos_id
    if bos is not None and ids[:2] == [bos, bos]:
        yield f"BOS ({bos}) is there twice: the chat template writes one, and the first message has one; take it out of that"
    if bos is not None and bos == tokenizer.model_bos_id and ids[0] != bos:
        yield f"config.json says that a text begins with BOS ({bos}), and this prompt does not"
    if bos is None and tokenizer.model_bos_id is not None and ids[0] != tokenizer.model_bos_id:
        yield f"config.json names token {tokenizer.model_bos_id} as BOS, and the tokenizer has none (Qwen's are meant to be so)"
    if isinstance(read.rendered, str) and tokenizer.has_chat_template:
        yield "the tokenizer has a chat template, and this prompt is bare text; for a chat model, set chat: true of its source"
    if tokenizer.unknown_id is not None and (unknown := ids.count(tokenizer.unknown_id)):
        name = tokenizer.decode([tokenizer.unknown_id])
        yield f"{unknown} of its {len(ids)} tokens are {name}: the tokenizer does not know what stands there"
    if "\ufffd" in tokenizer.decode(ids) and "\ufffd" not in prompt.text:
        yield "the tokens do not give the text back: the tokenizer does not know some of its characters"


def refusals(cfg: Config, prompt: Prompt, limit: int) -> Iterator[str]:
    """Why the buffer would not take it."""
    if (length := len(prompt.token_ids) // 4) > limit:
        yield f"it has {length} tokens, at most {limit} fit (model.max_context = {cfg.model.max_context}, less the completion)"
    try:
        check_prompt(prompt, declared(cfg.verifiers.own))
    except UserError as error:
        yield f"it cannot be judged: {plainly(str(error))}"
