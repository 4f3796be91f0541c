"""The demo's tokenizer: one token for each digit, letter and fixed phrase of the prompts.

A question of Reasoning Gym with 300 characters of instructions takes two tokens, and every prompt fewer than 25.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

from .tasks import (
    BOX_INSTRUCTION,
    BULLETS_REQUEST,
    BULLETS_RULE,
    CODE_REQUEST,
    KEYWORDS_END,
    OPERATIONS,
    READ_ME,
    TAG_INSTRUCTION,
)

SPECIAL = ["<pad>", "<eos>", "<unk>"]
SORTING_RULES = (
    "\nPlease follow the instruction below:\n## 1. Let all your answers be a list of numbers. Instead of reporting your answer "
    "as -69, -13, 1, 7, 11, 43, 59, 61, use ['-69', '-13', '1', '7', '11', '43', '59', '61'] instead\n## 2. Convert all "
    "numbers in the square brackets as strings. For example, ['-69', '-13', '1', '7', '11', '43', '59', '61']\n"
)
PHRASES = [
    READ_ME,
    BOX_INSTRUCTION,
    "Sort these numbers in ascending order: ",
    "Sort these numbers in descending order: ",
    ".0, ",
    ".0" + SORTING_RULES + TAG_INSTRUCTION,
    "Spell this word backward (example: sun -> nus): ",
    TAG_INSTRUCTION,
    "<think>",
    "</think>",
    "\\boxed{",
    "}",
    "<answer>",
    "</answer>",
    "['",
    "', '",
    "']",
    "+",
    " ",
    CODE_REQUEST,
    *OPERATIONS.values(),
    ".",
    "```python\ndef f(x):",
    *(f"\n x{operator}=" for operator in OPERATIONS),
    "\n return ",
    "\n```",
    "-",
    "*",
    "(",
    ")",
    BULLETS_REQUEST,
    BULLETS_RULE,
    KEYWORDS_END,
    "* ",
    "\n* ",
]
VOCABULARY = [*SPECIAL, *PHRASES, *string.digits, *string.ascii_lowercase]


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as AutoTokenizer and vLLM read them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    longest_first = sorted(PHRASES, key=len, reverse=True)
    pattern = "|".join(_escaped(phrase) for phrase in longest_first) + r"|[\s\S]"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 128,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _escaped(phrase: str) -> str:
    """The phrase as a pattern of Oniguruma, which the tokenizers package uses."""
    return "".join("\\" + c if c in r"\.^$|?*+()[]{}-&~# " else "\\n" if c == "\n" else c for c in phrase)
