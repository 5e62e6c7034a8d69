"""What is watched while a network trains: loss, speed, and that both make sense."""

import time
from typing import Any

import jax
import numpy as np

from srigl_jax.metrics import MetricsWriter
from srigl_jax.progress import ProgressDisplay


class NotFiniteError(ArithmeticError):
    """Training diverged: the loss, say, is not a finite number."""


class Monitor:
    """Collects what each step measured; shows, records and checks it now and then.

    Measurements stay on the device until then, so that steps are dispatched ahead.
    A record averages the steps since the one before it, in a resumed run since it was
    resumed: steps that only a killed process saw are in no mean.
    """

    def __init__(
        self,
        step: int,
        metrics: MetricsWriter,
        display: ProgressDisplay,
        seconds_before: float = 0.0,
    ):
        """Starts the clock.

        Args:
          step: steps taken so far.
          metrics: gets a "train" record at each flush.
          display: shows the same.
          seconds_before: training time of the run up to `step`.
        """
        self._step = step
        self._metrics = metrics
        self._display = display
        self._pending: list[dict[str, jax.Array]] = []
        self._values: list[dict[str, float]] = []
        self._started = time.perf_counter() - seconds_before
        self._timed_from: tuple[int, float] | None = None

    @property
    def seconds(self) -> float:
        """Time spent training, that of the run before it was resumed included."""
        return time.perf_counter() - self._started

    def add(self, measured: dict[str, jax.Array]) -> None:
        """Takes what the next step measured: scalars by name."""
        self._pending.append(measured)
        if self._timed_from is None:  # The first step compiled; leave it out.
            self._timed_from = self._step + 1, time.perf_counter()

    def check(self) -> None:
        """Waits for the steps so far, and checks that all they measured is finite.

        Raises:
          NotFiniteError: names the first step that was not, counted from 1.
        """
        for measured in jax.device_get(self._pending):
            self._step += 1
            values = {name: float(value) for name, value in measured.items()}
            for name, value in values.items():
                if not np.isfinite(value):
                    raise NotFiniteError(
                        f"training diverged at step {self._step}: {name} is {value}. "
                        "The checkpoints of earlier steps are kept. Lower "
                        "optimizer.learning_rate, and start in another workdir."
                    )
            self._values.append(values)
        self._pending = []

    def flush(self) -> None:
        """Checks, shows and records the means since the last flush."""
        self.check()
        if not self._values:
            return
        now = time.perf_counter()
        means: dict[str, Any] = {
            name: float(np.mean([values[name] for values in self._values]))
            for name in self._values[0]
        }
        step, then = self._timed_from
        if self._step > step:  # No speed of the first step alone, which compiled.
            means["steps_per_second"] = (self._step - step) / (now - then)
        self._values, self._timed_from = [], (self._step, now)
        self._metrics.write("train", self._step, **means, seconds=self.seconds)
        shown = ("loss", "accuracy", "steps_per_second")
        self._display.log(self._step, **{n: means[n] for n in shown if n in means})
