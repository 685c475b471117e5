"""The soak: steady load, random kills and faults, and in the end nothing lost and nothing stuck.

``load`` posts as EventBridge does, ``chaos`` breaks and mends, ``ledger`` holds what the sinks
got, ``verdict`` checks all of it at rest, ``run`` puts them together. ``make soak`` runs it for as
long as you like, ``tests/integration/test_soak.py`` for seconds.
"""
