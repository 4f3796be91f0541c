"""A tokenizer of one token per printable ASCII character, with <s> in front of a bare text, and a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from prolong.common.tokenizer import Tokenizer
from tokenizers import AddedToken, Regex, models, pre_tokenizers, processors

TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}A:"


def make_character_tokenizer(folder: Path, *, template: str = TEMPLATE) -> Tokenizer:
    """Written to `folder` and loaded from there. The id of a character is its code point; <s>, the BOS, is 0."""
    vocabulary = {"<s>": 0, "<unk>": 1} | {chr(c): c for c in range(32, 127)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    made.add_special_tokens([AddedToken("<s>", special=True)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    return Tokenizer.load(str(folder))
