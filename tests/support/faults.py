"""Kills processes at named points of the code: ``celery worker -I tests.support.faults``.

Nothing of this is in the product. The environment names the point (``FAULT_POINT``), the victim
(``FAULT_VICTIM``: ``child``, ``worker`` or a pid) and a file (``FAULT_FLAG``) that the first strike
creates, after which there is no other. Without a point this module does nothing; without a
file it strikes every time that an argument contains the text ``FAULT_KEY``.
"""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from celery.canvas import Signature
from kombu.transport import virtual

import tasks.process
import tasks.settle
from ingest.publisher import EventQueue
from tasks.claims import Claims
from tasks.delivery.client import SinkClient
from tasks.recovery import takeover
from tasks.worker.chord_backend import SettlingBackend

Applies = Callable[..., bool]


def strike(*args: Any) -> None:
    """Kill the victim, if an argument contains the key and the file does not exist yet."""
    if os.environ.get("FAULT_KEY", "") not in " ".join(a for a in args if isinstance(a, str)):
        return
    if flag := os.environ.get("FAULT_FLAG"):
        try:
            Path(flag).touch(exist_ok=False)
        except FileExistsError:
            return
    match os.environ["FAULT_VICTIM"]:
        case "child":
            os.kill(os.getpid(), signal.SIGKILL)
        case "worker":
            os.killpg(0, signal.SIGKILL)
        case pid:
            os.kill(int(pid), signal.SIGKILL)


def always(*_: Any, **__: Any) -> bool:
    """Strike at every call."""
    return True


def before(owner: Any, name: str, applies: Applies = always) -> Callable[[], None]:
    """Strike when ``owner.name`` is called."""

    def arm() -> None:
        original = getattr(owner, name)

        @wraps(original)
        def struck(*args: Any, **kwargs: Any) -> Any:
            if applies(*args, **kwargs):
                strike(*args)
            return original(*args, **kwargs)

        setattr(owner, name, struck)

    return arm


def after(owner: Any, name: str, applies: Applies = always) -> Callable[[], None]:
    """Strike when ``owner.name`` is about to return."""

    def arm() -> None:
        original = getattr(owner, name)

        @wraps(original)
        def struck(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if applies(*args, **kwargs):
                strike(*args)
            return result

        setattr(owner, name, struck)

    return arm


def _call_to_crm(_client: Any, _body: Any, key: str) -> bool:
    return key.endswith(":crm")


def _part_of_crm(_backend: Any, request: Any, *_: Any, **__: Any) -> bool:
    return bool(request.task == "deliver.crm")


def _is_settle(signature: Signature[Any], *_: Any, **__: Any) -> bool:
    return bool(signature.task == "settle")


def _an_event(_transport: Any, _message: Any, queue: str) -> bool:
    return queue == "events"


POINTS = {
    "ingest: published, before 202": after(EventQueue, "put"),
    "reserve: an event, before it is noted": before(virtual.Transport, "_deliver", _an_event),
    "process: received": before(tasks.process, "read_event"),
    "process: before the claim": before(Claims, "claim"),
    "process: claimed, before the chord": after(Claims, "claim"),
    "process: chord published, before the ack": after(tasks.process, "go_on"),
    "deliver: called, before its result": after(SinkClient, "post", _call_to_crm),
    "deliver: result, before the chord's count": before(
        SettlingBackend, "on_chord_part_return", _part_of_crm
    ),
    "deliver: counted, before the ack": after(
        SettlingBackend, "on_chord_part_return", _part_of_crm
    ),
    "chord: complete, before settle is published": before(Signature, "apply_async", _is_settle),
    "chord: settle published": after(Signature, "apply_async", _is_settle),
    "settle: received": before(tasks.settle, "settle_claim"),
    "settle: before the write": before(Claims, "settle"),
    "settle: written, before the ack": after(Claims, "settle"),
    "sweep: taken over, before the chord": after(Claims, "take_over"),
    "sweep: chord published": after(takeover, "fan_out"),
    "redrive: reopened, before the call": after(Claims, "reopen"),
}

if point := os.environ.get("FAULT_POINT"):
    POINTS[point]()
