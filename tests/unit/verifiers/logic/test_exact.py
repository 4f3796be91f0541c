"""Puzzles with one answer: the usual spellings of a right answer earn 1; near misses, hedges and hostile texts nothing."""

from typing import Any

import pytest
import reasoning_gym
from prolong.verifiers.data import puzzles
from prolong.verifiers.logic.exact import EXACT
from prolong.verifiers.logic.reasoning_gym import judge_puzzle

SUDOKU = "2 1 4 3\n4 3 1 2\n1 2 3 4\n3 4 2 1"
SOLUTION = [[2, 1, 4, 3], [4, 3, 1, 2], [1, 2, 3, 4], [3, 4, 2, 1]]
Case = tuple[str, dict[str, Any], list[str], list[str]]
CASES: list[Case] = [
    # dataset, stored entry, right, wrong
    (
        "chain_sum",
        {"answer": "1234"},
        [
            "1,234",
            "1234.0",
            "+1234",
            r"\boxed{1234}",
            "$1{,}234$",
            "1234.",
            "The answer is 1234.",
            "1000 + 234 = 1234",
            "x = 1234",
            "**1234**",
            "`1234`",
            '"1234"',
            "Answer: 1234",
            r"1.234 \times 10^3",
            r"\text{1234}",
            "1 234",
        ],
        [
            "1235",
            "12345",
            "1234 or 1235",
            "1234 1235",
            "1000 + 235 = 1234",
            "-1234",
            "12,34",
            "123.4",
            "1234%",
            "not 1234",
            "",
            "1234 = 1235",
            "x = y = 1234",
            "1234 thousand",
            "between 1233 and 1235",
            r"\boxed{1234} \boxed{1235}",
            "1233, 1234",
        ],
    ),
    (
        "gsm_symbolic",
        {"answer": "35"},
        ["35 apples", "\\$35", "$35", "35 dollars", "35.00", "a = 35"],
        ["35 and 36", "35 or 36 apples", "35 dozen", "3 5", "35 percent", "35 hundred", "36 or 35", "35 times"],
    ),
    ("circuit_logic", {"answer": "1"}, ["1", "1.0", "1."], ["0", "0 1", "1 0", "1 or 0", "True False", "10"]),
    (
        "ransom_note",
        {"answer": "True"},
        ["true", "TRUE.", "**True**", "Yes", "The answer is True."],
        [
            "True False",
            "False",
            "False True",
            "True or False",
            "not True",
            "Tru",
            "TrueFalse",
            "It is true that the answer is False",
        ],
    ),
    ("syllogism", {"answer": "No"}, ["no", "No.", '"No"'], ["Yes", "Yes No", "No, yes", "not", "None"]),
    ("acre", {"answer": "on"}, ["On", "'on'"], ["on off", "off", "on/off", "undetermined", "online"]),
    ("bf", {"answer": "crave"}, ["crave", "`crave`"], ["Crave", "cravecrave", "grave", "crav"]),
    (
        "caesar_cipher",
        {"answer": "HIS WORK"},
        ["his work", "HIS  WORK.", '"HIS WORK"'],
        ["HIS", "HIS WORKS", "HISWORK", "IS WORK HIS"],
    ),
    ("figlet_font", {"answer": "ANEAR"}, ["anear", "A N E A R"], ["ANEA", "EANAR", "ANEARS", "AAAAA"]),
    (
        "string_insertion",
        {"answer": "ABCDA"},
        ["ABCDA", "['A', 'B', 'C', 'D', 'A']", '"ABCDA"'],
        ["ABCDAA", "ABCD", "A", "[A]"],
    ),
    (
        "list_functions",
        {"answer": "[28, 88, 49]"},
        ["28, 88, 49", "[28,88,49]", "28 88 49", "(28, 88, 49)", "[28.0, 88, 49]"],
        [
            "[28, 49, 88]",
            "[28, 88]",
            "[28, 88, 49, 1]",
            "[[28, 88, 49]]",
            "288849",
            "[28, 88, 49] [1]",
            "[28, 88, 49",
            "28, 88, 49 or 1",
        ],
    ),
    ("list_functions", {"answer": "[]"}, ["[]"], ["", "none", "[0]", "[[]]", "()"]),
    (
        "number_sorting",
        {"answer": "['-3', '2.5', '10']"},
        ["['-3', '2.5', '10']", "[-3, 2.50, 10]", "-3, 2.5, 10", '["-3", "2.5", "10"]'],
        ["['-3', '3.4', '10.9']", "['10', '2.5', '-3']", "[[1]]", "7", "-3, 2.5", "-3 2.5 1 0", "[3, 2.5, 10]"],
    ),
    (
        "number_filtering",
        {"answer": "['14', '-49.0']"},
        ["[14, -49]", "14, -49.0"],
        ["['14']", "['-49.0', '14']", "[]", "14 49"],
    ),
    (
        "spiral_matrix",
        {"answer": "1 2 4 3"},
        ["1 2 4 3", "[1, 2, 4, 3]", "1, 2, 4, 3"],
        ["1 2 3 4", "[1, 2]", "1", "1243", "12 43"],
    ),
    (
        "path_star",
        {"answer": "2201 4179"},
        ["2201 4179", "2201 \u2192 4179", "2201 -> 4179"],
        ["4179 2201", "2201", "2201 4179 1"],
    ),
    (
        "word_sequence_reversal",
        {"answer": "b, OF, a"},
        ["b, OF, a", "b,OF,a", "['b', 'OF', 'a']"],
        ["a, OF, b", "b, of, a", "b, OF"],
    ),
    (
        "word_sorting",
        {"metadata": {"sorted_words": ["EIN", "daily", "dear"]}},
        ["EIN, daily, dear", "['EIN', 'daily', 'dear']", "EIN daily dear"],
        ["daily, dear, EIN", "ein, daily, dear", "EIN, daily", "EIN, daily, dear, x"],
    ),
    (
        "binary_matrix",
        {"answer": "0 1\n1 2"},
        ["0 1\n1 2", "[[0, 1], [1, 2]]", "0, 1\n1, 2", "| 0 | 1 |\n| 1 | 2 |"],
        ["0 1 1 2", "[[0, 1]]", "[0, 1]", "0 1\n2 1", "01\n12", "0 1\n1 2\n0 0", "[[0, 1, 1, 2]]"],
    ),
    (
        "manipulate_matrix",
        {"answer": "5 0 3"},
        ["5 0 3", "[[5, 0, 3]]", "[5, 0, 3]", "5, 0, 3"],
        ["5\n0\n3", "5 0", "5 3 0", "503"],
    ),
    (
        "modulo_grid",
        {"answer": "\u2705\u274c\n\u274c\u2705"},
        ["\u2705 \u274c\n\u274c \u2705"],
        ["\u2705\u274c\u274c\u2705", "\u2705\u274c"],
    ),
    (
        "arc_agi",
        {"metadata": {"output": [[1, 0], [2, 2]]}},
        ["1 0\n2 2", "1  0\n\n2 2\n", "[[1, 0], [2, 2]]"],
        ["1 0", "1 0\n2 3", "", "1 0 2 2"],
    ),
    ("rearc", {"metadata": {"output": [[7]]}}, ["7", "[[7]]"], ["8", "7 7", "7\n7"]),
    (
        "game_of_life",
        {"answer": "[[0,1],[1,0]]"},
        ["[[0, 1], [1, 0]]", "```json\n[[0,1],[1,0]]\n```"],
        ["[[0,0],[0,0]]", "[0,1,1,0]", "[[0,1]]"],
    ),
    (
        "codeio",
        {"answer": '{"a": [1, "x"]}'},
        ["{'a': [1, 'x']}", '{"a":[1,"x"]}'],
        ["{}", '{"a": [1]}', '{"a": [1, "x"], "b": 1}', "a 1 x"],
    ),
    (
        "mini_sudoku",
        {"answer": SUDOKU, "metadata": {"solution": SOLUTION}},
        [SUDOKU, str(SOLUTION), SUDOKU.replace(" ", " | ")],
        ["\n".join(["1 2 3 4"] * 4), SUDOKU[:-1] + "2", SUDOKU.replace("\n", " "), SUDOKU + "\n1 2 3 4"],
    ),
    (
        "futoshiki",
        {"answer": "1 < 2\n\u2227   \u2228\n2   1", "metadata": {"solution": [[1, 2], [2, 1]]}},
        ["1 2\n2 1", "1 < 2\n\u2227\n2 1"],
        ["2 1\n1 2", "1 2", "1 _\n2 1"],
    ),
    (
        "pool_matrix",
        {"answer": "4.56 4.11"},
        ["4.56 4.11", "4.556 4.111", "[[4.56, 4.11]]"],
        ["4.5 4.1", "0 0", "4.11 4.56", "4.56\n4.11", "nan nan"],
    ),
    (
        "dice",
        {"answer": "737/960"},
        ["737/960", r"\frac{737}{960}", "737 / 960"],
        ["1474/1920", "0.7677", "737/961", "960/737", "737"],
    ),
    (
        "fraction_simplification",
        {"answer": r"$\frac{18}{73}$"},
        ["18/73", r"\dfrac{18}{73}", r"$\frac{18}{73}$"],
        ["36/146", "18", "18/74", "0.2466"],
    ),
    (
        "base_conversion",
        {"answer": "18b84", "metadata": {"target_base": 16}},
        ["18B84", "18b84_{16}", "(18b84)_16"],
        ["18b84_8", "18b85", "18 b84"],
    ),
    (
        "calendar_arithmetic",
        {"answer": "Friday", "metadata": {"task": "weekday_of_date"}},
        ["friday", "Friday."],
        ["Monday", "Friday Monday", "Fri"],
    ),
    (
        "calendar_arithmetic",
        {"answer": "13", "metadata": {"task": "count_days"}},
        ["13", "13 days"],
        ["12", "14", "13 or 14", "13.5"],
    ),
    (
        "time_intervals",
        {"answer": "2 days, 06:20", "metadata": {"task_type": "datetime_tz"}},
        ["2 days, 6:20", "2 day 06:20:00", "54:20"],
        ["06:20", "2 days", "2 days, 06:21", "2 days, 06:20 or 06:21"],
    ),
    (
        "time_intervals",
        {"answer": "00:22:11.5", "metadata": {"task_type": "time_ms"}},
        ["00:22:11.500", "0:22:11.5"],
        ["00:22:11", "22:11", "00:22:12"],
    ),
    (
        "time_intervals",
        {"answer": "7 days", "metadata": {"task_type": "date"}},
        ["7", "7 day", "7 days."],
        ["6 days", "7 weeks", "7 8", "70"],
    ),
    (
        "power_function",
        {"answer": "1.8700047263398788e-06"},
        ["1.87e-6", r"1.87 \times 10^{-6}", "1.87e-06", "0.00000187"],
        ["1.88e-6", "1.87e-5", "1.87", "0", "-1.87e-6", "1.9e-6"],
    ),
    (
        "number_format",
        {"metadata": {"solution": 57357.229}},
        ["57,357.229", "57357.229", "5.7357229e4"],
        ["57,351.184", "57357", "57357.229 57351.184"],
    ),
    (
        "knights_knaves",
        {"answer": "Amelia is a hero, and Noah is a fool."},
        ["Noah is a fool and Amelia is a hero", "Amelia: hero, Noah: fool", "amelia is a hero. noah is a fool."],
        [
            "Amelia is a hero, and Noah is a hero.",
            "Amelia is a hero",
            "Amelia is a hero, Noah is a fool, Noah is a hero",
            "Amelia and Noah are heroes",
            "hero fool",
        ],
    ),
    ("tsumego", {"answer": "D2"}, ["d2", "D 2", "**D2**"], ["D3", "C2", "D2 D3", "A1 B1 C1 D1 D2"]),
    (
        "sentence_reordering",
        {"answer": "We go, now."},
        ["We go, now.", "we go , now"],
        ["now We go,", "We go", "We go, now now."],
    ),
    ("emoji_mystery", {"answer": "Hi there."}, ["Hi there.", '"Hi there."'], ["Hi", "aa aaaaa.", "Hi there there."]),
    (
        "group_anagrams",
        {"metadata": {"solution": [["ab", "ba"], ["c"]]}},
        ['[["c"], ["ba", "ab"]]', "[['ab','ba'],['c']]"],
        ['[["ab", "ba", "c"]]', '[["ab", "ba"]]', "[]", '["ab", "ba", "c"]', '[["ab", "ba"], ["c"], ["c"]]'],
    ),
    (
        "palindrome_partitioning",
        {"metadata": {"solution": [["a", "b"]]}},
        ['[["a", "b"]]'],
        ['["ab"]', '[["ab"]]', "[]", '[["a", "b"], ["ab"]]', "[[]]"],
    ),
    ("zebra_puzzles", {"answer": "arnold"}, ["Arnold", "arnold."], ["alice", "arnold alice", "arn"]),
    ("game_of_life_halting", {"answer": "False"}, ["False", "false.", "no"], ["True", "no idea", "", "False True"]),
]


def judged(name: str, given: str, entry: dict[str, Any]) -> float:
    return judge_puzzle(given, {"dataset": name, "entry": entry})


@pytest.mark.parametrize(("name", "entry", "right", "wrong"), CASES)
def test_right_answers_earn_one_however_they_are_written_and_others_nothing(
    name: str, entry: dict, right: list[str], wrong: list[str]
):
    assert [given for given in right if judged(name, given, entry) != 1.0] == []
    assert [given for given in wrong if judged(name, given, entry) != 0.0] == []


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES}))
@pytest.mark.parametrize(
    "given",
    [
        "[" * 50_000,
        "9" * 50_000,
        "```\n" + " " * 50_000,
        "\x00\ud7ff",
        "1e9999",
        "[NaN]",
        "{}",
        "_" * 50_000,
        "x = " * 12_000,
        "1," * 25_000,
    ],
)
def test_hostile_answers_earn_nothing_and_raise_nothing(name: str, given: str):
    entry = next(entry for known, entry, *_ in CASES if known == name)
    assert judged(name, given, entry) == 0


@pytest.mark.parametrize(
    "name", ["game_of_life", "time_intervals", "rectangle_count", "letter_jumble", "sentence_reordering", "word_sorting"]
)
def test_theirs_pays_for_likeness(name: str):
    """If one of these fails, a later version of Reasoning Gym fixed it. Most are given the answer of the puzzle before."""
    dataset = reasoning_gym.create_dataset(name, seed=3, size=12)
    made = list(dataset)
    is_copied = name in ("letter_jumble", "word_sorting")
    given = (lambda i: made[i]["question"].rpartition(": ")[2]) if is_copied else (lambda i: made[i - 1]["answer"])
    theirs = [float(dataset.score_answer(given(i), made[i])) for i in range(12)]
    ours = [judged(name, given(i), puzzles.stored(made[i])) for i in range(12)]
    assert sum(theirs) > sum(ours)
    assert {*ours} <= {0.0, 1.0}


def test_every_dataset_of_the_table_is_one_of_the_library():
    assert EXACT.keys() <= reasoning_gym.factory.DATASETS.keys()
