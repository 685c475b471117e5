"""The settlement bound: the worst-case time from an event's 202 to its final status.

It holds while Redis, DynamoDB and a worker of every queue are available and the queues are short;
time without one of them, and time in the queues, is added.

::

    N * (V + R)    killed before the claim: Redis hands the message out again, N times at most
  + N * (L + S)    killed after the claim: the lease expires and the next sweep takes over

with N = MAX_DISPATCHES, V = VISIBILITY_TIMEOUT_SECONDS, R = RESTORE_INTERVAL,
L = CLAIM_LEASE_SECONDS, S = SWEEP_INTERVAL_SECONDS. A dispatch whose worker is not killed ends
within L: settings are refused where all attempts of a sink may take longer.
"""

from tasks.settings.model import Settings

#: Seconds between two polls of a worker for messages of lost workers (celeryconfig.py).
RESTORE_INTERVAL = 10


def worst_case_settlement_seconds(settings: Settings) -> int:
    """Return the bound, in seconds."""
    before_claim = settings.visibility_timeout + RESTORE_INTERVAL
    after_claim = settings.claim_lease + settings.sweep_interval
    return settings.max_dispatches * (before_claim + after_claim)
