"""`prolong diagnose`: a page of text, one JSON object, and what cannot be read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prolong.common.config.run_files import save_config
from prolong.common.metrics import MetricsWriter
from prolong.launch.cli import main
from prolong.launch.diagnosis.command import diagnosis_page
from prolong.launch.diagnosis.diagnosis import BindingRoof, Diagnosis, Improvement

from tests.support.recorded_steps import planned_config, recorded_step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "night"
    run.mkdir()
    save_config(planned_config(), run / "config.yaml")
    with MetricsWriter(run, tensorboard=False) as writer:
        for step in range(1, 61):
            numbers = recorded_step(step, 8, 60.0 if step > 7 else 20.0) | {"actor/num_actors": 1.0}
            numbers["reference/kl"] = 0.9
            writer.write(step, {name: value for name, value in numbers.items() if name != "step"})
    return run


def test_the_page_says_what_binds_where_time_went_and_what_looks_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(folder), "--quick"]) == 0
    text = capsys.readouterr().out
    assert "night: 60 steps in" in text
    assert "the verifiers bind: " in text
    assert "waiting for the first batch" in text
    assert "nothing was simulated" in text
    assert "Far from the reference" in text
    assert "reference.kl_above=0.3" in text


def test_a_model_in_which_another_part_binds_is_not_to_be_believed() -> None:
    move = Improvement(
        part="staleness", words="eta 3", settings=("buffer.eta=3",), gain=2.0, steps_per_s=2.0, staleness_mean=1.0,
        binds_after="learner",
    )  # fmt: skip
    roof = BindingRoof(part="learner", words="the learner binds", evidence=(), shares={"learner": 1.0})
    said = Diagnosis(
        run="run", steps=20, wall_s=20.0, steps_per_s=1.0, sides=(), roof=roof, moves=(move,), no_moves="",
        simulated_steps_per_s=1.0, simulated_part="staleness", findings=(),
    )  # fmt: skip
    lines = [part for part in diagnosis_page(said) if isinstance(part, str)]
    assert any("in the model staleness would bind, not learner" in line for line in lines)
    agrees = replace(said, simulated_part="learner")
    assert not any("in the model" in line for line in diagnosis_page(agrees) if isinstance(line, str))


def test_the_object_holds_sides_moves_and_findings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(folder), "--cores", "0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [side["name"] for side in said["sides"]] == ["learner", "actors", "verifiers", "weights"]
    assert said["roof"]["part"] in said["roof"]["shares"]
    assert said["moves"][0]["gain"] >= said["moves"][-1]["gain"]
    assert said["no_moves"] == ""
    assert [finding["rule"] for finding in said["findings"]] == ["kl_alarm", "plateau"]


def test_a_folder_that_is_no_run_is_a_mistake_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "expected a run folder" in capsys.readouterr().err
