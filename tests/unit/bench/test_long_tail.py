"""The long-tailed task: its answers are right, fit the model, and vary tenfold in length."""

from __future__ import annotations

import random
import re

from prolong.bench.long_tail import CONTEXT, MAX_TOKENS, counting_problem
from prolong.launch.demo.tasks import DEMO_LEVEL
from prolong.launch.demo.tokenizer import write_tokenizer
from tokenizers import Tokenizer


def test_answers_are_right_and_their_lengths_vary_tenfold(tmp_path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rng = random.Random(0)
    lengths = []
    for _ in range(2000):
        problem = counting_problem(rng, DEMO_LEVEL)
        found = re.match(r"What is (\d+) by (\d+) past (\d+)\?", problem.prompt)
        assert found is not None
        start, step, limit = map(int, found.groups())
        assert int(problem.answer["answer"]) == start + step * ((limit - start) // step + 1)
        assert problem.careful.endswith(f"\\boxed{{{problem.answer['answer']}}}")
        prompt, answer = tokenizer.encode(problem.prompt), tokenizer.encode(problem.careful)
        assert "<unk>" not in prompt.tokens + answer.tokens
        assert len(answer.ids) < MAX_TOKENS
        assert len(prompt.ids) + MAX_TOKENS <= CONTEXT
        lengths.append(len(answer.ids))
    lengths.sort()
    assert lengths[-1] >= 10 * lengths[0]
    # a batch of 16 groups nearly always has a long one, and most are short
    assert lengths[len(lengths) * 15 // 16] > 4 * lengths[len(lengths) // 2]
