"""What is changed in Celery and kombu: the only place that touches their internals.

- ``transport``: an atomic reserve, and notification keys
- ``chord_backend``: a chord that settles
- ``publish``: a fan-out in one round trip
- ``pool``: processes whose jobs are not forgotten at a stop
- ``consumer``: task events that are sent together
- ``compat``: a check that Celery and kombu are made as the above expect

docs/decisions/0014-pins-and-guards.md says why no public alternative serves.
"""
