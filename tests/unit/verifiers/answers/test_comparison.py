"""Verdicts that are certain without algebra; all of it takes linear time."""

import time
from fractions import Fraction

import pytest
from prolong.verifiers import stem
from prolong.verifiers.answers import (
    bounds,
    chains,
    chemistry,
    compounds,
    congruences,
    counting,
    error_bars,
    extraction,
    integrals,
    lone_signs,
    phrases,
    plain_numbers,
    quantity,
    reactions,
    remarks,
    spelling,
    structure,
    units,
    vectors,
)
from prolong.verifiers.answers.comparison import agree
from prolong.verifiers.answers.extraction import last_boxed, last_number, last_tagged
from prolong.verifiers.answers.plain_numbers import number
from prolong.verifiers.answers.structure import Parts, parts
from prolong.verifiers.answers.three_valued import every


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", Fraction("1234.5")),
        ("10 000", 10000),
        ("3\\frac{1}{4}", Fraction(13, 4)),
        ("-3\\frac{1}{4}", Fraction(-13, 4)),
        ("3 1/4", Fraction(13, 4)),
        ("2\\times10^{-7}", Fraction(2, 10**7)),
        ("-10^{3}", -1000),
        ("10^3", 1000),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("\\frac{1.5}{-3}", Fraction(-1, 2)),
        ("(-5)", -5),
        ("1,23", None),
        ("310^2", None),
        ("1/0", None),
        ("31 4", None),
    ],
)
def test_plain_numbers_have_exact_values(text: str, value: Fraction | None):
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x<2", Parts("tuple", ("-\\infty", "2"), "()", "x")),
        ("3\\le x", Parts("tuple", ("3", "\\infty"), "[)", "x")),
        ("0\\le x<1", Parts("tuple", ("0", "1"), "[)", "x")),
        ("]0,1]", Parts("tuple", ("0", "1"), "(]")),
        ("\\{x|x>2\\}", Parts("tuple", ("2", "\\infty"), "()", "x")),
        ("\\{1, 2\\}", Parts("set", ("1", "2"))),
        ("x=1 or x=2", Parts("list", ("1", "2"))),
        ("x=1, y=2", Parts("list", ("x=1", "y=2"))),
        ("(1,2), (3,4)", Parts("list", ("(1,2)", "(3,4)"))),
        ("\\pm 2", Parts("list", ("2", "- 2"))),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", Parts("matrix", ("1", "2", "3", "4"), "2x2")),
        ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", Parts("tuple", ("1", "2"), "()")),
        ("(1,2) \\cup [3,4]", Parts("union", ("(1,2)", "[3,4]"))),
        ("f(x,y)", None),
        ("2x+1", None),
        ("(x+1)(x-1)", None),
    ],
)
def test_answers_are_taken_apart(text: str, found: Parts | None):
    assert parts(text) == found


@pytest.mark.parametrize(
    ("gold", "given", "same"),
    [
        ("[0,1)", "[0,1]", False),
        ("(1,2)", "(2,1)", False),
        ("\\{1,2\\}", "2, 1", True),
        ("\\{1,2\\}", "\\{1,\\sqrt{4}\\}", None),
        ("(1,\\sqrt{8})", "(2,2\\sqrt{2})", False),
        ("12", "12, 13", False),
        ("1:2:3", "2:4:6", True),
        ("3:30", "6:60", False),
        ("5\\text{ cm}", "5\\text{ s}", False),
        ("1\\text{ hour }30\\text{ minutes}", "90\\text{ min}", True),
        ("x^2", "x\\cdot x", None),
    ],
)
def test_certainty_without_algebra(gold: str, given: str, same: bool | None):
    assert agree(gold, given) is same


def test_three_valued_and():
    assert every([True, True]) is True
    assert every([True, None]) is None
    assert every([None, False]) is False


def test_algebra_is_asked_about_parts_alone():
    asked = []
    agree("(1,\\sqrt{8})", "(1.0,2\\sqrt{2})", lambda a, b: bool(asked.append((a, b))) or True)
    assert asked == [("\\sqrt{8}", "2\\sqrt{2}")]


def test_capitals_decide_between_substances():
    assert chemistry.same_chemical("CO", "Co") is False
    assert chemistry.same_chemical("H2O", "\\mathrm{H_2O}(l)") is True
    assert chemistry.same_chemical("PV", "VP") is None
    assert chemistry.same_chemical("No", "NO") is None


FRAGMENTS = (
    "\\text{", "{", "(", "[", "1", "1 ", "\\", "\\frac", "\\frac{1}", "√", "√(", "sqrt ", "$1", "^\\circ", "⁻", "1,", "1,234,",
    "1/2 ", "\\pm", "\\cup", "x<", "|x|", "x=", "\\{x|", ", ", " or ", "answer", "\\mu ", "km ", "cm^2", "per ", "\\times 10^",
    "1e", "0.\\overline{", "1_", ", x\\in\\mathbb{Z}", "(A)", "A, ", "H2", "...", "   ", "1:", "square ", "\\begin{pmatrix}",
    "&", "\\SI{", "\\metre", "\\hat{", "i + ", "C(", "{}_9C_", "!!", "mod ", "->", " + ", "\\sum_{i=", "\\max\\{", "exp(",
    "for all ", "is ", "the ", "because ", "three ", "+/-", "+ C", "'", "**", "x-",
)  # fmt: skip
READERS = {
    "clean": spelling.clean,
    "unwrap": spelling.unwrap,
    "number": plain_numbers.number,
    "based": plain_numbers.based,
    "read": quantity.read,
    "parts": structure.parts,
    "assigned": structure.assigned,
    "unit": units.parse_unit,
    "formula": chemistry.formula,
    "letters": stem.letters,
    "measured": lambda text: stem.measured(text, None),
    "boxed": last_boxed,
    "boxes": extraction.separate_boxes,
    "remarks": remarks.without_remark,
    "members": chains.members,
    "spellings": lambda text: chains.spellings_of(text, stored=True),
    "residues": lambda text: congruences.same_residues("1", text),
    "counts": counting.without_counts,
    "phrase": lambda text: phrases.same_phrase("water", text),
    "error bar": error_bars.measurement,
    "reaction": lambda text: reactions.same_reaction("2H2 + O2 -> 2H2O", text),
    "vector": lambda text: vectors.both_vectors({"answer": "(3, 4) m"}, "(3, 4) m", text),
    "constant": integrals.without_constant,
    "compound": compounds.formulas,
    "sign": lone_signs.lone_sign,
    "shape": bounds.shape,
    "tagged": last_tagged,
    "last number": last_number,
    "agree": lambda text: agree("(1,2)", text),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_linear_in_hostile_text(name: str):
    def seconds_of(length: int) -> float:
        text = fragment * (length // len(fragment)) + " ;\n}"
        began = time.process_time()
        READERS[name](text)
        return time.process_time() - began

    for fragment in FRAGMENTS:
        took_s = seconds_of(30_000)
        # a quadratic one takes six seconds; on a slow machine it takes sixteen times as long as for a quarter of the text
        assert took_s < 1 or took_s < 8 * seconds_of(7_500), repr(fragment)


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        ("8, 9", ["8, 9", "9, 8", "[8, 9]", "8 \\text{ and } 9"], ["8 \\le x \\le 9", "8 < x < 9", "x \\ge 8"]),
        (
            "k\\pi, k \\in \\mathbb{Z}",
            ["k\\pi", "k\\pi, k\\in\\mathbb Z"],
            ["k\\pi, k \\in \\mathbb{N}", "k\\pi, k \\in \\mathbb{R}"],
        ),
        ("x > 0", ["x > 0, x \\in \\mathbb{R}", "(0, \\infty)"], ["x > 0, x \\in \\mathbb{N}", "x > 0, x \\in \\mathbb{Z}"]),
        ("n > 2, n \\in \\mathbb{N}", ["n > 2, n \\in \\mathbb{N}"], ["n > 2, n \\in \\mathbb{R}"]),
    ],
)
def test_numbers_are_no_interval_and_whole_numbers_no_real_ones(reference: str, right: list[str], wrong: list[str]):
    assert [text for text in right if agree(reference, text) is not True] == []
    assert [text for text in wrong if agree(reference, text) is not False] == []
