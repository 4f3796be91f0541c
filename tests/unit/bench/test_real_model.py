"""`prolong bench real-model` on a run and an evaluation that are there already: curve, scores and rollouts in words."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from prolong.bench import real_model
from prolong.bench.real_page import BEGIN, END, write_real_page
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import FinishReason, Group, Prompt, Rollout, Verdict, VerdictStatus, VersionSpan
from prolong.launch.evaluate.results import Evaluated, encode_evaluation
from prolong.launch.evaluate.scores import OVERALL, outcome_of
from prolong.launch.evaluate.store import Asked, EvaluationStore, digest_of
from prolong.launch.real.convert import write_bpe_tokenizer
from prolong.launch.real.gguf import GgufFile

from tests.support.gguf_files import float32_tensors, tiny_weights, write_gguf

QUESTIONS = {f"What is {i} + 1?": str(i + 1) for i in range(5)}


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    folder = tmp_path / "smollm2"
    folder.mkdir()
    write_bpe_tokenizer(GgufFile(write_gguf(tmp_path / "m.gguf", float32_tensors(tiny_weights()))), folder)
    monkeypatch.setattr(real_model, "MODEL", folder)
    return Tokenizer.load(str(folder))


def evaluated(folder: Path, name: str, tokenizer: Tokenizer, texts: list[str], rewards: list[float]):
    """The outcomes of a model that answers every question with one text, which are recorded as `prolong evaluate` does."""
    prompts = [
        Prompt(
            uid=question,
            domain="arithmetic" if question < "What is 4" else "words",
            task="sums",
            text=tokenizer.render([{"role": "user", "content": question}]),
            token_ids=np.arange(3, dtype="<i4").tobytes(),
            verifier="number",
            answer=json.dumps({"answer": answer}),
        )
        for question, answer in QUESTIONS.items()
    ]
    asked = Asked(
        weights=name,
        prompts=digest_of(prompts),
        temperature=0.7,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        max_tokens=40,
        stop=[],
        seed=0,
        context=64,
        dtype="float32",
        engine="vllm",
    )
    with closing(EvaluationStore(folder / name, asked, prompts, 1)) as store:
        for ticket, text, reward in zip(list(store.missing()), texts, rewards, strict=True):
            ids = tokenizer.encode(text)
            verdict = Verdict(reward=reward, status=VerdictStatus.ok, verifier="number", seconds=0.0)
            rollout = Rollout(
                token_ids=ids.tobytes(),
                behaviour_logprobs=np.zeros(len(ids), dtype="<f4").tobytes(),
                spans=[VersionSpan(version=0, start=0, end=len(ids))],
                finish_reason=FinishReason.stop,
                verdict=verdict,
            )
            store.add(Group.for_ticket(ticket, [rollout], actor="a", seconds=0.0))
        outcomes = [outcome_of(prompt, store.groups_of(i), lambda _: "") for i, prompt in enumerate(prompts)]
    return asked, {outcome.uid: outcome for outcome in outcomes if outcome}


def test_a_row_holds_curve_scores_and_the_rollouts_of_the_same_prompts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    scores, run = tmp_path / "evaluation", tmp_path / "seed0"
    asked, before = evaluated(scores, "smollm2", tokenizer, ["I think it is 9."] * 5, [0.0] * 5)
    _, after = evaluated(scores, "seed0-2", tokenizer, list(QUESTIONS.values()), [1.0] * 5)
    results = [
        Evaluated.of(name, step, each, [1], before, num_rollouts=sum(outcome.num for outcome in each.values()))
        for name, step, each in (("smollm2", None, before), ("seed0-2", 2, after))
    ]
    (scores / "evaluation.json").write_text(encode_evaluation(results, asked, 1, {}))
    run.mkdir()
    steps = [
        {"step": 1, "wall_s": 5.0, "reward/mean": 0.1, "rollout/tokens_mean": 30.0}
        | {"validation/sampled/mean": 0.08, "validation/sampled/version": 0.0},
        {"step": 2, "wall_s": 9.0, "reward/mean": 0.5, "rollout/tokens_mean": 9.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    row = real_model.seed_result(0, run, scores)
    assert row["curve"] == [
        {"step": 1, "wall_s": 5.0, "heldout": 0.08, "scored": 0.0, "reward": 0.1, "tokens": 30.0},
        {"step": 2, "wall_s": 9.0, "reward": 0.5, "tokens": 9.0},
    ]
    overall = row["scores"][OVERALL]
    assert (overall["before"]["value"], overall["after"]["value"], overall["gain"]["value"]) == (0.0, 1.0, 1.0)
    shown = list(QUESTIONS)
    del shown[real_model.EXAMPLES]
    assert [told["prompt"] for told in row["rollouts"]] == shown, "so many of each task: four of sums are one too many"
    first = row["rollouts"][0]
    assert first["before"] == {"text": "I think it is 9.", "reward": 0.0, "tokens": len(tokenizer.encode("I think it is 9."))}
    assert first["after"]["text"] == first["answer"] == "1"
    real_model.draw_real([row], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_every_scope_and_rollout_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nyesterday\n{END}\nafter\n")
    score = {"value": 0.412, "low": 0.386, "high": 0.439}
    told = {
        "prompt": "2 * 3?",
        "answer": "6",
        "before": {"text": "a\nb", "reward": 0.0},
        "after": {"text": "6 | x", "reward": 1.0},
    }
    row = {
        "seed": 7,
        "steps": 30,
        "wall_s": 600.0,
        "scores": {"words": {"before": score, "after": score, "gain": score}},
        "rollouts": [told],
    }
    for _ in range(2):
        write_real_page(page, [row], "Measured.")
    text = page.read_text()
    assert (text[:7], text[-7:]) == ("before\n", "\nafter\n")
    assert "yesterday" not in text
    assert text.count("Measured.") == 1
    assert "Seed 7, 30 steps in 10 minutes" in text
    assert "before and after (seed 7; right answers in bold)" in text
    assert "| words | 41.2 [38.6, 43.9] | 41.2 [38.6, 43.9] | +41.2 [+38.6, +43.9] |" in text
    assert "| 2 \\* 3? | a b | **6 \\| x** |" in text
