"""Settings that contradict each other, and names that are nearly a setting's."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from tasks.settings import cxone
from tasks.settings.model import VARIABLES, Settings, variables
from tasks.sinks import SINKS


def check_constraints(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with settings of which each is right by itself."""
    if settings.redrive_max_age >= settings.retention_days * 86_400:
        yield VARIABLES["redrive_max_age"].problem(
            f"{settings.redrive_max_age} is not below the {settings.retention_days} days of "
            "RETENTION_DAYS: a claim would expire with deliveries pending"
        )
    if settings.cxone and settings.cxone.wait >= settings.redrive_max_age:
        yield cxone.VARIABLES["wait"].problem(
            f"{settings.cxone.wait} is not below the {settings.redrive_max_age} of "
            "REDRIVE_MAX_AGE_SECONDS: events would be given up instead of delivered without context"
        )
    if settings.redis_ca_file and not settings.redis_tls:
        yield "REDIS_CA_FILE: REDIS_URL does not ask for TLS; expected there: rediss://…"
    if both := _users(settings.flower_basic_auth) & _users(settings.flower_readonly_auth):
        yield VARIABLES["flower_readonly_auth"].problem(
            f"{', '.join(sorted(both))} is in FLOWER_BASIC_AUTH as well"
        )
    for name, sink in settings.sinks.items():
        policy, longest = sink.policy, sink.max_delivery_seconds
        if policy.max_wait >= settings.visibility_timeout:
            yield VARIABLES["visibility_timeout"].problem(
                f"{settings.visibility_timeout} is not above the {policy.max_wait} s that "
                f"{name} may wait for a retry: the waiting message would be handed out twice",
                policy.max_wait * 5,
            )
        if longest >= settings.claim_lease:
            yield VARIABLES["claim_lease"].problem(
                f"{settings.claim_lease} is not above the {longest} s that all tries of "
                f"{name} may take: a sweep would take over from a worker that is alive",
                longest * 2,
            )


def _users(accounts: str | None) -> set[str]:
    return {account.partition(":")[0] for account in (accounts or "").split(",") if account}


def suggest_names(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each unknown variable of a sink or CXone that is nearly a setting's name."""
    known = {variable.name for variable in variables()}
    known |= {f"{variable.name}_FILE" for variable in variables() if variable.secret}
    prefixes = tuple(f"{name.upper()}_" for name in (*SINKS, "cxone"))
    for name in environ:
        if name.startswith(prefixes) and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=0.75):
                yield f"{name}: no such setting, so it is ignored; meant is perhaps {meant}"
