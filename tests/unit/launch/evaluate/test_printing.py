"""The table and the picture of an evaluation."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import pytest
from prolong.launch.evaluate.intervals import Estimate
from prolong.launch.evaluate.picture import HEIGHT, WIDTH, draw_evaluation
from prolong.launch.evaluate.printing import evaluation_table, fitting_tables, gain_text
from prolong.launch.evaluate.results import Evaluated, encode_evaluation
from prolong.launch.evaluate.scores import PromptOutcome
from rich.console import Console

from tests.unit.launch.evaluate.test_store import ASKED


def outcomes(*rewards: float) -> dict[str, PromptOutcome]:
    return {
        f"{task}{index}": PromptOutcome(
            uid=f"{task}{index}",
            domain="math",
            task=f"math/{task}",
            rewards=(reward, 1.0),
            votes={"": 1 + int(reward)},
            tokens=8,
        )
        for task in ("aime", "gsm<8>[/]k")
        for index, reward in enumerate(rewards)
    }


def results() -> list[Evaluated]:
    first, second = outcomes(0.0, 0.0, 1.0), outcomes(1.0, 0.0, 1.0)
    return [Evaluated.of("base", None, first, [1, 2], first), Evaluated.of("run & more-20", 20, second, [1, 2], first)]


def test_the_table_has_a_row_of_each_model_for_every_scope() -> None:
    out = io.StringIO()
    Console(file=out, width=140).print(evaluation_table(results(), 2))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("math", "math/aime", "math/gsm<8>[/]k")] == [
        "math",
        "math/aime",
        "math/gsm<8>[/]k",
    ]
    assert sum("base" in row for row in rows) == 3
    (second,) = [row for row in rows if row[:2] == ["run", "&"] and row[3] == "6"][:1]
    assert second[4:7] == ["83.3", "[64.3,", "93.3]"] or second[4] == "83.3"
    assert "+16.7" in second


@pytest.mark.parametrize(("width", "number"), [(160, 1), (80, 2)])
def test_no_table_is_wider_than_the_terminal_and_none_lacks_a_column(width: int, number: int) -> None:
    tables = fitting_tables(results(), 2, width)
    assert len(tables) == number
    assert all(Console(width=160).measure(table).maximum <= width for table in tables)
    columns = [column.header for table in tables for column in table.columns]
    assert set(columns) == {column.header for column in evaluation_table(results(), 2).columns}


def test_a_gain_has_a_sign_where_it_is_no_chance() -> None:
    assert gain_text(Estimate(0.1, 0.02, 0.2)) == "+10.0 \\[+2.0, +20.0] +"
    assert gain_text(Estimate(-0.1, -0.2, -0.02)).endswith(" -")
    assert gain_text(Estimate(0.1, -0.02, 0.2)).endswith("]")
    assert gain_text(None) == ""


def test_the_picture_is_well_formed_and_everything_lies_inside() -> None:
    tree = ElementTree.fromstring(draw_evaluation(results()))
    texts = ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "run & more-20" in texts
    for mark in tree.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(mark.attrib["cx"]) < WIDTH
        assert 0 < float(mark.attrib["cy"]) < HEIGHT


def test_the_file_holds_every_number() -> None:
    read = json.loads(encode_evaluation(results(), ASKED, 2, {}))
    assert read["settings"]["n"] == 2
    assert [model["name"] for model in read["models"]] == ["base", "run & more-20"]
    assert read["models"][1]["differences"]["math"]["value"] > 0
    assert read["models"][0]["by_prompt"]["aime0"] == 0.5
    assert read["models"][0]["scores"][0]["maj_at"]["2"]["value"] == 1.0
