"""Each rule of the steps' numbers: a healthy run keeps it quiet, and the curve that it looks for does not."""

from collections.abc import Callable

import pytest
from prolong.common.config.sections import Config
from prolong.common.metrics import MetricsRecord
from prolong.launch.diagnosis.diagnosis import Finding
from prolong.launch.diagnosis.learning_rules import learning_findings
from prolong.launch.diagnosis.run_records import RunRecords

from tests.support.recorded_steps import planned_config

STEPS = 200
Curve = Callable[[int], float | None]


def healthy(step: int) -> dict[str, float | None]:
    """A run that goes on learning, with some noise."""
    wiggle = 0.01 * ((step * 7919) % 11 - 5) / 5
    return {
        "learner/entropy": 0.6 - 0.001 * step,
        "reference/kl": 0.0005 * (step % 100),
        "policy/ess": 0.97,
        "reward/mean": 0.3 + 0.002 * step + wiggle,
        "rollout/tokens_mean": 300 + step,
        "rollout/truncated": 0.05,
        "buffer/filtered": 4.0,
        "learner/grad_norm": 0.5 + wiggle,
        "learner/skipped": 0.0,
        "buffer/survival_d0": 1.0,
        "buffer/survival_d9": 1.0,
        "validation/sampled/mean": 0.2 + 0.003 * step + wiggle if step % 10 == 0 else None,
    }


def findings(*, cfg: Config | None = None, **curves: Curve) -> list[Finding]:
    records: list[MetricsRecord] = []
    for step in range(1, STEPS + 1):
        changed = {name.replace("__", "/"): curve(step) for name, curve in curves.items()}
        records.append({"step": step, **healthy(step), **changed})
    return learning_findings(RunRecords(name="run", cfg=cfg or planned_config(), records=records))


def test_a_healthy_run_keeps_every_rule_quiet() -> None:
    assert findings() == []
    assert learning_findings(RunRecords(name="run", cfg=planned_config(), records=[])) == []
    # a run of supervised learning has none of these numbers
    plain = [{"step": step, "learner/loss": 1.0} for step in range(1, 50)]
    assert learning_findings(RunRecords(name="run", cfg=planned_config(), records=plain)) == []


@pytest.mark.parametrize(
    ("rule", "curves", "first"),
    [
        (
            "entropy_collapse",
            {"learner__entropy": lambda step: 0.6 if step <= 100 else 0.02, "reward__mean": lambda _: 0.5},
            120,
        ),
        ("kl_alarm", {"reference__kl": lambda step: 0.01 if step <= 60 else 0.8}, 80),
        ("stale_data", {"policy__ess": lambda step: 0.9 if step <= 140 else 0.2}, 160),
        ("plateau", {"validation__sampled__mean": lambda step: min(0.004 * step, 0.4) if step % 10 == 0 else None}, 100),
        (
            "length_blow_up",
            {"rollout__tokens_mean": lambda step: 300.0 * (1 + step / 60), "reward__mean": lambda _: 0.5},
            100,
        ),
        (
            "length_collapse",
            {"rollout__tokens_mean": lambda step: 300 if step <= 100 else 40, "reward__mean": lambda _: 0.5},
            120,
        ),
        ("cut_answers", {"rollout__truncated": lambda step: 0.1 if step <= 100 else 0.6}, 120),
        ("no_signal", {"buffer__filtered": lambda step: 4.0 if step <= 100 else 40.0}, 120),
        (
            "rewards_without_skill",
            {"validation__sampled__mean": lambda step: 0.6 - abs(step - 60) / 400 if step % 10 == 0 else None},
            60,
        ),
        ("wild_gradients", {"learner__grad_norm": lambda step: 90.0 if step in (150, 160) else 0.5}, 150),
        ("long_answers_lost", {"buffer__survival_d9": lambda step: 1.0 if step <= 100 else 0.5}, 120),
    ],
)
def test_a_curve_that_goes_wrong_is_found_where_it_does(rule: str, curves: dict[str, Curve], first: int) -> None:
    found = {finding.rule: finding for finding in findings(cfg=None, **curves)}
    assert rule in found
    finding = found[rule]
    assert finding.step == first
    assert finding.step <= finding.last_step <= STEPS
    assert finding.advice
    assert finding.numbers
    # a sentence with a number in it
    assert any(character.isdigit() for character in finding.words)


def test_a_solved_task_is_neither_a_plateau_nor_a_collapse() -> None:
    solved = {
        "learner__entropy": lambda step: 0.6 if step < 50 else 0.01,
        "reward__mean": lambda step: min(0.02 * step, 0.97),
        "validation__sampled__mean": lambda step: min(0.02 * step, 0.98) if step % 10 == 0 else None,
    }
    assert findings(**solved) == []


def test_a_spike_of_one_window_is_no_alarm() -> None:
    assert findings(reference__kl=lambda step: 0.9 if 40 < step <= 60 else 0.01) == []


def test_without_validation_a_plateau_is_seen_in_the_rewards() -> None:
    found = findings(
        validation__sampled__mean=lambda _: None, reward__mean=lambda step: min(0.01 * step, 0.5) + 0.001 * (step % 3)
    )
    assert [finding.rule for finding in found] == ["plateau"]
    assert "reward/mean" in found[0].words


def test_settings_are_proposed_only_where_they_would_change_something() -> None:
    cfg = planned_config()
    cfg.reference.kl_above = 0.5
    (found,) = findings(cfg=cfg, reference__kl=lambda step: 0.01 if step <= 60 else 0.8)
    assert found.settings == ()
    (found,) = findings(reference__kl=lambda step: 0.01 if step <= 60 else 0.8)
    assert found.settings == ("reference.kl_above=0.3",)
