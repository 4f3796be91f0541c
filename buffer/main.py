"""`prolong buffer`: prompts, ledger, journal and the one socket that all other processes talk to. Imports no torch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, process_time

import zmq

from ..common.config.run_files import run_paths, save_config
from ..common.config.sections import BufferConfig, Config
from ..common.files import write_atomically
from ..common.monitoring.endpoint import serve_vitals
from ..common.signals import stop_on_signals
from ..common.tokenizer import Tokenizer
from ..common.transport.gate import AllowedFolder, Gate
from ..common.transport.keys import load_buffer_keys
from ..common.transport.sockets import bind_router, endpoint_of
from .core.core import BufferCore
from .core.settings import RunSettings
from .journal.journal import open_journal
from .serving.garbage import survivors_set_aside
from .serving.memory import keep_freed_memory
from .serving.service import LINGER_S, BufferService
from .serving.vitals import BufferVitals
from .tickets.prompts import load_heldout, load_training_prompts

log = logging.getLogger(__name__)


def main(cfg: Config) -> None:
    """Serve one run until it is over, or until SIGTERM or SIGINT. Returns then; the exit code is 0.

    Raises: ProlongError (AddressInUse, ConfigError, DataError, ModelError before anything is served), after telling every peer.
    """
    keep_freed_memory()
    paths = run_paths(cfg)
    max_bytes = cfg.buffer.max_message_mb << 20
    # bind first: a taken port shows before prompts are read, which may take minutes
    with (
        serve_vitals(cfg, "buffer", "buffer") as vitals,
        survivors_set_aside(),
        _bound(cfg.buffer, max_bytes) as (router, gate),
    ):
        tokenizer = Tokenizer.load(cfg.model.path)
        prompts, heldout = load_training_prompts(cfg, tokenizer), load_heldout(cfg, tokenizer)
        journal = open_journal(
            paths.journal, max_gb=cfg.buffer.journal_gb, keep_history=cfg.buffer.keep_history, background=True
        )
        try:
            # the learner, which may have another disk, writes config.yaml
            save_config(cfg, paths.buffer_config)
            settings = RunSettings.from_config(cfg, tokenizer.model_ids)
            core = BufferCore.open(settings, prompts, heldout, tokenizer.fingerprint, journal, monotonic())
            core.progress.cpu_clock, core.progress.tracer = process_time, vitals.tracer
            watch = BufferVitals(vitals, core) if vitals.watched else None
            service = BufferService(core, router, max_bytes, quarantine=core.quarantine, gate=gate, watch=watch)
            _serve(service, paths.buffer, endpoint_of(router), cfg.buffer.keys)
        finally:
            journal.close()


@contextmanager
def _bound(cfg: BufferConfig, max_bytes: int) -> Iterator[tuple[zmq.Socket, Gate | None]]:
    """Bind the one socket, and the gate that admits clients by their keys, if there are keys.

    Messages that are queued at the end may still leave, for LINGER_S.
    """
    keys = load_buffer_keys(cfg.keys)
    context = zmq.Context()
    gate = None if keys is None else Gate(context, AllowedFolder(keys.allowed))
    try:
        router = bind_router(context, cfg.address, max_bytes, None if keys is None else keys.secret)
        try:
            yield router, gate
        finally:
            router.close(linger=int(1000 * LINGER_S))
    finally:
        if gate is not None:
            gate.close()
        context.term()


def _serve(service: BufferService, note: Path, address: str, keys: str) -> None:
    """Run the service; meanwhile the file `note` (buffer.json) holds its address, its process id and its folder of keys."""
    with stop_on_signals(service.stop):
        content: dict[str, str | int] = {"address": address, "pid": os.getpid()}
        if keys:
            content["keys"] = str(Path(keys).resolve())
        write_atomically(note, json.dumps(content))
        log.info("buffer at %s", address)
        try:
            service.run()
        finally:
            note.unlink(missing_ok=True)
