"""What a dispatch publishes: a delivery per sink that lacks the event, and settle."""

import pytest
from celery.canvas import Signature

from tasks import dispatch
from tests.support.samples import EVENT_ID, delivered, make_claim

SINKS = ("analytics", "crm", "compliance")


@pytest.fixture
def published(monkeypatch):
    """What is published: chords as their headers' task ids and their body's, tasks as their id."""
    sent = []

    def publish(_app, header, *, group_id, chord):
        assert group_id
        sent.append(([task.id for task in header], chord.id))

    monkeypatch.setattr(dispatch, "publish", publish)
    monkeypatch.setattr(Signature, "apply_async", lambda signature: sent.append(signature.id))
    return sent


def test_a_dispatch_is_a_chord_of_the_pending_deliveries(published):
    claim = make_claim(deliveries=make_claim().deliveries | {"crm": delivered()}, generation=3)
    dispatch.fan_out(claim)
    header = [f"{EVENT_ID}.{sink}.3" for sink in SINKS if sink != "crm"]
    assert published == [(header, f"{EVENT_ID}.settle.3")]


def test_a_dispatch_with_nothing_to_deliver_only_settles(published):
    claim = make_claim(deliveries=dict.fromkeys(SINKS, delivered()), generation=2)
    dispatch.fan_out(claim)
    assert published == [f"{EVENT_ID}.settle.2"]
