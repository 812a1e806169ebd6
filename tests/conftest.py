"""64-bit floats, shape annotations enforced, no implicit broadcasting of ranks, no network."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

install_import_hook(["diffcr"], "beartype.beartype")

import jax

jax.config.update("jax_enable_x64", True)
