"""An engine process that is killed: its actor ends at once, and with an exit code that lets it be started again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prolong.common.errors import ProlongError, WeightsError
from prolong.common.weights.buckets import plan_buckets

from tests.support.engine_rig import BUCKET_BYTES, TIMEOUT_S, Rig, build_rig
from tests.support.runs import ON_VLLM, SMALL, Run, engines, free_port


@pytest.fixture
def fragile(tmp_path: Path):
    """An engine of this test's own, and its process."""
    others = engines()
    rig = build_rig(tmp_path, tied=True)
    (process,) = engines() - others
    yield rig, process
    rig.close()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of this test's own, whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="p-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_sockets_of_an_engine_go_with_it(temporary: Path, request: pytest.FixtureRequest) -> None:
    rig, _ = request.getfixturevalue("fragile")
    sockets = [path for path in temporary.rglob("*") if path.is_socket()]
    (folder,) = {path.parent for path in sockets}
    assert folder.name.startswith("prolong-vllm-")
    assert len(sockets) >= 2, "requests and answers"
    rig.run(rig.engine.close())
    assert not folder.exists()
    assert not [path for path in temporary.rglob("*") if path.is_socket()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_update_ends_when_its_engine_dies(fragile: tuple[Rig, psutil.Process]) -> None:
    rig, engine = fragile
    manifest = plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in rig.model.named_parameters()], BUCKET_BYTES)

    async def killed_in_the_middle() -> None:
        engine.suspend()  # so that the call is under way, and stays so
        applying = asyncio.create_task(rig.engine.apply_weights(rig.update(1, manifest), TIMEOUT_S))
        assert not (await asyncio.wait([applying], timeout=0.5))[0]
        engine.kill()
        # at the deadline of the update it would be another error
        with pytest.raises(ProlongError, match="engine process ended") as died:
            await applying
        assert not isinstance(died.value, WeightsError)  # after one of those an actor goes on

    rig.run(killed_in_the_middle())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_actor_whose_engine_is_killed_while_it_starts_may_be_started_again(tmp_path: Path, demo_model: Path) -> None:
    settings = [f"model.path={demo_model}", f"buffer.address=tcp://127.0.0.1:{free_port()}"]
    run = Run(tmp_path, "killed", [*SMALL, ON_VLLM, *settings])
    actor = run.start("actor")
    try:
        (engine,) = run.wait("its engine", lambda: engines(of=actor.pid), 240)  # type: ignore[misc]
        engine.kill()
        assert run.ended(actor, 120) == 1, run.output()  # not 2, a mistake of the user
        assert "was killed while it started" in run.output()
    finally:
        run.kill_all()
