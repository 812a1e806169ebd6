"""64-bit floats, shape annotations enforced, no implicit broadcasting of ranks, no network."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

install_import_hook(["diffcr"], "checker.check")

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def write(tmp_path):
    """Write text (or bytes) to a file and give its path."""

    def write(text, name="events.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
