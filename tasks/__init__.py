"""Takes CXone interaction events and delivers each to every sink: the Celery side.

The Celery tasks, thin, in the order of an event's way: ``process`` (parse and claim), ``deliver``,
``settle`` (final status and audit record), ``sweep`` (what is overdue), ``drain`` (what was
parked). Between them, ``dispatch`` makes a chord of a claim.

What they are made of; each package imports only what stands below it:

- ``cli``: the commands of ``celery -A tasks …``
- ``recovery``: deliver again, by the system or because an operator asks
- ``dispatch``: from a claim to its chord
- ``observability``: the state of the whole, and metrics
- ``runtime``: what each process makes once
- ``celery``: the app
- ``worker``: what is changed in Celery and kombu
- ``delivery``: one attempt at one sink
- ``claims``: one DynamoDB item per event
- ``settings``: the environment, typed and checked
- ``sinks``: the downstream services, one file each
- ``events``: what an event is
- ``routing``, ``counters``, ``json_lines``, ``clock``, ``errors``: used by all
"""
