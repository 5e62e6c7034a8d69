"""The trainer's voice: a progress bar on a terminal, plain lines everywhere else.

Both say the same: the step, loss, accuracy, steps per second and the time left.
"""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class ProgressDisplay:
    """Shows how far a run is. A context manager; leaving it frees the terminal."""

    def __init__(self, total_steps: int, enabled: bool | None = None):
        """Prepares the display.

        Args:
            total_steps: the step at which training ends.
            enabled: draw a bar; None: if standard output is a terminal.
        """
        self._total = total_steps
        self._bar = None
        if sys.stdout.isatty() if enabled is None else enabled:
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}", markup=False),
                console=Console(force_terminal=enabled),
                expand=True,
            )
            self._task = self._bar.add_task("", total=total_steps, figures="")

    def __enter__(self) -> "ProgressDisplay":
        """Starts to draw."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        """Leaves the last state of the bar on the terminal."""
        if self._bar:
            self._bar.stop()

    def update(self, step: int) -> None:
        """Moves the bar to `step`; prints nothing where there is no bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def log(
        self,
        step: int,
        loss: float | None = None,
        accuracy: float | None = None,
        steps_per_second: float | None = None,
    ) -> None:
        """Shows the latest figures beside the bar, or prints them as one line."""
        figures = self._figures(step, loss, accuracy, steps_per_second)
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures)
        else:
            print(f"step {step}/{self._total}  {figures}".rstrip(), flush=True)

    def print(self, text: str) -> None:
        """Prints `text` as it is, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def _figures(self, step, loss, accuracy, steps_per_second) -> str:
        figures = []
        if loss is not None:
            figures.append(f"loss {loss:.4f}")
        if accuracy is not None:
            figures.append(f"accuracy {accuracy:.3f}")
        if steps_per_second:
            seconds = (self._total - step) / steps_per_second
            digits = (
                0 if steps_per_second >= 100 else 3 - len(f"{steps_per_second:.0f}")
            )
            figures.append(f"{steps_per_second:.{digits}f} steps/s")
            figures.append(f"{duration(seconds)} left")
        return "  ".join(figures)


def duration(seconds: float) -> str:
    """A length of time in words: "8 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
