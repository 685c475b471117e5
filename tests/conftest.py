"""What holds for every test."""

import os

# Code under test in this very process must not count in a Redis that happens to run here. Not in
# the package, which processes under test import as well.
os.environ["REDIS_URL"] = "redis://127.0.0.1:1/0"
