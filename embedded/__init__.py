"""The whole system on one machine, on loopback: ``python -m embedded``.

- ``stack``: which processes run, with which settings
- ``supervisor``, ``process_groups``: start the processes, keep them up, stop them
- ``backing_services``: how Redis and the AWS emulator are started
- ``infrastructure``: the table and the rule, from ``deploy/``
- ``stubs``: stand-ins for the downstream services and for CXone
- ``demo``: sample events, and the check of what became of each
- ``console``: output to the terminal
- ``credentials``: secrets for a system in containers

All data is in one folder and survives a stop. Redis writes every command to disk at once; the AWS
emulator saves its state when it is stopped, so killing it loses the claims made since its start.
"""
