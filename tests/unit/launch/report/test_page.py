"""The page: one file that fetches nothing and runs no script but its own, whatever models wrote."""

from __future__ import annotations

import hashlib
import html
import json
import re
from base64 import b64encode
from pathlib import Path

import pytest
from prolong.bench.synthetic_run import SyntheticSize, write_synthetic_run
from prolong.common.config.run_files import load_config, save_config
from prolong.common.errors import UserError
from prolong.launch.report.command import report_run, write_report
from prolong.launch.report.page import ASSETS, SCRIPTS, PageParts

HOSTILE = '</script><script>stolen = 1</script><img src=x onerror="stolen = 1"><!--'
SIZE = SyntheticSize(steps=24, groups=3, n=4, tokens=12, prompts=12)


def data_of(page: str, name: str) -> dict:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found, name
    return json.loads(found[1])


def render(title: str = "t", facts: dict | None = None, rollouts: bytes = b"{}") -> str:
    return b"".join(PageParts.load().render(title, facts or {}, rollouts)).decode()


def test_what_models_wrote_cannot_leave_its_data() -> None:
    page = render(HOSTILE, {"config": HOSTILE}, json.dumps({"t": HOSTILE}).encode())
    assert data_of(page, "run-data")["config"] == HOSTILE
    assert data_of(page, "rollout-data")["t"] == HOSTILE
    assert "<img" not in page
    assert page.count("<script") == 3
    assert html.escape(HOSTILE) in page


def test_the_policy_of_the_page_allows_its_own_script_and_style_alone() -> None:
    page = render()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    script, style = re.search(r"<script>(.*?)</script>", page, re.DOTALL), re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert script
    assert style
    for name, text in (("script-src", script[1]), ("style-src", style[1])):
        assert rules[name] == f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"


def test_the_files_of_the_page_name_no_address_and_make_no_elements_of_texts() -> None:
    assert {path.name for path in ASSETS.iterdir()} == {*SCRIPTS, "page.css", "body.html"}
    for path in ASSETS.iterdir():
        text = path.read_text()
        found = re.findall(
            r"https?://[^\"]*|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\bfetch\(", text
        )
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path.name


def test_a_run_becomes_one_file_below_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_synthetic_run(tmp_path / "run", SIZE)
    assert report_run(str(paths.folder), None, 2.0, predicts=False) == 0
    written = capsys.readouterr().out
    assert "288 rollouts, 72 of 72 groups" in written
    page = paths.report.read_text()
    assert len(page) < 2e6
    facts, rollouts = data_of(page, "run-data"), data_of(page, "rollout-data")
    assert facts["run"]["state"] == "ended"
    assert facts["run"]["totals"]["rollouts"] == SIZE.rollouts
    assert facts["columns"]["steps"] == list(range(1, 25))
    assert facts["run"]["staleness"] == [[0, pytest.approx(0.2)], [1, pytest.approx(0.5)], [2, pytest.approx(0.3)]]
    assert [mark["words"] for mark in facts["marks"] if mark["kind"] == "stage"] == ["run 1", "run 2", "run 3"]
    assert sum(mark["kind"] == "reset" for mark in facts["marks"]) == 6
    assert facts["diagnosis"]["sides"]
    assert len(rollouts["groups"]) == 72
    assert rollouts["as_ids"] == ""


def test_a_folder_with_metrics_alone_has_a_page(tmp_path: Path) -> None:
    paths = write_synthetic_run(tmp_path / "run", SIZE)
    metrics = paths.metrics.read_bytes()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "metrics.jsonl").write_bytes(metrics)
    assert report_run(str(alone), tmp_path / "page.html", 20.0, predicts=False) == 0
    facts = data_of((tmp_path / "page.html").read_text(), "run-data")
    assert facts["diagnosis"] is None
    assert facts["run"]["scores"]["sampled"][1]["version"] == 20
    assert facts["run"]["ledger"]["trained"] == 23 * 3


def test_a_copied_folder_of_a_buffer_that_lets_nobody_in_has_a_page(tmp_path: Path) -> None:
    paths = write_synthetic_run(tmp_path / "run", SIZE)
    paths.summary.unlink()
    cfg = load_config(paths.config)
    cfg.buffer.address, cfg.buffer.keys = "tcp://192.0.2.1:5710", str(tmp_path / "no-keys")
    save_config(cfg, paths.config)
    written = write_report(paths, predicts=False)
    assert data_of(written.path.read_text(), "run-data")["run"]["state"] == "unknown"


def test_a_limit_that_is_too_small_and_a_missing_folder_are_mistakes(tmp_path: Path) -> None:
    paths = write_synthetic_run(tmp_path / "run", SIZE)
    with pytest.raises(UserError, match="expected at least 2"):
        write_report(paths, megabytes=0.5)
    with pytest.raises(UserError, match="there is no folder"):
        write_report(paths, tmp_path / "missing" / "page.html")
