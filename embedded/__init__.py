"""The whole system on one machine, on loopback: ``python -m embedded``.

In the order of a run: ``stack`` (what runs here, with which settings), ``supervisor`` and
``sessions`` (start it, keep it up, stop it), ``infrastructure`` (the table and the rule, from
``deploy/``), ``sinks`` and ``cxone`` (stand-ins for the downstream services and for CXone, over
``web``), ``samples`` (events, and what should become of them), ``account`` (what a person is told
meanwhile).

All data is in one folder and outlives a stop. Redis has every write on the disk at once; the AWS
emulator writes its state when it is stopped, so killing it loses the claims made since its start.
"""
