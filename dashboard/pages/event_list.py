"""The events: found by id or interaction, filtered, newest first, and selected to be redriven."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

from tornado.web import HTTPError

from dashboard.pages.base import Page, in_thread
from dashboard.timeline import TONES
from tasks.claims import Claims, Cursor, Status, Summary
from tasks.claims.outcomes import undelivered
from tasks.claims.queries import MAX_TIMESTAMP
from tasks.clock import from_rfc3339, now, to_rfc3339
from tasks.events import EventType
from tasks.recovery.redrive import Selection
from tasks.runtime import claims as table
from tasks.sinks import SINKS

#: Events on a page.
SHOWN = 50

#: Events that are looked at for one page of those that a filter lets through.
LOOKED_AT = 5_000

#: Events with something left to do that are looked for.
TO_DO = 1_000

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

#: The filter for what has something left to do, beside those by status.
UNFINISHED = "unfinished"

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events are asked for; ``since`` and ``until`` bound the time of receipt."""

    status: Status | None = None
    unfinished: bool = False
    sink: str | None = None  # that lacks it
    kind: EventType | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, str]) -> "Filter":
        """Read it from what a form sent.

        Raises:
            ValueError: saying what is wrong.
        """
        status = arguments.get("status", "")
        sink = arguments.get("sink") or None
        if sink and sink not in SINKS:
            raise ValueError(f"no such sink: {sink}")
        return cls(
            status=None if status == UNFINISHED else _member(Status, status),
            unfinished=status == UNFINISHED,
            sink=sink,
            kind=_member(EventType, arguments.get("type", "")),
            since=_moment(arguments.get("since", "")),
            until=_moment(arguments.get("until", "")),
        )

    def to_arguments(self) -> dict[str, str]:
        """Return what a form would send for it."""
        arguments = {
            "status": UNFINISHED if self.unfinished else self.status,
            "sink": self.sink,
            "type": self.kind,
            "since": self.since and to_rfc3339(self.since),
            "until": self.until and to_rfc3339(self.until),
        }
        return {name: value for name, value in arguments.items() if value}

    def lets_through(self, summary: Summary) -> bool:
        """Tell whether an event is one of those asked for, but for its time."""
        return (
            (self.status is None or summary.status is self.status)
            and (self.sink is None or self.sink in undelivered(summary.deliveries))
            and (self.kind is None or summary.event_type == self.kind)
        )

    def to_redrive(self, claims: Claims) -> Iterator[Summary]:
        """Yield those that can be delivered again, oldest first."""
        selection = Selection(
            sink=self.sink, status=self.status, since=self.since, until=self.until
        )
        return filter(self.lets_through, selection.among(claims))


def _member(choices: type[E], text: str) -> E | None:
    if not text:
        return None
    try:
        return choices(text)
    except ValueError:
        raise ValueError(f"not one of {', '.join(choices)}: {text}") from None


def _moment(text: str) -> datetime | None:
    """Read an age (``2h``) or a time; one without a zone, as browsers send it, is UTC."""
    if not text:
        return None
    if ago := re.fullmatch(r"([0-9]{1,5})([mhd])", text):
        return now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else from_rfc3339(text)
    except ValueError:
        raise ValueError(f"not a time: {text}") from None


class Listing(NamedTuple):
    """A page of events: what follows it, and how far back it was looked for them."""

    events: Sequence[Summary]
    after: Cursor | None = None
    looked_back_to: str | None = None  # where the search was broken off


def listing(claims: Claims, wanted: Filter, after: Cursor | None) -> Listing:
    """Return a page of the events that a filter lets through, newest first.

    Raises:
        StoreError: DynamoDB does not answer.
    """
    if wanted.unfinished:
        return Listing(list(islice(filter(wanted.lets_through, _unfinished(claims)), SHOWN)))
    found: list[Summary] = []
    last = None
    for number, summary in enumerate(claims.newest(wanted.since, wanted.until, after)):
        if len(found) == SHOWN:
            return Listing(found, last)
        if number == LOOKED_AT:
            return Listing(found, last, last and last.received_at)
        last = Cursor(summary.received_at, summary.id)
        if wanted.lets_through(summary):
            found.append(summary)
    return Listing(found)


def _unfinished(claims: Claims) -> Iterator[Summary]:
    """Yield what has something left to do, the longest due first."""
    entries = claims.due(until=MAX_TIMESTAMP)
    for due in sorted(islice(entries, TO_DO)):
        claim = claims.get(due.key)
        if claim and claim.due_at is not None:  # it may have settled between
            yield claim.summary()


def search(claims: Claims, wanted: str) -> str | list[Summary]:
    """Find events by an id: the event's own, or all of an interaction.

    Raises:
        StoreError: DynamoDB does not answer.
    """
    if claim := claims.get(wanted):
        return claim.id
    return [claim.summary() for claim in islice(claims.of_interaction(wanted), SHOWN)]


def place(text: str) -> Cursor | None:
    """Read where a page begins.

    Raises:
        ValueError: it is no such place.
    """
    if not text:
        return None
    received_at, _, key = text.partition(" ")
    from_rfc3339(received_at)
    return Cursor(received_at, key)


class EventsPage(Page):
    """A list of events."""

    async def get(self) -> None:
        """Show a page of it, or what an id finds."""
        given = {name: self.text(name).strip() for name in self.request.arguments}
        try:
            wanted = Filter.from_arguments(given)
            after = place(given.get("after", ""))
        except ValueError as error:
            raise HTTPError(400, f"The filter says what cannot be: {error}") from error
        sought = given.get("q", "")
        if sought:
            found = await in_thread(search, table(), sought)
            if isinstance(found, str):
                self.redirect(self.reverse_url("event", found))
                return
            page = Listing(found)
        else:
            page = await in_thread(listing, table(), wanted, after)
        self.render(
            "event_list.html",
            page=page,
            wanted=wanted,
            sought=sought,
            older=self._older(wanted, page.after),
            statuses=[*Status, UNFINISHED],
            kinds=list(EventType),
            sinks=SINKS,
            tones=TONES,
            can_redrive=can_redrive,
            is_first=after is None,
        )

    def _older(self, wanted: Filter, after: Cursor | None) -> str | None:
        if after is None:
            return None
        arguments = wanted.to_arguments() | {"after": " ".join(after)}
        return f"{self.reverse_url('events')}?{urlencode(arguments)}"


def can_redrive(summary: Summary) -> bool:
    """Tell whether there is something to deliver again, or an invalid event to read anew."""
    lacking = [sink for sink in undelivered(summary.deliveries) if sink in SINKS]
    invalid = summary.status is Status.FAILED and not summary.deliveries
    return summary.status is not Status.PROCESSING and (bool(lacking) or invalid)
