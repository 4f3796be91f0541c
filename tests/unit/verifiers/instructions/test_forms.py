"""The forms in which people and models write what IFEval's instructions ask for, and what only looks like it."""

import pytest
from prolong.verifiers.instructions.text import languages_of
from prolong.verifiers.instructions.verifier import INSTRUCTIONS

from tests.support.instructions import follows

# ruff: noqa: RUF001 letters and marks of other scripts are meant
CASES: list[tuple[str, dict[str, object], list[str], list[str]]] = [  # (id, kwargs, texts that follow it, texts that do not)
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, ["Ein schöner Tag"], ["Ein Tag"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        [
            "One. Two. Three.",
            "今天下雨。我们在家。明天出去。",
            "“One.” “Two.” She left.",
            "- Wash it.\n- Boil it.\n- Serve it.",
        ],
        [],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["# Title\n\nOne here. Two here."],
        ["今天下雨,我们在家。"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 4, "relation": "less than"},
        ["Er kam z.B. um 8. Mai. Dann ging er."],
        [],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 3},
        ["A.\n\n***\n\nB.\n\n***\n\nC."],
        ["A ***b*** c ***d*** e"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        [
            "***\nA.\n***\nB.\n***",
            "***Title***\n\nA.\n\n***\n\nB.",
            "A **bold** and *it*.\n***\nB.",
            "A.\n* * *\nB.",
            "A.\r\n***\r\nB.",
        ],
        ["A.\n\nB.", "A.\n---\nB."],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        [
            "+ one\n+ two",
            "  * one\n    - two",
            "* **a**: b\n* **c**: d",
            "*Intro*\n* a\n* b",
            "* a\n* b\n- - -\nEnd",
            "-one\n-two",
            "*one\n*two",
            "P.S. x\n* a *b* c\n* d",
            "* a\n* \n* b",
        ],
        ["• one\n• two", "one\ntwo"],
    ),
    ("keywords:existence", {"keywords": ["rain"]}, ["Rain-soaked", "the rain's end", "**rain**"], ["brain", "rainy"]),
    ("keywords:existence", {"keywords": ["new york"]}, ["New\nYork"], []),
    ("keywords:existence", {"keywords": ["下雨"]}, ["今天下雨了"], []),
    ("keywords:existence", {"keywords": ["straße"]}, ["Straße", "STRASSE straße"], []),
    ("keywords:existence", {"keywords": ["Überall"]}, ["überall"], []),
    ("keywords:existence", {"keywords": ["überall"]}, [], ["überallem"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 3, "relation": "less than"}, ["war war"], []),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, ["toward the war"], ["war war"]),
    ("keywords:forbidden_words", {"forbidden_words": ["art", "smart"]}, ["smartest"], ["so smart!"]),
    ("keywords:forbidden_words", {"forbidden_words": ["art"]}, [], ["state-of-the-art"]),
    ("keywords:forbidden_words", {"forbidden_words": ["下雨"]}, ["今天"], ["今天下雨"]),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "at least"}, ["Eee"], []),
    ("keywords:letter_frequency", {"letter": "ä", "let_frequency": 3, "let_relation": "at least"}, ["ÄÄ ä"], []),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 3, "let_relation": "less than"}, ["!!"], []),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"},
        ['\n\nOne.\n\n"Later," he said.', "One.\n\t\nLater on.", "One.\n\nLater: so."],
        ["One.\nLater on.", "One.\n\nLaterally."],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Later"},
        ["One.\n\n**Later** on."],
        [],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\n\nP.S. Call.", "Bye.\n\nP. S. Call.", "Bye.\n\np.s.: call"],
        ["Bye.\n\nPS call"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Bye\n\nP.P.S: x"], ["Bye.\n\nP.S. Call"]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one two* and **three**", "* *a* x\n* *b* y"],
        [],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 1},
        ["***a***"],
        ["* a\n* b\n* c", "_a_ _b_", "2 * 3 * 4", "****"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        [],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["### Section 1: A\n### Section 2: B"],
        ["Part 1\nPart 2"],
    ),
    ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2}, ["**PART 1**\n**PART 2**"], []),
    ("detectable_format:multiple_sections", {"section_spliter": "Day", "num_sections": 3}, ["Day 1\nDay 2\nDay 10"], []),
    (
        "detectable_format:json_format",
        {},
        ['```JSON\n{"a":1}\n```', "```\n[1, 2]\n```", '\n{"a": "ü"}\n', '``` json\n{"a":1}\n```', '~~~json\n{"a":1}\n~~~'],
        ['Here: {"a":1}', "```json\n{'a':1}\n```", '{"a":1'],
    ),
    ("detectable_format:title", {}, ["**<<Rain>>**\nx", "# <<A B>>", "«<<Ä>>»"], ["<Rain>", "<< >>"]),
    (
        "combination:two_responses",
        {},
        ["A\n\n******\n\nB", "******\nA\n******\nB\n******", "Response 1: x ****** Response 2: y"],
        ["A\n******\nB\n******\nC", "A\n***\nB", "A\n******"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Name a river."},
        ["Name a river. The Po.", "NAME A RIVER.\n\nThe Po.", "  Name a river.\nPo"],
        ['"Name a river." The Po.', "Name the river. Po"],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        [
            "So. Any other questions?",
            '"So. Any other questions?"',
            "So. **Any other questions?**",
            "So.\n\nany other questions?\n",
        ],
        ["Any other questions? Yes.", "Any other question"],
    ),
    (
        "startend:quotation",
        {},
        ["“It rains.”", "„Es regnet.“", '"A"\n\n"B"'],
        ["'It rains.'", '"It rains."\nBye', 'It "rains"', "``It rains.''"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["THE USA"], []),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "at least"}, ["ÄRGER"], ["The Usa"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, ["The cat"], ["I ran"]),
    (
        "change_case:english_capital",
        {},
        ["OK.", "# THE RAIN\n\n* IT FALLS\n* IT STOPS", "BONJOUR IS FRENCH FOR HELLO, MY FRIEND."],
        ["THE RAIN FALLs", "123", "ICH BIN HEUTE NICHT ZU HAUSE UND KOMME MORGEN WIEDER."],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["it's 5 o'clock & i am here.", "ok", "**bold** text is fine here"],
        ["It is late.", "gestern waren wir im kino und danach noch essen."],
    ),
    ("punctuation:no_comma", {}, ["one; two"], ["one, two", "1,000", "一，二"]),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is no.", "**My answer is no.**", "Hmm. My answer is maybe. It depends."],
        ["My answer is no", "My answer is yes. My answer is no.", "no", "my answer is yes."],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}, ["[a] [b c] [d]"], []),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, [], ["[] [ ]", "(a) {b}"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[link](url) [name]"], []),
]
# one short sentence of each language: the train leaves at eight
SENTENCES = {
    "ko": "기차는 여덟 시에 떠납니다.",
    "ru": "Поезд отправляется в восемь часов.",
    "pt": "O trem parte às oito.",
    "ar": "يغادر القطار في الساعة الثامنة.",
    "vi": "Tàu khởi hành lúc tám giờ.",
    "th": "รถไฟออกเวลาแปดโมง",
    "ta": "ரயில் எட்டு மணிக்கு புறப்படும்.",
    "te": "రైలు ఎనిమిది గంటలకు బయలుదేరుతుంది.",
    "bn": "ট্রেন আটটায় ছাড়ে।",
    "mr": "गाडी आठ वाजता सुटते.",
    "gu": "ટ્રેન આઠ વાગ્યે ઉપડે છે.",
    "pa": "ਰੇਲ ਗੱਡੀ ਅੱਠ ਵਜੇ ਚੱਲਦੀ ਹੈ।",
    "ml": "ട്രെയിൻ എട്ട് മണിക്ക് പുറപ്പെടും.",
    "kn": "ರೈಲು ಎಂಟು ಗಂಟೆಗೆ ಹೊರಡುತ್ತದೆ.",
    "ne": "रेल आठ बजे छुट्छ।",
    "bg": "Влакът тръгва в осем часа.",
    "pl": "Pociąg odjeżdża o ósmej.",
    "he": "הרכבת יוצאת בשמונה.",
    "fi": "Juna lähtee kello kahdeksan.",
    "ur": "ٹرین آٹھ بجے روانہ ہوتی ہے۔",
    "hi": "रेलगाड़ी आठ बजे चलती है।",
    "fa": "قطار ساعت هشت می\u200cرود.",
    "sw": "Treni inaondoka saa mbili.",
    "uk": "Потяг вирушає о восьмій.",
    "de": "Der Zug fährt um acht ab.",
    "fr": "Le train part à huit heures.",
    "es": "El tren sale a las ocho.",
    "it": "Il treno parte alle otto.",
    "zh": "火车八点开。",
    "ja": "電車は八時に出ます。",
    "en": "The train leaves at eight.",
}
SHORT = {
    "fr": "Oui.",
    "de": "Gut.",
    "es": "No lo s\u00e9.",
    "zh": "\u662f\u7684",
    "ja": "\u306f\u3044\u3002",
    "ru": "\u0414\u0430.",
    "en": "NO WAY!",
}


@pytest.fixture(scope="module", autouse=True)
def _languages():
    INSTRUCTIONS.load()


@pytest.mark.parametrize("code", SENTENCES)
def test_a_short_sentence_has_its_language_and_no_other(code: str):
    assert languages_of(SENTENCES[code]) == [code] or len(SENTENCES[code]) < 20
    assert code in languages_of(SENTENCES[code])
    other = "en" if code != "en" else "de"
    assert not follows(SENTENCES[other], "language:response_language", {"language": code})


@pytest.mark.parametrize("code", SHORT)
def test_a_word_or_two_have_their_language_among_others(code: str):
    assert code in languages_of(SHORT[code])


def test_code_has_no_say_in_the_language():
    text = "Ecco il codice:\n```python\nfor number in range(3):\n    print(number)  # the first of these is zero\n```\nFatto."
    assert languages_of(text) == ["it"]
