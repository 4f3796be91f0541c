"""Parity with TRL and verl: `make parity` runs it in a separate environment; elsewhere pytest finds no tests here.

Every comparison is recorded, and the end of the run lists the largest difference of each.
"""

import importlib.util
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

INSTALLED = all(importlib.util.find_spec(name) for name in ("trl", "verl"))
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]

TOLERANCE = 1e-6
DIFFERENCES = pytest.StashKey[dict[tuple[str, str], float]]()


@pytest.fixture
def agree(request: pytest.FixtureRequest) -> Callable[..., None]:
    """agree("their function", "our configuration", theirs, ours): not all 0, each value the same to 1e-6 of itself, or to atol.

    theirs, ours: tensors of the same shape and type. atol is for values that one side computes in float32; it is at most 1e-6.
    """
    table = request.config.stash.setdefault(DIFFERENCES, {})

    def check(function: str, configuration: str, theirs: Tensor, ours: Tensor, *, atol: float = 1e-9) -> None:
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=min(atol, TOLERANCE))
        difference = (theirs - ours).abs().max().item()
        assert difference < TOLERANCE
        table[function, configuration] = max(difference, table.get((function, configuration), 0.0))

    return check


@pytest.fixture
def double() -> Iterator[None]:
    """Numbers that become tensors are float64 in this test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """their function | our configuration | largest difference."""
    table = config.stash.get(DIFFERENCES, {})
    if table:
        terminalreporter.section("largest differences")
    for (function, configuration), difference in table.items():
        terminalreporter.write_line(f"| {function} | {configuration} | {difference:.0e} |")
