"""Puzzles of Reasoning Gym that are solved by moves or by filling in: spellings for the library's scorers, and scorers of ours.

    text between the tags --SPELLINGS--> the form that the library's scorer reads --> its verdict, for 1 or nothing (or PARTIAL)
                          --MOVES--> boxnet, rush_hour, sokoban: a simulation of ours, with the reason why

The library's own simulations of rush_hour and sokoban ignore moves that are not possible, so that one long text with all moves,
again and again, walks through most puzzles. Here such a move is a mistake, and the answer earns nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from .exact import Entry, Scorer
from .readings import items, parse_json, plain_text, rows

MAX_MOVES = 2_000
MAX_TURNS = 500  # of a cube
BOARD_SIDE = 6  # of rush_hour
_SLIDE = re.compile(r"([A-Z])([-+])(\d)", re.ASCII)
_TURN = re.compile(r"([A-Za-z]{1,3})(?:('?)(\d?)|(\d)('))", re.ASCII)
_DISK = re.compile(r"(?:\d{1,5}[.):] *)?move disk (\d{1,3}) from peg (\d{1,3}) to peg (\d{1,3})\.?", re.IGNORECASE | re.ASCII)
_BOX_MOVE = re.compile(
    r"move\(\s*(box_\w{1,40}),\s*(target_\w{1,40}|square\s*\[([\d.]{1,10}),\s*([\d.]{1,10})\])\s*\)", re.ASCII
)
_AGENT = re.compile(r"Agent\s*\[([\d.]{1,10}),\s*([\d.]{1,10})\]", re.ASCII)
_STEPS = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
_NAMED_STEPS = {"up": "U", "down": "D", "left": "L", "right": "R"}


def json_value(text: str) -> str:
    return json.dumps(parse_json(text))


def knight_moves(text: str) -> str:
    return text if text.casefold() == "no" else json_value(text)


def digit_by_letter(text: str) -> str:
    """A=1,B=2 from lines, from an object, or with colons."""
    text = plain_text(text).strip("{}[]() ").replace(":", "=").replace("\n", ",")
    return ",".join(part.replace('"', "").replace("'", "") for part in text.split(",") if part.strip())


def ladder(text: str) -> str:
    """WORD,WORD from a list, or with arrows."""
    return ",".join(items(text))


def steps(text: str) -> str:
    """right down from a list, with arrows, or in capitals."""
    return " ".join(items(text.casefold()))


def presses(text: str) -> str:
    """A -> B of buttons only: theirs reads every A, B and C of any text. Raises ValueError."""
    pressed = items(text)
    if len(pressed) > MAX_MOVES or not all(re.fullmatch("[A-Ca-c]", button) for button in pressed):
        raise ValueError("not a sequence of buttons")
    return " ".join(pressed)


def turns(text: str) -> str:
    """Turns of a cube: theirs writes out any number of repetitions. Raises ValueError."""
    made = plain_text(text).replace("\u2032", "'").replace(",", " ").split()
    found = [match for turn in made if (match := _TURN.fullmatch(turn)) is not None]
    if not made or len(made) > MAX_TURNS or len(found) != len(made):
        raise ValueError("not a sequence of turns")
    return " ".join(match.expand(r"\1\2\5\3\4") for match in found)


def disks(text: str) -> str:
    """One line for each move of a disk, also from a numbered list. Raises ValueError."""
    found = [_DISK.fullmatch(line.strip(" -*\"',")) for line in text.splitlines() if line.strip()]
    moves = [f"Move disk {match[1]} from Peg {match[2]} to Peg {match[3]}" for match in found if match is not None]
    if len(moves) != len(found):
        raise ValueError("not a list of moves")
    return "\n".join(moves)


def grid(text: str) -> str:
    return "\n".join(" ".join(row) for row in rows(text))


def joined_letters(text: str) -> str:
    return "".join(items(text)) if text.startswith("[") else "".join(text.split())


SPELLINGS: dict[str, Callable[[str], str]] = {
    "cryptarithm": digit_by_letter,
    "graph_color": json_value,
    "jugs": json_value,
    "kakurasu": grid,
    "knight_swap": knight_moves,
    "palindrome_generation": joined_letters,
    "quantum_lock": presses,
    "rubiks_cube": turns,
    "shortest_path": steps,
    "tower_of_hanoi": disks,
    "word_ladder": ladder,
}
# The library's partial credit, for a solution that is longer than it could be, or for boxes that were brought to their targets.
PARTIAL = frozenset({"knight_swap", "quantum_lock", "shortest_path", "tower_of_hanoi"})
LEAST_PARTIAL = 0.1  # less than this is theirs for a well-formed text that solves nothing


def slid_cars(text: str, entry: Entry) -> float:
    """Slides, as far as the board allows; the first car must end at the exit."""
    cells: dict[str, list[int]] = {}
    for at, label in enumerate(entry["metadata"]["board_config"]):
        if label != "o":
            cells.setdefault(label, []).append(at)
    walls = set(cells.pop("x", []))
    # as in the question, where a car's letter is its rank
    cars = {chr(ord("A") + rank): cells[label] for rank, label in enumerate(sorted(cells))}
    made = [_SLIDE.fullmatch(move) for move in items(re.sub(r" ?([-+]) ?", r"\1", plain_text(text).upper()))]
    if len(made) > MAX_MOVES:
        return 0.0
    for move in made:
        if move is None or move[1] not in cars or not _slide(cars, walls, move[1], int(move[2] + move[3])):
            return 0.0
    return float(max(cars["A"]) == 3 * BOARD_SIDE - 1)


def _slide(cars: dict[str, list[int]], walls: set[int], label: str, distance: int) -> bool:
    """Slide a car cell by cell; False if something is in its way."""
    stride = cars[label][1] - cars[label][0]
    taken = walls.union(*(cells for other, cells in cars.items() if other != label))
    step = stride if distance > 0 else -stride
    for _ in range(abs(distance)):
        moved = [at + step for at in cars[label]]
        off = stride == 1 and {at // BOARD_SIDE for at in moved} != {cars[label][0] // BOARD_SIDE}
        if off or min(moved) < 0 or max(moved) >= BOARD_SIDE**2 or not taken.isdisjoint(moved):
            return False
        cars[label] = moved
    return distance != 0


def pushed_boxes(text: str, entry: Entry) -> float:
    """Steps and pushes; at the end every box stands on a goal."""
    signs = {
        (i, j): sign
        for i, row in enumerate(entry["metadata"]["gamestr"].split("\n"))
        for j, sign in enumerate(row.replace(" ", ""))
    }
    at = next(cell for cell, sign in signs.items() if sign in "*%")
    boxes = {cell for cell, sign in signs.items() if sign in "@$"}
    goals = {cell for cell, sign in signs.items() if sign in "X$%"}
    for move in _steps_of(text):
        di, dj = _STEPS[move]
        at = (at[0] + di, at[1] + dj)
        if at in boxes:
            behind = (at[0] + di, at[1] + dj)
            if signs.get(behind, "+") == "+" or behind in boxes:
                return 0.0
            boxes = (boxes - {at}) | {behind}
        if signs.get(at, "+") == "+":
            return 0.0
    return float(boxes <= goals)


def _steps_of(text: str) -> list[str]:
    """Letters of U, D, L, R, close together or in a list, or these words. Raises ValueError."""
    parts = items(text)
    if parts and all(part.casefold() in _NAMED_STEPS for part in parts):
        return [_NAMED_STEPS[part.casefold()] for part in parts][:MAX_MOVES]
    made = list("".join(parts).upper())
    if not made or len(made) > MAX_MOVES or not _STEPS.keys() >= set(made):
        raise ValueError("not a sequence of steps")
    return made


def delivered_boxes(text: str, entry: Entry) -> float:
    """The share of boxes that reach a target of their colour, and .05 for any plan in the form that was asked for, as theirs.

    Theirs raises on other forms, and its pattern takes seconds for a hostile text.
    """
    plan = parse_json(text)
    plan = [plan] if isinstance(plan, dict) else plan
    if not isinstance(plan, list) or not all(isinstance(step, dict) for step in plan):
        return 0.0
    if not all(isinstance(action, str) for step in plan for action in step.values()):
        return 0.0
    squares = {place: list(things) for place, things in entry["metadata"]["initial_state"].items()}
    boxes = sum(thing.startswith("box_") for things in squares.values() for thing in things)
    for step in plan:
        for agent, action in step.items():
            _carry(squares, agent, action)
    left = sum(thing.startswith("box_") for things in squares.values() for thing in things)
    return max(0.05, (boxes - left) / boxes)


def _carry(squares: dict[str, list[str]], agent: str, action: str) -> None:
    """One move of one agent; nothing happens if it is not possible."""
    here, move = _AGENT.fullmatch(agent.strip()), _BOX_MOVE.fullmatch(action.strip())
    if here is None or move is None:
        return
    row, column, box = float(here[1]), float(here[2]), move[1]
    things = squares.get(f"{row}_{column}", [])
    if box not in things:
        return
    if move[3] is None:
        target = move[2]
        if target in things and target.removeprefix("target_") == box.removeprefix("box_"):
            things.remove(box)
            things.remove(target)
        return
    to_row, to_column = float(move[3]), float(move[4])
    if abs(row - to_row) + abs(column - to_column) == 1 and (there := squares.get(f"{to_row}_{to_column}")) is not None:
        things.remove(box)
        there.append(box)


MOVES: dict[str, Scorer] = {"boxnet": delivered_boxes, "rush_hour": slid_cars, "sokoban": pushed_boxes}
