"""Settings that make waits short, named by what they shorten.

They are combined with ``|``: a later one wins. A process checks that its settings do not contradict
each other, so short leases need ``ONE_SHORT_ATTEMPT`` beside them.
"""

from .envelopes import SINKS


def for_every_sink(**policy: str) -> dict[str, str]:
    """The same policy for every sink: ``MAX_TRIES="1"`` becomes ``CRM_MAX_TRIES`` and so on."""
    return {f"{sink.upper()}_{name}": value for sink in SINKS for name, value in policy.items()}


#: A sweep, and so every takeover, within a second of being due.
FREQUENT_SWEEPS = {"SWEEP_INTERVAL_SECONDS": "1"}

#: Workers that die after the claim are noticed in seconds: a sweep takes the event over.
SHORT_LEASE = {"CLAIM_LEASE_SECONDS": "4"}

#: No lease ends during a test: no sweep takes over what has one.
LONG_LEASE = {"CLAIM_LEASE_SECONDS": "3600"}

#: Redis hands out the messages of a lost worker again within seconds.
SHORT_VISIBILITY = {"VISIBILITY_TIMEOUT_SECONDS": "2"}

#: Redis hands out no message of a lost worker again during a test.
LONG_VISIBILITY = {"VISIBILITY_TIMEOUT_SECONDS": "3600"}

#: One attempt of at most three seconds per delivery, and no circuit breaker in the way.
ONE_SHORT_ATTEMPT = for_every_sink(
    MAX_TRIES="1",
    BACKOFF_CAP_SECONDS="1",
    RETRY_AFTER_CAP_SECONDS="1",
    CONNECT_TIMEOUT_SECONDS="1",
    READ_TIMEOUT_SECONDS="2",
    BREAKER_FAILURES="1000",
)

#: Six delayed retries a second apart, and then none during a test. The breaker of analytics probes
#: after a second, that of the CRM not during a test; that of compliance never opens.
SHORT_DELAYED_RETRIES = FREQUENT_SWEEPS | {
    "REDRIVE_SCHEDULE_SECONDS": "1,1,1,1,1,1,3600",
    "ANALYTICS_MAX_TRIES": "1",
    "ANALYTICS_BREAKER_FAILURES": "2",
    "ANALYTICS_BREAKER_SECONDS": "1",
    "CRM_MAX_TRIES": "1",
    "CRM_BREAKER_FAILURES": "3",
    "CRM_BREAKER_SECONDS": "3600",
    "COMPLIANCE_MAX_TRIES": "2",
    "COMPLIANCE_BACKOFF_CAP_SECONDS": "1",
    "COMPLIANCE_BREAKER_FAILURES": "1000",
}
