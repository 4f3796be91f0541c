"""What `prolong evaluate` makes of rollouts that nobody could judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from prolong.common.errors import UserError
from prolong.launch.evaluate import command
from prolong.launch.evaluate.arguments import parse_evaluation


def test_an_evaluation_without_any_reward_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sampled(planned: list[object], wanted: object) -> list[dict[str, object]]:
        return [{}]

    monkeypatch.setattr(command, "models_named", lambda names, exports: [])
    monkeypatch.setattr(command, "_sample_all", sampled)
    with pytest.raises(UserError, match=r"every verdict failed: see to the verifiers, remove .*out, and give the command"):
        command.evaluate_models(parse_evaluation(["a", "--data", "x.jsonl", "--out", str(tmp_path / "out")]))
