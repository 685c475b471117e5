"""The image's HEALTHCHECK: exit 0 if the role of this container does its work.

Light, as it runs every few seconds in every container: nothing of Celery, nothing of ours.
"""

import os
import sys
import time
import urllib.request
from pathlib import Path

#: Seconds without a sign of life. A worker gives one every 2 s; beat, with each sweep.
SILENCE = 30


def answers(url: str) -> bool:
    """Tell whether GET gives 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=4) as response:  # noqa: S310 - loopback
            return response.status == 200
    except OSError:
        return False


def is_alive(interval: float) -> bool:
    """Tell whether the last sign of life is not much older than the interval between two."""
    try:
        age = time.time() - Path(os.environ["HEARTBEAT_FILE"]).stat().st_mtime
    except FileNotFoundError:
        return False
    return age < 2 * interval + SILENCE


def main() -> bool:
    """Check the URL of the command line, else this container by the role entrypoint.sh noted."""
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
