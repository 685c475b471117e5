"""``python -m benchmarks.feed MODULE < events.json``: queue events by a system's own code.

It is a process because each system reads its settings from the environment.
"""

import json
import sys
from importlib import import_module

import_module(sys.argv[1]).feed(json.load(sys.stdin))
