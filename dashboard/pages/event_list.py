"""The list of events: search by event or interaction id, filters, pages, selection to redrive."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
from tasks.clock import from_age, from_rfc3339, to_rfc3339
from tasks.events import EventType
from tasks.recovery.redrive import Selection
from tasks.runtime import claims as table
from tasks.sinks import SINKS

#: Events per page.
PAGE_SIZE = 50

#: How many events are read for one page of a filtered list.
MAX_READ = 5_000

#: How many unfinished events are read, to list those that are due first.
MAX_UNFINISHED = 1_000

#: The value of the status filter for events in progress or waiting for a retry.
UNFINISHED = "unfinished"

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events to list; ``since`` and ``until`` bound the time of receipt."""

    status: Status | None = None
    unfinished: bool = False
    sink: str | None = None  # that does not have it
    event_type: EventType | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, str]) -> "Filter":
        """Parse the arguments of a form.

        Raises:
            ValueError: with what is wrong.
        """
        status = arguments.get("status", "")
        sink = arguments.get("sink") or None
        if sink and sink not in SINKS:
            raise ValueError(f"no such sink: {sink}")
        return cls(
            status=None if status == UNFINISHED else _member(Status, status),
            unfinished=status == UNFINISHED,
            sink=sink,
            event_type=_member(EventType, arguments.get("type", "")),
            since=_time(arguments.get("since", "")),
            until=_time(arguments.get("until", "")),
        )

    def to_arguments(self) -> dict[str, str]:
        """Return the form's arguments for it."""
        arguments = {
            "status": UNFINISHED if self.unfinished else self.status,
            "sink": self.sink,
            "type": self.event_type,
            "since": self.since and to_rfc3339(self.since),
            "until": self.until and to_rfc3339(self.until),
        }
        return {name: value for name, value in arguments.items() if value}

    def matches(self, summary: Summary) -> bool:
        """Return whether an event matches, apart from its time of receipt."""
        return (
            (self.status is None or summary.status is self.status)
            and (self.sink is None or self.sink in undelivered(summary.deliveries))
            and (self.event_type is None or summary.event_type == self.event_type)
        )

    def to_redrive(self, claims: Claims) -> Iterator[Summary]:
        """Yield the matching events that can be delivered again, oldest first."""
        chosen = Selection(sink=self.sink, status=self.status, since=self.since, until=self.until)
        return filter(self.matches, chosen.among(claims))


def _member(choices: type[E], text: str) -> E | None:
    if not text:
        return None
    try:
        return choices(text)
    except ValueError:
        raise ValueError(f"not one of {', '.join(choices)}: {text}") from None


def _time(text: str) -> datetime | None:
    """Parse an age (``2h``) or a time; one without a zone, as browsers send it, is UTC."""
    if not text:
        return None
    try:
        if moment := from_age(text):
            return moment
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else from_rfc3339(text)
    except (ValueError, OverflowError):
        raise ValueError(f"not a time: {text}") from None


class Listing(NamedTuple):
    """A page of events, and the cursor of the next one."""

    events: Sequence[Summary]
    next: Cursor | None = None
    read_back_to: str | None = None  # RFC 3339; only where MAX_READ ended the search


def listing(claims: Claims, wanted: Filter, after: Cursor | None) -> Listing:
    """Return a page of the matching events, newest first.

    Raises:
        StoreError: DynamoDB does not answer.
    """
    if wanted.unfinished:
        return Listing(list(islice(filter(wanted.matches, _unfinished(claims)), PAGE_SIZE)))
    found: list[Summary] = []
    last = None
    for number, summary in enumerate(claims.newest(wanted.since, wanted.until, after)):
        if len(found) == PAGE_SIZE:
            return Listing(found, last)
        if number == MAX_READ:
            return Listing(found, last, last and last.received_at)
        last = Cursor(summary.received_at, summary.id)
        if wanted.matches(summary):
            found.append(summary)
    return Listing(found)


def _unfinished(claims: Claims) -> Iterator[Summary]:
    """Yield the unfinished events, the longest due first."""
    entries = claims.due(until=MAX_TIMESTAMP)
    for due in sorted(islice(entries, MAX_UNFINISHED)):
        claim = claims.get(due.key)
        if claim and claim.due_at is not None:  # it may have settled since
            yield claim.summary()


def search(claims: Claims, query: str) -> str | list[Summary]:
    """Return the id of the event with this id, or else all events of the interaction with it.

    Raises:
        StoreError: DynamoDB does not answer.
    """
    if claim := claims.get(query):
        return claim.id
    return [claim.summary() for claim in islice(claims.of_interaction(query), PAGE_SIZE)]


def parse_cursor(text: str) -> Cursor | None:
    """Parse ``<time of receipt> <event id>``, after which a page begins.

    Raises:
        ValueError: it is no cursor.
    """
    if not text:
        return None
    received_at, _, key = text.partition(" ")
    from_rfc3339(received_at)
    return Cursor(received_at, key)


class EventListPage(Page):
    """A list of events."""

    async def get(self) -> None:
        """Show a page of it, or the result of a search."""
        given = {name: self.text(name).strip() for name in self.request.arguments}
        try:
            wanted = Filter.from_arguments(given)
            after = parse_cursor(given.get("after", ""))
        except ValueError as error:
            raise HTTPError(400, f"The filter is not valid: {error}") from error
        query = given.get("q", "")
        if query:
            found = await in_thread(search, table(), query)
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
            query=query,
            older=self._older(wanted, page.next),
            statuses=[*Status, UNFINISHED],
            event_types=list(EventType),
            sinks=SINKS,
            tones=TONES,
            is_redrivable=is_redrivable,
            is_first=after is None,
        )

    def _older(self, wanted: Filter, after: Cursor | None) -> str | None:
        if after is None:
            return None
        arguments = wanted.to_arguments() | {"after": " ".join(after)}
        return f"{self.reverse_url('events')}?{urlencode(arguments)}"


def is_redrivable(summary: Summary) -> bool:
    """Return whether a sink lacks the event, or it is invalid and can be validated again."""
    lacking = [sink for sink in undelivered(summary.deliveries) if sink in SINKS]
    return summary.status is not Status.PROCESSING and (bool(lacking) or summary.is_invalid)
