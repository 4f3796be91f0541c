"""Composition: every wrong key or value is one sentence with the dotted key, what was got and what was expected."""

import subprocess
import sys
from pathlib import Path

import pytest
from prolong.common.config.choices import KLEstimator, Straggler
from prolong.common.config.run_files import load_config, run_paths, save_config
from prolong.common.config.sections import Config
from prolong.common.config.trees import default_tree, dotted_keys
from prolong.common.errors import ConfigError
from prolong.launch import recipes as compose_module
from prolong.launch.recipes import compose

GOOD = """
model:
  path: some/model
run:
  name: ${model.path}-run
data:
  train:
    - {file: a.jsonl, weight: 2}
    - {file: b.jsonl}
learner:
  lr: 1e-6
  betas: [0.9, 0.95]
objective:
  kl_estimator: k2
"""


@pytest.fixture
def recipe(tmp_path) -> str:
    return write(tmp_path, "good", GOOD.replace("/model", "-model"))


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def refusal(recipe: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        compose(recipe, list(overrides))
    text = str(raised.value)
    assert "\n" not in text
    assert raised.value.exit_code == 2
    return text


def test_a_recipe_overrides_defaults_and_the_command_line_overrides_both(recipe):
    cfg = compose(recipe, ["buffer.eta=0", "buffer.straggler=evict", "learner.lr=3", "model.path=other"])
    assert (cfg.buffer.eta, cfg.buffer.straggler, cfg.model.path, cfg.run.name) == (0, Straggler.evict, "other", "other-run")
    assert (cfg.learner.lr, cfg.learner.betas, cfg.objective.kl_estimator) == (3.0, (0.9, 0.95), KLEstimator.k2)
    assert type(cfg.learner.lr) is float
    assert [(source.file, source.weight) for source in cfg.data.train] == [("a.jsonl", 2.0), ("b.jsonl", 1.0)]
    assert cfg.sampling == Config().sampling


def test_nothing_but_plain_python_comes_out(recipe):
    cfg = compose(recipe)
    assert type(cfg) is Config
    assert type(cfg.data.train) is list
    assert type(cfg.learner.betas) is tuple


def test_no_recipe_means_defaults_with_the_mandatory_key_given():
    assert compose("", ["model=some/model"]).model.path == "some/model"
    assert refusal("") == "model.path is missing: expected text; give model.path=VALUE"


def test_a_recipe_may_stand_on_another_one(tmp_path, recipe):
    child = write(tmp_path, "child", "defaults: [good, _self_]\nbuffer: {eta: 5}\n")
    cfg = compose(child)
    assert (cfg.model.path, cfg.buffer.eta) == ("some-model", 5)


def test_shipped_recipes_are_found_by_name_and_can_be_stood_on(tmp_path, monkeypatch):
    shipped = tmp_path / "conf"
    shipped.mkdir()
    write(shipped, "tiny", "model: {path: tiny}\n")
    monkeypatch.setattr(compose_module, "CONF_FOLDER", shipped)
    assert compose("tiny").model.path == "tiny"
    assert compose(write(tmp_path, "mine", "defaults: [tiny, _self_]\nbuffer: {eta: 7}\n")).buffer.eta == 7
    assert refusal("tinny") == "recipe = 'tinny': unknown; did you mean tiny?"
    assert refusal("huge") == "recipe = 'huge': unknown; expected a path to a YAML file or one of tiny"


def test_model_is_short_for_model_path(recipe):
    assert compose(recipe, ["model=Qwen/Qwen2.5-0.5B", "run.name=n"]).model.path == "Qwen/Qwen2.5-0.5B"
    assert compose(recipe, ["model.path=/tmp/my models/x", "run.name=n"]).model.path == "/tmp/my models/x"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("buffer.etaa=2", "buffer.etaa = 2: unknown key; did you mean buffer.eta?"),
        ("bufer.eta=2", "bufer = {'eta': 2}: unknown key; did you mean buffer?"),
        ("eta=3", "eta = 3: unknown key; did you mean buffer.eta?"),
        ("learner.learning_rate=3", "learner.learning_rate = 3: unknown key; expected one of learner.minibatches, "),
        ("sampling.eta=3", "sampling.eta = 3: unknown key; did you mean buffer.eta?"),
        ("buffer.eta=2.7", "buffer.eta = 2.7: expected a whole number"),
        ("buffer.eta=true", "buffer.eta = True: expected a whole number"),
        ("buffer.eta=two", "buffer.eta = 'two': expected a whole number"),
        ("buffer.eta=null", "buffer.eta = None: expected a whole number"),
        ("buffer.eta=-1", "buffer.eta = -1: expected 0 or more"),
        ("run.resume=1", "run.resume = 1: expected true or false"),
        ("run.name=3", "run.name = 3: expected text; quote it: \"run.name='3'\""),
        ("learner.lr=fast", "learner.lr = 'fast': expected a number"),
        ("learner.lr=nan", "learner.lr = nan: expected a finite number"),
        ("learner.lr=inf", "learner.lr = inf: expected a finite number"),
        ("learner.betas=[0.9]", "learner.betas = [0.9]: expected a list of 2: a number, a number"),
        ("learner.betas=[0.9,x]", "learner.betas.1 = 'x': expected a number"),
        ("buffer.straggler=drop", "buffer.straggler = 'drop': expected one of wait, evict, mask"),
        ("buffer=3", "buffer = 3: expected a section with the keys address, batch_groups, eta"),
        ("data.train=a.jsonl", "data.train = 'a.jsonl': expected a list, each item a section with the keys file, weight"),
        ("data.train=[{weight:2}]", "data.train.0.file is missing: expected text"),
        ("data.train=[{file:a},{fil:b}]", "data.train.1.fil = 'b': unknown key; did you mean data.train.1.file?"),
        ("sampling.max_tokens=5000", "sampling.max_tokens = 5000: expected less than model.max_context = 1024"),
        ("sampling.temperature=0", "sampling.temperature = 0.0: expected above 0"),
        ("model.path=???", "model.path"),
        ("run.name=${nowhere}", "Interpolation key 'nowhere' not found; full_key: run.name"),
        ("model.path=a,b", "quote values that hold = , or brackets"),
        ("model.path=a=b", "quote values that hold = , or brackets"),
        ("buffer.eta", "override 'buffer.eta': expected section.key=value"),
        ("=3", "override '=3': expected section.key=value"),
    ],
)
def test_a_wrong_override_is_refused_by_its_dotted_key(recipe, override, said):
    assert said in refusal(recipe, override)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {path: x}\nbuffer: {etta: 1}\n", "buffer.etta = 1: unknown key; did you mean buffer.eta?"),
        ("model: {path: x}\nbuffer:\n", "buffer = None: expected a section with the keys"),
        ("model: {path: x}\nbuffer: {eta: [1]}\n", "buffer.eta = [1]: expected a whole number"),
        ("model: {path: [x\n", "expected ',' or ']'"),
        ("defaults: [nowhere, _self_]\n", "nowhere"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, text, said):
    recipe = write(tmp_path, "bad", text)
    assert said in refusal(recipe)


def test_a_recipe_that_does_not_exist_is_refused(tmp_path):
    assert "expected a YAML file that exists" in refusal(str(tmp_path / "none.yaml"))
    other = tmp_path / "x.yml"
    other.write_text(GOOD)
    assert "ends with .yaml" in refusal(str(other))


def test_a_saved_configuration_loads_back_equal(tmp_path, recipe):
    cfg = compose(recipe, ["learner.lr=2.5e-7", "run.name='007'"])
    save_config(cfg, tmp_path / "run" / "config.yaml")
    assert load_config(tmp_path / "run" / "config.yaml") == cfg
    assert compose(str(tmp_path / "run" / "config.yaml")) == cfg


def test_a_run_of_an_earlier_version_resumes_from_its_configuration():
    written = Path(__file__).parents[2] / "data" / "config-ea361a9.yaml"
    assert compose(str(written)) == load_config(written)


def test_a_saved_configuration_that_was_damaged_is_refused_by_file_and_key(tmp_path, recipe):
    path = tmp_path / "config.yaml"
    save_config(compose(recipe), path)
    path.write_text(path.read_text().replace("eta: 2", "eta: x"))
    with pytest.raises(ConfigError, match=r"config.yaml: buffer.eta = 'x': expected a whole number"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"none.yaml"):
        load_config(tmp_path / "none.yaml")


def test_the_run_folder_follows_root_and_name(recipe):
    paths = run_paths(compose(recipe, ["run.root=/tmp/r", "run.name=n"]))
    assert paths.folder == Path("/tmp/r/n")
    assert (paths.metrics.name, paths.buffer.name, paths.journal.name) == ("metrics.jsonl", "buffer.json", "journal")


def test_there_are_fewer_than_160_knobs_and_each_is_a_dotted_key():
    keys = dotted_keys()
    assert len(keys) == len(set(keys)) < 160
    whole = ("pools", "alerts", "trackers", "stages")  # mappings, and a list
    assert all(key.count(".") == 1 for key in keys if key not in whole)
    assert {key.partition(".")[0] for key in keys} == set(default_tree())


def test_composition_needs_no_torch_and_help_needs_no_hydra():
    code = (
        "import sys; from prolong.launch.recipes import compose\n"
        "heavy = {'torch', 'transformers', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules); assert not heavy, heavy\n"
        "compose('', ['model=x'])\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
