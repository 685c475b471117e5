"""Takes CXone interaction events and hands each to every sink: the Celery side.

The way of an event, in the order of the files:
``events`` and ``schemas`` (what an event is), ``registry`` (rules for its metadata),
``process`` (parse and claim), ``dispatch`` (the chord), ``deliver``, ``sinks``, ``cxone`` (the
context that some of them get), ``breaker`` and ``call`` (one HTTP call a sink), ``chord`` (the
result backend that settles), ``settle`` and ``outcomes`` (the final status), ``audit`` (its
record), ``schedule`` (when it is due again), ``sweep`` (what is overdue), ``drain`` (what was
parked). ``claims`` is the DynamoDB table.
"""
