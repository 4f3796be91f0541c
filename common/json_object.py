"""The type of a JSON object from outside. A module of its own, because commands that must start at once import it."""

from typing import Any

# An answer, an entry of a data set, a configuration file: its reader checks what it takes from it.
JsonObject = dict[str, Any]
