"""`prolong verifier`: a pool of verifier workers for the actors of other hosts; or, with --try, for a file of completions."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ..common.config.sections import Config
from ..common.config.verifiers import VerifiersConfig
from ..common.data.records import is_unicode
from ..common.errors import DataError, UserError
from ..common.monitoring.endpoint import serve_http
from ..common.monitoring.exposition import Metric, MetricKind, unit_name
from ..common.monitoring.vitals import Vitals
from ..common.types import FinishReason, Prompt, Verdict
from ..verifiers.registry import check_prompt
from ..verifiers.user_verifiers import declared
from ..verifiers.workers.pool import make_pool
from ..verifiers.workers.server import VerifierServer

TELL_S = 1.0  # between two looks at the counters
STUCK_S = 60.0  # an event loop that does not turn for so long is stuck


def serve_hosts(cfg: Config, address: str) -> int:
    """Judge for other hosts until SIGTERM or SIGINT. Raises AddressInUse, ConfigError, VerifierFailure."""
    # no run knows of it, so it leaves no trace in the folder of one
    vitals = Vitals("verifier", f"verifier-{os.uname().nodename}-{os.getpid()}", cfg.run.name)
    try:
        with serve_http(cfg, vitals, address):
            asyncio.run(_serve(cfg.verifiers, address, vitals))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return 0


async def _tell(vitals: Vitals, server: VerifierServer) -> None:
    """Publish what the server counts, and that its loop turns."""
    while True:
        vitals.enter("judges", limit_s=STUCK_S)
        about = "since the process started"
        vitals.publish(
            Metric(f"verifier_{unit_name(name)}", float(count), MetricKind.counter, about=about)
            for name, count in server.counters.items()
        )
        await asyncio.sleep(TELL_S)


async def _serve(cfg: VerifiersConfig, address: str, vitals: Vitals) -> None:
    server = VerifierServer.bind(cfg, address)
    try:
        await server.start()
        telling = asyncio.create_task(_tell(vitals, server))
        running = asyncio.create_task(server.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        print(f"prolong verifier: {cfg.workers} workers at {server.endpoint}", flush=True)
        await asyncio.wait([running])
        telling.cancel()
        if not running.cancelled():
            running.result()
    finally:
        await server.close()
        counts = ", ".join(f"{name} {count}" for name, count in sorted(server.counters.items()))
        print(f"prolong verifier: {counts}", flush=True)


def judge_file(cfg: VerifiersConfig, path: str) -> int:
    """Print a verdict as JSON for every line of `path` ("-": standard input); 1 if one has no reward. Raises UserError."""
    own = declared(cfg.own)
    jobs = []
    for line, text in enumerate(_lines(path), start=1):
        try:
            jobs.append(_to_job(json.loads(text)))
            check_prompt(jobs[-1][0], own)
        except (ValueError, UserError) as error:
            raise DataError(f"{path}, line {line}: {str(error).removeprefix('prompt : ')}") from error
    verdicts = asyncio.run(_judge_all(cfg, jobs))
    for verdict in verdicts:
        print(json.dumps(msgspec.to_builtins(verdict)))
    return 1 if any(verdict.reward is None for verdict in verdicts) else 0


def _lines(path: str) -> list[str]:
    """The lines of a file that are not blank. Raises DataError."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _to_job(record: Any) -> tuple[Prompt, str]:
    """Prompt and completion of one line. Raises DataError."""
    fields = ("verifier", "completion")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in fields):
        raise DataError(
            f'got {record!r:.100}; expected {{"verifier": NAME, "completion": TEXT, "answer": any JSON, "prompt": TEXT}}'
        )
    if not is_unicode(record):
        raise DataError("half of a surrogate pair (such as \\ud83d) in a text: no UTF-8 can hold it")
    answer = record.get("answer", {})
    answer = json.dumps(answer if isinstance(answer, dict) else {"answer": answer})
    text = str(record.get("prompt", ""))
    prompt = Prompt(uid="", domain="try", task="try", text=text, token_ids=b"", verifier=record["verifier"], answer=answer)
    return prompt, record["completion"]


async def _judge_all(cfg: VerifiersConfig, jobs: list[tuple[Prompt, str]]) -> list[Verdict]:
    pool = make_pool(replace(cfg, hosts=[]))
    await pool.start()
    try:
        return await asyncio.gather(*(pool.verify(prompt, text, FinishReason.stop) for prompt, text in jobs))
    finally:
        await pool.close()
