"""Constraints of RLVR-IFeval: every function has an instruction, and its texts earn what they should."""

import json

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.instructions.func_names import FUNC_NAMES, from_func_name, split_options
from prolong.verifiers.instructions.verifier import INSTRUCTIONS

from tests.support.instructions import reward

ARGUMENTS = (
    "N quantifier end_phrase keyword_list word forbidden_words letter i first_word options postscript_marker section_splitter "
    "original_prompt language"
)
EMPTY = dict.fromkeys(ARGUMENTS.split())
CASES: list[tuple[dict[str, object], str, str]] = [  # (constraint, a text that follows it, one that does not)
    ({"func_name": "verify_keywords", "keyword_list": ["rain", "sun"]}, "sun, rain", "sun, train"),
    ({"func_name": "verify_keyword_frequency", "word": "rain", "N": 2}, "rain and rain", "rain, rain, rain"),
    ({"func_name": "validate_forbidden_words", "forbidden_words": ["rain"]}, "sun and trains", "rain"),
    ({"func_name": "verify_letter_frequency", "letter": "z", "N": 1}, "zoo", "zoo zoo"),
    (
        {"func_name": "validate_response_language", "language": "de"},
        "Der Zug kommt um acht an.",
        "The train leaves at eight.",
    ),
    ({"func_name": "verify_paragraph_count", "N": 2}, "One\n* * *\nTwo", "One\n\nTwo"),
    ({"func_name": "validate_word_constraint", "N": 3, "quantifier": "at most"}, "one two three", "one two three four"),
    ({"func_name": "validate_word_constraint", "N": 10, "quantifier": "around"}, "w " * 11, "w " * 12),
    ({"func_name": "verify_sentence_constraint", "N": 3, "quantifier": "around"}, "A b. C d.", "A b."),
    ({"func_name": "validate_paragraphs", "N": 2, "first_word": "so", "i": 2}, "One\n\nSo two", "So one\n\ntwo"),
    ({"func_name": "verify_postscript", "postscript_marker": "P.S."}, "Bye\n\nP.S. more", "Bye"),
    ({"func_name": "validate_placeholders", "N": 2}, "[name] [street]", "[name]"),
    ({"func_name": "verify_bullet_points", "N": 2}, "* a\n* b", "* a"),
    ({"func_name": "validate_title"}, "<<rain>>", "rain"),
    ({"func_name": "validate_choice", "options": ["Left", "Right"]}, "Left.", "Left or Right"),
    ({"func_name": "validate_choice", "options": "yes/no/maybe"}, "maybe", "nothing"),
    ({"func_name": "validate_highlighted_sections", "N": 1}, "*rain*", "2 * 3 * 4"),
    ({"func_name": "validate_sections", "N": 2, "section_splitter": "Section"}, "Section 1\na\nSection 2\nb", "Section 1\na"),
    ({"func_name": "validate_json_format"}, '{"a": 1}', "a"),
    ({"func_name": "validate_repeat_prompt", "original_prompt": "Sing."}, "Sing. La la", "La la"),
    ({"func_name": "validate_two_responses"}, "a\n******\nb", "a"),
    ({"func_name": "validate_uppercase"}, "THE RAIN FALLS ON THE TOWN.", "The rain falls."),
    ({"func_name": "validate_lowercase"}, "the rain falls on the town.", "The rain falls."),
    ({"func_name": "validate_frequency_capital_words", "N": 2, "quantifier": "at least"}, "GO NOW", "GO now"),
    ({"func_name": "validate_end", "end_phrase": "The end."}, "So it was. The end.", "The end. Or not"),
    ({"func_name": "validate_quotation"}, '"rain"', "rain"),
    ({"func_name": "validate_no_commas"}, "rain", "rain, sun"),
]


@pytest.fixture(scope="module", autouse=True)
def _languages():
    INSTRUCTIONS.load()


def test_every_function_has_a_case():
    assert {constraint["func_name"] for constraint, *_ in CASES} == set(FUNC_NAMES)
    assert len(FUNC_NAMES) == 25


@pytest.mark.parametrize(("constraint", "good", "bad"), CASES)
@pytest.mark.parametrize("written", [dict, json.dumps, str])
def test_a_constraint_becomes_an_instruction(constraint: dict, good: str, bad: str, written: type):
    instruction = from_func_name(written(EMPTY | constraint))
    assert reward(good, (instruction["id"], instruction["kwargs"])) == 1.0
    assert reward(bad, (instruction["id"], instruction["kwargs"])) == 0.0


@pytest.mark.parametrize(
    ("constraint", "sentence"),
    [
        ({"func_name": "validate_rhyme"}, "expected an object with func_name"),
        ({}, "expected an object with func_name"),
        ("not a constraint", "expected an object with func_name"),
        ({"func_name": "verify_keyword_frequency", "word": "rain", "N": None}, "has no N"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(constraint: object, sentence: str):
    with pytest.raises(DataError, match=sentence):
        from_func_name(constraint)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("yes/no/maybe", ["yes", "no", "maybe"]),
        ("I know or I don't know", ["I know", "I don't know"]),
        ("a), b), c)", ["a)", "b)", "c)"]),
        ("red, green, or blue", ["red", "green", "blue"]),
        ("north or south", ["north", "south"]),
    ],
)
def test_options_are_split_where_one_would(options: str, found: list[str]):
    assert split_options(options) == found
