"""Types used in annotations of shapes."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
"""An array of JAX (traced or not) or of NumPy."""
