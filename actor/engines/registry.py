"""Which engine `actor.engine` names. Each is imported when it is chosen: vLLM alone takes seconds to import."""

from __future__ import annotations

from ...common.config.choices import EngineKind
from .api import Engine


def engine_class(kind: EngineKind) -> type[Engine]:
    """The engine of that name; `await engine_class(kind).start(...)` builds one."""
    match kind:
        case EngineKind.vllm:
            from .vllm.engine import VllmEngine

            return VllmEngine
        case EngineKind.transformers:
            from .transformers.engine import TransformersEngine

            return TransformersEngine
