"""The soak: steady load, random kills and faults; in the end nothing is lost and nothing stuck.

``load`` posts as EventBridge does, ``chaos`` breaks and repairs, ``ledger`` records what the sinks
received, ``verdict`` checks every event, ``run`` puts them together. ``make soak`` runs it for a
given time, ``tests/integration/test_soak.py`` for seconds.
"""
