"""What a person at the terminal is told."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Sequence
from typing import TextIO

#: A child's line that is shown. Redis's "# WARNING" is advice on kernel settings.
_WARNING = re.compile(r"(?<!# )\b(WARNING|ERROR|CRITICAL)\b")

_GREEN, _RED, _YELLOW, _BOLD = "32", "31", "33", "1"


class Account:
    """Writes short lines, in colour on a terminal unless NO_COLOR is set. Safe among threads."""

    def __init__(self, stream: TextIO = sys.stdout, *, verbose: bool = False) -> None:
        """Write to ``stream``; ``verbose`` shows every line of every child."""
        self._stream = stream
        self._verbose = verbose
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._lock = threading.Lock()

    def say(self, text: str = "") -> None:
        """Write a line as it is."""
        # Where the reader has gone, as in ``| head``, the work and the stopping go on.
        with self._lock, contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.say(f"\n{self._in(_BOLD, text)}")

    def ready(self, name: str, seconds: float) -> None:
        """Say that a part is ready, ``seconds`` after it was started."""
        self.say(f"  {self._in(_GREEN, '✓')} {name:<18} {seconds:5.1f} s")

    def stopped(self, names: str, seconds: float) -> None:
        """Say that parts have ended."""
        self.say(f"  ■ {names}: {seconds:.1f} s")

    def result(self, text: str, *, good: bool) -> None:
        """Say how something turned out."""
        mark = self._in(_GREEN, "✓") if good else self._in(_RED, "✗")
        self.say(f"  {mark} {text}")

    def problem(self, text: str) -> None:
        """Say what went wrong, and goes on all the same."""
        self.say(f"  {self._in(_YELLOW, '!')} {text}")

    def failure(self, text: str, lines: Sequence[str] = ()) -> None:
        """Say what ended the run, with the last lines of the child it was about."""
        self.say(f"\n{self._in(_RED, '✗')} {text}")
        for line in lines:
            self.say(f"    {line}")

    def output(self, name: str, line: str) -> None:
        """Show a child's line, if it is one for the terminal."""
        if self._verbose or _WARNING.search(line):
            self.say(f"{self._in(_YELLOW, f'{name:<10} |')} {line}")

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text
