"""Output to the terminal."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Sequence
from typing import TextIO

#: A line of a process that is shown. Redis's "# WARNING" is advice on kernel settings.
_WARNING = re.compile(r"(?<!# )\b(WARNING|ERROR|CRITICAL)\b")

#: Time, process and level, in brackets: in the log file, and too much for the terminal.
_LOG_PREFIX = re.compile(r"^(\[[^]]*\]\s*)+(?=.)")

_GREEN, _RED, _YELLOW, _BOLD = "32", "31", "33", "1"


class Console:
    """Writes short lines, in colour on a terminal unless NO_COLOR is set. Thread-safe."""

    def __init__(self, stream: TextIO = sys.stdout, *, verbose: bool = False) -> None:
        """Write to ``stream``; ``verbose`` shows every line of every process."""
        self._stream = stream
        self._verbose = verbose
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._lock = threading.Lock()

    def write(self, text: str = "") -> None:
        """Write a line as it is."""
        # Where the reader is gone, as in ``| head``, the run and its orderly stop go on.
        with self._lock, contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.write(f"\n{self._in(_BOLD, text)}")

    def success(self, title: str, text: str) -> None:
        """Report something that is as it should be."""
        self.write(f"  {self._in(_GREEN, '✓')} {title:<18} {text}")

    def step(self, title: str, text: str) -> None:
        """Report something that is done, and neither good nor bad."""
        self.write(f"  · {title:<18} {text}")

    def warning(self, title: str, text: str) -> None:
        """Report something unexpected after which the run goes on."""
        self.write(f"  {self._in(_YELLOW, '!')} {title:<18} {text}")

    def problem(self, text: str) -> None:
        """Report something that is not as it should be."""
        self.write(f"  {self._in(_RED, '✗')} {text}")

    def failure(self, text: str, lines: Sequence[str] = ()) -> None:
        """Report what ended the run, with the last lines of the process that it is about."""
        self.write(f"\n{self._in(_RED, '✗')} {text}")
        for line in lines:
            self.write(f"    {line}")

    def process_output(self, name: str, line: str) -> None:
        """Show a line of a process if verbose; else only warnings and errors, without prefix."""
        if self._verbose:
            self.write(f"{self._in(_YELLOW, f'{name:<18} |')} {line}")
        elif _WARNING.search(line):
            self.warning(name, _LOG_PREFIX.sub("", line))

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text
