"""One real engine per kind of engine, kind of model and session; one real sandbox per module."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
from prolong.common.config.choices import EngineKind
from prolong.verifiers import code
from prolong.verifiers.sandbox.sandbox import Sandbox

from tests.support.engine_rig import Rig, build_rig
from tests.support.sandboxes import BACKENDS, missing, opened

UNCLOSED = r"ignore:Exception ignored in. <function Context\.__del__:pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's client never closes the ZeroMQ context under its asyncio one, and pyzmq warns when it is collected."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(UNCLOSED))


def pytest_sessionfinish() -> None:
    """Those of the last engines are collected here, where nothing makes an error of it any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


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


@pytest.fixture(scope="session")
def transformers_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = build_rig(tmp_path_factory.mktemp("transformers"), tied=True, kind=EngineKind.transformers)
    yield rig
    rig.close()


ENGINES = {EngineKind.vllm: "tied_rig", EngineKind.transformers: "transformers_rig"}


@pytest.fixture(params=list(ENGINES), ids=lambda kind: kind.name)
def any_rig(request: pytest.FixtureRequest) -> Rig:
    """Every kind of engine, one after the other."""
    return request.getfixturevalue(ENGINES[request.param])


@pytest.fixture(params=["tied_rig", "untied_rig", "transformers_rig"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Every kind of engine, vLLM with both kinds of model."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A sandbox of the first backend that this machine has; modules that test every backend have a fixture of their own."""
    backends = list(BACKENDS.values())
    with opened(next((backend for backend in backends if not missing(backend)), backends[0])) as sandbox:
        yield sandbox


@pytest.fixture
def in_box(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier `code` of this process judges in `box`."""
    monkeypatch.setattr(code.CODE, "_sandbox", box)
