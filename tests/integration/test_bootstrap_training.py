import hashlib
import json
from pathlib import Path

import pytest
from prolong.bench import prolonged
from prolong.launch.demo import bootstrap
from prolong.launch.demo import tasks as demo_tasks


def test_training_from_nothing_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bootstrap, "SKILL_STEPS", 2)
    monkeypatch.setattr(bootstrap, "HABIT_STEPS", 2)
    monkeypatch.setattr(bootstrap, "NUM_TRAIN", 20)
    digests = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        bootstrap.fill_demo_folder(tmp_path / name, train=True, seed=seed)
        files = [tmp_path / name / file for file in (*bootstrap.MODEL_FILES, "train.jsonl", "heldout.jsonl")]
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert digests[0] == digests[1]
    assert digests[0]["model.safetensors"] != digests[2]["model.safetensors"]
    assert digests[0]["heldout.jsonl"] != digests[2]["heldout.jsonl"]


def test_the_model_for_prolonged_runs_is_made_for_math_and_logic_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prolonged, "SKILL_STEPS", 2)
    monkeypatch.setattr(bootstrap, "HABIT_STEPS", 2)
    monkeypatch.setattr(bootstrap, "NUM_TRAIN", 20)
    prolonged.make_wide_model(tmp_path / "wide")
    lines = [json.loads(line) for line in (tmp_path / "wide" / "train.jsonl").read_text().splitlines()]
    assert len(lines) == 80
    assert {f"{line['domain']}/{line['task']}" for line in lines} == set(demo_tasks.MATH_AND_LOGIC)
