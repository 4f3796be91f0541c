"""All that the rules find in a run, in the order of its steps."""

from __future__ import annotations

from .diagnosis import Finding
from .learning_rules import learning_findings
from .rollout_rules import rollout_findings
from .run_records import RunRecords


def find_all(run: RunRecords) -> tuple[Finding, ...]:
    """The findings of every rule."""
    found = [*learning_findings(run), *rollout_findings(run)]
    return tuple(sorted(found, key=lambda finding: (finding.step, finding.rule)))
