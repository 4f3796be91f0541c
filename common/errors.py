"""The errors of prolong. Messages say what happened, the value, what was expected, and what to do.

ProlongError
+- UserError                exit code 2: the caller can correct it
|  +- ConfigError           a key, its value, what was expected
|  +- DataError             a prompt file or an empty prompt set
|  +- ModelError            a model or tokenizer that cannot be loaded
|  +- AddressInUse
|  +- AlertStop              an alert stopped the run, whose last version is saved
|  +- PolicyMismatch         engine and learner compute different policies from the same weights
|  +- HandshakeRefused      the buffer refused: another protocol or tokenizer, or a second learner
+- WireError                bytes from outside that are not a valid message
|  +- WireVersionError
|  +- WireSizeError
|  +- WireChecksumError
|  +- WireSchemaError
+- DeadlineExceeded         the awaited event did not happen in time
|  +- LearnerStarved        no batch in time
+- BufferUnreachable        no handshake or no heartbeat in time: the connection is lost
+- RunStopped               the buffer said Stop: exit code 0 when the run is over, 1 when it failed
+- LedgerError              a transition that the ledger does not know, or an unbalanced ledger
+- JournalError             the buffer's disk is locked, broken or unreadable
|  +- JournalFull           the disk is full: nothing was written, and the commit may be tried again
+- CheckpointError          a checkpoint could not be written
+- StalenessViolation       a batch that breaks the contract reached the learner
+- NonFiniteUpdate          too many skipped updates in a row
+- VerifierFailure          too many verdicts without a reward
+- WeightsError             a broadcast that failed twice, or a checksum that differs
"""

from __future__ import annotations


class ProlongError(Exception):
    """Base of all errors that prolong raises on purpose."""

    exit_code = 1


class UserError(ProlongError):
    """An error that the caller can correct; printed as one sentence, exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration key that is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A prompt file that cannot be used."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded."""


class AddressInUse(UserError):
    """The buffer's address is taken."""


class AlertStop(UserError):
    """A limit of `alerts` was passed whose answer is to stop the run."""


class PolicyMismatch(UserError):
    """Engine and learner give the same tokens under the same weights different log-probabilities."""


class HandshakeRefused(UserError):
    """The buffer refused this client."""


class WireError(ProlongError):
    """Bytes from outside that are not a valid message."""


class WireVersionError(WireError):
    """The frame has another schema version."""


class WireSizeError(WireError):
    """The frame is larger than the limit, or too short."""


class WireChecksumError(WireError):
    """The payload differs from the one that was sent."""


class WireSchemaError(WireError):
    """The payload does not decode to the type that was expected."""


class DeadlineExceeded(ProlongError):
    """The awaited event did not happen in time."""


class LearnerStarved(DeadlineExceeded):
    """The learner got no batch, or no last validation, in time."""


class BufferUnreachable(ProlongError):
    """No handshake in time, or silence for longer than a client bears: no message will come any more."""


class RunStopped(ProlongError):
    """The buffer said Stop. `failed` tells a run that is over from one that cannot go on."""

    def __init__(self, reason: str, *, failed: bool = False) -> None:
        super().__init__(reason)
        self.exit_code = 1 if failed else 0


class LedgerError(ProlongError):
    """A transition that the ledger does not allow."""


class JournalError(ProlongError):
    """The buffer's disk is locked, broken or unreadable."""


class JournalFull(JournalError):
    """The disk has no room for a commit: nothing of it was written, and it may be tried again."""


class CheckpointError(ProlongError):
    """A checkpoint could not be written; earlier ones are unchanged."""


class StalenessViolation(ProlongError):
    """A batch that breaks the staleness contract reached the learner."""


class NonFiniteUpdate(ProlongError):
    """Too many updates in a row had a non-finite loss or gradient."""


class VerifierFailure(ProlongError):
    """Too many verdicts have no reward."""


class WeightsError(ProlongError):
    """Weights could not be sent, or other bytes arrived than were sent."""


def require(condition: bool, key: str, got: object, expected: str) -> None:
    """Raise ConfigError with the dotted key unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} = {got!r}: expected {expected}")


def root_error(group: BaseExceptionGroup) -> BaseException:
    """The first error of a group, however deep it lies: the others followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
