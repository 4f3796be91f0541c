"""The target `skypilot` of `prolong launch`."""

from __future__ import annotations

from ...common.errors import UserError
from .api import LaunchJob, Rendered


class SkyPilot:
    """Renders a run for SkyPilot."""

    summary = "SkyPilot"

    def render(self, job: LaunchJob) -> Rendered:
        """Not there yet."""
        raise UserError("prolong launch skypilot: not there yet")
