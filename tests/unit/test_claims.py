import zlib
from dataclasses import replace
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from tasks.claims import (
    Acquired,
    Claim,
    Claims,
    Conflict,
    Delivery,
    Due,
    Duplicate,
    NextRetry,
    Outcome,
    Status,
)
from tasks.claims.audit import verify_claim
from tasks.claims.codec import DUE_BUCKETS, ITEM_SCHEMA, claim_of, due_bucket, item_of
from tasks.claims.dynamodb import _to_dynamodb, _to_python
from tasks.cli.output import claim_json, delivery_json
from tasks.clock import now
from tasks.errors import ClaimInProgressError, ClaimNotFoundError, StoreError, UnknownSchemaError
from tests.support.samples import EVENT_ID, delivered, failed, make_claim, make_record
from tests.support.strategies import audit_chains, deliveries_by_sink, moments

# ── As an item, and back ──────────────────────────────────────────────────────────────────────


def claim_of_attributes(attributes):
    """Read a claim from an item as DynamoDB has it."""
    return claim_of(_to_python(attributes))


texts = st.text(min_size=1, max_size=12)
seconds = st.integers(0, 2**40)


@given(
    st.builds(
        Claim,
        id=texts,
        status=st.sampled_from(Status),
        received_at=moments,
        event_time=st.none() | moments,
        interaction_id=st.none() | texts,
        event_type=st.none() | texts,
        payload=st.binary(max_size=60),
        payload_sha256=texts,
        deliveries=deliveries_by_sink,
        version=st.integers(1, 10**9),
        generation=st.integers(1, 10**6),
        dispatches=st.integers(1, 100),
        redrives=st.integers(0, 100),
        dispatched_at=seconds,
        targets=st.none() | st.lists(texts, max_size=2),
        actor=st.none() | texts,
        holder=st.none() | texts,
        due_at=st.none() | seconds,
        processed_at=st.none() | moments,
        notes=st.lists(texts, max_size=2),
        audit=audit_chains(),
    )
)
def test_a_claim_comes_back_from_its_item(claim):
    assert claim_of_attributes(_to_dynamodb(item_of(claim))) == claim


def test_an_item_of_before_calls_were_remembered_is_read():
    older = attributes_of(settled())
    for delivery in older["deliveries"]["M"].values():
        del delivery["M"]["calls"]
    assert claim_of_attributes(older) == settled()


def test_an_item_of_a_newer_release_is_told():
    newer = attributes_of(make_claim()) | {"item_schema": {"N": str(ITEM_SCHEMA + 1)}}
    with pytest.raises(UnknownSchemaError, match=f"claim of {EVENT_ID}: item schema"):
        claim_of_attributes(newer)


def test_an_item_has_no_attribute_for_what_is_absent():
    item = item_of(make_claim(due_at=None, holder=None, processed_at=None, event_time=None))
    assert not {"due_at", "due_bucket", "holder", "processed_at", "event_time"} & set(item)


def test_a_payload_is_kept_compressed():
    payload = b'{"detail":"' + b"x" * 10_000 + b'"}'
    item = item_of(make_claim(payload=payload))
    assert len(item["payload"]) < 100
    assert zlib.decompress(item["payload"]) == payload


@given(texts)
def test_a_bucket_is_in_range_and_stable(key):
    assert due_bucket(key) == due_bucket(key)
    assert due_bucket(key) in {str(number) for number in range(DUE_BUCKETS)}


def test_buckets_stay_what_they_are_in_the_table():
    # Were these to change, a sweep would no longer find what older releases claimed.
    assert DUE_BUCKETS == 8
    assert [due_bucket(key) for key in ("a", "b", EVENT_ID, f"{EVENT_ID}@june")] == [
        "3",
        "1",
        "6",
        "7",
    ]


# ── What a refused write means ────────────────────────────────────────────────────────────────

EARLIER = int(now().timestamp()) - 60
LATER = int(now().timestamp()) + 3600


class RefusingClient:
    """DynamoDB's client, at whose end the conditions of puts and updates do not hold.

    ``existing`` is the item that is there instead; an update goes through if ``updated`` is set.
    """

    def __init__(self, existing=None, updated=None):
        self.existing = existing
        self.updated = updated
        self.calls = []

    def put_item(self, **arguments):
        self._refuse("PutItem", arguments)

    def update_item(self, **arguments):
        if self.updated is None:
            self._refuse("UpdateItem", arguments)
        self.calls.append(("UpdateItem", arguments))
        return {"Attributes": attributes_of(self.updated)}

    def get_item(self, **arguments):
        self.calls.append(("GetItem", arguments))
        return {"Item": attributes_of(self.existing)} if self.existing else {}

    def _refuse(self, operation, arguments):
        self.calls.append((operation, arguments))
        answer = {"Error": {"Code": "ConditionalCheckFailedException", "Message": "refused"}}
        if self.existing:
            answer["Item"] = attributes_of(self.existing)
        raise ClientError(answer, operation)


class TakingClient:
    """DynamoDB's client, at whose end every put goes through."""

    def __init__(self):
        self.put = None

    @property
    def item(self):
        return self.put["Item"]

    def put_item(self, **arguments):
        self.put = arguments
        return {}


def attributes_of(claim):
    return _to_dynamodb(item_of(claim))


def table(client):
    return Claims(client, "claims", lease=600, retention_days=30)


def other(claim):
    return replace(claim, payload_sha256="0" * 64)


NEW = make_claim(holder="worker-b", due_at=None)
RECORD = {"revision": 1, "lineageHash": "aa", "processedAt": "2026-01-31T12:00:02.000Z"}
INVALID = make_claim(status=Status.FAILED, deliveries={}, holder=None, due_at=None, audit=[RECORD])


@pytest.mark.parametrize(
    ("existing", "new", "answer"),
    [
        pytest.param(make_claim(due_at=LATER), NEW, Duplicate, id="another-works-on-it"),
        pytest.param(
            make_claim(due_at=None, holder=None, status=Status.COMPLETED), NEW, Duplicate, id="done"
        ),
        pytest.param(
            make_claim(due_at=EARLIER, holder=None, status=Status.FAILED),
            NEW,
            Duplicate,
            id="failed-and-due-is-for-the-sweep",
        ),
        pytest.param(make_claim(due_at=LATER, holder="worker-b"), NEW, Acquired, id="my-own"),
        pytest.param(
            make_claim(due_at=EARLIER, holder="worker-b"), NEW, Acquired, id="my-own-overdue"
        ),
        pytest.param(other(make_claim(due_at=LATER)), NEW, Conflict, id="another-payload"),
        pytest.param(
            other(make_claim(due_at=LATER, holder="worker-b")),
            NEW,
            Conflict,
            id="another-payload-though-my-own",
        ),
        pytest.param(
            other(make_claim(due_at=EARLIER)), NEW, Conflict, id="another-payload-though-overdue"
        ),
        pytest.param(
            other(make_claim(status=Status.COMPLETED)), NEW, Conflict, id="another-payload-done"
        ),
        pytest.param(INVALID, INVALID, Acquired, id="my-own-invalid-event"),
        pytest.param(
            INVALID,
            replace(INVALID, audit=[RECORD | {"processedAt": "2026-01-31T12:09:00.000Z"}]),
            Duplicate,
            id="anothers-invalid-event",
        ),
        pytest.param(INVALID, NEW, Duplicate, id="invalid-by-the-rules-of-then"),
        pytest.param(make_claim(due_at=LATER), INVALID, Duplicate, id="valid-by-the-rules-of-then"),
        pytest.param(
            make_claim(due_at=EARLIER), INVALID, Duplicate, id="overdue-but-invalid-by-now"
        ),
    ],
)
def test_what_a_refused_put_means(existing, new, answer):
    client = RefusingClient(existing)
    judged = table(client).claim(new)
    assert type(judged) is answer
    assert judged.claim == existing
    assert [operation for operation, _ in client.calls] == ["PutItem"]


def test_an_overdue_claim_is_taken_over_at_the_read_version():
    existing = make_claim(due_at=EARLIER, version=7)
    taken = replace(existing, version=8, generation=2, holder="worker-b", due_at=LATER)
    client = RefusingClient(existing, updated=taken)
    assert table(client).claim(NEW) == Acquired(taken)
    _, (operation, update) = client.calls
    assert operation == "UpdateItem"
    assert (
        update["ConditionExpression"]
        == "version = :version AND due_at <= :now AND NOT item_schema > :known"
    )
    assert "dispatches = dispatches + :one" in update["UpdateExpression"]
    values = update["ExpressionAttributeValues"]
    assert values[":version"] == {"N": "7"}
    assert values[":next"] == {"N": "8"}
    assert values[":holder"] == {"S": "worker-b"}


def test_an_overdue_claim_taken_by_another_is_a_duplicate():
    existing = make_claim(due_at=EARLIER)
    assert table(RefusingClient(existing)).claim(NEW) == Duplicate(existing)


def test_a_takeover_whose_answer_was_lost_is_known_as_ones_own():
    mine = make_claim(holder="worker-b", version=8, due_at=LATER)
    assert table(RefusingClient(mine)).take_over(EVENT_ID, 7, "worker-b") == mine


@pytest.mark.parametrize(
    "existing",
    [
        None,
        make_claim(holder="worker-a", due_at=LATER),
        make_claim(holder=None, due_at=None, status=Status.COMPLETED),
    ],
    ids=["gone", "anothers", "settled"],
)
def test_a_takeover_that_came_too_late_gives_nothing(existing):
    assert table(RefusingClient(existing)).take_over(EVENT_ID, 7, "worker-b") is None


def test_a_refused_put_whose_item_is_gone_is_tried_again_later():
    with pytest.raises(StoreError, match=EVENT_ID):
        table(RefusingClient(None)).claim(NEW)


def test_a_refused_settle_brings_the_present_head():
    present = make_claim(version=9)
    head = make_claim().snapshot
    assert (
        table(RefusingClient(present)).settle(head, head.deliveries, Status.FAILED, RECORD, None)
        == present.snapshot
    )


def test_a_refused_settle_of_a_claim_that_is_gone_says_so():
    head = make_claim().snapshot
    with pytest.raises(ClaimNotFoundError, match=EVENT_ID):
        table(RefusingClient(None)).settle(head, head.deliveries, Status.FAILED, RECORD, None)


@pytest.mark.parametrize(
    ("status", "released"),
    [
        (Status.COMPLETED, True),
        (Status.PARTIAL_FAILURE, True),
        (Status.FAILED, True),
        (Status.PROCESSING, False),
    ],
)
def test_only_a_final_status_lets_go_of_the_claim(status, released):
    client = RefusingClient(updated=make_claim())
    head = make_claim(version=4).snapshot
    assert table(client).settle(head, head.deliveries, status, RECORD, None) is None
    ((_, update),) = client.calls
    released_all = update["UpdateExpression"].endswith(
        "REMOVE holder, targets, actor, due_at, due_bucket, parked_for"
    )
    assert released_all == released
    assert update["ConditionExpression"] == "version = :version AND NOT item_schema > :known"
    assert update["ExpressionAttributeValues"][":version"] == {"N": "4"}
    assert update["ExpressionAttributeValues"][":next"] == {"N": "5"}


def test_a_claim_that_settles_with_pending_retries_stays_due():
    client = RefusingClient(updated=make_claim())
    head = make_claim().snapshot
    table(client).settle(head, head.deliveries, Status.FAILED, None, NextRetry(7))
    ((_, update),) = client.calls
    assert update["UpdateExpression"].endswith("REMOVE holder, targets, actor, parked_for")
    assert update["ExpressionAttributeValues"][":due_at"] == {"N": "7"}
    assert update["ExpressionAttributeValues"][":bucket"] == {"S": due_bucket(EVENT_ID)}
    assert "audit" not in update["UpdateExpression"]


def test_what_waits_for_a_sink_to_recover_stays_due_all_the_same():
    client = RefusingClient(updated=make_claim())
    head = make_claim().snapshot
    table(client).settle(head, head.deliveries, Status.FAILED, None, NextRetry(7, "crm"))
    ((_, update),) = client.calls
    assert update["UpdateExpression"].endswith("REMOVE holder, targets, actor")
    assert update["ExpressionAttributeValues"][":parked_for"] == {"S": "crm"}
    assert update["ExpressionAttributeValues"][":due_at"] == {"N": "7"}
    assert update["ExpressionAttributeValues"][":bucket"] == {"S": due_bucket(EVENT_ID)}


# ── What a put writes ─────────────────────────────────────────────────────────────────────────


def test_an_acquired_claim_has_a_lease_and_is_in_the_due_index():
    client = TakingClient()
    before = int(now().timestamp())
    won = table(client).claim(NEW)
    assert before + 600 <= won.claim.due_at <= int(now().timestamp()) + 600
    assert before <= won.claim.dispatched_at <= won.claim.due_at - 600
    assert won == Acquired(
        replace(NEW, due_at=won.claim.due_at, dispatched_at=won.claim.dispatched_at)
    )
    assert client.item["due_at"] == {"N": str(won.claim.due_at)}
    assert client.item["due_bucket"] == {"S": due_bucket(EVENT_ID)}
    assert client.item["received_day"] == {"S": "2026-01-31"}
    retention = int(client.item["expires_at"]["N"]) - before
    assert 0 <= retention - timedelta(days=30).total_seconds() <= 60
    assert claim_of_attributes(client.item) == won.claim


def test_a_put_wins_only_without_an_item_or_past_retention():
    client = TakingClient()
    before = int(now().timestamp())
    table(client).claim(NEW)
    assert client.put["ConditionExpression"] == "attribute_not_exists(id) OR expires_at < :now"
    assert before <= int(client.put["ExpressionAttributeValues"][":now"]["N"]) <= before + 60
    assert client.put["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"


def test_a_claim_of_an_invalid_event_is_never_due():
    client = TakingClient()
    assert table(client).claim(INVALID) == Acquired(INVALID)
    assert not {"due_at", "due_bucket", "holder"} & set(client.item)


# ── Opening a settled claim again ─────────────────────────────────────────────────────────────

HALF = {"analytics": delivered(), "crm": failed()}


def settled(**changes):
    return make_claim(
        **{"status": Status.PARTIAL_FAILURE, "deliveries": HALF, "holder": None, "due_at": None}
        | changes
    )


def reopen(client, claim):
    return table(client).reopen(claim, ["crm"], actor="zoe@desk", holder="worker-b")


def test_a_settled_claim_is_opened_again_for_who_asked():
    opened = settled(status=Status.PROCESSING, holder="worker-b", version=2, generation=2)
    client = RefusingClient(settled(), updated=opened)
    assert reopen(client, settled()) == opened
    ((operation, update),) = client.calls
    assert operation == "UpdateItem"
    assert update["ConditionExpression"] == "version = :version AND NOT item_schema > :known"
    assert "dispatches = :one" in update["UpdateExpression"]  # counted anew: somebody asked for it
    assert update["ExpressionAttributeValues"][":targets"] == {"L": [{"S": "crm"}]}
    assert update["ExpressionAttributeValues"][":actor"] == {"S": "zoe@desk"}


def test_a_claim_reopened_by_the_same_task_is_its_own():
    mine = settled(status=Status.PROCESSING, holder="worker-b")
    client = RefusingClient(mine)
    assert reopen(client, mine) == mine
    assert client.calls == []
    assert reopen(client, settled()) == mine, "the answer to the write was lost"


@pytest.mark.parametrize(
    "existing",
    [
        settled(status=Status.PROCESSING, holder="worker-a"),
        settled(),  # and the update is refused: somebody was faster
    ],
    ids=["under-way", "just-changed"],
)
def test_a_claim_that_cannot_be_opened_again_says_why(existing):
    with pytest.raises(ClaimInProgressError, match=EVENT_ID):
        reopen(RefusingClient(existing), existing)


# ── When DynamoDB cannot ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow"}}, "GetItem"),
            "DynamoDB get_item: ThrottlingException: slow",
        ),
        (ClientError({"Error": {"Code": "X"}}, "GetItem"), "DynamoDB get_item: X: "),
        (ConnectTimeoutError(endpoint_url="http://h"), "DynamoDB get_item: Connect timeout on "),
    ],
    ids=["throttled", "no-message", "away"],
)
def test_what_dynamodb_cannot_do_is_a_store_error(raised, message):
    class Client:
        def get_item(self, **_):
            raise raised

    with pytest.raises(StoreError) as error:
        table(Client()).get(EVENT_ID)
    assert str(error.value).startswith(message)


def test_an_index_is_read_to_its_last_page():
    class Client:
        pages = 0

        def query(self, **arguments):
            assert ("ExclusiveStartKey" in arguments) == bool(self.pages % 3)
            self.pages += 1
            item = {
                "due_at": 5,
                "id": f"e{self.pages}",
                "version": 2,
                "status": "processing",
                "dispatched_at": 4,
            }
            last = {"LastEvaluatedKey": {"id": {"S": "e"}}} if self.pages % 3 else {}
            return {"Items": [_to_dynamodb(item)], **last}

    found = list(table(Client()).due())
    assert len(found) == 3 * DUE_BUCKETS
    assert found[0] == Due(5, "e1", 2, Status.PROCESSING, 4)


# ── As it is shown ────────────────────────────────────────────────────────────────────────────


def test_a_claim_shows_the_documented_keys_and_no_payload():
    claim = settled(processed_at="2026-01-31T12:00:02.500Z", audit=[RECORD], version=3)
    assert claim_json(claim) == {
        "eventId": EVENT_ID,
        "interactionId": "interaction-1",
        "eventType": "created",
        "status": "partial_failure",
        "version": 3,
        "receivedAt": "2026-01-31T12:00:01.000Z",
        "processedAt": "2026-01-31T12:00:02.500Z",
        "lagMs": 1500,
        "deliveries": {
            "analytics": {
                "outcome": "delivered",
                "attempts": 1,
                "error": None,
                "at": "2026-01-31T12:00:02.000Z",
                "calls": [],
            },
            "crm": {
                "outcome": "failed",
                "attempts": 5,
                "error": "500 Internal Server Error",
                "at": "2026-01-31T12:00:30.000Z",
                "calls": [],
            },
        },
        "dueAt": None,
        "audit": [RECORD],
    }


def test_a_claim_that_is_being_worked_on_shows_until_when():
    shown = claim_json(make_claim(due_at=1_769_861_401))
    assert shown["dueAt"] == "2026-01-31T12:10:01.000Z"
    assert (shown["processedAt"], shown["lagMs"]) == (None, None)
    assert shown["deliveries"]["crm"] == delivery_json(Delivery())
    assert shown["deliveries"]["crm"]["outcome"] == Outcome.PENDING


# ── What contradicts it ───────────────────────────────────────────────────────────────────────


def _settled_with(*records, **changes):
    return settled(audit=list(records), **changes)


def _record(**changes):
    said = {
        "event_id": EVENT_ID,
        "interaction_id": "interaction-1",
        "event_type": "created",
        "received_at": "2026-01-31T12:00:01.000Z",
        "processed_at": "2026-01-31T12:00:02.000Z",
        "status": Status.PARTIAL_FAILURE,
        "deliveries": HALF,
        "previous": (0, None),
    }
    return make_record(**(said | changes))


def test_a_claim_as_it_was_written_holds():
    assert verify_claim(_settled_with(_record())) == []
    assert verify_claim(make_claim()) == []


@pytest.mark.parametrize(
    "tampered",
    [
        _settled_with(),
        _settled_with(_record(event_id="another")),
        _settled_with(_record(), status=Status.COMPLETED),
        _settled_with(_record(), deliveries={**HALF, "crm": delivered()}),
        _settled_with(_record(), payload=b"{}"),
        _settled_with({**_record(), "status": "completed"}),
    ],
    ids=["no-record", "anothers-record", "status", "outcome", "payload", "record"],
)
def test_a_claim_that_was_changed_behind_our_back_is_told(tampered):
    assert verify_claim(tampered)


def test_an_unreadable_index_entry_hides_no_other(caplog):
    class Client:
        def query(self, **_):
            entry = {"due_at": 5, "id": "a", "version": 2, "dispatched_at": 4}
            items = [entry | {"status": "cancelled"}, entry | {"id": "b", "status": "processing"}]
            return {"Items": list(map(_to_dynamodb, items))}

    assert {due.key for due in table(Client()).due()} == {"b"}
    assert "entry of a in an index cannot be read" in caplog.text


def test_a_claim_that_cannot_be_read_is_told_as_such():
    broken = attributes_of(make_claim()) | {"audit": {"L": [{"S": "not json"}]}}
    with pytest.raises(UnknownSchemaError, match=f"claim of {EVENT_ID}: cannot be read"):
        claim_of_attributes(broken)
