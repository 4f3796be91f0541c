"""`prolong bench weights-delta`, at a size that tests can bear."""

from __future__ import annotations

import json

import numpy as np
import pytest
from prolong.bench import weights_delta
from prolong.bench.delta_codings import other_sizes


def test_every_row_has_bytes_seconds_and_codings(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--steps", "2", "--updates", "1", "--tokens", "8", "--lr", "1e-6", "1e-4", "--chunk-bytes", "65536"]
    assert weights_delta.main([*args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["lr"], row["dtype"]) for row in rows] == [
        (lr, dtype) for lr in (1e-6, 1e-4) for dtype in ("bfloat16", "float32")
    ]
    for row in rows:
        assert 0 < row["update_mb"] < row["full_mb"]
        assert 0 < row["changed_elements"] <= 1
        assert row["share"] == pytest.approx(row["update_mb"] / row["full_mb"])
        assert row["codings"]["ours"] <= 1.05 * min(row["codings"].values())
        for name in ("encode", "decode", "digest", "checksum"):
            assert row[f"{name}_wall_s"] > 0
            assert row[f"{name}_cpu_s"] >= 0
    assert rows[0]["share"] < rows[2]["share"], "a larger step changes more"
    assert len(weights_delta.delta_table(rows).splitlines()) == 2 + len(rows)


def test_one_update_cannot_be_measured_before_the_first() -> None:
    with pytest.raises(SystemExit):
        weights_delta.main(["--steps", "2", "--updates", "2"])


def test_the_sizes_of_other_codings_are_those_of_their_parts() -> None:
    before = np.arange(2048, dtype="<u2") * 7
    after = before.copy()
    after[[0, 300, 301, 2047]] += np.array([1, 2, 300, 1], "<u2")
    sizes = other_sizes(before, after)
    assert sizes["full"] == 4096
    far = 299 // 255 + (2047 - 302) // 255
    assert sizes["gaps, values"] == 4 + far + 2 * 4
    assert sizes["bitmap, values"] == 2048 // 8 + 2 * 4
    assert sizes["gaps, differences"] == 4 + far + 2 * 4, "one of them does not fit a byte"
    # bytes: 0, 300, 301 and 2047 of the low plane; 301 of the high one, and those that a carry reached
    low = np.flatnonzero((before ^ after) & 255)
    high = np.flatnonzero((before ^ after) >> 8)
    costs = [len(where) + sum(gap // 255 for gap in np.diff(where, prepend=-1) - 1) + len(where) for where in (low, high)]
    assert sizes["changed bytes of each plane"] == sum(costs)
