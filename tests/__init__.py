"""Tests, in rings: unit (plain functions), integration (real services, no Docker)."""

import os

# Code under test in this very process must not count in a Redis that happens to run here.
os.environ["REDIS_URL"] = "redis://127.0.0.1:1/0"
