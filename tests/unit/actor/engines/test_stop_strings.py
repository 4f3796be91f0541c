"""Texts that end a rollout, in tokenizers whose tokens do not end where texts do."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from prolong.actor.engines.stop_strings import StopStrings
from prolong.actor.engines.transformers.batch import Row
from prolong.actor.engines.vllm.stop_arguments import decode_stop, encode_stop
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import FinishReason
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.support.tiny_model import make_tiny_model

SENTENCES = ["the answer is </answer> and\n\n that is all", "häßliche Wörter, 漢字 und 🙂 gibt es auch", "a b a b </a> <b>"]


class BytePairs:
    """A byte-level tokenizer with tokens of several characters, and characters of several tokens."""

    def __init__(self) -> None:
        self._inner = tokenizers.Tokenizer(models.BPE())
        self._inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        self._inner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, skip_special_tokens=False)


class Words(BytePairs):
    """A tokenizer that writes spaces in front of words, and drops the first one."""

    def __init__(self) -> None:
        self._inner = tokenizers.Tokenizer(models.BPE(unk_token="?"))
        self._inner.pre_tokenizer = pre_tokenizers.Metaspace()
        self._inner.decoder = decoders.Metaspace()
        self._inner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=120, special_tokens=["?"]))


KINDS = {"byte pairs": BytePairs(), "words": Words()}


def first_end(stops: StopStrings, ids: list[int]) -> int:
    """The number of tokens of a rollout that samples `ids`."""
    return next((n for n in range(1, len(ids) + 1) if stops.complete(ids[:n])), len(ids))


def naive_end(decode: BytePairs, texts: list[str], ids: list[int]) -> int:
    return next((n for n in range(1, len(ids) + 1) if any(text in decode.decode(ids[:n]) for text in texts)), len(ids))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("text", ["</answer>", "\n\n", "ß", "漢字", "🙂", " is", "a b", "b </a> <", "not there"])
def test_a_rollout_ends_with_the_token_that_completes_a_text(kind: BytePairs, text: str) -> None:
    stops = StopStrings(cast("Tokenizer", kind), [text, "nor this"])
    for sentence in SENTENCES:
        ids = kind.encode(sentence)
        assert first_end(stops, ids) == naive_end(kind, [text], ids)


@given(st.lists(st.integers(0, 299), min_size=1, max_size=40), st.sampled_from(["a", "e i", "</", "ö", " an", "?"]))
def test_any_tokens_end_where_the_whole_text_first_holds_the_words(ids: list[int], text: str) -> None:
    kind = KINDS["byte pairs"]
    assert first_end(StopStrings(cast("Tokenizer", kind), [text]), ids) == naive_end(kind, [text], ids)


def test_a_text_counts_more_than_the_limit_that_the_same_token_reaches(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(str(make_tiny_model(tmp_path, tied=True)))
    ids = tokenizer.encode("1+2=3").tolist()
    stop = StopStrings(tokenizer, ["=3"])
    row = Row(stream=0, index=0, seed=0, temperature=1.0, max_tokens=len(ids), prompt=[5], stop=stop)
    for token in ids:
        assert row.finish_reason is None
        row.append(token, -1.0, 0, frozenset())
    assert row.finish_reason is FinishReason.stop


def test_requests_carry_the_texts_into_vllms_process(tmp_path: Path) -> None:
    path = str(make_tiny_model(tmp_path, tied=True))
    assert encode_stop(path, ()) is None
    assert decode_stop(None) is None
    assert decode_stop({"of another": []}) is None
    stops, num_begun = decode_stop(encode_stop(path, ("+", "="))) or (None, -1)
    assert num_begun == 0
    assert decode_stop(encode_stop(path, ("+", "="), 7)) == (stops, 7)
    assert stops is not None
    assert stops.complete(Tokenizer.load(path).encode("12+").tolist())
