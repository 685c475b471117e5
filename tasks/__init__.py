"""Takes CXone interaction events and hands each to every sink: the Celery side.

The way of an event, in the order of the files:
``events`` and ``schemas`` (what an event is), ``registry`` (rules for its metadata),
``process`` (parse and claim), ``dispatch`` (the chord), ``deliver``, ``sinks`` and ``call`` (one
HTTP call a sink), ``chord`` (the result backend that settles), ``settle`` and ``outcomes`` (the
final status), ``audit`` (its record), ``sweep`` (what is overdue). ``claims`` is the table.
"""
