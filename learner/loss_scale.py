"""The factor on the loss that keeps small gradients within the range of float16 (arXiv 1710.03740, section 3.2).

Masters, reductions and the optimizer are float32; a factor that is a power of two changes nothing but the range.
"""

from __future__ import annotations

import msgspec

FIRST, LARGEST = 2.0**16, 2.0**24
# updates without an overflow after which the factor doubles
STEADY = 200


class LossScale(msgspec.Struct, frozen=True):
    """The factor, and how it got there. A checkpoint holds it.

    Example: LossScale().overflowed().factor == 32768.0
    """

    factor: float = FIRST
    # updates since the factor changed
    steady: int = 0
    # updates that were left out because gradients overflowed under it
    overflows: int = 0

    def overflowed(self) -> LossScale:
        """Return the scale after an update whose gradients were not finite."""
        return LossScale(factor=max(self.factor / 2, 1.0), overflows=self.overflows + 1)

    def worked(self) -> LossScale:
        """Return the scale after an update that was taken."""
        if self.steady + 1 < STEADY:
            return LossScale(factor=self.factor, steady=self.steady + 1, overflows=self.overflows)
        return LossScale(factor=min(self.factor * 2, LARGEST), overflows=self.overflows)
