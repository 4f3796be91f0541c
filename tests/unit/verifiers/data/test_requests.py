"""Requests for a form of the answer: found where they are, left alone where a question only looks like one."""

import pytest
from prolong.verifiers.data.requests import BOX, TAGS, Form, requested_forms, with_request

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\nWhat is 3.5+1?\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
ASKING = [
    ('How many? Output the final answer after "####".', [Form.hashes]),
    ('How many? Let\'s think step by step and output the final answer after "####".', [Form.hashes]),
    ("Answer with the format: #### <number>\nHow many?", [Form.hashes]),
    (DAPO, [Form.line]),
    ("The last line should be 'Answer: $LETTER' (without quotes).\n\nWhich?", [Form.line]),
    ("Find x.\n\nPresent the answer in LaTex format: \\boxed{Your answer}", [Form.box]),
    ("Find x. Please output the final answer within \\boxed{}.", [Form.box]),
    ("Please reason step by step, and put your final answer within $\\boxed{}$.\nFind x.", [Form.box]),
    ("End with: 'Therefore, the final answer is: $\\boxed{ANSWER}$.'\nFind x.", [Form.box]),
    ("Who? Put it in <answer> </answer>, in a \\boxed{}.", [Form.box, Form.tags]),
    ("Add. Enclose your code within delimiters as follows.\n```python\n# YOUR CODE HERE\n```", [Form.fence]),
]
SILENT = [
    "She adds them. What is the final answer she gets?",
    "Fill the digits \\boxed{a}\\boxed{b}. What is a+b?",
    "#### Problem 3\nFind x.",
    "Question: what is 1+1?\nAnswer:",
    "The answer is an integer. Find n. Answer:",
    "Write the answers of the class as a list: 1, 2.",
]


@pytest.mark.parametrize(("prompt", "forms"), ASKING)
def test_a_request_is_seen_in_the_words_of_the_data_sets(prompt: str, forms: list[Form]) -> None:
    assert sorted(requested_forms(prompt)) == sorted(forms)


@pytest.mark.parametrize("prompt", SILENT)
def test_a_question_is_no_request_and_gets_one(prompt: str) -> None:
    assert requested_forms(prompt) == []
    assert with_request(prompt, BOX, Form.box).endswith(BOX)


@pytest.mark.parametrize(("prompt", "forms"), ASKING[:-1])
def test_afterwards_a_prompt_asks_for_one_form_and_its_question_is_whole(prompt: str, forms: list[Form]) -> None:
    made = with_request(prompt, BOX, Form.box)
    assert requested_forms(made)[0] is Form.box
    assert set(requested_forms(made)) <= {Form.box, Form.tags}
    for question in ("How many?", "What is 3.5+1?", "Which?", "Find x."):
        assert (question in made) == (question in prompt)
    assert with_request(made, BOX, Form.box) == made


def test_requests_of_dapo_leave_nothing_but_the_question_and_ours() -> None:
    assert with_request(DAPO, BOX, Form.box) == "Solve the following math problem step by step.\n\nWhat is 3.5+1?" + BOX
    assert with_request("Which is it?\nAnswer:", TAGS, Form.tags) == "Which is it?" + TAGS


@pytest.mark.parametrize("question", ["Solve x+2=5 and write it as Answer: $X.", "What is 7 times 6, written after ####?"])
def test_a_sentence_that_holds_the_question_stays(question: str) -> None:
    made = with_request(question, BOX, Form.box)
    assert made == question + BOX


def test_a_template_of_tags_stays_whole() -> None:
    template = "Respond in this format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\nWhat is 2+2?"
    assert with_request(template, BOX, Form.box) == template + BOX
    assert with_request("Put it in <answer> tags. What is 2+2?", BOX, Form.box) == "What is 2+2?" + BOX
