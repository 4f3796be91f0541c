"""The versions of the weights that clients hold, by version: who lacks one is found without asking everybody."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

NOTHING = (-1, -1)
NAMED = 8  # clients in a sentence


class HeldVersions:
    """(generation, version) by client, and the clients of each.

    Example:
        held = HeldVersions()
        held.note("actor-0", 1, 7)
        held.lacking(1, 8)      # ["actor-0"]
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, int]] = {}
        self._holders: dict[tuple[int, int], dict[str, None]] = {}

    def note(self, name: str, generation: int, version: int) -> None:
        """A client may generate with this version; below 0: with none."""
        held = (generation, version) if version >= 0 else NOTHING
        if self._held.get(name) == held:
            return
        self.forget(name)
        self._held[name] = held
        self._holders.setdefault(held, {})[name] = None

    def forget(self, name: str) -> None:
        """A client is gone."""
        held = self._held.pop(name, None)
        if held is not None:
            del self._holders[held][name]
            if not self._holders[held]:
                del self._holders[held]

    def lacking(self, generation: int, version: int) -> list[str]:
        """Clients that hold no weights of this generation, or older ones than `version` (-1: any version will do).

        It costs as much as there are different versions, and such clients.
        """
        poor = [names for (of, held), names in self._holders.items() if held < 0 or of != generation or held < version]
        return list(chain.from_iterable(poor))


def names_text(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} others" if more > 0 else "")
