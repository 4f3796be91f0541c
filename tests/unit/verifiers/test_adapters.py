"""The arguments that the adapters hand to functions of other libraries, and the results that they accept."""

import array
import asyncio
from typing import Any

import numpy as np
import pytest
from prolong.common.config.verifiers import VerifiersConfig
from prolong.common.errors import ConfigError, UserError
from prolong.common.types import VerdictStatus
from prolong.verifiers import adapters
from prolong.verifiers.adapters import from_areal, from_function, from_reasoning_gym, from_trl, from_verl
from prolong.verifiers.api import Score, Task, Verifier
from prolong.verifiers.registry import VERIFIERS, find
from prolong.verifiers.user_verifiers import declared, imported
from prolong.verifiers.workers.local_pool import LocalPool
from prolong.verifiers.workers.pool import make_pool
from prolong.verifiers.workers.shared_pool import SharedPool


def ids(*numbers: int) -> bytes:
    return array.array("i", numbers).tobytes()


def task(completion: str = "the text", **answer: Any) -> Task:
    return Task(completion=completion, answer=answer, prompt="2+2?", prompt_ids=ids(7, 8), completion_ids=ids(1, 2, 3))


def recorder(result: Any):
    heard: dict[str, Any] = {}

    def judge(*args: Any, **kwargs: Any) -> Any:
        heard.update(kwargs, args=args)
        return result

    return judge, heard


def test_trl_functions_get_lists_of_one_with_a_column_per_key() -> None:
    judge, heard = recorder([0.25])
    assert from_trl(judge).score(task(ground_truth="4", level=3)) == Score(reward=0.25)
    assert (heard["prompts"], heard["completions"], heard["completion_ids"]) == (["2+2?"], ["the text"], [[1, 2, 3]])
    assert (heard["ground_truth"], heard["level"]) == (["4"], [3])


def test_trl_functions_of_conversations_get_messages() -> None:
    judge, heard = recorder([1.0])
    from_trl(judge, conversational=True).score(task())
    assert heard["completions"] == [[{"role": "assistant", "content": "the text"}]]
    assert heard["prompts"] == [[{"role": "user", "content": "2+2?"}]]


def test_a_column_never_stands_in_for_the_completion() -> None:
    judge, heard = recorder([1.0])
    from_trl(judge).score(task(completions="from the file"))
    assert heard["completions"] == ["the text"]


def test_what_trl_functions_log_becomes_a_metric() -> None:
    def judge(completions, log_metric, log_extra):
        log_metric("accuracy", 0.5)
        log_extra("golden", ["4"])
        return [1.0]

    assert from_trl(judge).score(task()) == Score(reward=1.0, metrics={"accuracy": 0.5})


def test_token_ids_that_the_caller_does_not_have_are_not_made_up() -> None:
    def judge(completion_ids, **kwargs):
        return [float(len(ids)) for ids in completion_ids]

    assert from_trl(judge).score(task()).reward == 3.0
    with pytest.raises(TypeError, match="completion_ids"):
        from_trl(judge).score(Task(completion="x", answer={}))


@pytest.mark.parametrize(
    "answer",
    [{"ground_truth": "4"}, {"answer": "4"}, {"reward_model": {"style": "rule", "ground_truth": "4"}, "answer": "5"}],
)
def test_verl_functions_get_their_four_arguments(answer: dict[str, Any]) -> None:
    judge, heard = recorder(0.5)
    from_verl(judge, strict=True).score(task(data_source="openai/gsm8k", extra_info={"index": 9}, **answer))
    assert heard == {
        "data_source": "openai/gsm8k",
        "solution_str": "the text",
        "ground_truth": "4",
        "extra_info": {"index": 9},
        "strict": True,
        "args": (),
    }


def test_verl_functions_may_return_a_mapping_and_take_fewer_arguments() -> None:
    def compute_score(solution_str, ground_truth):
        return {"score": 0.75, "acc": True, "pred": solution_str, "broken": float("nan")}

    expected = Score(reward=0.75, metrics={"acc": 1.0})
    assert from_verl(compute_score).score(task(ground_truth="4", score="a column is no argument")) == expected


def test_a_prompt_without_ground_truth_is_the_files_fault() -> None:
    with pytest.raises(ValueError, match="no ground_truth"):
        from_verl(lambda solution_str: 1.0).score(task(level=3))


def test_areal_functions_get_text_ids_and_columns() -> None:
    judge, heard = recorder(1)
    assert from_areal(judge).score(task(answer="4")).reward == 1.0
    assert heard == {"args": ("2+2?", "the text", [7, 8], [1, 2, 3]), "answer": "4"}


def test_async_functions_share_one_event_loop() -> None:
    loops = []

    async def judge(completion, answer):
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return answer["reward"]

    verifier = from_function(judge)
    assert [verifier.score(task(reward=x)).reward for x in (0.5, 1)] == [0.5, 1.0]
    assert loops[0] is loops[1]
    adapters._runner().close()
    adapters._runner.cache_clear()


@pytest.mark.parametrize(
    "result",
    [None, "1", b"1", float("nan"), float("inf"), "abc", [], {}, {"acc": 1}, {"score": None}, object(), Score(reward=np.inf)],
)
def test_what_is_no_finite_number_is_an_error_and_never_a_0(result: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_function(lambda completion, answer: result).score(task())


@pytest.mark.parametrize("result", [[], [1.0, 0.0], [None], ["1"]])
def test_trl_lists_of_another_shape_are_an_error(result: Any) -> None:
    with pytest.raises(ValueError, match="it returned"):
        from_trl(lambda completions: result).score(task())


@pytest.mark.parametrize(("result", "reward"), [(True, 1.0), (np.float32(0.5), 0.5), (-2, -2.0), (Score(reward=0.1), 0.1)])
def test_numbers_of_any_kind_are_rewards(result: Any, reward: float) -> None:
    assert from_function(lambda completion, answer: result).score(task()).reward == reward


def test_reasoning_gym_entries_are_judged_between_the_tags() -> None:
    class Dataset:
        def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
            return float(answer == entry["answer"])

    verifier = from_reasoning_gym(Dataset())
    assert verifier.score(task("<answer>5</answer><answer>4</answer>", entry={"answer": "4"})).reward == 1.0
    assert verifier.score(task("it is 4", entry={"answer": "4"})).status == "no_answer"


@pytest.mark.parametrize("name", ["propositional_logic", "simple_integration"])
def test_scorers_that_cannot_be_trusted_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=name):
        from_reasoning_gym(name)


@pytest.mark.parametrize(
    "target", ["rewards", "rewards.boxed", "rewards:", ":boxed", "re wards:boxed", "../rewards:boxed", "a:b:c"]
)
def test_a_target_is_a_module_and_an_attribute(target: str) -> None:
    with pytest.raises(ConfigError, match=r"verifiers\.own\.boxed.*expected MODULE:ATTRIBUTE"):
        declared({"boxed": target})


@pytest.mark.parametrize("name", ["math", "", "a b", "a=b:c"])
def test_names_are_plain_and_not_ours(name: str) -> None:
    with pytest.raises(ConfigError, match="expected letters"):
        declared({name: "rewards:boxed"})


def test_only_names_of_the_configuration_are_found() -> None:
    own = declared({"boxed": "rewards:boxed"})
    assert find("boxed", own) is own["boxed"]
    for name in ("rewards:boxed", "os:system", "boxed2"):
        with pytest.raises(UserError, match=r"unknown verifier.*verifiers\.own"):
            find(name, own)
    assert "boxed" not in VERIFIERS


def test_the_process_that_knows_only_names_cannot_judge() -> None:
    with pytest.raises(AssertionError, match="workers only"):
        declared({"boxed": "rewards:boxed"})["boxed"].score(task())


def test_what_is_imported_is_a_verifier_or_becomes_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from prolong.verifiers.adapters import from_trl\nmade = from_trl(lambda completions: [0.5])\nnumber = 5\n"
    (tmp_path / "own_rewards_of_a_test.py").write_text(source + "def plain(completion, answer): return 0.25\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = imported({name: f"own_rewards_of_a_test:{name}" for name in ("made", "plain")})
    assert [own[name].score(task()).reward for name in ("made", "plain")] == [0.5, 0.25]
    for name, why in {"number": "expected a function", "absent": "cannot be imported"}.items():
        with pytest.raises(ConfigError, match=why):
            imported({name: f"own_rewards_of_a_test:{name}"})
    with pytest.raises(ConfigError, match="cannot be imported from the current directory"):
        imported({"x": "no_such_module_anywhere:f"})


def test_the_configuration_decides_where_workers_are(tmp_path) -> None:
    own = {"boxed": "rewards:boxed"}
    assert type(make_pool(VerifiersConfig(own=own))) is LocalPool
    assert isinstance(make_pool(VerifiersConfig(own=own, hosts=["tcp://127.0.0.1:5720"])), SharedPool)
    for wrong in (VerifiersConfig(own={"math": "rewards:boxed"}), VerifiersConfig(hosts=["tcp://10.0.0.1:5720"])):
        with pytest.raises(ConfigError, match=r"verifiers\.(own|hosts)"):
            make_pool(wrong)


def test_what_is_theirs_is_never_probed() -> None:
    made: list[Verifier] = [from_function(len), from_trl(len), from_verl(len), from_areal(len), from_reasoning_gym(object())]
    made += [adapters.from_http("http://localhost:1/verify"), adapters.from_verifiers("toy", python="/bin/false")]
    assert [verifier.probe({}) for verifier in made] == [False] * len(made)


def test_http_judges_have_http_addresses() -> None:
    with pytest.raises(UserError, match="expected an address"):
        adapters.from_http("file:///etc/passwd")


def test_a_score_of_their_own_is_held_to_the_same_limits():
    numbers = {f"m{i}": 1.0 for i in range(300)} | {"nan": float("nan")}
    score = adapters.as_score(Score(reward=1.0, status=VerdictStatus.ok, metrics=numbers))
    assert len(score.metrics) == adapters.MAX_METRICS
    assert "nan" not in score.metrics
    with pytest.raises(ValueError, match="finite"):
        adapters.as_score(Score(reward=float("nan")))


def test_a_status_of_their_own_is_counted_as_custom():
    score = adapters.as_score(Score(reward=1.0, status="nearly"))  # pyright: ignore[reportArgumentType]
    assert score.status is VerdictStatus.custom
