"""Questions about a picture, which a text cannot ask: the picture is in a column of its own, or linked in the question."""

from __future__ import annotations

import re

from ...common.json_object import JsonObject
from .fields import LeftOut, is_empty

COLUMNS = ("images", "image", "image_1", "decoded_image")
_SUFFIX = r"\.(?:png|jpe?g|gif|svg|webp|bmp|tiff?)\b"
# ![caption](address), <img src="...">, \includegraphics{file}, <image 1>. The address is asked for: 5![2](3) is mathematics.
_LINK = re.compile(
    rf"!\[[^\]\n]*\]\(\s*<?(?:https?:|//|data:image|attachment:|[^()\n]*{_SUFFIX})"
    r"|<img\b[^<>]*\bsrc\s*="
    r"|\\includegraphics\s*[\[{]"
    r"|<image(?:[ _]?\d+)?>",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)  # in backticks a link is an example of one


def refuse_picture_columns(record: JsonObject) -> None:
    """Raises: LeftOut for a record with a picture in a column."""
    if filled := [name for name in COLUMNS if not is_empty(record.get(name))]:
        raise LeftOut("a question about a picture", f"in the column {filled[0]}")


def refuse_linked_pictures(question: str) -> None:
    """Raises: LeftOut for a question that links a picture. Drawings that are text, such as the code of Asymptote, are kept."""
    if _LINK.search(question) and (link := _LINK.search(_CODE.sub("", question))):
        raise LeftOut("a question about a picture", f"it has {link[0]:.80}")
