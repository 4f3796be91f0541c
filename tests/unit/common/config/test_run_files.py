"""The configuration file of a run: as this version writes it, and as an earlier one did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prolong.common.config.run_files import load_config
from prolong.common.config.trees import to_tree
from prolong.common.errors import ConfigError

EARLIER = Path(__file__).parents[3] / "data" / "config-ea361a9.yaml"  # written by commit ea361a9, with stages and a preset


def leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """Dotted name -> value."""
    if isinstance(tree, dict) and tree:
        return {name: value for part, child in tree.items() for name, value in leaves(child, f"{key}.{part}").items()}
    if isinstance(tree, list) and tree:
        return {name: value for i, child in enumerate(tree) for name, value in leaves(child, f"{key}.{i}").items()}
    return {key: tree}


def test_a_configuration_of_an_earlier_version_loads_with_the_same_meaning() -> None:
    written = leaves(yaml.safe_load(EARLIER.read_text()))
    loaded = leaves(to_tree(load_config(EARLIER)))
    # was a boolean, and has a third value now
    written[".learner.recompute"] = str(written[".learner.recompute"]).lower()
    assert {key: loaded.get(key) for key in written} == written
    assert len(written) > 120


def test_a_setting_that_no_longer_exists_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(EARLIER.read_text().replace("  lease_s:", "  lease_seconds:"))
    expected = (
        f"{path}: buffer.lease_seconds = 120.0: unknown key; did you mean buffer.lease_s?; another version of prolong may"
    )
    with pytest.raises(ConfigError, match=re.escape(expected) + r" have written it: .*docs/config\.md"):
        load_config(path)
