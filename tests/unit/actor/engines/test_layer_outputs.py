"""What is read from a model's layers is what transformers itself calls their hidden states."""

from pathlib import Path

import torch
from prolong.actor.engines.layer_outputs import EMBEDDING, FINAL, LayerOutputs, layer_list
from transformers import AutoModelForCausalLM

from tests.support.tiny_model import make_tiny_model


def test_stages_are_the_hidden_states_of_the_model(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path, tied=False), dtype=torch.float32)
    watch = LayerOutputs(model.base_model, model.config.num_hidden_layers, model.config.hidden_size)
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    found = watch.take()
    assert list(found) == [EMBEDDING, "layer 0", "layer 1", FINAL]
    assert torch.equal(found[EMBEDDING], expected[0][0])
    assert torch.equal(found["layer 0"], expected[1][0])
    # transformers gives the last layer's output after the norm
    assert torch.equal(found[FINAL], expected[2][0])
    with torch.no_grad():
        model(tokens)
    assert watch.found[EMBEDDING].shape == (4, 64), "the hooks are gone"


def test_a_residual_that_a_layer_hands_on_is_added_and_pieces_of_a_prompt_are_joined() -> None:
    class Layer(torch.nn.Module):
        def forward(self, positions: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return states, 2 * states

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Layer()])

        def forward(self, positions: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            states, residual = self.layers[0](positions, states)
            return states + residual

    model = Model()
    watch = LayerOutputs(model, 1, 8)
    for size in (3, 2):
        model(torch.arange(size), torch.ones(size, 8))
    found = watch.take()
    assert torch.equal(found["layer 0"], 3 * torch.ones(5, 8))
    assert torch.equal(found[FINAL], 3 * torch.ones(5, 8))
    assert layer_list(model, 7) == []
