"""`prolong verifier`: a pool of verifier workers for the actors of other hosts; or, with --try, for a file of completions."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ..common.config.verifiers import VerifiersConfig
from ..common.data.records import is_unicode
from ..common.errors import DataError, UserError
from ..common.types import FinishReason, Prompt, Verdict
from ..verifiers.registry import check_prompt
from ..verifiers.user_verifiers import declared
from ..verifiers.workers.pool import make_pool
from ..verifiers.workers.server import VerifierServer


def serve_hosts(cfg: VerifiersConfig, address: str) -> int:
    """Judge for other hosts until SIGTERM or SIGINT. Raises AddressInUse, ConfigError, VerifierFailure."""
    try:
        asyncio.run(_serve(cfg, address))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return 0


async def _serve(cfg: VerifiersConfig, address: str) -> None:
    server = VerifierServer.bind(cfg, address)
    try:
        await server.start()
        running = asyncio.create_task(server.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        print(f"prolong verifier: {cfg.workers} workers at {server.endpoint}", flush=True)
        await asyncio.wait([running])
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
