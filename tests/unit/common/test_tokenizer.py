"""Against transformers' AutoTokenizer: the same text and the same ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from prolong.common.errors import DataError, ModelError
from prolong.common.tokenizer import Tokenizer
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

CORPUS = ["Compute 12 + 7, please.", "sort: 3 1 2 -> 1 2 3", "naïve café, 東京 — done", "    indented\n\tcode() {}\n"] * 3
CHAT = (
    "{{- bos_token }}{% for message in messages %}{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}\n"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{% generation %}<|assistant|>{% endgeneration %}\n{% endif %}"
)
MESSAGES = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "2+2 < 5 & 'so on'?"}]


def write_tokenizer(folder: Path, *, template: str | None = None, as_file: bool = True, bos: bool = True) -> Path:
    """A byte-level BPE tokenizer that puts <s> in front, with an added word that is no special token."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    made.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.add_tokens([AddedToken("<think>", special=False)])
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    made.enable_truncation(4)  # a trap that some repositories leave behind
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "eos_token": "</s>",
    }
    if template is not None and as_file:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1]}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("chat"), template=CHAT)


@pytest.fixture(scope="module", autouse=True)
def transformers_imported() -> None:
    """It takes seconds, once."""
    import transformers  # noqa: F401


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", [*CORPUS[:4], "", "<think>12</think>", "a  b </s> c", "🙂"])
def test_text_and_ids_are_those_of_transformers(plain: Path, text: str) -> None:
    ours, reference = Tokenizer.load(str(plain)), theirs(plain)
    ids = ours.encode(text, special=True)
    assert ids.dtype == np.int32
    assert ids.tolist() == reference(text, truncation=False)["input_ids"]
    assert ours.encode(text).tolist() == reference(text, add_special_tokens=False, truncation=False)["input_ids"]
    for skip in (False, True):
        assert ours.decode(ids, skip_special=skip) == reference.decode(ids.tolist(), skip_special_tokens=skip)


def test_messages_are_rendered_as_transformers_does(chat: Path) -> None:
    ours, reference = Tokenizer.load(str(chat)), theirs(chat)
    assert ours.has_chat_template
    text = ours.render(MESSAGES)
    assert text == reference.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|system|>\nBe brief.\n<|user|>\n2+2 < 5 & 'so on'?\n<|assistant|>"
    theirs_ids = reference.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ours.encode(text).tolist() == theirs_ids


def test_a_template_in_the_configuration_is_as_good_as_a_file(chat: Path, tmp_path: Path) -> None:
    inside = Tokenizer.load(str(write_tokenizer(tmp_path, template=CHAT, as_file=False)))
    outside = Tokenizer.load(str(chat))
    assert inside.render(MESSAGES) == outside.render(MESSAGES)
    assert inside.fingerprint == outside.fingerprint


def test_a_string_is_rendered_as_it_is(chat: Path) -> None:
    assert Tokenizer.load(str(chat)).render("{{ 1 }} <|user|>") == "{{ 1 }} <|user|>"


def test_messages_without_a_template_or_against_its_rules_are_refused(plain: Path, chat: Path) -> None:
    with pytest.raises(DataError, match="no chat template"):
        Tokenizer.load(str(plain)).render(MESSAGES)
    with pytest.raises(DataError, match="system comes first"):
        Tokenizer.load(str(chat)).render(MESSAGES[::-1])
    with pytest.raises(DataError, match="expected messages with a role"):
        Tokenizer.load(str(chat)).render([{"content": "?"}])


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(DataError, match="refused"):
        Tokenizer.load(str(write_tokenizer(tmp_path, template=evil))).render(MESSAGES)


def test_the_fingerprint_is_of_what_decides_the_ids_and_of_nothing_else(plain: Path, chat: Path, tmp_path: Path) -> None:
    fingerprint = Tokenizer.load(str(plain)).fingerprint
    assert len(fingerprint) == 16
    assert fingerprint != Tokenizer.load(str(chat)).fingerprint
    same = write_tokenizer(tmp_path / "same")
    content = json.loads((same / "tokenizer.json").read_text())
    content["truncation"] = None
    (same / "tokenizer.json").write_text(json.dumps(content, indent=1))
    assert Tokenizer.load(str(same)).fingerprint == fingerprint
    assert Tokenizer.load(str(write_tokenizer(tmp_path / "no-bos", bos=False))).fingerprint != fingerprint


def test_every_token_that_ends_a_completion_is_known(plain: Path) -> None:
    tokenizer = Tokenizer.load(str(plain))
    assert tokenizer.eos_ids == (1, 2)
    assert tokenizer.decode([1]) == "</s>"
    assert tokenizer.vocab_size == theirs(plain).__len__()


def test_what_is_no_tokenizer_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ModelError, match="is not a tokenizer"):
        Tokenizer.load(str(tmp_path))
    write_tokenizer(tmp_path, template="{% if %}")
    with pytest.raises(ModelError, match="error in line 1"):
        Tokenizer.load(str(tmp_path))


def test_a_name_that_the_hub_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="is not a folder, and cannot be fetched"):
        Tokenizer.load("prolong-tests/no-such-model")
    with pytest.raises(ModelError, match="is not a folder, and cannot be fetched"):
        Tokenizer.load("/no/such/folder")


def test_neither_torch_nor_transformers_is_imported(plain: Path) -> None:
    script = (
        "import sys; from prolong.common.tokenizer import Tokenizer\n"
        "t = Tokenizer.load(sys.argv[1]); t.encode(t.render('1+1'))\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(plain)], capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def with_model_ids(folder: Path, number: int) -> Path:
    (folder / "config.json").write_text(json.dumps({"vocab_size": number}))
    return folder


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused_by_token(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    size = Tokenizer.load(str(folder)).vocab_size
    assert Tokenizer.load(str(with_model_ids(folder, size))).model_ids == size
    with pytest.raises(
        ModelError, match=rf"token '<think>' with id {size - 1}, but ids end at {size - 2}, as config.json says"
    ):
        Tokenizer.load(str(with_model_ids(folder, size - 1)))


def test_a_text_with_a_token_that_the_model_lacks_is_refused_by_token(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    tokenizer = Tokenizer(with_model_ids(folder, Tokenizer(folder).vocab_size - 1))
    assert tokenizer.encode("12 + 7").tolist() == Tokenizer.load(str(with_model_ids(folder, 5000))).encode("12 + 7").tolist()
    with pytest.raises(DataError, match=r"the token '<think>' of the text has id \d+, the model knows ids below"):
        tokenizer.encode("12 + 7 <think>")


def test_ids_of_a_padded_embedding_have_no_text_and_do_no_harm(tmp_path: Path) -> None:
    """An engine may sample an id that the model has a row for and the tokenizer no token."""
    folder = write_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(str(with_model_ids(folder, 5000)))
    ids = tokenizer.encode("12 + 7").tolist()
    assert tokenizer.decode([*ids, 4999], skip_special=True) == tokenizer.decode(ids, skip_special=True)


@pytest.mark.parametrize("listed", ["2", [[2]], [2.5], -1, True, {"id": 2}])
def test_an_end_of_text_that_is_no_token_id_is_refused(tmp_path: Path, listed: object) -> None:
    folder = write_tokenizer(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    with pytest.raises(ModelError, match=r"generation_config.json has eos_token_id = .*: expected a token id"):
        Tokenizer.load(str(folder))


def test_spelled_tokens_make_the_text_also_where_several_make_a_character(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path))
    for text in [*CORPUS, "東🙂京", ""]:
        ids = tokenizer.encode(text).tolist()
        pieces = tokenizer.spell(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == tokenizer.decode(ids) == text
    face = tokenizer.encode("🙂").tolist()
    assert len(face) > 1
    # cut within a character: what is there of it stands at the end
    assert "".join(tokenizer.spell(face[:-1])) == tokenizer.decode(face[:-1])
