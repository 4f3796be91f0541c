"""The page: the data of a run as JSON, between the style and the scripts of assets/. Nothing in it is fetched.

What models wrote is data: it stays inside JSON, in which "<" is escaped, and the scripts put it on the page as text. The page's
own policy forbids every script but these, and every connection.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import msgspec

from ...common.json_object import JsonObject

ASSETS = Path(__file__).resolve().parent / "assets"
SCRIPTS = ("drawing.js", "charts.js", "sections.js", "rollouts.js", "start.js")  # in the order in which they need each other


@dataclass(frozen=True, slots=True)
class PageParts:
    """The parts of a page that do not depend on the run."""

    style: str
    script: str
    body: str

    @classmethod
    def load(cls) -> PageParts:
        """From the installed files."""
        script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
        return cls(
            (ASSETS / "page.css").read_text(encoding="utf-8"), script, (ASSETS / "body.html").read_text(encoding="utf-8")
        )

    def render(self, title: str, facts: JsonObject, rollouts: bytes) -> Iterator[bytes]:
        """The parts of the file, in order. `rollouts`: JSON; it comes last: a browser draws the rest before that."""
        policy = (
            f"default-src 'none'; script-src {_digest(self.script)}; style-src {_digest(self.style)}; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        )
        yield (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n<style>{self.style}</style>\n</head>\n<body>\n{self.body}"
        ).encode()
        yield from _script_of("run-data", msgspec.json.encode(facts))
        yield f"<script>{self.script}</script>\n".encode()
        yield from _script_of("rollout-data", rollouts)
        yield b"</body>\n</html>\n"


def _script_of(name: str, encoded: bytes) -> Iterator[bytes]:
    yield f'<script type="application/json" id="{name}">'.encode()
    yield encoded.replace(b"<", b"\\u003c")
    yield b"</script>\n"


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
