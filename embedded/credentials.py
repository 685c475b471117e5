"""``python -m embedded.credentials FOLDER``: generate the secrets of a system in containers.

One file per secret, as ``<NAME>_FILE`` names it, and Redis's configuration. Existing files stay.
"""

import argparse
import secrets
from pathlib import Path

from embedded.stack import new_credentials


def make(folder: Path) -> None:
    """Write the files that do not exist yet."""
    password = _keep(folder / "redis_password", secrets.token_urlsafe(24))
    _keep(folder / "redis.conf", f"requirepass {password}")
    _keep(folder / "redis_url", f"redis://:{password}@redis:6379/0")
    for name, value in new_credentials().items():
        _keep(folder / name.lower(), value)


def _keep(path: Path, text: str) -> str:
    """Write a file unless it exists; return its text."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.write_text(f"{text}\n")
        draft.replace(path)
    return path.read_text().strip()


def main() -> None:
    """Generate the secrets in the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m embedded.credentials", description=__doc__)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)


if __name__ == "__main__":
    main()
