"""`prolong buffer`: prompts, ledger, journal and the one socket that everybody talks to. Imports no torch."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import zmq

from ..common.compose import run_paths
from ..common.config import Config
from ..common.sockets import bind_router, endpoint_of
from ..common.tokenizer import Tokenizer
from .core import BufferCore
from .journal import Journal
from .prompts import load_heldout, load_mixture
from .service import LINGER_S, BufferService, stop_on_signals

log = logging.getLogger(__name__)


def main(cfg: Config) -> None:
    """Serve one run until it is over, or until SIGTERM or SIGINT. Returns then; the exit code is 0.

    Raises: ProlongError (AddressInUse, ConfigError, DataError, ModelError before anything is served), after telling every peer.
    """
    paths = run_paths(cfg)
    max_bytes = cfg.buffer.max_message_mb << 20
    context = zmq.Context()
    try:
        # first of all: a taken port shows before prompts are read
        router = bind_router(context, cfg.buffer.address, max_bytes, allow_insecure_remote=cfg.buffer.allow_insecure_remote)
        try:
            tokenizer = Tokenizer.load(cfg.model.path)
            mixture, heldout = load_mixture(cfg, tokenizer), load_heldout(cfg, tokenizer)
            journal = Journal(paths.journal)
            try:
                service = BufferService(BufferCore(cfg, mixture, heldout, tokenizer.fingerprint, journal), router, max_bytes)
                _serve(service, paths.buffer, endpoint_of(router))
            finally:
                journal.close()
        finally:
            router.close(linger=int(1000 * LINGER_S))
    finally:
        context.term()


def _serve(service: BufferService, note: Path, address: str) -> None:
    """Run the service while `note` (buffer.json) says where it is."""
    with stop_on_signals(service.stop):
        _write_note(note, address)
        log.info("buffer at %s", address)
        try:
            service.run()
        finally:
            note.unlink(missing_ok=True)


def _write_note(note: Path, address: str) -> None:
    scratch = note.with_name(f".{note.name}.{os.getpid()}")  # a reader never sees half a file
    scratch.write_text(json.dumps({"address": address, "pid": os.getpid()}), encoding="utf-8")
    scratch.replace(note)
