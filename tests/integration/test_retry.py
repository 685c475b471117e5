"""Retry: one click, one delivery, and the audit record names the operator."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from embedded.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.dashboard import OPERATOR, READER, FlowerContainer, Visitor, path_of, token_of
from tests.support.envelopes import Envelope, assert_chain_holds, envelope
from tests.support.nodes import running
from tests.support.system import System
from tests.support.waiting import eventually


@pytest.fixture
def event() -> Envelope:
    return envelope()


@pytest.fixture
def refused(system: System, operator: Visitor, sinks: SampleSinks, event: Envelope) -> Claim:
    """An event that the CRM refused; it would accept it now."""
    sinks.behave("crm", "status", status=400)
    claim = system.settle(event)
    sinks.behave("crm")
    return claim


def calls_of_crm(system: System, event: Envelope) -> list[int | None]:
    return [call.answered for call in system.calls(event)["crm"]]


def test_retry_delivers_and_records_the_actor(
    system: System, operator: Visitor, refused: Claim, event: Envelope
) -> None:
    page = operator.wait_for_task(f"{refused.id}.crm.1", "FAILURE")
    retry = f"/event/{refused.id}/retry?sink=crm"
    assert f'href="{retry}"' in page

    asked = operator.page(retry)
    assert refused.id in asked
    assert "crm: failed after 1 attempt" in asked
    assert "400 Bad Request" in asked

    answer = operator.submit(retry)
    assert (answer.status_code, path_of(answer)) == (303, f"/task/{refused.id}.crm.2")
    operator.wait_for_task(f"{refused.id}.crm.2", "SUCCESS")

    claim = eventually(lambda: len((c := system.claim(refused.id)).audit) == 2 and c)
    assert isinstance(claim, Claim)
    assert (claim.status, claim.audit[1]["actor"]) == ("completed", OPERATOR[0])
    assert_chain_holds(list(claim.audit))
    assert calls_of_crm(system, event) == [400, 200]
    assert len({call.key for call in system.calls(event)["crm"]}) == 1
    assert [len(system.calls(event)[sink]) for sink in ("analytics", "compliance")] == [1, 1]


def test_several_clicks_make_one_delivery(
    system: System, operator: Visitor, sinks: SampleSinks, refused: Claim, event: Envelope
) -> None:
    sinks.behave("crm", "slow", seconds=2)  # the second click comes while the first is in progress
    retry = f"/event/{refused.id}/retry?sink=crm"
    data = {"sink": "crm", "version": refused.version, "_xsrf": token_of(operator.page(retry))}
    with ThreadPoolExecutor(4) as clicks:
        answers = list(clicks.map(lambda _: operator.post(retry, data=data), range(4)))
    # One that came only after the delivery was over finds the event changed.
    assert {answer.status_code for answer in answers} <= {303, 409}
    led_to = {path_of(answer) for answer in answers if answer.status_code == 303}
    assert led_to == {f"/task/{refused.id}.crm.2"}
    system.settled(refused.id)
    assert calls_of_crm(system, event) == [400, 200]

    late = operator.post(retry, data=data)  # the event has settled since the page was opened
    assert late.status_code == 409
    assert "crm has the event already" in late.text
    assert calls_of_crm(system, event) == [400, 200]


def test_a_retry_to_another_sink_meanwhile_leads_to_the_event(
    system: System, operator: Visitor, sinks: SampleSinks, refused: Claim
) -> None:
    sinks.behave("crm", "slow", seconds=2)
    retry = f"/event/{refused.id}/retry?sink="
    data = {"version": refused.version, "_xsrf": token_of(operator.page(f"{retry}crm"))}
    first = operator.post(f"{retry}crm", data={**data, "sink": "crm"})
    assert path_of(first) == f"/task/{refused.id}.crm.2"
    second = operator.post(f"{retry}analytics", data={**data, "sink": "analytics"})
    assert path_of(second) == f"/event/{refused.id}"
    system.settled(refused.id)


def test_a_delivered_event_is_not_retried(
    system: System, operator: Visitor, event: Envelope
) -> None:
    claim = system.settle(event)
    page = operator.wait_for_task(f"{claim.id}.crm.1", "SUCCESS")
    assert "task-retry" not in page
    asked = operator.page(f"/event/{claim.id}/retry?sink=crm")
    assert "crm has the event already" in asked
    assert 'id="confirm"' not in asked
    data = {"sink": "crm", "version": claim.version, "_xsrf": token_of(asked)}
    answer = operator.post(f"/event/{claim.id}/retry", data=data)
    assert (answer.status_code, path_of(answer)) == (303, f"/event/{claim.id}")
    assert len(system.calls(event)["crm"]) == 1


def test_an_event_in_progress_is_not_retried(
    system: System, operator: Visitor, sinks: SampleSinks, event: Envelope
) -> None:
    sinks.behave("crm", "slow", seconds=5)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    asked = operator.page(f"/event/{key}/retry?sink=crm")
    assert "in progress" in asked
    assert 'id="confirm"' not in asked
    system.settled(key)


def test_a_task_that_flower_never_saw_can_be_retried(
    system: System, operator: Visitor, refused: Claim, event: Envelope
) -> None:
    with running(FlowerContainer(system.folder, system.settings)) as another:
        ann = Visitor(another, OPERATOR)
        page = ann.page(f"/task/{refused.id}.crm.1")
        assert "has not heard of this task yet" in page  # its event has only just settled
        system.change(refused.id, "processed_at", {"S": "2026-01-31T12:00:30.000Z"})
        page = ann.page(f"/task/{refused.id}.crm.1")
        assert "does not remember" in page
        assert "400 Bad Request" in page
        assert f'href="/event/{refused.id}/retry?sink=crm"' in page
        assert ann.submit(f"/event/{refused.id}/retry?sink=crm").status_code == 303
        assert system.settled(refused.id).status == "completed"
        assert "retry?" not in ann.page(f"/task/{refused.id}.crm.1")
        for unknown in (f"{refused.id}.crm.9", f"{refused.id}.fax.1", "no-event.crm.1", "x"):
            assert ann.get(f"/task/{unknown}").status_code == 404


def test_an_invalid_event_is_validated_again(system: System, operator: Visitor) -> None:
    claim = system.settle(envelope(detail={"channel": "fax"}))
    answer = operator.submit(f"/event/{claim.id}/retry")
    assert path_of(answer) == f"/event/{claim.id}"
    assert "still invalid" in operator.page(answer.headers["Location"].removeprefix(operator.url))
    assert system.claim(claim.id) == claim


def test_async_apply_delivers_and_records_the_actor(
    system: System, operator: Visitor, refused: Claim, event: Envelope
) -> None:
    path = "/api/task/async-apply/deliver.crm"
    answer = operator.post(path, json={"args": [refused.id]})
    assert answer.status_code == 200
    operator.wait_for_task(answer.json()["task-id"], "SUCCESS")
    eventually(lambda: len(system.claim(refused.id).audit) == 2)
    assert system.claim(refused.id).audit[1]["actor"] == OPERATOR[0]
    assert calls_of_crm(system, event) == [400, 200]


@pytest.mark.parametrize("way", ["async-apply", "apply", "send-task"])
def test_the_api_takes_no_payload_and_no_actor(
    system: System, operator: Visitor, refused: Claim, way: str
) -> None:
    for body in (
        {"args": [refused.id, {"event": {}, "receivedAt": ""}]},
        {"args": [refused.id], "kwargs": {"actor": "mallory"}},
        {"args": []},
    ):
        answer = operator.post(f"/api/task/{way}/deliver.crm", json=body)
        assert (answer.status_code, "EVENT-ID" in answer.text) == (400, True)
    assert system.claim(refused.id) == refused


def test_tasks_that_must_not_be_stopped_are_not_revoked(
    system: System, operator: Visitor, refused: Claim
) -> None:
    for part, why in (("process.0123abcd", "would be lost"), ("settle.1", "sweep")):
        answer = operator.post(f"/api/task/revoke/{refused.id}.{part}?terminate=true")
        assert (answer.status_code, why in answer.text) == (409, True)
    page = operator.wait_for_task(f"{refused.id}.settle.1", "SUCCESS")
    assert "task-terminate" not in page
    assert "task-revoke" not in page


def test_a_delivery_can_be_stopped_and_retried(
    system: System, operator: Visitor, sinks: SampleSinks, event: Envelope
) -> None:
    sinks.behave("crm", "hang", seconds=60)
    key = system.accept(event)
    page = operator.wait_for_task(f"{key}.crm.1", "STARTED")
    assert 'id="task-terminate"' in page
    answer = operator.post(f"/api/task/revoke/{key}.crm.1?terminate=true")
    assert answer.status_code == 200
    assert system.settled(key).deliveries["crm"].outcome == "revoked"
    assert 'id="task-retry"' in operator.wait_for_task(f"{key}.crm.1", "REVOKED")
    sinks.behave("crm")
    assert operator.submit(f"/event/{key}/retry?sink=crm").status_code == 303
    assert system.settled(key).status == "completed"


def test_readers_are_offered_no_retry(
    system: System, operator: Visitor, reader: Visitor, refused: Claim, event: Envelope
) -> None:
    assert "task-retry" not in reader.wait_for_task(f"{refused.id}.crm.1", "FAILURE")
    asked = reader.page(f"/event/{refused.id}/retry?sink=crm")
    assert "Only operators" in asked
    assert 'id="confirm"' not in asked
    answer = reader.submit(f"/event/{refused.id}/retry?sink=crm")
    assert answer.status_code == 403
    assert READER[0] not in str(system.claim(refused.id).audit)
    assert calls_of_crm(system, event) == [400]
