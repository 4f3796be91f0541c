"""What an examination says about engine and learner."""

import numpy as np
import pytest
from prolong.launch.agreement.probe import Apart, Examination, report_lines, stage_differences, verdict

SAME = {"embedding": 0.0, "layer 0": 1e-7, "final norm": 1e-7, "logits": 1e-7}
AGREED = Examination("first weights", Apart(1e-6, 1e-12, 1.0, 500), SAME)


def test_figures_of_equal_and_of_shifted_log_probabilities() -> None:
    same = Apart.of(np.zeros(10))
    assert (same.gap, same.kl, same.ess, same.tokens) == (0.0, 0.0, pytest.approx(1.0), 10)
    apart = Apart.of(np.array([1.0, -1.0]))
    weight = np.exp([1.0, -1.0])
    assert apart.gap == pytest.approx(1.0)
    assert apart.kl == pytest.approx(weight.mean() - 1.0)
    assert apart.ess == pytest.approx(weight.sum() ** 2 / (2 * (weight**2).sum()))


def test_stages_are_compared_from_their_end_without_padding() -> None:
    states = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
    padded = np.concatenate([states[-2:], np.zeros((2, 1), np.float32)], 1)
    assert stage_differences({"layer 0": (states, states), "logits": (padded, states)}) == {"layer 0": 0.0, "logits": 0.0}
    assert stage_differences({"layer 0": (2 * states, states)})["layer 0"] == pytest.approx(1.0)
    assert stage_differences({"layer 0": (np.full_like(states, np.nan), states)})["layer 0"] != 0.0


def test_the_first_stage_beyond_rounding_is_named() -> None:
    apart = Apart(0.9, 0.5, 0.3, 500)
    found = [Examination("first weights", apart, SAME | {"layer 0": 0.4, "final norm": 0.5})]
    lines = list(report_lines(found, "float32"))
    assert lines[0].startswith("FAIL  first weights: 9.00e-01 nats apart")
    assert [line for line in lines if "<-" in line] == [
        "        layer 0      differs by 4.0e-01   <- the first beyond rounding"
    ]
    assert verdict(found, "float32").startswith("first in layer 0")
    missing = Examination("first weights", apart, SAME | {"layer 0": float("nan")})
    assert missing.first_apart("float32") == "layer 0"


def test_a_difference_after_an_update_alone_is_one_of_loading() -> None:
    later = Examination("after an update", Apart(0.9, 0.5, 0.3, 500), SAME | {"layer 0": 0.4})
    assert "only after an update, first in layer 0" in verdict([AGREED, later], "float32")
    refused = Examination("after an update", error="no weights for 2 parameters")
    assert verdict([AGREED, refused], "float32") == "the engine did not take its weights (after an update)"


def test_layers_that_agree_point_to_the_head_and_engines_without_layers_say_so() -> None:
    apart = Apart(0.9, 0.5, 0.3, 500)
    assert "look at the head" in verdict([Examination("first weights", apart, SAME)], "float32")
    lines = list(report_lines([Examination("first weights", apart, {})], "float32"))
    assert "log-probabilities alone" in lines[1]
    assert next(report_lines([AGREED], "float32")).startswith("ok")
