"""In what families of models differ, as far as the learner must know: attention, documents that share a row, heads."""

from __future__ import annotations

import torch
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel

from ...common.config.sections import ModelConfig
from ...common.errors import ModelError
from ...common.half_head import HeadForm
from ...common.models import causal_class, read_config
from ..batches.attention import DOCUMENTS_ATTENTION, PROBE, PlanArrived

# settings that multiply (1) or divide (-1) the logits
HEAD_SCALES = {"logit_scale": 1, "logits_scaling": -1, "lm_head_multiplier": 1}
SOFT_CAP = "final_logit_softcapping"
ONE_MORE_TOKEN = {"cohere2"}
# kinds of layers that keep the documents of a row apart
ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


def shares_rows_badly(kind: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Whether documents in one row would see each other: a state goes along the row, or the attention is the model's own."""
    layers = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    stateful = bool(getattr(kind, "_is_stateful", False)) or not layers <= ATTENTION_LAYERS
    return stateful or not getattr(kind, "_supports_attention_backend", False)


def fitting_attention(model: ModelConfig) -> str:
    """The attention implementation to load the model with: `model.attention` but for models whose rows hold one document.

    Raises: ModelError for an implementation that would leave out a part of the model.
    """
    config = read_config(model.path)
    if model.attention == "sdpa" and getattr(config, "attn_logit_softcapping", None):
        raise ModelError(
            f"model.attention = {model.attention!r}: it would leave out attn_logit_softcapping of {model.path}; "
            f"use model.attention={DOCUMENTS_ATTENTION}"
        )
    if model.attention != DOCUMENTS_ATTENTION:
        return model.attention
    kind = causal_class(model.path)
    if not shares_rows_badly(kind, config):
        return DOCUMENTS_ATTENTION
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


@torch.no_grad()
def passes_plans(causal: PreTrainedModel) -> bool:
    """Whether the model hands the plan of a micro-batch on to its attention. Runs up to the first layer's attention.

    Parameters on meta count as zeros, in the memory of a single number.
    """
    backbone = causal.base_model
    zeros = {name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in backbone.named_parameters() if p.is_meta}
    device = torch.device("cpu") if zeros else causal.device
    settings = {"attention_mask": None, "use_cache": False, "plan": PROBE}
    tokens = {"input_ids": torch.zeros(1, 2, dtype=torch.int64, device=device)}
    positions = {"position_ids": torch.arange(2, device=device)[None]}
    try:
        functional_call(backbone, zeros, kwargs=tokens | positions | settings)
    except PlanArrived:
        return True
    except TypeError:
        # the attention function misses the plan, or the model knows no such argument
        return False
    return False


def settle_windows(causal: PreTrainedModel) -> None:
    """Widen the windows of documents attention where the engine's see one token more: [i - window, i] (Cohere 2)."""
    if causal.config.model_type not in ONE_MORE_TOKEN or causal.config._attn_implementation != DOCUMENTS_ATTENTION:
        return
    for module in causal.modules():
        window = getattr(module, "sliding_window", None)
        if isinstance(window, int):
            # nn.Module does not declare the attribute
            setattr(module, "sliding_window", window + 1)  # noqa: B010


def head_form(config: PreTrainedConfig) -> HeadForm:
    """What the model's head does to its linear logits, by the names that transformers gives it in configurations."""
    scale = 1.0
    for name, sign in HEAD_SCALES.items():
        scale *= (getattr(config, name, None) or 1.0) ** sign
    return HeadForm(scale=scale, soft_cap=getattr(config, SOFT_CAP, None) or None)


def check_sharing(causal: PreTrainedModel, ranks: int) -> None:
    """Whether `ranks` ranks can share each micro-batch of the model. Raises: ModelError."""
    config = causal.config.get_text_config(decoder=True)
    heads = int(getattr(config, "num_attention_heads", 0))
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    attention = str(causal.config._attn_implementation)
    why = None
    if attention != DOCUMENTS_ATTENTION:
        why = f"its attention is {attention!r}, and only {DOCUMENTS_ATTENTION!r} can be shared"
    elif heads % ranks or (key_heads % ranks and ranks % key_heads):
        why = f"its {heads} heads with {key_heads} key heads cannot be dealt out to {ranks} ranks evenly"
    elif any(getattr(module, "rope_type", None) == "dynamic" for module in causal.modules()):
        why = "its rotary embedding depends on the longest position of a forward pass, which ranks would not agree on"
    if why is not None:
        raise ModelError(
            f"learner.context_parallel = {ranks}: {type(causal).__name__} cannot be shared by ranks, because {why}; "
            "set learner.context_parallel=1, or to a divisor of the heads"
        )
