"""Puzzles that are solved by moves: legal moves only, spelled in several ways, and the partial credit that is left."""

import json
from typing import Any

import pytest
import reasoning_gym
from prolong.verifiers.data import puzzles
from prolong.verifiers.logic.moves import MOVES, PARTIAL, SPELLINGS
from prolong.verifiers.logic.reasoning_gym import judge_puzzle
from reasoning_gym.games.rush_hour import Board

BOARD = "ooooooooooooAAoBoooooBooooooooxooooo"  # the car at the exit's row, another one in its way
SOKOBAN = "+ + + + + +\n+ * @ - X +\n+ - - - - +\n+ + + + + +\n"
BOXES = {"0.5_0.5": ["box_red", "box_blue"], "0.5_1.5": ["target_red"], "1.5_0.5": ["target_blue"]}
HOME = [{"Agent[0.5, 0.5]": "move(box_red, square[0.5, 1.5])"}, {"Agent[0.5, 1.5]": "move(box_red, target_red)"}]
JUGS = {"puzzle": {"jug_capacities": [3, 5], "target": 2}}
MAZE = {"matrix": [["*", "O"], ["X", "#"]]}
LOCK = {
    "initial_value": 0,
    "initial_state": "red",
    "target_value": 2,
    "buttons": [
        {"name": "A", "type": "add", "value": 1, "active_state": "any"},
        {"name": "B", "type": "subtract", "value": 1, "active_state": "any"},
    ],
}
HANOI = {"num_disks": 1, "num_pegs": 3, "start_peg": 1, "target_peg": 3, "solution_length": 1}
CASES: list[tuple[str, dict[str, Any], dict[str, float]]] = [
    (
        "rush_hour",
        {"metadata": {"board_config": BOARD}},
        {
            "B+2 A+4": 1,
            "B+1 B+1 A+4": 1,
            "b+2, a+4": 1,
            "['B+2', 'A+4']": 1,
            "B +2 A +4": 1,
            r"\boxed{B-1 A+1 A-1 B-1 A+4}": 1,
            "A+4": 0,
            "B+3 A+4": 0,
            "B+2 A+5": 0,
            "B+2 A+3": 0,
            "C+1": 0,
            "B+2 A+4 A-1": 0,
            "": 0,
            "A+999999999": 0,
            "B+0 B+2 A+4": 0,
            " ".join(["B+1", "B-1", "A+1"] * 50) + " A+4": 0,
        },
    ),
    (
        "sokoban",
        {"metadata": {"gamestr": SOKOBAN}},
        {
            "RR": 1,
            "rr": 1,
            "R R": 1,
            "right, right": 1,
            "[R, R]": 1,
            "DURR": 1,
            "R": 0,
            "RRR": 0,
            "LRR": 0,
            "URR": 0,
            "": 0,
            "RxR": 0,
        },
    ),
    (
        "boxnet",
        {"metadata": {"initial_state": BOXES}},
        {
            json.dumps(HOME): 0.5,
            json.dumps(HOME[:1]): 0.05,
            "[]": 0.05,
            "{}": 0.05,
            '[{"Agent[0.5, 0.5]": "move(box_red, target_red)"}]': 0.05,
            '[{"Agent[0.5, 0.5]": "move(box_blue, square[1.5, 1.5])"}]': 0.05,
            "[5]": 0,
            "5": 0,
            "": 0,
            '[{"x": null}]': 0,
            '[{"Agent[0.5, 0.5]": "move(box_red, square[9.5, 0.5])"}]': 0.05,
            json.dumps(
                [
                    *HOME,
                    {"Agent[0.5, 0.5]": "move(box_blue, square[1.5, 0.5])"},
                    {"Agent[1.5, 0.5]": "move(box_blue, target_blue)"},
                ]
            ): 1,
            json.dumps([*HOME, *HOME]): 0.5,
        },
    ),
    (
        "jugs",
        {"metadata": JUGS},
        {'["fill B", "pour B->A"]': 1, "['fill B', 'pour B->A']": 1, '["fill B"]': 0, "[]": 0, "fill B": 0, '["fly B"]': 0},
    ),
    (
        "graph_color",
        {"metadata": {"puzzle": {"vertices": [0, 1], "edges": [[0, 1]], "color_options": [1, 2]}}},
        {
            '{"0": 1, "1": 2}': 1,
            "{'0': 1, '1': 2}": 1,
            '{"0": 1, "1": 1}': 0,
            '{"0": 1}': 0,
            '{"0": 1, "1": 3}': 0,
            "{}": 0,
            "[]": 0,
        },
    ),
    (
        "cryptarithm",
        {"metadata": {"words_letters": ["A", "B"], "result_letters": "C"}},
        {
            "A=1,B=2,C=3": 1,
            "A = 1, B = 2, C = 3": 1,
            '{"A": 1, "B": 2, "C": 3}': 1,
            "A=1\nB=2\nC=3": 1,
            "A=1,B=2,C=4": 0,
            "A=1,B=1,C=2": 0,
            "A=1,B=2": 0,
        },
    ),
    (
        "kakurasu",
        {"metadata": {"n_rows": 2, "n_cols": 2, "row_sums": [2, 1], "col_sums": [2, 1]}},
        {"0 1\n1 0": 1, "[[0, 1], [1, 0]]": 1, "0,1\n1,0": 1, "1 1\n1 1": 0, "0 0\n0 0": 0, "0 1 1 0": 0},
    ),
    (
        "palindrome_generation",
        {"metadata": {"letters": list("aabcc")}},
        {"acbca": 1, "ACBCA": 1, "['a','c','b','c','a']": 1, "aabcc": 0, "aca": 0, "a": 0},
    ),
    (
        "shortest_path",
        {"answer": "right down", "metadata": MAZE},
        {
            "right down": 1,
            "Right, Down": 1,
            "['right', 'down']": 1,
            "right \u2192 down": 1,
            "right left right down": 0.5,
            "down right": 0,
            "right": 0,
            "infeasible": 0,
        },
    ),
    (
        "quantum_lock",
        {"answer": "A \u2192 A", "metadata": LOCK},
        {"A \u2192 A": 1, "A -> A": 1, "A A": 1, "a, a": 1, "A B A A": 0.5, "A": 0, "An A and A": 0, "ABAA": 0, "All": 0},
    ),
    (
        "tower_of_hanoi",
        {"metadata": HANOI},
        {
            "Move disk 1 from Peg 1 to Peg 3": 1,
            "1. move disk 1 from peg 1 to peg 3.": 1,
            "Move disk 1 from Peg 1 to Peg 2\nMove disk 1 from Peg 2 to Peg 3": 0.5,
            "Move disk 1 from Peg 1 to Peg 2": 0,
            "Move disk 1 from Peg 2 to Peg 3": 0,
            "Move disk 1 to Peg 3": 0,
            "": 0,
        },
    ),
    (
        "word_ladder",
        {"metadata": {"start_word": "SAX", "end_word": "BAG"}},
        {
            "SAX,SAG,BAG": 1,
            "sax, sag, bag": 1,
            "SAX -> SAG -> BAG": 1,
            "['SAX', 'SAG', 'BAG']": 1,
            "SAX,BAX,BAG": 0,
            "SAX,BAG": 0,
            "SAX,XXX,BAG": 0,
            "SAG,BAG": 0,
        },
    ),
    ("knight_swap", {"metadata": {"is_possible": False}}, {"No": 1, "no": 1, "No.": 1, "[]": 0, "Yes": 0, "No Yes": 0}),
]


def judged(name: str, given: str, entry: dict[str, Any]) -> float:
    return judge_puzzle(given, {"dataset": name, "entry": {"answer": "", **entry}})


def test_every_puzzle_of_moves_has_a_case():
    assert {name for name, *_ in CASES} | {"rubiks_cube"} == MOVES.keys() | SPELLINGS.keys() | PARTIAL


@pytest.mark.parametrize(("name", "entry", "pays"), CASES)
def test_legal_moves_earn_what_they_reach_and_impossible_ones_nothing(name: str, entry: dict, pays: dict[str, float]):
    assert {given: judged(name, given, entry) for given in pays} == pays


def test_theirs_ignores_moves_that_are_impossible():
    """If this fails, a later version of Reasoning Gym refuses them, and our scorer can go."""
    board = Board(BOARD)
    board.perform_moves("B+9 B+9 A+9")
    assert board.solved


def test_a_cube_is_turned_a_bounded_number_of_times():
    made = reasoning_gym.create_dataset("rubiks_cube", seed=1, size=1)[0]
    entry = puzzles.stored(made)
    solution = entry["answer"]
    right = [solution, solution.replace(" ", ", "), solution + " F F'", solution + " U2 U2'", f"`{solution}`"]
    assert [given for given in right if judged("rubiks_cube", given, entry) != 1] == []
    wrong = ["", "F", "F999999999", "F9 " * 600, solution + " F", "the moves are F", "[]"]
    assert [given for given in wrong if judged("rubiks_cube", given, entry) != 0] == []


@pytest.mark.parametrize("name", sorted(MOVES.keys() | SPELLINGS.keys()))
@pytest.mark.parametrize(
    "given",
    [
        "[" * 50_000,
        "9" * 50_000,
        "\x00",
        "A+1 " * 12_000,
        "RL" * 25_000,
        '[{"a": "move(' + ", " * 20_000 + '"}]',
        "ABC " * 12_000,
        "=" * 9_000,
    ],
)
def test_hostile_answers_earn_next_to_nothing_and_raise_nothing(name: str, given: str):
    entry = next(
        entry
        for known, entry, _ in [*CASES, ("rubiks_cube", {"metadata": {"cube_size": 3, "scramble_moves": "F"}}, {})]
        if known == name
    )
    assert judged(name, given, entry) <= 0.05
