import time

import pytest

from tasks.delivery import backoff
from tasks.delivery.backoff import Deadline, jitter, retry_delay
from tasks.sinks import Policy

POLICY = Policy(backoff_base=2, backoff_cap=30, retry_after_cap=60)


def test_a_jitter_is_between_its_bounds():
    waits = [jitter(0.05, 0.15) for _ in range(100)]
    assert 0.05 <= min(waits) < max(waits) <= 0.15


def test_the_backoff_doubles_up_to_its_cap(monkeypatch):
    monkeypatch.setattr(backoff.random, "uniform", lambda _least, most: most)
    assert [retry_delay(attempt, POLICY) for attempt in range(1, 7)] == [2, 4, 8, 16, 30, 30]


def test_the_backoff_has_full_jitter(monkeypatch):
    monkeypatch.setattr(backoff.random, "uniform", lambda least, _most: least)
    assert retry_delay(5, POLICY) == 0


@pytest.mark.parametrize(("retry_after", "delay"), [(0.0, 0.0), (7.0, 7.0), (3_600.0, 60)])
def test_retry_after_replaces_the_backoff_up_to_its_cap(retry_after, delay):
    assert retry_delay(1, POLICY, retry_after) == delay


def test_a_deadline_ends_no_wait_after_itself(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(backoff.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(backoff.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    deadline = Deadline(5)
    assert deadline.sleep(3)
    assert deadline.left == 2
    assert not deadline.sleep(2.1)
    assert deadline.left == 2
    assert deadline.sleep(2)
    assert deadline.sleep(0)
    clock[0] += 1
    assert deadline.left == -1
    assert not deadline.sleep(0)


def test_a_deadline_sleeps():
    began = time.monotonic()
    assert Deadline(5).sleep(0.05)
    assert time.monotonic() - began >= 0.05
