"""Steps as metrics.jsonl records them, made of known speeds and pass rates: what calibration must find again."""

from __future__ import annotations

from prolong.common.config.sections import ActorConfig, BufferConfig, Config, LaunchConfig, ModelConfig, SamplingConfig
from prolong.common.metrics import MetricsRecord
from prolong.launch.plan.simulation.pass_rates import PassRates

BATCH, PROMPT = 8, 10
BASE_S, PER_ROLLOUT_S, LEARNER_S, PER_TOKEN_S = 2e-3, 8e-5, 0.05, 5e-5
RATES = PassRates(0.8, 0.3)


def planned_config(eta: int = 1, actors: int = 1, n: int = 8) -> Config:
    return Config(
        model=ModelConfig(path="none", max_context=256),
        sampling=SamplingConfig(n=n, max_tokens=64),
        buffer=BufferConfig(batch_groups=BATCH, eta=eta),
        actor=ActorConfig(capacity=64),
        launch=LaunchConfig(actors=actors),
    )


def recorded_step(step: int, n: int, load: float, tokens: float = 20.0) -> MetricsRecord:
    """A step in which the engine ran `load` rollouts at once, and groups were dropped as RATES says."""
    share = RATES.no_signal(n)
    dropped = BATCH * share / (1 - share)
    rollouts = (BATCH + dropped) * n
    trained = (RATES.mean * (BATCH + dropped) - dropped * RATES.all_right(n) / share) / BATCH
    running = rollouts * tokens
    engine_s = BASE_S * running / load + PER_ROLLOUT_S * running
    learner_s = LEARNER_S + PER_TOKEN_S * BATCH * n * (tokens + PROMPT)
    return {
        "step": step,
        "wall_s": float(step),
        "learner/step_s": learner_s + 0.2,
        "learner/wait_s": 0.2,
        "learner/compute_s": learner_s,
        "learner/cpu_s": learner_s,
        "learner/tokens": BATCH * n * tokens,
        "rollout/count": BATCH * n,
        "rollout/tokens_mean": tokens,
        "actor/busy_s": engine_s,
        "actor/cpu_s": engine_s,
        "actor/helper_cpu_s": 0.2 * engine_s,
        "actor/engine_steps": running / load,
        "actor/engine_running": running,
        "actor/generated_rollouts": rollouts,
        "actor/generated_tokens": running,
        "actor/weight_updates": 1.0,
        "actor/weights_s": 0.03,
        "weights/publish_s": 0.08,
        "actor/verify_s": 0.01 * rollouts,
        "actor/verifiers/verdicts": rollouts,
        "buffer/filtered": dropped,
        "buffer/bypassed": 0.0,
        "buffer/staleness_mean": 1.0,
        "reward/mean": trained,
    }
