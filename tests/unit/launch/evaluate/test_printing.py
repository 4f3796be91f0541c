"""The table and the picture of an evaluation."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from prolong.launch.evaluate.intervals import Estimate
from prolong.launch.evaluate.picture import HEIGHT, WIDTH, draw_evaluation
from prolong.launch.evaluate.printing import evaluation_table, fitting_tables, gain_text, print_evaluation
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
    return [
        Evaluated.of(name, step, each, [1, 2], first, num_rollouts=12)
        for name, step, each in (("base", None, first), ("run & more-20", 20, second))
    ]


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


def test_a_rollout_without_a_reward_is_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though two scopes have it, the domain and the mean; and though its prompt may have no other."""
    found = {
        domain: PromptOutcome(uid=domain, domain=domain, task=f"{domain}/x", rewards=(1.0,), unjudged=1)
        for domain in ("math", "code")
    }
    print_evaluation([Evaluated.of("base", None, found, [1], found, num_rollouts=6)], 2, tmp_path)
    assert "4 rollouts have no reward" in capsys.readouterr().out


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


@pytest.mark.parametrize(("rewards", "has_column"), [((1.0, 0.0, 0.0), False), ((0.5, 1.0, 0.0), True)])
def test_pass_at_1_has_a_column_only_where_it_is_not_the_mean_reward(rewards: tuple[float, ...], has_column: bool) -> None:
    """Thirds: the two are computed in different ways, and differ in their last bit."""
    found = {"a": PromptOutcome(uid="a", domain="math", task="math/x", rewards=rewards)}
    table = evaluation_table([Evaluated.of("base", None, found, [1, 3], found, num_rollouts=3)], 3)
    assert ("pass@1" in [column.header for column in table.columns]) == has_column


def test_a_domain_with_a_slash_is_drawn() -> None:
    found = {"a": PromptOutcome(uid="a", domain="code/python", task="code/python/x", rewards=(1.0,))}
    assert "(code/python)" in draw_evaluation([Evaluated.of("base", None, found, [1], found, num_rollouts=1)])


def test_the_file_holds_every_number() -> None:
    read = json.loads(encode_evaluation(results(), ASKED, 2, {}))
    assert read["settings"]["n"] == 2
    assert [model["name"] for model in read["models"]] == ["base", "run & more-20"]
    assert read["models"][1]["differences"]["math"]["value"] > 0
    assert read["models"][0]["by_prompt"]["aime0"] == 0.5
    assert read["models"][0]["scores"][0]["maj_at"]["2"]["value"] == 1.0
