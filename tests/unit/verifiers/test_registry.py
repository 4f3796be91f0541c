import subprocess
import sys

import pytest
from prolong.common.errors import DataError, UserError
from prolong.common.types import Prompt
from prolong.verifiers import user_verifiers
from prolong.verifiers.registry import VERIFIERS, check_prompt, find


def prompt(verifier: str, answer: str) -> Prompt:
    return Prompt(uid="file:7", domain="math", task="t", text="?", token_ids=b"", verifier=verifier, answer=answer)


def test_an_unknown_verifier_names_the_prompt_and_the_nearest_name():
    with pytest.raises(UserError, match=r"prompt file:7: unknown verifier 'maths'.*'math'"):
        check_prompt(prompt("maths", "{}"))


@pytest.mark.parametrize("answer", ["", "[1]", "{", "932", '{"answer": null}', "{}"])
def test_an_answer_that_cannot_be_judged_names_the_prompt(answer: str):
    with pytest.raises(DataError, match="prompt file:7"):
        check_prompt(prompt("math", answer))


def test_good_prompts_pass():
    check_prompt(prompt("math", '{"answer": "932"}'))
    check_prompt(prompt("number", '{"answer": 5}'))
    check_prompt(prompt("reasoning_gym", '{"dataset": "spell_backward", "entry": {"answer": "x", "metadata": {}}}'))


def test_the_registry_imports_no_judge():
    code = (
        "import sys, prolong.verifiers.registry;"
        "slow = {'sympy', 'math_verify', 'reasoning_gym', 'torch'} & set(sys.modules); assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_prompt_of_the_runs_own_verifier_passes_where_the_run_names_it():
    own = user_verifiers.declared({"boxed": "rewards:boxed"})
    check_prompt(prompt("boxed", '{"ground_truth": "2"}'), own)
    with pytest.raises(DataError, match="prompt file:7"):
        check_prompt(prompt("boxed", "[1]"), own)
    with pytest.raises(UserError, match=r"prompt file:7: unknown verifier 'boxd'.*verifiers\.own.*did you mean 'boxed'"):
        check_prompt(prompt("boxd", "{}"), own)


def test_every_name_is_found():
    assert {find(name) for name in VERIFIERS} == set(VERIFIERS.values())
