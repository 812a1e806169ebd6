"""What all else rests on: that the installed JAX adds up right. Some versions do not, on a CPU, and say nothing."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

_PROGRAM = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
row_square = jax.jit(lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x))
i = jnp.arange(16385.0)
print(float(row_square(jnp.stack([i, 0 * i, 0 * i], axis=1))[-1]) == 16384.0**2)
"""


def test_a_sum_of_squares_of_many_rows_is_right():
    """github.com/jax-ml/jax issue 39103: wrong in jaxlib 0.10.2 to 0.12.0, with the flags that users have."""
    run = {**os.environ, "XLA_FLAGS": ""}
    out = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env=run)
    assert out.stdout.split() == ["True"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("number", [16, 64, 1000])
def test_a_sum_over_a_short_axis_of_a_broadcast_product_is_right(dtype, number):
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3)), dtype)

    @jax.jit
    def contract(matrix, x):
        unit = jnp.eye(3, dtype=x.dtype)[:, :, None] * jnp.ones_like(x)
        return jax.vmap(lambda t: jnp.sum(matrix[..., None] * t, axis=2))(unit)

    expected = np.broadcast_to(np.moveaxis(matrix, 2, 0)[..., None], (3, 3, 3, number))
    np.testing.assert_array_equal(contract(matrix, jnp.zeros((3, number), dtype)), expected)
