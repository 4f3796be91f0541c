"""The sampling of training tickets is that of the configuration, setting by setting."""

from __future__ import annotations

from dataclasses import asdict

from msgspec.structs import asdict as fields_of
from prolong.buffer.tickets.settings import TicketSettings
from prolong.common.config.sections import Config, SamplingConfig


def test_every_setting_of_sampling_is_in_the_tickets() -> None:
    cfg = Config()
    cfg.sampling = SamplingConfig(n=3, temperature=0.7, top_p=0.9, top_k=30, min_p=0.05, stop=["a", "b"], max_tokens=17)
    sampling = fields_of(TicketSettings.from_config(cfg).sampling)
    assert sampling | {"stop": list(sampling["stop"])} == asdict(cfg.sampling)
