"""The bound: how long an event may take from its 202 to its final status, whatever dies.

It holds while Redis, DynamoDB and a worker of every queue are up and the queues are not backed
up; time that one of them is away, and time in the queues, comes on top.

::

    N * (V + R)    killed before the claim: Redis hands the message out again, N times at most
  + N * (L + S)    killed after the claim: the lease runs out and the next sweep takes over

with N = MAX_DISPATCHES, V = VISIBILITY_TIMEOUT_SECONDS, R = RESTORE_INTERVAL,
L = CLAIM_LEASE_SECONDS, S = SWEEP_INTERVAL_SECONDS. A start that nothing kills ends within L:
settings are refused where all tries of a sink may take longer.
"""

from tasks.settings.model import Settings

#: Seconds between two looks of a worker for messages of lost workers (celeryconfig.py).
RESTORE_INTERVAL = 10


def worst_case_settlement_seconds(settings: Settings) -> int:
    """The bound, in seconds."""
    before_claim = settings.visibility_timeout + RESTORE_INTERVAL
    after_claim = settings.claim_lease + settings.sweep_interval
    return settings.max_dispatches * (before_claim + after_claim)
