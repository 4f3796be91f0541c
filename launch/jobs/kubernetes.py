"""The target `kubernetes` of `prolong launch`."""

from __future__ import annotations

from ...common.errors import UserError
from .api import LaunchJob, Rendered


class Kubernetes:
    """Renders a run for Kubernetes."""

    summary = "Kubernetes"

    def render(self, job: LaunchJob) -> Rendered:
        """Not there yet."""
        raise UserError("prolong launch kubernetes: not there yet")
