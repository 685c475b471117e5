"""``python -m benchmarks.feed MODULE < events.json``: queue events by a system's own code.

In a process of its own, since each system has settings of its own.
"""

import json
import sys
from importlib import import_module

import_module(sys.argv[1]).feed(json.load(sys.stdin))
