"""A judge behind HTTP: the completion is POSTed and the reward comes back as JSON, as with NeMo-Gym's resources servers.

    -> {"responses_create_params": {"input": [the prompt]}, "response": {"output": [the completion], ...}, **answer}
    <- {"reward": number, ...}

Source of the shape: NVIDIA-NeMo/Gym, nemo_gym/base_resources_server.py and resources_servers/*/client.py.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from ...common.errors import UserError
from ...common.json_object import JsonObject
from ..api import Answer, Score, Task, Verifier

TRIES = 2
MAX_RESPONSE_BYTES = 1 << 20


class HttpVerifier(Verifier):
    """Asks a service for each reward. See `from_http`."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        self._url, self._headers, self._timeout_s = url, headers, timeout_s

    def check(self, answer: Answer) -> None:
        """Accepts every answer: only the service knows which fields it needs."""

    def gold(self, answer: Answer) -> str | None:
        return None

    def score(self, task: Task) -> Score:
        request = urllib.request.Request(self._url, json.dumps(_body(task)).encode(), dict(self._headers))
        reply = _post(request, self._timeout_s)
        reward = reply.get("reward") if isinstance(reply, dict) else None
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not abs(reward) < float("inf"):
            raise ValueError(f"{self._url} answered {reply!r:.200}: expected an object with a number `reward`")
        return Score(reward=float(reward))


def from_http(url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> Verifier:
    """POST to `url` (such as http://judge:8000/verify). The answer object's keys are fields of the request.

    The worker waits for the reply: `timeout_s` bounds each silence of the service, and the pool's deadline
    (verifiers.timeout_s) the whole. A refused connection or a status of 5xx is tried once more; all other failures give no
    reward, never a 0. Raises UserError for a url that is not http.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"from_http({url!r}): expected an address that begins with http:// or https://")
    return HttpVerifier(url, {"Content-Type": "application/json", **(headers or {})}, timeout_s)


def _post(request: urllib.request.Request, timeout_s: float) -> Any:
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                text = response.read(MAX_RESPONSE_BYTES + 1)
            break
        except urllib.error.HTTPError as error:
            with error:
                if attempt == TRIES or error.code < 500:
                    raise ValueError(f"{request.full_url} answered {error.code}: {error.read(300)!r}") from error
        except OSError:
            if attempt == TRIES:
                raise
    else:
        raise AssertionError("the last try returns or raises")
    if len(text) > MAX_RESPONSE_BYTES:
        raise ValueError(f"{request.full_url} answered more than {MAX_RESPONSE_BYTES} bytes")
    return json.loads(text)


def _body(task: Task) -> JsonObject:
    said = {"type": "output_text", "text": task.completion, "annotations": []}
    message = {"id": "message", "type": "message", "role": "assistant", "status": "completed", "content": [said]}
    response = {
        "id": "rollout",
        "object": "response",
        "created_at": 0.0,
        "model": "policy",
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
    }
    asked = {"input": [{"role": "user", "content": task.prompt}]}
    return task.answer | {"responses_create_params": asked, "response": response}
