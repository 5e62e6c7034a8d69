"""The formulas of output norms agree with what is simulated."""

import output_norms
import pytest

N, K, SAMPLES = 8, 2, 20_000


@pytest.mark.parametrize("kind", output_norms.KINDS)
def test_the_simulated_variance_is_that_of_the_formula(kind):
    norms = output_norms.squared_norms(kind, N, K, SAMPLES, seed=0)
    spread = ((norms - norms.mean()) ** 2).std() / SAMPLES**0.5
    assert norms.mean() == pytest.approx(1, abs=4 * (norms.var() / SAMPLES) ** 0.5)
    assert norms.var() == pytest.approx(
        output_norms.FORMULAS[kind](N, K), abs=4 * spread
    )


def test_a_constant_fan_in_lowers_the_variance_unless_it_is_full():
    bernoulli, constant = output_norms.FORMULAS.values()
    # 72/80 + 32/80 of the one; less 3 * 6 / (2 * 80) of the other.
    assert bernoulli(N, K) == pytest.approx(1.3)
    assert constant(N, K) == pytest.approx(1.3 - 0.1125)
    assert bernoulli(N, N) == constant(N, N)
    simulated = [
        output_norms.squared_norms(k, N, N, 100, 0) for k in output_norms.KINDS
    ]
    assert (simulated[0] == simulated[1]).all()
