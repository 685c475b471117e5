from types import SimpleNamespace

import pytest

from tasks.errors import StoreError
from tasks.recovery.redeliveries import exceeds_max_receives


class Counter:
    """Counts the redeliveries of each task, as the table does."""

    def __init__(self):
        self.sums = {}

    def count_redelivery(self, task_id):
        self.sums[task_id] = self.sums.get(task_id, 0) + 1
        return self.sums[task_id]


@pytest.fixture
def counter():
    return Counter()


def task(delivery_info, task_id="id-1"):
    return SimpleNamespace(request=SimpleNamespace(id=task_id, delivery_info=delivery_info))


@pytest.mark.parametrize("delivery_info", [None, {}, {"redelivered": False}, {"redelivered": None}])
def test_a_message_that_comes_once_costs_nothing(counter, delivery_info):
    assert not exceeds_max_receives(task(delivery_info), counter, 3)
    assert counter.sums == {}


def test_a_redelivered_message_is_given_up_at_its_third_loss(counter):
    again = task({"redelivered": True})
    assert [exceeds_max_receives(again, counter, 3) for _ in range(4)] == [False, False, True, True]
    assert not exceeds_max_receives(task({"redelivered": True}, "id-2"), counter, 3)
    assert counter.sums == {"id-1": 4, "id-2": 1}


def test_a_store_that_cannot_count_stops_nothing(counter, monkeypatch):
    def count_redelivery(_task_id):
        raise StoreError("DynamoDB update_item: away")

    monkeypatch.setattr(counter, "count_redelivery", count_redelivery)
    assert not exceeds_max_receives(task({"redelivered": True}), counter, 3)
