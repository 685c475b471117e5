from types import SimpleNamespace

import pytest

from tasks import poison
from tasks.errors import StoreError
from tasks.settings import load


class Counter:
    """Counts the redeliveries of each task, as the table does."""

    def __init__(self):
        self.sums = {}

    def count_redelivery(self, task_id):
        self.sums[task_id] = self.sums.get(task_id, 0) + 1
        return self.sums[task_id]


@pytest.fixture
def counter(monkeypatch):
    counter = Counter()
    monkeypatch.setattr(poison, "claims", lambda: counter)
    monkeypatch.setattr(poison, "settings", lambda: load({"MAX_DISPATCHES": "3"}))
    return counter


def task(delivery_info, task_id="id-1"):
    return SimpleNamespace(request=SimpleNamespace(id=task_id, delivery_info=delivery_info))


@pytest.mark.parametrize("delivery_info", [None, {}, {"redelivered": False}, {"redelivered": None}])
def test_a_message_that_comes_once_costs_nothing(counter, delivery_info):
    assert not poison.lost_too_often(task(delivery_info))
    assert counter.sums == {}


def test_a_message_that_comes_again_is_given_up_at_its_third_loss(counter):
    again = task({"redelivered": True})
    assert [poison.lost_too_often(again) for _ in range(4)] == [False, False, True, True]
    assert not poison.lost_too_often(task({"redelivered": True}, "id-2"))
    assert counter.sums == {"id-1": 4, "id-2": 1}


def test_a_store_that_cannot_count_stops_nothing(counter, monkeypatch):
    def count_redelivery(_task_id):
        raise StoreError("DynamoDB update_item: away")

    monkeypatch.setattr(counter, "count_redelivery", count_redelivery)
    assert not poison.lost_too_often(task({"redelivered": True}))
