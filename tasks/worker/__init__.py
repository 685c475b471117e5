"""What is changed in Celery and kombu: the only place that touches their internals.

``transport`` (atomic reserve), ``chord_backend`` (a chord that settles), ``publish`` (a fan-out in
one round trip), ``pool`` and ``consumer``.
"""
