"""How far an experiment is: bars on a terminal, now and then a line elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

SECONDS = 10.0
"""Between lines."""


class Tasks(Progress):
    """rich's progress bars; where there is no terminal, a line for the latest change.

    Example::

        with Tasks() as tasks:
            task = tasks.add_task("static, seed 0", total=100)
            tasks.update(task, completed=7)  # static, seed 0: 7 of 100, 3 s
    """

    def __init__(self, console: Console | None = None, seconds: float = SECONDS):
        """Prepares the bars.

        Args:
          console: to draw on; standard output unless given.
          seconds: from one line to the next at least.
        """
        columns = (*Progress.get_default_columns(), TimeElapsedColumn())
        super().__init__(*columns, console=console)
        self._seconds = seconds
        self._last = time.monotonic()

    def update(self, task_id: Any, **changes: Any) -> None:
        """As rich's; see there."""
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: Any, advance: float = 1) -> None:
        """As rich's; see there."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id) -> None:
        if self.console.is_terminal or time.monotonic() < self._last + self._seconds:
            return
        self._last = time.monotonic()
        task = self._tasks[task_id]
        share = f"{task.completed:g}" + (f" of {task.total:g}" if task.total else "")
        line = f"{task.description}: {share}, {task.elapsed or 0:.0f} s"
        print(line, file=self.console.file, flush=True)
