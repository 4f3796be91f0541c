import pytest
from prolong.verifiers.answers.choices import letters


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("B", "B"), ("(b)", "B"), ("b.", "B"), ("B: A polygenic score", "B"), (r"\text{The correct answer is B}", "B"),
        ("The correct options are A and C", "AC"), ("(A)(B)", "AB"), ("(A), (B)", "AB"), ("Both A and B", "AB"),
        ("D. Both (A) and (B)", "D"), ("D. (A) and (C) only", "D"), ("B. Vitamins A and D", "B"), ("B. Vitamin C. It is", "B"),
        ("A. Hepatitis B", "A"), ("E. None of the above", "E"), (r"\textbf{(C)}", "C"), ("B. 7 m/s", "B"),
        ("C is correct", "C"), ("(C) is the right answer.", "C"), ("C (the third option)", "C"),
    ],
)  # fmt: skip
def test_a_choice_is_read_with_its_text(text: str, named: str):
    assert letters(text) == frozenset(named)


@pytest.mark.parametrize(
    "text",
    [
        "(A) or (B)", "A/B", "A or B", "A. 5 m/s or B. 7 m/s", "(A) 5 m/s or (B) 7", "A. (A) and (B)", "A: 5 B: 7",
        "A. x, B. y",
        "A. B. C. D.", "A or (B)", "A | B", "A; maybe B", "A or B or C", "A and/or B", "(A) maybe (B)", "A but possibly B",
        "BB", "B, B", "ABCDA",
    ],
)  # fmt: skip
def test_a_hedge_between_choices_names_none(text: str):
    assert letters(text) == frozenset()


@pytest.mark.parametrize(
    "text", ["not B", "either A or B", "boron", "I think A", r"\Delta E", "5 A", "B (or C)", "B (not C)", "C is wrong", ""]
)
def test_other_texts_are_no_choices(text: str):
    assert letters(text) is None
