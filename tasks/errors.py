"""The errors that pass from one package of this project to another: one root, few classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from celery.exceptions import SoftTimeLimitExceeded

#: Raised at any point of a delivery task whose soft time limit has passed.
AttemptTimeoutError = SoftTimeLimitExceeded


class ProcessorError(Exception):
    """Root of all errors below."""


class SettingsError(ProcessorError):
    """Raised when settings are wrong or missing, so that a process cannot start.

    ``problems`` has a line for everything that is wrong, each naming its variable.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field. Never repeats its value, which may be personal data."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidEventError(ProcessorError):
    """Raised when an envelope or its detail is invalid (docs/interface.md); names each field."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(errors)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


class StoreError(ProcessorError):
    """Raised when DynamoDB did not answer, or answered with an error; a retry may help."""


class UnknownSchemaError(ProcessorError):
    """Raised when an item cannot be read: most likely, a newer release wrote it."""


class ClaimNotFoundError(ProcessorError):
    """Raised when an event has no claim: it never came, or its retention has passed."""


class ClaimInProgressError(ProcessorError):
    """Raised when a delivery is asked for while another task holds the claim."""


class IngestError(ProcessorError):
    """Raised when ingest is unavailable or rejects our credentials."""


class DeliveryError(ProcessorError):
    """Raised when a delivery failed: by itself for good, in the classes below for now.

    The message names no URL and no part of the event or the answer: logs and Flower show it.
    ``status`` is that of the answer, 0 without one; ``response`` is an excerpt of it, which only
    the claim keeps.
    """

    status: int = 0
    response: str | None = None


class ParkedError(DeliveryError):
    """Raised in place of a call where the sink's breaker is open; it is delivered later."""


class TransientDeliveryError(DeliveryError):
    """Raised when a sink could not take an event now; a retry may get through.

    ``retry_after`` is how many seconds the sink asked us to wait, where it did.
    ``counts_as_failure``: to the circuit breaker, it means that the sink is unhealthy (no
    connection, no answer in time, 5xx), and not only busy (408, 425, 429).
    """

    def __init__(
        self, message: str, retry_after: float | None = None, *, counts_as_failure: bool = True
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.counts_as_failure = counts_as_failure

    def prefixed(self, what: str) -> "TransientDeliveryError":
        """Return the same error with ``what`` before its message."""
        return TransientDeliveryError(
            f"{what}: {self}", self.retry_after, counts_as_failure=self.counts_as_failure
        )


class ContextMissingError(TransientDeliveryError):
    """Raised in place of a call where an event waits for its context; it is delivered later."""


class RateLimitExceededError(ProcessorError):
    """Raised where a sink's limits let no call through in time; ``wait`` is in seconds.

    Nothing is wrong with the delivery: it is to be put back for that long.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.wait = wait
