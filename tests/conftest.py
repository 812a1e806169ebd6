"""64-bit floats, shape annotations enforced, no implicit broadcasting of ranks, no network, cheap compilation."""

import importlib.util
import mmap
import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
# The threads of healpy otherwise wait by spinning, which takes the cores from everybody else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# One thread of JAX in each process, as the commands have it: on a pool of them a sampler can wait for ever.
os.environ.setdefault("PJRT_NPROC", "1")


def cheap_compilation() -> str:
    """Flags of XLA that compile the same programs with fewer optimisations: most of the time of a test is compilation.

    XLA ends the process at a flag that it does not know, so each is first looked for in the library. Programs run up
    to 1.5 times slower. With XLA_FLAGS set, also to nothing, the tests run with that instead.
    """
    cheap = {
        "xla_backend_optimization_level": "0",
        "xla_cpu_use_fusion_emitters": "false",
        "xla_cpu_parallel_codegen_split_count": "1",
    }
    library = Path(importlib.util.find_spec("jaxlib").origin).with_name("libjax_common.so")
    if not library.exists():
        return ""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        known = [name for name in cheap if text.find(b"\0" + name.encode() + b"\0") >= 0]
    return " ".join(f"--{name}={cheap[name]}" for name in known)


# Before JAX starts; the workers and the processes that tests start inherit it.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = cheap_compilation()

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


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; gives (exit code, output, errors)."""
    from diffcr.inference.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffcr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return ended.value.code or 0, out.out, out.err

    return call
