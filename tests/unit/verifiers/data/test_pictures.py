"""Questions about a picture are left out, wherever the picture is; text that only looks like a link to one is kept."""

from collections.abc import Callable

import pytest
from prolong.common.json_object import JsonObject
from prolong.verifiers.data.fields import LeftOut
from prolong.verifiers.data.shapes import convert_record

URL = "https://cdn.example.org/2024_06_13_a-048.jpg?height=300&width=400"
LINKED = [
    f"In the figure, find x.\n\n![]({URL})",
    "Find x. ![triangle](images/12.png)",
    "Find x. ![a](<figs/a b.png>)",
    "Find x. ![](data:image/png;base64,iVBORw0KGgo=)",
    'Find x. <img src="https://example.org/a" width="30">',
    "Find x. <IMG alt='' SRC=a.gif>",
    "Find x.\n\\includegraphics[width=3cm]{triangle}",
    "<image>\nFind x.",
    "Compare <image 1> with <image 2>.",
]
TEXT = [
    "Find the area. [asy] draw((0,0)--(1,1)); [/asy]",
    "Find x. \\begin{tikzpicture}\\draw (0,0) -- (1,1);\\end{tikzpicture}",
    "What is 5![2](3)?",
    "Simplify n![a+b](c/d).",
    "See [this page](https://example.org/a.png) and find x.",
    "What does `![caption](a.png)` show in Markdown?",
    'What is wrong?\n```html\n<img src="a.gif">\n```\nName it.',
    "Which tag shows a picture, <img> or <picture>?",
    "What is the image of 3 under f(x)=x^2?",
]
FORMS: dict[str, Callable[[str], JsonObject]] = {
    "problem": lambda question: {"problem": question, "answer": "7"},
    "chat": lambda question: {
        "prompt": [{"role": "user", "content": question}],
        "ability": "math",
        "reward_model": {"ground_truth": "7"},
    },
    "instructions": lambda question: {
        "prompt": question,
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("question", LINKED)
def test_a_question_that_links_a_picture_is_left_out(form: Callable[[str], JsonObject], question: str) -> None:
    with pytest.raises(LeftOut) as error:
        convert_record(form(question))
    assert error.value.reason == "a question about a picture"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("question", TEXT)
def test_drawings_in_text_and_examples_of_links_are_kept(form: Callable[[str], JsonObject], question: str) -> None:
    assert question in convert_record(form(question)).made.prompt


def test_choices_and_open_answers_with_pictures_are_left_out() -> None:
    choices = {"question": "Which is a tree?", "choices": ["![](a.png)", "![](b.png)"], "answer": 0}
    prose = "It shows a wide street with many people who are waiting for the evening bus"
    for record in (choices, {"question": f"What is shown? ![]({URL})", "answer": prose}):
        with pytest.raises(LeftOut, match="a question about a picture"):
            convert_record(record, judge=True)
