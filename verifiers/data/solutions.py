"""Right answers for the puzzles of Reasoning Gym that come without one."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator

from ...common.json_object import JsonObject

Positions = tuple[int, ...]
SIDE = 6  # cells on a side of a rush-hour board


def graph_color(metadata: JsonObject) -> str:
    """The colouring that the generator found, with text keys as in JSON."""
    return json.dumps({str(vertex): colour for vertex, colour in metadata["possible_answer"].items()})


def rubiks_cube(metadata: JsonObject) -> str:
    """The scramble, undone turn by turn from its end."""
    turns = reversed(metadata["scramble_moves"].split())
    return " ".join(turn.removesuffix("'") if turn.endswith("'") else turn + "'" for turn in turns)


def boxnet(metadata: JsonObject) -> str:
    """Move one box after the other along its row, then along its column, to a target of its colour; one move a step."""
    squares = {tuple(map(float, name.split("_"))): items for name, items in metadata["initial_state"].items()}
    boxes = [(item, square) for square, items in squares.items() for item in items if item.startswith("box_")]
    targets = [(item, square) for square, items in squares.items() for item in items if item.startswith("target_")]
    steps: list[dict[str, str]] = []
    for box, (row, column) in boxes:
        goal = next((item, square) for item, square in targets if item == box.replace("box_", "target_", 1))
        targets.remove(goal)
        while (row, column) != goal[1]:
            to = _nearer(row, column, *goal[1])
            steps.append({f"Agent[{row}, {column}]": f"move({box}, square[{to[0]}, {to[1]}])"})
            row, column = to
        steps.append({f"Agent[{row}, {column}]": f"move({box}, {goal[0]})"})
    return json.dumps(steps)


def _nearer(row: float, column: float, to_row: float, to_column: float) -> tuple[float, float]:
    if column != to_column:
        return row, column + (1.0 if to_column > column else -1.0)
    return row + (1.0 if to_row > row else -1.0), column


def rush_hour(metadata: JsonObject) -> str:
    """The fewest slides that bring the first car to the exit, by breadth-first search over the positions of the cars."""
    cells: dict[str, list[int]] = {}
    for at, label in enumerate(metadata["board_config"]):
        if label not in "ox":
            cells.setdefault(label, []).append(at)
    labels = sorted(cells)
    walls = {at for at, label in enumerate(metadata["board_config"]) if label == "x"}
    cars = [(cells[label][1] - cells[label][0], len(cells[label])) for label in labels]  # (stride, length)
    start = tuple(cells[label][0] for label in labels)
    came: dict[Positions, tuple[Positions, str] | None] = {start: None}
    queue = deque([start])
    exit_at = 2 * SIDE + SIDE - cars[0][1]
    while queue:
        here = queue.popleft()
        if here[0] == exit_at:
            return " ".join(reversed(list(_way_back(came, here))))
        for there, slide in _slides(here, cars, walls):
            if there not in came:
                came[there] = (here, slide)
                queue.append(there)
    raise ValueError(f"no way out of {metadata['board_config']!r}")


def _way_back(came: dict[Positions, tuple[Positions, str] | None], here: Positions) -> Iterator[str]:
    while (step := came[here]) is not None:
        here, slide = step
        yield slide


def _slides(here: Positions, cars: list[tuple[int, int]], walls: set[int]) -> Iterator[tuple[Positions, str]]:
    """Every slide of one car, as (positions after it, "B-2"). The letter is the car's rank, as in the puzzle."""
    taken = walls | {at + i * stride for at, (stride, length) in zip(here, cars, strict=True) for i in range(length)}
    for rank, (at, (stride, length)) in enumerate(zip(here, cars, strict=True)):
        for sign in (1, -1):
            for distance in range(1, SIDE):
                head = at + sign * distance * stride
                if sign > 0:
                    head += (length - 1) * stride
                off_board = head < 0 or head >= SIDE * SIDE or (stride == 1 and head // SIDE != at // SIDE)
                if off_board or head in taken:
                    break
                moved = (*here[:rank], at + sign * distance * stride, *here[rank + 1 :])
                yield moved, f"{chr(ord('A') + rank)}{'+' if sign > 0 else '-'}{distance}"


SOLVERS: dict[str, Callable[[JsonObject], str]] = {
    "boxnet": boxnet,
    "graph_color": graph_color,
    "rubiks_cube": rubiks_cube,
    "rush_hour": rush_hour,
}
