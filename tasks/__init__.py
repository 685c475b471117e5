"""Takes CXone interaction events and delivers each to every sink: the Celery side.

The Celery tasks, thin, in the order of an event's way: ``process`` (parse and claim), ``dispatch``
(the chord), ``deliver``, ``settle`` (final status and audit record), ``sweep`` (what is overdue),
``drain`` (what was parked). ``celery`` is the app.

What they are made of; each package imports only what stands below it:

- ``cli``: the commands of ``celery -A tasks …``
- ``recovery``: deliver again, by the system or because an operator asks
- ``observability``: the state of the whole, and metrics
- ``runtime``: what each process makes once
- ``worker``: what is changed in Celery and kombu
- ``delivery``: one attempt at one sink
- ``claims``: one DynamoDB item per event
- ``settings``: the environment, typed and checked
- ``sinks``: the downstream services, one file each
- ``events``: what an event is
- ``routing``, ``counters``, ``json_lines``, ``clock``, ``errors``: used by all
"""
