"""What the sinks received of every event."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedded.stubs.sinks import Received


@dataclass(slots=True)
class Entry:
    """The calls to one sink about one event: their keys, and how many it answered 200."""

    keys: set[str] = field(default_factory=set)
    taken: int = 0


class Ledger:
    """The calls to all sinks: (interaction id, sink) → entry. A listener for ``SampleSinks``."""

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: dict[tuple[str, str], Entry] = {}

    def note(self, sink: str, request: Received) -> None:
        """Record a request. A sink has accepted it if it answers 200, even too late."""
        entry = self._entries.setdefault((request.body["interactionId"], sink), Entry())
        entry.keys.add(request.key)
        entry.taken += request.answered == 200

    def entry(self, interaction: str, sink: str) -> Entry:
        """The calls to a sink about an event; empty if there were none."""
        return self._entries.get((interaction, sink), Entry())

    def totals(self) -> Mapping[str, int]:
        """How many calls were accepted, and how many of them the sink had already."""
        taken = [entry.taken for entry in self._entries.values()]
        return {"taken": sum(taken), "repeated": sum(count - 1 for count in taken if count > 1)}
