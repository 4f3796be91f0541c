"""A model behind HTTP that judges open answers: asked through an OpenAI-compatible chat endpoint, cached, bounded.

    (question, stored answer, answer) --cache, or a request under way for the same--> POST /chat/completions --> right or wrong
                                                  ^--- again after 429, 5xx, a broken connection or a timeout, later each time

Whatever goes wrong with the service is a JudgeError, which means no reward. The API key is read from the environment variable
that the configuration names, goes into one header, and is taken out of every message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections import Counter, OrderedDict
from pathlib import Path

from ...common.config.verifiers import JudgeConfig
from ...common.errors import ConfigError, VerifierFailure
from .http_post import Endpoint, Reply, post_json
from .judge_prompt import TEMPLATE, request_body, verdict_in

TRIES = 4
BACKOFF_S = 0.5  # before the second try; doubled for each further one
MAX_BACKOFF_S = 20.0  # also where the service asks for more
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class JudgeError(VerifierFailure):
    """The judge gave no verdict. timed_out: because its answer took too long."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class VerdictCache:
    """Verdicts by the hash of what was asked, without those not used for the longest; with a file, those of earlier runs too.

    The file holds hashes and verdicts, one JSON object a line, and no texts. Processes of one machine may share it.
    """

    def __init__(self, size: int, path: str = "") -> None:
        """Raises ConfigError for a file that cannot be read and written. Lines that are no verdicts are left out."""
        self._size, self._path, self._verdicts = size, Path(path) if path else None, OrderedDict[str, bool]()
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+", encoding="utf-8", errors="replace") as file:
                file.seek(0)
                for line in file:
                    self._take(line)
        except OSError as error:
            raise ConfigError(f"verifiers.judge.cache_file = {path!r}: cannot be used: {error}") from error

    def _take(self, line: str) -> None:
        try:
            record = json.loads(line)
            key, right = record["key"], record["right"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(key, str) and isinstance(right, bool):
            self._keep(key, right)

    def _keep(self, key: str, right: bool) -> None:
        self._verdicts[key] = right
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > self._size:
            self._verdicts.popitem(last=False)

    def find(self, key: str) -> bool | None:
        if (right := self._verdicts.get(key)) is not None:
            self._verdicts.move_to_end(key)
        return right

    def add(self, key: str, right: bool) -> None:
        """Raises OSError where the file cannot be written."""
        self._keep(key, right)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "right": right}) + "\n")


class ModelJudge:
    """Asks the model; `concurrency` requests are in flight at most. counters: events by name, for metrics."""

    def __init__(self, cfg: JudgeConfig, counters: Counter[str]) -> None:
        """Raises ConfigError for an address or a cache file that cannot be used, or an API key that the environment lacks."""
        url = cfg.url.rstrip("/")
        self._endpoint = Endpoint.parse(
            "verifiers.judge.url", url if url.endswith("/chat/completions") else f"{url}/chat/completions"
        )
        self._model, self._timeout_s, self._key = cfg.model, cfg.timeout_s, ""
        if cfg.api_key_env:
            self._key = os.environ.get(cfg.api_key_env, "").strip()
            if not self._key or not self._key.isascii() or not self._key.isprintable():
                raise ConfigError(
                    f"verifiers.judge.api_key_env = {cfg.api_key_env!r}: this process has no such environment variable with a "
                    f"key in it; export {cfg.api_key_env}=... where it is started"
                )
        self._free = asyncio.Semaphore(cfg.concurrency)
        self._cache = VerdictCache(cfg.cache_size, cfg.cache_file)
        self._under_way: dict[str, asyncio.Future[bool]] = {}
        self._counters = counters

    async def ask(self, question: str, reference: str, answer: str) -> bool:
        """Whether the model holds the answer to be right. Equal questions are asked once.

        Blocks for at most TRIES requests and pauses, after those that wait before it. Raises JudgeError.
        """
        told = json.dumps([TEMPLATE, self._model, question, reference, answer])
        key = hashlib.sha256(told.encode()).hexdigest()
        while (found := self._cache.find(key)) is None and key in self._under_way:
            await asyncio.wait([self._under_way[key]])
        if found is not None:
            self._counters["judge/cached"] += 1
            return found
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            async with self._free:
                right = await self._asked(question, reference, answer)
            self._remember(key, right)
            return right
        finally:
            del self._under_way[key]
            future.cancel()

    def _remember(self, key: str, right: bool) -> None:
        try:
            self._cache.add(key, right)
        except OSError:
            # a full disk costs later requests, not this verdict
            self._counters["judge/cache_failures"] += 1

    async def _asked(self, question: str, reference: str, answer: str) -> bool:
        body = request_body(self._model, question, reference, answer)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        for attempt in range(1, TRIES + 1):
            self._counters["judge/requests"] += 1
            pause_s = BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            try:
                reply = await post_json(self._endpoint, headers, body, self._timeout_s)
            except (OSError, ValueError) as error:
                if attempt == TRIES or isinstance(error, ValueError):
                    raise self._error(f"{error!r:.200}", timed_out=isinstance(error, TimeoutError)) from None
            else:
                if reply.status not in BUSY:
                    return self._verdict(reply)
                if attempt == TRIES:
                    raise self._error(f"status {reply.status}: {reply.body[:200]!r}")
                pause_s = max(pause_s, _asked_to_wait_s(reply))
            self._counters["judge/retries"] += 1
            await asyncio.sleep(min(pause_s, MAX_BACKOFF_S))
        raise AssertionError("the last try returns or raises")

    def _verdict(self, reply: Reply) -> bool:
        if reply.status != 200:
            raise self._error(f"status {reply.status}: {reply.body[:200]!r}")
        try:
            right = verdict_in(json.loads(reply.body))
        except (ValueError, RecursionError):
            right = None
        if right is None:
            self._counters["judge/unreadable"] += 1
            raise self._error(f"it answered neither CORRECT nor INCORRECT: {reply.body[:200]!r}")
        return right

    def _error(self, why: str, *, timed_out: bool = False) -> JudgeError:
        self._counters["judge/failures"] += 1
        where = f"{self._endpoint.host}:{self._endpoint.port}"
        text = f"the judge at {where}: {why}"
        return JudgeError(text.replace(self._key, "***") if self._key else text, timed_out=timed_out)


def _asked_to_wait_s(reply: Reply) -> float:
    """The seconds of a Retry-After header; 0 without one."""
    value = reply.headers.get("Retry-After", "")
    return float(value) if value.isdigit() and len(value) < 6 else 0.0
