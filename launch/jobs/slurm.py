"""The target `slurm` of `prolong launch`."""

from __future__ import annotations

from ...common.errors import UserError
from .api import LaunchJob, Rendered


class Slurm:
    """Renders a run for Slurm."""

    summary = "Slurm"

    def render(self, job: LaunchJob) -> Rendered:
        """Not there yet."""
        raise UserError("prolong launch slurm: not there yet")
