"""A judge behind HTTP: POST of the completion, the reward comes back as JSON, as NeMo-Gym's resources servers do it.

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
from ..api import Score, Task, Verifier

TRIES = 2
MAX_RESPONSE_BYTES = 1 << 20


def from_http(url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> Verifier:
    """POST to `url` (such as http://judge:8000/verify). The answer object's keys are fields of the request.

    Waits in the worker: the deadline of the pool (verifiers.timeout_s) ends it, `timeout_s` is that of each silence.
    A refused connection or a status of 5xx is tried once more; anything else that is no reward gives no reward, never a 0.
    Raises UserError for what is no http address.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"from_http({url!r}): expected an address that begins with http:// or https://")
    sent_headers = {"Content-Type": "application/json"} | dict(headers or {})

    def score(task: Task) -> Score:
        request = urllib.request.Request(url, json.dumps(_body(task)).encode(), sent_headers)
        answer = _post(request, timeout_s)
        reward = answer.get("reward") if isinstance(answer, dict) else None
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not abs(reward) < float("inf"):
            raise ValueError(f"{url} answered {answer!r:.200}: expected an object with a number `reward`")
        return Score(reward=float(reward))

    def check(answer: dict[str, Any]) -> None:
        """What fields the judge needs is its own to say."""

    return Verifier(check=check, score=score, probe=None)


def _post(request: urllib.request.Request, timeout_s: float) -> Any:
    for last in [False] * (TRIES - 1) + [True]:
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                text = response.read(MAX_RESPONSE_BYTES + 1)
            break
        except urllib.error.HTTPError as error:
            with error:
                if last or error.code < 500:
                    raise ValueError(f"{request.full_url} answered {error.code}: {error.read(300)!r}") from error
        except OSError:
            if last:
                raise
    if len(text) > MAX_RESPONSE_BYTES:
        raise ValueError(f"{request.full_url} answered more than {MAX_RESPONSE_BYTES} bytes")
    return json.loads(text)


def _body(task: Task) -> dict[str, Any]:
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
