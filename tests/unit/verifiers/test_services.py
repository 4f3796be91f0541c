"""Judges outside of the worker. Their replies are tested in tests/integration/test_adapters.py."""

import sys
from pathlib import Path

from prolong.verifiers.services.environments import HOST


def test_no_module_in_the_folder_of_a_script_has_a_name_of_the_standard_library():
    """Python puts a script's folder in front of its path: a http.py there would be imported for the library's."""
    assert HOST.is_file()
    assert not {path.stem for path in Path(HOST).parent.glob("*.py")} & sys.stdlib_module_names
