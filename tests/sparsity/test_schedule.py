"""When the topology changes, and how much of it."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srigl_jax.sparsity import schedule


@pytest.mark.parametrize(
    ("step", "due"),
    [(0, False), (99, False), (100, True), (101, False), (200, True), (300, False)],
)
def test_updates_come_every_delta_t_steps_strictly_inside_the_schedule(step, due):
    assert bool(schedule.update_due(step, 100, 300)) is due


@given(
    step=st.integers(0, 10_000), delta_t=st.integers(1, 500), t_end=st.integers(0, 9999)
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_update_due_equals_the_oracle(step, delta_t, t_end):
    due = bool(schedule.update_due(step, delta_t, t_end))
    assert due == oracle.update_due(step, delta_t, t_end)


@pytest.mark.parametrize(
    ("step", "fraction"),
    [(0, 0.3), (100, 0.256066), (200, 0.15), (300, 0.043934), (400, 0.0)],
)
def test_drop_fraction_at_the_quarters_of_the_schedule(step, fraction):
    assert float(schedule.drop_fraction(step, 0.3, 400)) == pytest.approx(
        fraction, abs=1e-6
    )


def test_drop_fraction_falls_at_every_step():
    steps = jnp.arange(1001)
    fractions = jax.vmap(lambda step: schedule.drop_fraction(step, 0.3, 1000))(steps)
    expected = [oracle.drop_fraction(step, 0.3, 1000) for step in range(1001)]
    np.testing.assert_allclose(fractions, expected, atol=1e-6)
    # Near both ends the cosine is flatter than float32 can show.
    assert np.all(np.diff(fractions) <= 0)


@pytest.mark.parametrize("step", [400, 401, 600, 800])
def test_drop_fraction_stays_zero_after_the_schedule(step):
    assert float(schedule.drop_fraction(step, 0.3, 400)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("step", [0, 40, 75, 80, 120])
def test_traced_steps_give_the_schedule_of_python_ints(step):
    due = jax.jit(schedule.update_due)(step, 40, 120)
    fraction = jax.jit(schedule.drop_fraction)(step, 0.3, 120)
    assert bool(due) == oracle.update_due(step, 40, 120)
    assert float(fraction) == pytest.approx(
        oracle.drop_fraction(step, 0.3, 120), abs=1e-6
    )


@pytest.mark.parametrize(("total", "end"), [(0, 0), (1, 0), (10, 7), (1000, 750)])
def test_the_schedule_ends_at_three_quarters_of_training(total, end):
    assert schedule.t_end(total) == end
