"""A second weight transport, small but real: the one that docs/extending.md adds, imported from its diff.

It shows that the seam holds: senders, the buffer and downloads run over it unchanged, and it keeps the contract.
"""

from __future__ import annotations

import sys
from types import ModuleType

from prolong.common.weights.api import WeightTransport

from tests.support.extension import added_file, diff_of

HEADING = "A weight transport"
PATH = "common/weights/folder.py"


def folder_transport() -> WeightTransport:
    """`FolderTransport()` of the page."""
    name = "prolong.common.weights.folder"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__package__ = "prolong.common.weights"
        exec(compile(added_file(diff_of(HEADING), PATH), f"docs/extending.md, {PATH}", "exec"), module.__dict__)
        sys.modules[name] = module
    return sys.modules[name].FolderTransport()
