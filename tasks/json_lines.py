"""Logs for programs: audit records and the backlog, one JSON object per line."""

import logging
import sys

#: The loggers of such lines.
LOGGERS = ("audit", "backlog")


def log_to_stdout() -> None:
    """Write each on a line of its own to standard output, with nothing before the JSON.

    ``sys.__stdout__`` because a worker replaces ``sys.stdout`` by a logger.
    """
    for log in map(logging.getLogger, LOGGERS):
        if not log.handlers:
            handler = logging.StreamHandler(sys.__stdout__)
            handler.setFormatter(logging.Formatter("%(message)s"))
            log.addHandler(handler)
            log.setLevel(logging.INFO)
            log.propagate = False
