"""The age of groups: by which of its tokens a group must be trained, and how old those of a batch are.

Under the policy `mask` tokens that are too old are left out of training, the others of their group are not: so its newest
tokens decide its deadline, and its age is that of the oldest ones that are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...common.config.sections import Straggler
from ...common.errors import StalenessViolation
from ...common.types import Group


class GroupAges:
    """Ages in versions, under one policy."""

    def __init__(self, straggler: Straggler, maximum: int) -> None:
        """`maximum`: the staleness at which a group may be trained whose ticket does not say."""
        self._masks, self._maximum = straggler is Straggler.mask, maximum

    def deadline_version(self, group: Group) -> int:
        """The version that decides by when a group must be trained."""
        return group.newest_version if self._masks else group.oldest_version

    def of_batch(self, groups: Sequence[Group], version: int) -> dict[str, float]:
        """Mean and maximum of a batch that is trained at `version`. Raises StalenessViolation above the eta of a ticket."""
        ages = [self._staleness(group, version) for group in groups]
        for age, group in zip(ages, groups, strict=True):
            allowed = group.allowed_staleness(self._maximum)
            if age > allowed:
                raise StalenessViolation(
                    f"group {group.ordinal} of staleness {age} was chosen at version {version}, its ticket allows {allowed}"
                )
        return {"buffer/staleness_mean": sum(ages) / len(ages), "buffer/staleness_max": float(max(ages))}

    def _staleness(self, group: Group, version: int) -> int:
        """Age of the oldest token that will be trained at `version`."""
        if not self._masks:
            return version - group.oldest_version
        allowed = group.allowed_staleness(self._maximum)
        versions = (span.version for rollout in group.rollouts for span in rollout.spans)
        return version - min(v for v in versions if v + allowed >= version)
