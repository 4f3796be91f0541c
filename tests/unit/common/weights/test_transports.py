from __future__ import annotations

import pytest
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import ConfigError, WeightsError
from prolong.common.weights.collective import CollectiveTransport
from prolong.common.weights.transports import ENGINE_TRANSPORTS, broadcast_transport, configured_transport, transport_named


def test_the_default_is_the_collective_broadcast() -> None:
    assert isinstance(configured_transport(WeightsConfig()), CollectiveTransport)
    assert isinstance(broadcast_transport(WeightsConfig()), CollectiveTransport)


def test_nothing_is_broadcast_where_all_actors_pull() -> None:
    assert broadcast_transport(WeightsConfig(transport="pull")) is None


def test_a_setting_that_names_no_transport_is_refused_with_its_key_and_the_names_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"weights\.transport = 'pigeon': expected one of collective, pull"):
        broadcast_transport(WeightsConfig(transport="pigeon"))


def test_a_peer_that_names_no_transport_is_an_error_of_the_weights() -> None:
    with pytest.raises(WeightsError, match="no weight transport is called 'pigeon'"):
        transport_named("pigeon", ENGINE_TRANSPORTS)
