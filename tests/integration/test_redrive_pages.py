"""Finding events, and bulk redrives: selection, preview, a limited rate, progress."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from dashboard.pages.bulk_redrive import Run, Runs
from embedded.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.dashboard import OPERATOR, FlowerContainer, Visitor, path_of, token_of
from tests.support.envelopes import envelope
from tests.support.nodes import running
from tests.support.system import System
from tests.support.waiting import eventually

HERE = {"Sec-Fetch-Site": "same-origin"}


def rows(page: str) -> list[str]:
    """Return the ids of the events on a page, in order."""
    return re.findall(r'data-label="Event"><a href="/event/([^"]+)"', page)


@pytest.fixture
def refused(system: System, operator: Visitor, sinks: SampleSinks) -> list[Claim]:
    """Three events of one interaction that the CRM refused; it would accept them now."""
    sinks.behave("crm", "status", status=400)
    interaction = envelope()["detail"]["interactionId"]
    kinds = ("created", "routed", "completed")
    events = [envelope(kind, detail={"interactionId": interaction}) for kind in kinds]
    claims = [system.settle(event) for event in events]
    sinks.behave("crm")
    return claims


def calls_of_crm(system: System, claims: list[Claim]) -> Mapping[str, list[int | None]]:
    received = system.sinks.received("crm")
    return {c.id: [r.answered for r in received if r.key == f"{c.id}:crm"] for c in claims}


def select(operator: Visitor, scope: str, **fields: Any) -> str:
    """Select events for a redrive; return the path of its preview."""
    token = token_of(operator.page("/events"))
    data = {"_xsrf": token, "scope": scope, **fields}
    answer = operator.post("/redrives", data=data, headers=HERE)
    assert answer.status_code == 303, answer.text
    return path_of(answer)


def press(operator: Visitor, path: str, button: str, **fields: Any) -> requests.Response:
    token = token_of(operator.page(path))
    return operator.post(path, data={"_xsrf": token, "do": button, **fields}, headers=HERE)


def state_of(operator: Visitor, path: str) -> str | None:
    found = re.search(r'id="state">(\w+)<', operator.page(path))
    return found and found[1]


# ── Finding ───────────────────────────────────────────────────────────────────────────────────


def test_an_event_id_leads_to_its_event(operator: Visitor, refused: list[Claim]) -> None:
    answer = operator.get(f"/events?q=%20{refused[0].id}%20")
    assert (answer.status_code, path_of(answer)) == (302, f"/event/{refused[0].id}")


def test_an_interaction_id_finds_all_its_events(operator: Visitor, refused: list[Claim]) -> None:
    page = operator.page(f"/events?q={refused[0].interaction_id}")
    assert rows(page) == [claim.id for claim in refused]
    assert "No event or interaction has the id" in operator.page("/events?q=unknown")


def test_events_are_listed_newest_first_and_filtered(
    system: System, operator: Visitor, refused: list[Claim]
) -> None:
    done = system.settle(envelope("routed")).id
    everything = rows(operator.page("/events"))
    assert everything[:4] == [done, *(claim.id for claim in reversed(refused))]

    def listed(query: str) -> list[str]:
        known = {done, *(claim.id for claim in refused)}
        return [key for key in rows(operator.page(f"/events?{query}")) if key in known]

    assert listed("status=completed") == [done]
    assert listed("sink=crm&type=routed") == [refused[1].id]
    assert listed("type=routed") == [done, refused[1].id]
    assert listed("since=1h") == everything[:4]
    assert listed("until=2020-01-01T00:00") == []
    assert operator.get("/events?status=nonsense").status_code == 400


def test_pages_follow_each_other(system: System, operator: Visitor) -> None:
    mine = {system.accept(envelope("abandoned")) for _ in range(60)}
    for key in mine:
        system.settled(key)
    seen: list[str] = []
    path: str | None = "/events?type=abandoned&since=1h"
    while path and not mine <= set(seen):
        page = operator.page(path)
        assert len(rows(page)) <= 50
        seen += rows(page)
        older = re.search(r'rel="next" href="([^"]+)"', page)
        path = older and older[1].replace("&amp;", "&")
    assert len(seen) == len(set(seen))
    assert mine <= set(seen)


def test_unfinished_events_are_listed(
    system: System, operator: Visitor, sinks: SampleSinks
) -> None:
    sinks.behave("crm", "status", status=503, retry_after=0)
    waits = system.settle(envelope()).id
    assert waits in rows(operator.page("/events?status=unfinished"))
    sinks.behave("crm")
    assert operator.submit(f"/event/{waits}/retry").status_code == 303
    eventually(lambda: system.claim(waits).status == "completed")
    assert waits not in rows(operator.page("/events?status=unfinished"))


# ── Redriving ─────────────────────────────────────────────────────────────────────────────────


def test_selected_events_are_redriven_after_a_preview(
    system: System, operator: Visitor, refused: list[Claim]
) -> None:
    chosen = refused[:2]
    path = select(operator, "selected", key=[claim.id for claim in chosen])
    shown = operator.page(path)
    assert "Deliver 2 events again?" in shown
    assert "2 to crm" in shown
    assert all(claim.id in shown for claim in chosen)
    assert calls_of_crm(system, refused) == {claim.id: [400] for claim in refused}

    assert press(operator, path, "start", rate="50").status_code == 303
    eventually(lambda: state_of(operator, path) == "done")
    for claim in chosen:
        eventually(lambda claim=claim: system.claim(claim.id).status == "completed")  # type: ignore[misc]
        assert system.claim(claim.id).audit[-1]["actor"] == OPERATOR[0]
    assert [len(calls) for calls in calls_of_crm(system, refused).values()] == [2, 2, 1]
    assert re.search(r">2</span> redriven", operator.page(path))


def test_all_matching_events_are_redriven(
    system: System, operator: Visitor, refused: list[Claim]
) -> None:
    fields = {"status": "partial_failure", "sink": "crm", "type": "created", "since": "1h"}
    path = select(operator, "all", **fields)
    assert refused[0].id in operator.page(path)
    assert refused[1].id not in operator.page(path)
    press(operator, path, "start", rate="100")
    eventually(lambda: system.claim(refused[0].id).status == "completed")
    assert system.claim(refused[1].id) == refused[1]
    # What is done is not selected again.
    assert refused[0].id not in operator.page(select(operator, "all", **fields))


def test_several_clicks_start_a_run_once(
    system: System, operator: Visitor, refused: list[Claim]
) -> None:
    path = select(operator, "selected", key=[claim.id for claim in refused])
    for _ in range(3):
        assert press(operator, path, "start", rate="100").status_code == 303
    eventually(lambda: state_of(operator, path) == "done")
    for claim in refused:
        eventually(lambda claim=claim: system.claim(claim.id).status == "completed")  # type: ignore[misc]
    assert calls_of_crm(system, refused) == {claim.id: [400, 200] for claim in refused}


def test_a_run_is_stopped_and_resumed(
    system: System, operator: Visitor, refused: list[Claim]
) -> None:
    path = select(operator, "selected", key=[claim.id for claim in refused])
    another = select(operator, "selected", key=[refused[0].id])
    press(operator, path, "start", rate="0.5")
    eventually(lambda: state_of(operator, path) == "running")
    busy = press(operator, another, "start", rate="1")
    assert f"busy={path.rsplit('/')[-1]}" in busy.headers["Location"]
    assert "is running" in operator.page(busy.headers["Location"])

    press(operator, path, "stop")
    eventually(lambda: state_of(operator, path) == "stopped")
    assert f"{OPERATOR[0]} stopped it" in operator.page(path)
    eventually(lambda: not system.broker.client.exists("redrive.running"))
    press(operator, path, "start", rate="100")
    eventually(lambda: state_of(operator, path) == "done")
    for claim in refused:
        eventually(lambda claim=claim: system.claim(claim.id).status == "completed")  # type: ignore[misc]
    assert calls_of_crm(system, refused) == {claim.id: [400, 200] for claim in refused}


@pytest.fixture
def another_flower(system: System) -> Iterator[FlowerContainer]:
    """A Flower to kill."""
    with running(FlowerContainer(system.folder, system.settings)) as flower:
        yield flower


def test_a_run_survives_the_end_of_flower(
    system: System, another_flower: FlowerContainer, refused: list[Claim]
) -> None:
    ann = Visitor(another_flower, OPERATOR)
    path = select(ann, "selected", key=[claim.id for claim in refused])
    press(ann, path, "start", rate="0.2")
    eventually(lambda: re.search(r"running</strong>: 1 of 3", ann.page(path)))
    another_flower.kill()
    another_flower.restart()
    assert state_of(ann, path) == "running"  # until its lease expires
    system.broker.client.delete("redrive.running")  # as its expiry would
    assert state_of(ann, path) == "interrupted"
    press(ann, path, "start", rate="100")
    eventually(lambda: state_of(ann, path) == "done")
    for claim in refused:
        eventually(lambda claim=claim: system.claim(claim.id).status == "completed")  # type: ignore[misc]
    assert calls_of_crm(system, refused) == {claim.id: [400, 200] for claim in refused}


def test_readers_redrive_nothing(
    operator: Visitor, reader: Visitor, system: System, refused: list[Claim]
) -> None:
    page = reader.page("/events?status=partial_failure")
    assert "Redrive" not in page
    path = select(operator, "selected", key=[refused[0].id])
    assert 'id="start"' not in reader.page(path)
    assert press(reader, path, "start").status_code == 403
    data = {"_xsrf": token_of(reader.page(path)), "key": refused[0].id, "scope": "selected"}
    assert reader.post("/redrives", data=data, headers=HERE).status_code == 403
    assert system.claim(refused[0].id) == refused[0]


def test_an_event_that_is_noted_twice_is_counted_once(system: System) -> None:
    runs = Runs(system.broker.client)
    run = Run(
        id="0123",
        chosen_by="ann",
        chosen_at="2026-11-20T10:00:00.000Z",
        sink=None,
        count=2,
        complete=True,
        lacking={"crm": 2},
        first=["a"],
        started_by="ann",
    )
    runs.add(run, ["a", "b"])
    assert runs.get("0123") == run
    assert runs.get("4567") is None
    assert runs.start(run) is None
    assert runs.start(run) == "0123"
    assert runs.next(run) == "a"
    runs.note(run, "a", "redriven")
    runs.note(run, "a", "redriven")
    assert runs.progress(run).answers == {"redriven": 1}
    assert runs.next(run) == "b"
    runs.end(run)
    assert runs.next(run) is None
    assert runs.progress(run).state == "interrupted"
