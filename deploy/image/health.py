"""The HEALTHCHECK of the image: exits 0 if the role of this container is healthy.

It runs every few seconds in every container, so it imports neither Celery nor this project.
"""

import os
import sys
import time
import urllib.request
from pathlib import Path

#: Seconds that a heartbeat may be late. A worker writes one every 2 s, beat with each sweep.
TOLERANCE = 30


def answers(url: str) -> bool:
    """Return whether GET gives 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=4) as response:  # noqa: S310 - loopback
            return response.status == 200
    except OSError:
        return False


def is_alive(interval: float) -> bool:
    """Return whether the last heartbeat is not much older than the interval between two."""
    try:
        age = time.time() - Path(os.environ["HEARTBEAT_FILE"]).stat().st_mtime
    except FileNotFoundError:
        return False
    return age < 2 * interval + TOLERANCE


def main() -> bool:
    """Check the URLs of the command line, else this container by the role in /tmp/role."""
    if urls := sys.argv[1:]:
        return all(map(answers, urls))
    match Path("/tmp/role").read_text().strip():  # noqa: S108 - a container's own
        case "ingest":
            return answers(f"http://127.0.0.1:{os.environ.get('INGEST_PORT') or 8080}/healthz")
        case "flower":
            return answers(f"http://127.0.0.1:{os.environ.get('FLOWER_PORT') or 5555}/healthcheck")
        case "worker":
            return is_alive(2)
        case "beat":
            return is_alive(float(os.environ.get("SWEEP_INTERVAL_SECONDS") or 30))
    return True


if __name__ == "__main__":
    sys.exit(not main())
