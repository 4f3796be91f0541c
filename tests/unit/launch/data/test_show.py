"""`prolong data show`: the prompts as the buffer makes them, made visible; tests/integration/test_data_check.py runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from prolong.common.config.sections import SourceConfig
from prolong.common.data.prompts import load_prompts
from prolong.common.errors import UserError
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import int32_array
from prolong.launch.data import command as data
from prolong.launch.data.show import Page, pieces_of, wrapped
from tokenizers import AddedToken, Regex, models, pre_tokenizers, processors

GOOD: dict[str, Any] = {"prompt": "1+1=", "domain": "math", "task": "sum", "verifier": "math", "answer": "2", "uid": "sum/1"}
CHAT = GOOD | {"prompt": [{"role": "user", "content": "1+1="}], "uid": "chat/1"}
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}\n{% endfor %}<|assistant|>\n<think>\n"
BOS, USER = 300, 301


def make_model(
    folder: Path, *, template: str = "", bos: bool = True, adds_bos: bool = True, model_bos: int | None = BOS
) -> Path:
    """A folder with a tokenizer of one token per character, and special tokens of its own; without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {chr(c): c for c in (*range(32, 127), 10)} | {"<unk>": 1}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated")
    made.decoder = tokenizers.decoders.Fuse()
    source = json.loads(made.to_str())
    special = {"<s>": BOS, "<|user|>": USER, "<|assistant|>": 302}
    source["added_tokens"] = [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for text, i in special.items()
    ]
    source["model"]["vocab"] |= special
    made = tokenizers.Tokenizer.from_str(json.dumps(source))
    made.add_special_tokens([AddedToken(text, special=True) for text in special])
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    made.save(str(folder / "tokenizer.json"))
    config = {"unk_token": "<unk>"} | ({"bos_token": "<s>"} if bos else {}) | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"vocab_size": 400, "bos_token_id": model_bos}))
    return folder


def file_of(folder: Path, *records: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def shown(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str]:
    code = data.main(["show", *map(str, argv)])
    return code, capsys.readouterr().out


def test_the_ids_are_those_that_the_buffer_gives_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = make_model(tmp_path / "model", template=TEMPLATE)
    path = file_of(tmp_path, CHAT, GOOD)
    _, out = shown(capsys, path, f"model.path={model}")
    loaded = load_prompts(SourceConfig(file=str(path)), Tokenizer.load(str(model)), 1000, 10)
    told = [line.removeprefix("ids: ").split() for line in out.splitlines() if line.startswith("ids: ")]
    assert told == [[str(i) for i in int32_array(prompt.token_ids)] for prompt in loaded]


def test_a_chat_prompt_shows_its_template_special_tokens_and_where_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = make_model(tmp_path / "model", template=TEMPLATE, adds_bos=False)
    code, out = shown(capsys, file_of(tmp_path, CHAT), f"model.path={model}")
    assert code == 0
    assert "chat template in tokenizer_config.json" in out
    assert "line 1, chat/1, math/sum: messages (user) through the template of tokenizer_config.json" in out
    assert "  \u2502 \u27e6<s>\u27e7\u27e6<|user|>\u27e71+1=\u21b5" in out
    assert "  \u2502 \u27e6<|assistant|>\u27e7\u21b5" in out
    assert "; <think> is open" in out
    assert "tokens, the first is BOS" in out
    assert 'verifier math, answer {"answer": "2"}' in out
    assert "warning" not in out
    assert "\x1b" not in out


def test_a_text_that_its_source_makes_a_chat_is_shown_as_the_recipe_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = make_model(tmp_path / "model", template=TEMPLATE)
    path = file_of(tmp_path, GOOD)
    sources = f"data.train=[{{file: {path}, chat: true, system: be brief}}]"
    code, out = shown(capsys, path, f"model.path={model}", sources)
    assert code == 0
    assert "sum/1, math/sum: text as messages (system, user) through the template of tokenizer_config.json" in out
    assert "  \u2502 \u27e6<s>\u27e7\u27e6<|user|>\u27e7be brief\u21b5" in out
    assert "warning" not in out
    whole = shown(capsys, f"model.path={model}", sources)[1]
    assert next(line for line in whole.splitlines() if line.startswith("ids: ")) in out


TWICE = "{{ bos_token }}" + TEMPLATE
BARE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("model", "record", "sentence", "code"),
    [
        ({"template": TWICE}, CHAT, "warning: BOS (300) is there twice", 0),
        ({"template": TEMPLATE}, GOOD, "this prompt is bare text; for a chat model, set chat: true of its source", 0),
        ({"template": BARE}, CHAT, "config.json says that a text begins with BOS (300), and this prompt does not", 0),
        ({"adds_bos": False}, GOOD, "config.json says that a text begins with BOS (300)", 0),
        ({"bos": False, "adds_bos": False}, GOOD, "config.json names token 300 as BOS, and the tokenizer has none", 0),
        ({}, CHAT, "line 1 cannot be used: the prompt is a list of messages, but the tokenizer has no chat template", 1),
        ({}, GOOD | {"prompt": "1\u00e9="}, "1 of its 4 tokens are <unk>: the tokenizer does not know what stands there", 0),
        ({}, GOOD | {"prompt": "1" * 600}, "it has 601 tokens, at most 512 fit", 1),
        ({}, GOOD | {"verifier": "maths"}, "it cannot be judged: prompt sum/1", 1),
        ({}, GOOD | {"domain": ""}, "line 1 cannot be used: domain = ''", 1),
    ],
)
def test_what_is_probably_wrong_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: dict[str, Any], record: Any, sentence: str, code: int
):
    folder = make_model(tmp_path / "model", **model)
    got, out = shown(capsys, file_of(tmp_path, record), f"model.path={folder}")
    assert sentence in out
    assert got == code


def test_nothing_is_told_of_a_prompt_that_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for kind in ({}, {"bos": False, "adds_bos": False, "model_bos": None}):
        model = make_model(tmp_path / "model", **kind)
        code, out = shown(capsys, file_of(tmp_path, GOOD), f"model.path={model}")
        assert (code, "warning" in out) == (0, False)


def test_every_source_of_a_recipe_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = make_model(tmp_path / "model")
    path = file_of(tmp_path, GOOD, GOOD | {"task": "other", "uid": "o/1"}, GOOD | {"uid": "s/2"}, GOOD | {"uid": "s/3"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{path: {model}}}\ndata:\n  train: [{{file: {path}, only: math/sum}}, {{file: {path}, only: math/none}}]\n"
        f"  heldout: [{{file: {path}}}]\n"
    )
    code, out = shown(capsys, "--recipe", recipe, "validation.max_tokens=7")
    assert f"data.train: {path}, only math/sum" in out
    assert f"data.heldout: {path}" in out
    train, _, heldout = out.partition("data.heldout")
    assert ["sum/1" in train, "s/2" in train, "s/3" in train, "o/1" in train] == [True, True, False, False]
    assert ["sum/1" in heldout, "o/1" in heldout, "s/2" in heldout] == [True, True, False]
    assert "warning: there is no prompt of math/none" in out
    assert code == 1
    assert shown(capsys, "--recipe", recipe, "--count", "1", path)[1].count("line 1,") == 1


def test_without_a_file_or_a_model_there_is_a_sentence(tmp_path: Path):
    model = make_model(tmp_path / "model")
    for argv in (
        ["show", f"model.path={model}"],
        ["show", "a.jsonl", "b.jsonl"],
        ["show", "--count", "0"],
        ["show", "a.jsonl"],
    ):
        with pytest.raises(UserError):
            data.main(argv)


def test_a_text_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = make_model(tmp_path / "model")
    record = GOOD | {"prompt": "a\x1b[2Jb", "uid": "\x1b[31m", "answer": {"answer": "\x1b[32m"}}
    _, out = shown(capsys, file_of(tmp_path, record), f"model.path={model}")
    assert "\x1b" not in out


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_of_a_text_is_wider_than_the_page(tmp_path: Path, width: int):
    tokenizer = Tokenizer.load(str(make_model(tmp_path / "model")))
    text = "word " * 100 + "\n" + "x" * 300 + "\n\n<|user|>" + "y" * 50
    lines = list(wrapped(list(pieces_of(tokenizer.encode(text).tolist(), tokenizer)), Page(width, colours=False)))
    assert max(map(len, lines)) <= width - 4
    assert "".join(lines).replace("\u21b5", "\n").replace("\u27e6", "").replace("\u27e7", "") == text


def test_on_a_terminal_special_tokens_are_reversed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    model = make_model(tmp_path / "model")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out = shown(capsys, file_of(tmp_path, GOOD), f"model.path={model}")
    assert "\x1b[7m<s>\x1b[0m1+1=" in out
