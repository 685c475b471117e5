"""What the sinks got, of every event, however many there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedded.stubs.sinks import Received


@dataclass(slots=True)
class Entry:
    """What one sink got of one event: under which keys, and how often it answered 2xx."""

    keys: set[str] = field(default_factory=set)
    taken: int = 0


class Ledger:
    """The calls that sinks got: (interaction id, sink) → entry. A listener for ``SampleSinks``."""

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: dict[tuple[str, str], Entry] = {}

    def note(self, sink: str, request: Received) -> None:
        """Enter a request. A sink takes it where it answers 200, late as that may be."""
        entry = self._entries.setdefault((request.body["interactionId"], sink), Entry())
        entry.keys.add(request.key)
        entry.taken += request.answered == 200

    def entry(self, interaction: str, sink: str) -> Entry:
        """What a sink got of an event; empty if it was never called."""
        return self._entries.get((interaction, sink), Entry())

    def totals(self) -> Mapping[str, int]:
        """Count what was taken, and how much of it the sink had already."""
        taken = [entry.taken for entry in self._entries.values()]
        return {"taken": sum(taken), "repeated": sum(count - 1 for count in taken if count > 1)}
