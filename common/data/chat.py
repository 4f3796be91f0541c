"""How a source's prompts become chats: `data.*.chat`, `system` and `template`.

text or messages of a record --as_chat--> messages, or the bare text --chat template--> the text that the model continues
"""

from __future__ import annotations

from ..config.sections import SourceConfig
from ..errors import DataError
from ..json_object import JsonObject


def as_chat(prompt: str | list[JsonObject], source: SourceConfig) -> str | list[JsonObject]:
    """The messages of a prompt, or its bare text where the source wraps none. Raises: DataError.

    A text becomes the user's message with `chat`. `system` goes before messages that begin with no system message of their own.
    """
    if isinstance(prompt, str):
        if not source.chat:
            unread = next((key for key in ("system", "template") if getattr(source, key)), "")
            if unread:
                raise DataError(f"its source has {unread}, which bare text does not pass through; set chat: true there")
            return prompt
        prompt = [{"role": "user", "content": prompt}]
    first = prompt[0]
    has_system = isinstance(first, dict) and first.get("role") in ("system", "developer")
    if not source.system or has_system:
        return prompt
    return [{"role": "system", "content": source.system}, *prompt]
