"""A stop that is asked for, not suffered: signals become a flag that a loop polls.

Cluster schedulers send SIGTERM a little before they kill; a person presses Ctrl-C.
Inside the context the first such signal is only noted, so the training loop can finish
its step, save, and leave. A second one of the same kind acts at once, as it would have
without the context.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A signal stopped the run, which is saved."""

    def __init__(self, number: signal.Signals, message: str):
        """Takes the signal and what to tell the user."""
        super().__init__(message)
        self.signal = number


class GracefulStop:
    """Context manager that notes SIGTERM and SIGINT instead of dying of them.

    The handlers found on entry are put back on exit. Python lets only the main thread
    of the process handle signals; entering anywhere else raises a `ValueError`.

    Example::

        with GracefulStop() as stop:
            while step < steps and stop.received is None:
                ...

    Attributes:
      received: the first signal noted, None until there is one.
    """

    def __init__(self) -> None:
        """Installs nothing yet."""
        self.received: signal.Signals | None = None
        self._noted: set[int] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        """Installs the handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    # No logging here: a handler can run in the middle of another write to the stream.
    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in self._noted:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
        self._noted.add(number)
        self.received = self.received or signal.Signals(number)
