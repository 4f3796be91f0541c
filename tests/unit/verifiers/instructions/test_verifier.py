"""Three or more texts for each of IFEval's 25 instruction types; (p) marks instructions that the paper prints as examples."""

from typing import Any

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.api import Task
from prolong.verifiers.instructions.ifeval import IFEVAL_RULES
from prolong.verifiers.instructions.verifier import INSTRUCTIONS

from tests.support.instructions import reward

PARAGRAPHS = "One day it rained.\n***\nThe sun came.\n***\nEnd."
RUSSIAN = "Вчера мы ходили в лес и собирали грибы, потом вечером пили чай."
FINNISH = "Minä asun Helsingissä ja juon joka aamu kahvia."
SPANISH = "Ayer fuimos al mercado y compramos fruta para la abuela."
WISHES = "Dear Sir\n\nweekend plans are made\n\n'Weekend', she said"
Case = tuple[str, dict[str, Any], list[str], list[str]]  # (id, kwargs, texts that follow it, texts that do not)

CASES: list[Case] = [
    (
        "keywords:existence",
        {"keywords": ["rain", "C++"]},
        ["Rain in c++ code", "rains on **C++**"],
        ["rain in C", "c++", "ra in c++", "raincoat C++", "train c++"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ["War, war", "war-war", "wars and war"],
        ["war", "peace", "warwar", "Moving forward, beware of warmth."],
    ),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, ["war", "peace"], ["war war"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "a+"]}, ["rocket", "a +"], ["a ROCK!", "an a+ grade"]),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 3, "let_relation": "at least"},
        ["Quick q q", "qqq"],
        ["qq", "kkk"],
    ),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["no"], ["#1"]),
    ("language:response_language", {"language": "ru"}, [RUSSIAN], [FINNISH, "123", SPANISH]),
    ("language:response_language", {"language": "fi"}, [FINNISH], [RUSSIAN, "The cat sat on the mat.", "?!"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", "Dr. No met J. Smith. He left at 3.30 p.m. today. Really?", "He ran\n\nShe ran\n\nThey ran"],
        ["One. Two!", "e.g. this one. And Mr. Smith.", "..."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["Wait... what", "See no. 5"],
        ["Go. Now.", "No. Yes."],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 3},
        [PARAGRAPHS, "***\n" + PARAGRAPHS],
        ["a\n***\nb", "a***\n***b"],
    ),
    (  # (p) "Answer with at least / around / at most {N} words."
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["one two three four", "don't stop now"],
        ["one two three", "- - - -"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["two words"], ["one two three"]),
    (  # (p) "There should be {N} paragraphs. ... The {i}-th paragraph must start with word {first_word}."
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Weekend"},
        [WISHES, "a\n\n\n\n**weekend**, b\n\nc"],
        ["weekend\n\nweekend", "a\n\nb\n\nweekend", "a\n\nweekends b\n\nc"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [address]", "[a][b][c]"],
        ["[name]", "[] []", "[one\n] [two]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. I love you", "Bye. p. s. more"],
        ["Bye.", "Bye. P.S.", "P.P.S. only"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Bye\n\nP.P.S. more", "x P.P.S: y"], ["Bye P.S. more"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "Text\n - one\n * two"],
        ["* one", "* a\n* b\n* c", "**bold**\n---\n* one"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe."],
        ["yes", "My answer is yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two* x"],
        ["*one*", "** ** * *", "*one\ntwo*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "SECTION Section 1 Section2 Section 3", "## Section I: so\n**Section II**\nb"],
        ["Section 1\na", "Section one Section two", "Subsection 1 Intersection 2", "Section I like\nSection I am in"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "[1]"],
        ["{'a': 1}", '{"a": 1} there', "5", '{"a": NaN}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"],
    ),
    ("detectable_format:title", {}, ["<<poem of joy>>\nla la", "x <<y>>"], ["poem of joy", "<<>>", "<< >>", "<<a\nb>>"]),
    (
        "combination:two_responses",
        {},
        ["first\n******\nsecond", "******\na\n******\nb"],
        ["same\n******\nsame", "one", "a******b******c"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem."},
        ["Write a poem.\nRoses are red", "write A poem. ok", "Write a\npoem. Yes"],
        ["Roses. Write a poem.", "Write a poem."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Is there anything else I can help with?"},
        ["Sure. Is there anything else I can help with?", '"sure, is there anything else I can help with?"'],
        ["Is there anything else I can help with? Bye", "Sure."],
    ),
    ("startend:quotation", {}, ['"all of it"', '"a" and "b"'], ["'single'", '"open', '""', "no"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["GO NOW", "I saw NASA", "WELL-KNOWN DON'T"],
        ["Go Now", "GO now", "42 77"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, ["quiet"], ["LOUD"]),
    ("change_case:english_capital", {}, ["THE CAT SAT ON THE MAT, 3 TIMES."], ["THE CAT SAt", SPANISH.upper(), "123"]),
    ("change_case:english_lowercase", {}, ["the cat sat on the mat."], ["The cat sat on the mat.", SPANISH.lower(), "123"]),
    ("punctuation:no_comma", {}, ["no comma here; none", "a 1.5 b"], ["yes, one", "1,000", "好\uff0c的"]),
]


@pytest.fixture(scope="module", autouse=True)
def _languages():
    INSTRUCTIONS.load()


def test_every_type_of_the_paper_has_three_texts():
    texts = dict.fromkeys(IFEVAL_RULES, 0)
    for name, _, good, bad in CASES:
        texts[name] += len(good) + len(bad)
    assert len(texts) == 25
    assert min(texts.values()) >= 3, texts


def test_only_what_comes_after_the_thinking_is_judged():
    no_comma = ("punctuation:no_comma", {})
    assert reward("<think>a, b, c</think>none", no_comma) == 1.0
    assert reward("<think>none</think>a, b", no_comma) == 0.0
    opened = Task(completion="none", answer={"instructions": [{"id": "punctuation:no_comma"}]}, thinking_open=True)
    assert INSTRUCTIONS.score(opened).reward == 0.0


def test_the_reward_is_the_share_or_all_of_them():
    asked = [("punctuation:no_comma", {}), ("startend:quotation", {}), ("detectable_format:title", {}), CASES[0][:2]]
    text = "<<rain>> in C++"
    assert reward(text, *asked) == 0.75
    assert reward(text, *asked, reward="average") == 0.75
    assert reward(text, *asked, reward="all") == 0.0
    assert reward(f'"{text}"', *asked, reward="all") == 1.0
    assert INSTRUCTIONS.score(
        Task(completion=text, answer={"instructions": [{"id": name, "kwargs": k} for name, k in asked]})
    ).metrics == {"followed": 0.75, "followed_all": 0.0}


def test_only_language_takes_the_language_model():
    for name, kwargs, good, _ in CASES:
        task = Task(completion=good[0], answer={"instructions": [{"id": name, "kwargs": kwargs}]})
        assert (INSTRUCTIONS.quick(task) is None) == IFEVAL_RULES[name].needs_language


@pytest.mark.parametrize(
    ("instruction", "sentence"),
    [
        ({"id": "keywords:existance", "kwargs": {}}, "did you mean 'keywords:existence'"),
        ({"id": None}, "unknown instruction None"),
        ({"id": ["title"]}, "unknown instruction ['title']"),
        ({"id": "keywords:existence"}, "expected exactly keywords"),
        ({"id": "keywords:existence", "kwargs": {"keywords": ["a"], "relation": "at least"}}, "expected exactly keywords"),
        ({"id": "keywords:existence", "kwargs": {"keywords": []}}, "expected a list of texts"),
        ({"id": "keywords:existence", "kwargs": {"keywords": ["a", " "]}}, "expected a list of texts"),
        ({"id": "keywords:existence", "kwargs": "keywords"}, "expected exactly keywords"),
        ({"id": "punctuation:no_comma", "kwargs": {"comma": 1}}, "expected exactly none"),
        ({"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": -1}}, "num_bullets = -1"),
        ({"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": 2.5}}, "num_bullets = 2.5"),
        ({"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": float("nan")}}, "num_bullets = nan"),
        ({"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": True}}, "num_bullets = True"),
        ({"id": "language:response_language", "kwargs": {"language": "tlh"}}, "expected one of en"),
        (
            {"id": "length_constraints:number_words", "kwargs": {"num_words": 3, "relation": "near"}},
            "expected one of 'less than', 'at least'",
        ),
        (
            {"id": "length_constraints:number_words", "kwargs": {"num_words": 1, "relation": "less than"}},
            "can never be followed",
        ),
        (
            {"id": "keywords:letter_frequency", "kwargs": {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}},
            "letter",
        ),
        ({"id": "length_constraints:number_paragraphs", "kwargs": {"num_paragraphs": 0}}, "can never be followed"),
        (
            {
                "id": "length_constraints:nth_paragraph_first_word",
                "kwargs": {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "so"},
            },
            "there is no paragraph 3 of 2",
        ),
        ("punctuation:no_comma", "expected {"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_sentence(instruction: Any, sentence: str):
    with pytest.raises(DataError, match="verifier instructions") as caught:
        INSTRUCTIONS.check({"instructions": [instruction]})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("answer", [{}, {"instructions": []}, {"instructions": "x"}])
def test_an_answer_without_instructions_is_refused(answer: dict):
    with pytest.raises(DataError, match="expected"):
        INSTRUCTIONS.check(answer)


def test_an_unknown_reward_is_refused():
    with pytest.raises(DataError, match="'some': expected one of average, all"):
        INSTRUCTIONS.check({"instructions": [{"id": "punctuation:no_comma"}], "reward": "some"})


def test_nulls_of_published_files_are_no_kwargs():
    kwargs = {"keywords": None, "num_words": None, "relation": None}
    assert reward("none", ("punctuation:no_comma", kwargs)) == 1.0


@pytest.mark.parametrize(("text", "followed"), [("**P.S.** More.", 1.0), ("*P.S. More.*", 1.0), ("**P.S.**", 0.0)])
def test_a_postscript_may_be_set_in_bold(text: str, followed: float):
    answer = {"instructions": [{"id": "detectable_content:postscript", "kwargs": {"postscript_marker": "P.S."}}]}
    assert INSTRUCTIONS.score(Task(completion=f"Bye\n{text}", answer=answer)).reward == followed
