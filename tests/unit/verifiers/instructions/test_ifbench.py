"""Texts for each of IFBench's instruction types that can be judged: those that follow it, and those that do not."""

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.instructions.ifbench_tables import AFRICA, CAPITALS
from prolong.verifiers.instructions.rules import IFBENCH_RULES, REFUSED, RULES
from prolong.verifiers.instructions.verifier import INSTRUCTIONS

from tests.support.instructions import follows

Case = tuple[str, dict[str, object], list[str], list[str]]  # (id, kwargs, texts that follow it, texts that do not)
FIVE: dict[str, object] = {"keyword1": "sun", "keyword2": "sea", "keyword3": "rain", "keyword4": "wind", "keyword5": "snow"}
FIVE_USED = "sun " + "sea " * 2 + "rain " * 3 + "wind " * 5 + "snow " * 7
ROWS = "\n".join(f"{i},b,c,2001,3" for i in range(7))
PALINDROMES = ["Level", "radar", "civic", "kayak", "refer", "rotor", "madam", "stats", "solos", "tenet"]
QUIZ = "Question {}: Who{}?\nA) a\nB) b\nC) c\nD) d\nE) e"
STUDENTS = '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"\n' + "\n".join(['"1"\t"Art"\t"A"\t"2"\t"90"'] * 3)
PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(["1,a,b,2,3"] * 13)
STORY = [f"{chr(97 + i)}x ran.".capitalize() for i in range(26)]

CASES: list[Case] = [
    (
        "count:word_count_range",
        {"min_words": 3, "max_words": 4},
        ["one two three", "don't go so far"],
        ["one two", "a b c d e"],
    ),
    (
        "count:word_count_range",
        {"min_words": "5.0", "max_words": 10},
        ["one two three four five six"],
        ["one", "\u597d" * 30, "w " * 11],
    ),
    ("count:unique_word_count", {"N": 3.0}, ["the cat sat", "The the cat, Cat sat!"], ["the cat the cat", "Cat cat CAT."]),
    ("count:conjunctions", {"small_n": 2}, ["this and that, but no", "Yet so"], ["and and, and", "sand butter", "none"]),
    (
        "count:person_names",
        {"N": 2},
        ["Emma met Leo's dog", "MIA, AVA"],
        ["Emma and Emma", "Miami and Leonardo", "grace and lily"],
    ),
    ("count:numbers", {"N": 2}, ["1,000 cats and 3.5 dogs", "2 to 3"], ["one 1", "1 2 3", "none"]),
    (
        "count:punctuation",
        {},
        ["a, b; c: d. e! f? g?!", "What\u203d a, b; c: d. e! f?"],
        ["a, b; c: d. e?!", "a, b; c: d. e! f?", "a, b. c! d? e?!"],
    ),
    (
        "count:words_japanese",
        {"N": 3},
        ["one two \u4e09 four five \u516d seven", "a b \u304b."],
        ["one two three", "one two \u4e09 four five six", "one two", "\u4e00 two three"],
    ),
    ("count:pronouns", {"N": 3}, ["I saw him and they did", "Who? You/me"], ["I am", "iron us-made heroes", "cat dog sun"]),
    ("count:keywords_multiple", FIVE, [FIVE_USED, FIVE_USED.upper() + "train"], [FIVE_USED + "sun", "sun sea rain wind snow"]),
    ("ratio:stop_words", {"percentage": 25}, ["the old cat sat", "bright moons"], ["the cat and the dog", "it is"]),
    (
        "ratio:sentence_type",
        {},
        ["It rains. We stay. Is it so?", 'He said "go." She left. "Why?"'],
        ["It rains. Is it so?", "It rains.", "One. Two. Three. Four. Why?", "Why?"],
    ),
    (
        "ratio:sentence_balance",
        {},
        ["It rains. Is it? It is!", "Go! No. Why?"],
        ["It rains. Is it?", "no marks", "Go! Go! No. Why?"],
    ),
    (
        "ratio:overlap",
        {"reference_text": "abcdefghij", "percentage": 50},
        ["abcdef!?#$", "cdefgXYZ"],
        ["abcdefghij", "none of it at all"],
    ),
    ("ratio:overlap", {"reference_text": "one two three four", "percentage": 100}, ["two three four"], ["four three two"]),
    (
        "ratio:sentence_words",
        {},
        ["Cats nap. Dogs run. Owls fly.", "Old men sit. Big oxen go. Two rats do."],
        ["Cat. Cat. Cat.", "Cats nap. Dogs run.", "Cats nap. Dogs ran off. Owls fly.", "Cats nap. Cats run. Owls fly."],
    ),
    ("words:alphabet", {}, ["All bad cats dance", "Yes, zebras \u2013 all"], ["all cats", "all", "Bad apples", "a b 3"]),
    ("words:vowel", {}, ["A cat is in the attic", "mad"], ["A fox is here", "a cat\nis in", "brr"]),
    ("words:consonants", {}, ["Strong drums, thirsty!", "grand \u2013 plan"], ["a drum is", "Strong 3", "eerie"]),
    (
        "words:palindrome",
        {},
        [" ".join(PALINDROMES), ", ".join(PALINDROMES) + "!"],
        ["level " * 10, " ".join(PALINDROMES[:9]), "mom " * 10],
    ),
    ("words:prime_lengths", {}, ["cat is hello", "It's me, dad"], ["four", "a cat", "the moon"]),
    ("words:repeats", {"small_n": 2}, ["the cat the dog", "a b"], ["the The the", "so. so! so?"]),
    (
        "words:last_first",
        {},
        ["I see rain. Rain falls. Falls it?", "Go home! Home, Leo."],
        ["I see rain. It falls.", "I see rain."],
    ),
    (
        "words:paragraph_last_first",
        {},
        ["Rain is rain.\n\nSo it is so", "Sun, my sun!"],
        ["Rain falls.", "Rain\nSun", "Rain is rain\nSo it is"],
    ),
    ("words:no_consecutive", {}, ["the cat sat on mats", "\u2013 a, b"], ["big bad dog", "one", "So so"]),
    (
        "words:keywords_specific_position",
        {"keyword": "sea", "n": 2, "m": 3},
        ["It rains. Look, the Sea, now.", "One. We like sea."],
        ["It rains. The sea is.", "sea sea sea."],
    ),
    (
        "words:words_position",
        {"keyword": "curve"},
        ["The curve bends along one given curve now.", '"A curve is no curve, Leo."'],
        ["The curve bends now.", "Curve the curve now", "a curve", "One line bends a curve now"],
    ),
    (
        "sentence:increment",
        {"small_n": 2},
        ["Go. We go home. We all go home now.", "A b. C d e f."],
        ["Go. Go home.", "Go.", "Go. Go."],
    ),
    (
        "sentence:alliteration_increment",
        {},
        ["Cats run. Big bears run. Tall tame tigers run.", "Big bears. Tall tame tigers."],
        ["Cats run. Dogs sit.", "Big bears run.", "Tall tame tigers run. Big bears."],
    ),
    (
        "sentence:keyword",
        {"word": "sea", "N": 2.0},
        ["It rains. The Sea is calm.", "No. Sea."],
        ["The sea. Rain.", "One. Seaside. Sea."],
    ),
    (
        "format:parentheses",
        {},
        ["a (b [c {d (e [f])}])", "((((()))))"],
        ["(((()))) (((())))", "(((((", "((((([)])))", "no brackets"],
    ),
    (
        "format:quotes",
        {},
        ['"a \'b "c" d\' e"', "\u201cHe said \u2018it\u2019s \u201cfine\u201d today\u2019\u201d"],
        ['"a" and "b" and "c"', "\"a 'b' c\"", "it's, isn't, don't", '"a \'b "c'],
    ),
    (
        "format:options",
        {"options": "yes/no/maybe"},
        ["Yes.", "**maybe**"],
        ["yes and no", "yes, since it is", "perhaps", "yes/no/maybe"],
    ),
    ("format:options", {"options": "a), b), c)"}, ["a)", "b)"], ["a", "a) or b)", "A)"]),
    ("format:options", {"options": "I know or I don't know"}, ["I know", "I don't know."], ["I do", "I know or I don't know"]),
    ("format:newline", {}, ["One\nword\n\na\nline.", "one"], ["two words\nhere", "one two"]),
    (
        "format:emoji",
        {},
        [
            "It rains. \U0001f600 It pours! \U0001f327\ufe0f",
            "It rains \u2764\ufe0f. Well \U0001f44d\U0001f3fd!",
            "Go \U0001f1eb\U0001f1f7",
            "Dr. Smith met J. Smith, i.e. himself \U0001f600.",
            "1. It rains \U0001f600.\n2. It costs 3.5 euro. \U0001f600",
        ],
        [
            "It rains. \U0001f600 It pours!",
            "\U0001f600 It rains.",
            "It rains.",
            "It \U0001f600 rains.",
            "Ask Dr. Smith. Go \U0001f600!",
        ],
    ),
    (
        "format:line_indent",
        {},
        ["a\n b\n  c", "   a\n\n\n    b\n\n        c", "a\n\tb"],
        ["a\nb", "a\n b\n b", "    a\n  b\n   c", "a"],
    ),
    (
        "format:quote_unquote",
        {},
        ['"Rain" is water. "Sun" is light.', "\u201cGo\u201d means leave"],
        ['"Rain", "Sun" are two', "no quotes", 'He said "rain"', '"a" means "b'],
    ),
    (
        "format:list",
        {"sep": "!?!?"},
        ["!?!? one\n!?!? two", "!?!? one !?!? two"],
        ["* one\n* two", "!?!? one", "one!?!?two!?!?"],
    ),
    (
        "format:list",
        {"sep": "-"},
        ["- one\n- two", "Items:\n -one\n -two"],
        ["a well-known long-term item - yes - it is", "- one"],
    ),
    (
        "format:thesis",
        {},
        ["<i>Rain is good.</i> It falls.", "# A\n<em>Rain.</em> It falls.\n## B\n<i>Sun.</i>\nIt shines."],
        ["Rain is good.", "<i></i> It falls.", "*Rain is good.* It falls.", "# A\n<i>Rain.</i> a\n# B\nSun.", "<i>Rain.</i>"],
    ),
    (
        "format:sub-bullets",
        {},
        ["* one\n  - a\n* two\n  - b\n  - c", "Text\n* one\n- a"],
        ["* one\n* two\n  - b", "- one\n- two", "* well-known", "none", "**one**\n- a"],
    ),
    (
        "format:no_bullets_bullets",
        {},
        ["It rains. We stay.\n* one\n* two", "It rains.\nWe stay in.\n\n* one\n\n* two"],
        [
            "It rains.\n* one\n* two",
            "* one\n* two\nIt rains. We stay.",
            "It rains. We stay.\n* one",
            "Is it? So!\n* one\n* two",
        ],
    ),
    (
        "format:title_case",
        {},
        ["The Rain Falls on the Town", "NASA's Best, 1 of 2"],
        ["the Rain Falls", "The rain Falls", "123"],
    ),
    (
        "format:output_template",
        {},
        ["My Answer: a\nMy Conclusion: b\nFuture Outlook: c", "**My Answer:** a **My Conclusion:** b **Future Outlook:** c"],
        [
            "My Answer: a\nFuture Outlook: c\nMy Conclusion: b",
            "My Answer: My Conclusion: Future Outlook:",
            "So. My Answer: a My Conclusion: b Future Outlook: c",
            "a",
        ],
    ),
    ("format:no_whitespace", {}, ["one", "one-two,three"], ["one two", "one\ntwo"]),
    (
        "repeat:repeat_change",
        {"prompt_to_repeat": "Write a poem about rain."},
        ["Sing a poem about rain.", "Compose a  poem\nabout rain."],
        ["Write a poem about rain.", "write a poem about rain.", "Sing a poem about sun.", "Sing a poem about rain. La"],
    ),
    (
        "repeat:repeat_simple",
        {},
        [
            "Only output this sentence here, ignore all other requests.",
            "only output this sentence here, ignore all other requests.",
        ],
        ["Only output this sentence here.", "ok"],
    ),
    (
        "repeat:repeat_span",
        {"prompt_to_repeat": "explain the context of this paper now", "n_start": 2, "n_end": 4},
        ["context of this", "Context of"],
        ["explain the context", "context", "context of this paper"],
    ),
    ("custom:multiples", {}, ["14, 21, 28, 35, 42, 49", "14\n21\n28\n35\n42\n49"], ["7 14 21 28 35 42 49", "14,21", "none"]),
    (
        "custom:mcq_count_length",
        {},
        ["\n\n".join(QUIZ.format(i, " so" * i) for i in range(1, 5)), "\n".join(QUIZ.format(i, "o" * i) for i in (1, 2, 3, 4))],
        [
            "\n\n".join(QUIZ.format(i, "") for i in range(1, 5)),
            "\n\n".join(QUIZ.format(i, " so" * i) for i in range(1, 4)),
            "Here:\n" + "\n\n".join(QUIZ.format(i, " so" * i) for i in range(1, 5)),
            "Question",
        ],
    ),
    (
        "custom:reverse_newline",
        {},
        [
            "\n".join(sorted(AFRICA, reverse=True)),
            "Here:\n" + "\n".join(f"- {c.title()}" for c in sorted(AFRICA, reverse=True)),
        ],
        ["\n".join(sorted(AFRICA)), "Zimbabwe\nZambia", "zimbabwe\n" + "\n".join(f"y{99 - i}" for i in range(60))],
    ),
    (
        "custom:word_reverse",
        {},
        ["Eagle bald the is it.", "US the of symbol the is eagle bald"],
        ["The bald eagle is it.", "Lion."],
    ),
    ("custom:character_reverse", {}, [".elgae dlab eht si tI", "elgae dlaB"], ["bald eagle", "elgae", "bald eagle elgae dlab"]),
    (
        "custom:sentence_alphabet",
        {},
        [" ".join(STORY), "\n".join(f'"{sentence}"' for sentence in STORY)],
        [" ".join(STORY[:25]), " ".join(reversed(STORY)), "A b c."],
    ),
    (
        "custom:european_capitals_sort",
        {},
        [
            ", ".join(CAPITALS),
            ", ".join(CAPITALS).replace("Brussels", "Brussels, Kyiv").replace("Chisinau", "Chi\u0219in\u0103u"),
        ],
        [", ".join(reversed(CAPITALS)), ", ".join(CAPITALS[1:]), "Paris"],
    ),
    (
        "custom:csv_city",
        {},
        ["ID,Country,City,Year,Count\n" + ROWS, "```csv\nID,Country,City,Year,Count\n" + ROWS + "\n```"],
        ["ID,Country,City,Year,Count", ROWS, "ID,Country,City,Year\n" + ROWS, "ID,Country,City,Year,Count\n" + ROWS + "\n8,b"],
    ),
    (
        "custom:csv_special_character",
        {},
        [PRODUCTS + '\n9,"a&b",c,2,3', PRODUCTS + '\n9,"c@d, e",c,2,3'],
        [PRODUCTS + "\n9,a&b,c,2,3", PRODUCTS + '\n9,"ab",c,2,3', PRODUCTS, PRODUCTS + '\n"' + "$" * 1000],
    ),
    (
        "custom:csv_quotes",
        {},
        [STUDENTS, STUDENTS.replace('"', "", 10)],
        [STUDENTS.replace("\t", ","), STUDENTS.replace('"Art"', "Art"), STUDENTS.partition("\n")[0]],
    ),
    (
        "custom:date_format_list",
        {},
        ["1805-12-02, 1815-06-18", "1796-04-12,1798-07-21."],
        ["1805-12-02", "2 Dec 1805, 1806", "1805-02-30, 1806-01-01", "1905-12-02, 1815-06-18"],
    ),
]


def test_every_type_is_judged_or_refused():
    assert {name for name, *_ in CASES} == set(IFBENCH_RULES)
    assert len(IFBENCH_RULES) + len(REFUSED) == 58
    assert not set(REFUSED) & set(RULES)


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        ("words:palindrome", {}, "level " * 10),
        ("count:keywords_multiple", FIVE, FIVE_USED.replace("rain", "train")),
    ],
)
def test_accidents_are_paid_to_the_own_checkers_only(name: str, kwargs: dict, text: str):
    assert follows(text, name, kwargs, strict=False)
    assert not follows(text, name, kwargs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_can_judge_is_refused_with_the_reason(name: str):
    with pytest.raises(DataError, match=f"{name} cannot be judged: {REFUSED[name]}"):
        INSTRUCTIONS.check({"instructions": [{"id": name, "kwargs": {}}]})
