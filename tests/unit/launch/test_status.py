"""The output of `prolong status` for an ended run."""

import json
from pathlib import Path

import pytest
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import Config, ModelConfig, RunConfig
from prolong.common.errors import UserError
from prolong.launch.status import (
    buffer_note,
    conservation_law,
    eta_line,
    find_run,
    peers_table,
    pools_table,
    run_status,
    show_status,
    weights_table,
)
from rich.console import Console

STATES = {"issued": 0, "leased": 0, "stored": 2, "batched": 0, "trained": 10, "filtered": 3, "stale": 0, "failed": 1}


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    (tmp_path / "summary.json").write_text(json.dumps({"steps": 5, "ledger": STATES, "before": {}, "after": {}, "wall_s": 1.0}))
    return tmp_path


def test_an_ended_run_shows_the_ledger_of_its_summary(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_status(str(ended), as_json=True) == 0
    known = json.loads(capsys.readouterr().out)
    assert (known["state"], known["version"], known["balanced"]) == ("ended", 5, True)
    assert known["ledger"] == {"total": 16, **STATES}


def test_the_conservation_law_is_printed_with_its_numbers(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_status(str(ended), as_json=False) == 0
    assert conservation_law({"total": 16, **STATES}, True) in capsys.readouterr().out
    assert conservation_law({"total": 16, **STATES}, True).startswith("16 tickets = 0 issued + 0 leased + 2 stored + ")


def test_a_ledger_that_does_not_add_up_is_exit_code_1(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ended / "summary.json").write_text(json.dumps({"steps": 5, "ledger": {"total": 17, **STATES}}))
    assert show_status(str(ended), as_json=False) == 1
    assert "NOT BALANCED" in capsys.readouterr().out


def test_eta_is_shown_with_the_reason_of_its_last_change() -> None:
    assert eta_line(2, "") == "eta: 2"
    assert (
        eta_line(1, "KL(behaviour, policy) 0.02 nats, above 0.01")
        == "eta: 1, because KL(behaviour, policy) 0.02 nats, above 0.01"
    )


def test_a_broken_line_of_the_metrics_does_not_hide_the_state(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\x00\xff\n{"step": 3}\n')
    assert run_status(RunPaths(tmp_path))["version"] == 3


def test_a_run_without_buffer_and_summary_is_stopped_at_its_last_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert run_status(RunPaths(tmp_path)) == {
        "state": "stopped", "run": tmp_path.name, "version": 2, "ledger": None, "balanced": None
    }  # fmt: skip


def test_a_dead_buffers_address_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    (tmp_path / "buffer.json").write_text(json.dumps({"address": "tcp://127.0.0.1:9", "pid": 1}))
    assert run_status(RunPaths(tmp_path), timeout_s=0.2)["state"] == "stopped"


def test_an_unknown_run_lists_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "there" / "journal").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run 'nope': expected a run folder or one of there in"):
        find_run("nope", str(tmp_path))


def test_the_newest_comparison_of_engine_and_learner_is_shown(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (
        {"step": 1, "agreement/tokens": 640.0, "agreement/logprob_gap": 3e-6, "agreement/ess": 1.0, "agreement/kl": 1e-12},
        {"step": 2, "agreement/tokens": 0.0},
    )
    (ended / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    assert show_status(str(ended), as_json=False) == 0
    assert "agreement: engine and learner 3.0e-06 nats apart   ess 1.000   640 tokens of step 1" in capsys.readouterr().out
    assert show_status(str(ended), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["logprob_gap"] == 3e-6


def test_a_run_without_a_token_to_compare_says_so(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_status(str(ended), as_json=False) == 0
    assert "agreement: nothing to compare yet" in capsys.readouterr().out


def test_on_the_learners_host_the_buffer_is_where_the_settings_say(tmp_path: Path) -> None:
    cfg = Config(run=RunConfig(name="r", root=str(tmp_path)), model=ModelConfig(path="m"))
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    # a buffer on this host would have left its file
    assert buffer_note(paths) is None
    cfg.buffer.address, cfg.buffer.keys = "tcp://10.0.0.1:5710", "keys"
    save_config(cfg, paths.config)
    assert buffer_note(paths) == ("tcp://10.0.0.1:5710", "keys")
    paths.buffer.write_text(json.dumps({"address": "tcp://127.0.0.1:9", "pid": 1}))
    assert buffer_note(paths) == ("tcp://127.0.0.1:9", "")


def test_what_was_handed_over_is_one_line(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_status(str(ended), as_json=False) == 0
    assert "handed over" not in capsys.readouterr().out
    summary = json.loads((ended / "summary.json").read_text())
    tokens = {"buffer/handed_over_tokens": 1609, "buffer/saved_tokens": 1489, "buffer/lost_tokens": 120}
    (ended / "summary.json").write_text(json.dumps(summary | {"counters": {"buffer/handed_over": 17, **tokens}}))
    assert show_status(str(ended), as_json=False) == 0
    assert "handed over: 17 tickets with 1,609 tokens, 1,489 saved, 120 lost" in capsys.readouterr().out


def test_the_weights_of_each_actor_fit_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    pulls = {"transport": "pull", "sources": "relay-eu, learner", "num_updates": 2.0}
    numbers = {"lag": 3.0, "update_bytes": 21.3e6, "update_s": 1.84, "updates_bytes": 1.2133e9, "updates_s": 100.1}
    peers: dict[str, dict[str, float | str]] = {
        "learner": {"role": "learner"},
        "actor-0": {"transport": "collective", "num_updates": 1.0, "update_bytes": 5e5, "update_s": 0.1, "lag": 0.0},
        "actor-eu-1": pulls | numbers,
        "actor-eu-2": {"transport": "pull", "num_updates": 0.0, "update_bytes": 0.0, "sources": "learner"},
    }
    Console(width=80).print(weights_table(peers))
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()][2:]
    assert rows == [
        "actor-0 0 0.50 MB in 0.1 s collective",
        "actor-eu-1 3 21.30 MB in 1.8 s 1.21 GB in 100.1 s relay-eu",
        "actor-eu-2 learner",
    ]


def test_the_actors_of_a_pool_are_shown_together(capsys: pytest.CaptureFixture[str]) -> None:
    busy = {"busy_s": 6.0, "idle_s": 3.0, "weights_s": 1.0, "rollouts": 8.0, "room": 12.0, "engine_tokens": 1000.0}
    peers = {"a": busy | {"pool": "h100"}, "b": busy | {"pool": "h100"}, "c": busy | {"pool": "a10"}, "d": {"busy_s": 1.0}}
    Console(width=80).print(pools_table(peers))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " of " in line]
    assert rows == [["a10", "1", "8", "of", "12", "100", "60%"], ["h100", "2", "16", "of", "24", "200", "60%"]]


def test_the_clients_fit_into_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    spent: dict[str, float | str] = {"silence_s": 0.7, "busy_s": 11011.4, "idle_s": 1012.1, "weights_s": 100.1}
    actor = spent | {"state": "ready", "version": 1005, "leases": 12, "rollouts": 250, "room": 256}
    Console(width=80).print(peers_table({"learner": {"state": "connected", "silence_s": 0.9}, "actor-0": actor}))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[0] == ["peer", "state", "version", "leases", "running", "silent", "busy", "idle", "weights"]
    assert rows[2] == ["learner", "connected", "0.9", "s"]
    assert rows[3] == ["actor-0", "ready", "1005", "12", "250/256", "0.7", "s", "11011", "s", "1012", "s", "100", "s"]


def test_the_names_of_clients_and_pools_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    peers: dict[str, dict[str, float | str]] = {"[/red]": {"pool": "[bold]", "transport": "pull", "sources": "[/]"}}
    for table in (peers_table(peers), pools_table(peers), weights_table(peers)):
        Console().print(table)
    shown = capsys.readouterr().out
    assert (shown.count("[/red]"), shown.count("[bold]"), shown.count("[/]")) == (2, 1, 1)
