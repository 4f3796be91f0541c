"""One real vLLM engine per kind of model and session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine_rig import Rig, build_rig

UNCLOSED = r"ignore:Exception ignored in. <function Context\.__del__:pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's client never closes the ZeroMQ context under its asyncio one, and pyzmq warns when it is collected."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(UNCLOSED))


@pytest.fixture(scope="session")
def tied_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = build_rig(tmp_path_factory.mktemp("tied"), tied=True)
    yield rig
    rig.close()


@pytest.fixture(scope="session")
def untied_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = build_rig(tmp_path_factory.mktemp("untied"), tied=False)
    yield rig
    rig.close()


@pytest.fixture(params=["tied", "untied"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Both kinds of model, one after the other."""
    return request.getfixturevalue(f"{request.param}_rig")
