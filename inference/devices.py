"""Devices: those that JAX computes on, how work is laid over them, and what a process finds on its machine.

Work that falls into equal independent parts (chains, toys, particles) is laid over the devices so that nothing
crosses between them: each runs its share as it would alone, with loops of its own length.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Axes

from diffcr.errors import InputError

_HOST_DEVICES = "--xla_force_host_platform_device_count"
POOL = "PJRT_NPROC"
"""Variable that says how many threads the pool has that XLA starts for a processor."""

_PLUGINS = {"cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "rocm": ("jax_rocm60_plugin", "jax_rocm7_plugin")}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Starting -----------------------------------------------------------------------------------------------


def start_devices(number: int | None, most_useful: int | None = None) -> list:
    """Devices of JAX, so many cores of the processor each one of its own; all by default.

    To be called before anything has run on a processor; one that runs already stays as it is.

    Args:
        number: How many; None for all that are of use.
        most_useful: More than these have nothing to do, such as the number of chains; None for no such number.

    Raises:
        InputError: If there are not so many.
    """
    if number is not None and number < 1:
        raise InputError(f"--devices must be at least 1, not {number}")
    here = cores()
    with _host_devices(min(number or evenly(most_useful or here, here), here)):
        found = jax.local_devices()
    most = max(here, len(found)) if jax.default_backend() == "cpu" else len(found)
    if number is not None and number > most:
        raise InputError(f"--devices {number}, but this machine has {most}: ask for {most} or fewer")
    return found[: number or most_useful]


def start_for_chains(number: int | None, chains: int) -> list:
    """Devices for chains that sample side by side, those of all processes that are joined; as `start_devices`.

    Raises:
        InputError: If there are not so many here.
    """
    with _one_thread_each():
        here = start_devices(number, chains)
    places: dict[int, list] = {}
    for device in jax.devices():
        places.setdefault(device.process_index, []).append(device)
    return [device for of_process in places.values() for device in of_process[: len(here)]]


def evenly(parts: int, most: int) -> int:
    """The fewest devices, of `most`, on which no device has more of the equal parts than it must."""
    return -(-parts // -(-parts // most))


@contextlib.contextmanager
def _host_devices(number: int) -> Iterator[None]:
    """Let a processor that JAX starts within the block be so many devices; one that runs already stays as it is."""
    before = os.environ.get("XLA_FLAGS")
    if _HOST_DEVICES not in (before or ""):
        os.environ["XLA_FLAGS"] = f"{before or ''} {_HOST_DEVICES}={number}".strip()
    try:
        yield
    finally:
        restore("XLA_FLAGS", before)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let a processor that JAX starts within the block have no more threads than devices.

    A sampler is thousands of small operations one after the other. More threads take a twentieth of its work from
    the first, and wake each other for every piece of it: on cores that sleep between, or that others use, that
    takes longer than the work itself.
    """
    before = os.environ.get(POOL)
    os.environ.setdefault(POOL, "1")
    try:
        yield
    finally:
        restore(POOL, before)


def restore(name: str, value: str | None) -> None:
    """Give a variable of the environment the value that it had; None for none."""
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def warn_of_threads() -> None:
    """Warn where JAX runs on a processor with a pool of threads, on which a sampler can wait for ever.

    XLA's batched linear algebra (and, as others found, its Fourier transforms) hands the parts of a batch to the pool
    and waits for them, also where it runs on a thread of that pool: when all threads do so, nobody is left. The fewer
    cores there are, the sooner it happens; on two, matrices of 100 draws at once are enough.
    """
    if jax.default_backend() == "cpu" and cores() > 1 and not {POOL, "NPROC"} & os.environ.keys():
        warnings.warn(
            f"JAX shares a pool of threads here, on which a sampler can wait for ever: set os.environ['{POOL}'] = '1' "
            "before JAX is used",
            RuntimeWarning,
            stacklevel=3,
        )


# Sharing ------------------------------------------------------------------------------------------------


class Shares:
    """Equal parts of some work along the first axis of its arrays, laid over devices.

    Where the devices do not divide the parts, the last part is repeated to fill them up, and dropped again: that
    takes no longer, as all wait for the device with the most parts.

    Args:
        parts: Their number.
        devices: Of JAX, those of other processes included; by default all local ones. No more are used than needed.
        name: Of the axis.
    """

    def __init__(self, parts: int, devices=None, name: str = "part"):
        devices = list(jax.local_devices() if devices is None else devices)
        everywhere = len({d.process_index for d in devices}) > 1
        # A process whose devices have nothing to do could not take part in what all do together.
        self.devices = devices if everywhere else devices[: evenly(parts, len(devices))]
        self.parts, self._axis = parts, name
        self.padded = -(-parts // len(self.devices)) * len(self.devices)
        self.mesh = Mesh(np.array(self.devices), (name,))

    @property
    def single(self) -> bool:
        """Whether all is on one device."""
        return len(self.devices) == 1

    @property
    def several_hosts(self) -> bool:
        """Whether devices of other processes take part."""
        return len({d.process_index for d in self.devices}) > 1

    def map(self, function: Callable, shared: int = 0, results: Any = 0) -> Callable:
        """The function with its first arguments split along their first axis and the last `shared` ones whole.

        All arrays are arguments: one that the function closes over could not lie on devices of other processes.

        Args:
            function: Of arrays (part, ..) and of the shared ones.
            shared: How many arguments are whole.
            results: Axis of the parts in what it gives; a tuple of them where it gives a tuple.
        """
        if self.single:
            return function

        def over(*arguments):
            split = (Axes(self._axis),) * (len(arguments) - shared)
            specs = {"in_specs": split + (Axes(),) * shared, "out_specs": jax.tree.map(self._along, results)}
            return jax.shard_map(function, mesh=self.mesh, check_vma=False, **specs)(*arguments)

        return over

    def split(self, tree: Any) -> Any:
        """Arrays (part, ..), the same in every process, laid over the devices."""
        if self.single:
            return self._there(tree)
        order = np.minimum(np.arange(self.padded), self.parts - 1)
        return self._put(jax.tree.map(lambda x: np.asarray(x)[order], tree), Axes(self._axis))

    def whole(self, tree: Any) -> Any:
        """Arrays that every device holds completely; those of the first process where there are several."""
        if self.single:
            return self._there(tree)
        if self.several_hosts:
            from jax.experimental.multihost_utils import broadcast_one_to_all

            tree = broadcast_one_to_all(tree)
        return self._put(tree, Axes())

    def gather(self, tree: Any, axis: int = 0) -> Any:
        """Arrays with the parts along an axis as NumPy arrays, complete in every process."""
        if self.several_hosts:
            from jax.experimental.multihost_utils import process_allgather

            tree = process_allgather(tree, tiled=True)
        kept = (slice(None),) * axis + (slice(self.parts),)
        return jax.tree.map(lambda x: np.asarray(x)[kept], tree)

    def _along(self, axis: int) -> Axes:
        return Axes(*(None,) * axis, self._axis)

    def _there(self, tree):
        return tree if self.devices[0] == jax.local_devices()[0] else jax.device_put(tree, self.devices[0])

    def _put(self, tree, axes):
        sharding = NamedSharding(self.mesh, axes)
        if not self.several_hosts:
            return jax.device_put(tree, sharding)

        def place(value):
            value = np.asarray(value)
            return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

        return jax.tree.map(place, tree)


# Telling ------------------------------------------------------------------------------------------------


def describe_devices() -> dict[str, Any]:
    """What JAX computes on in this process, JSON: devices, precision, processes, versions, and notes in sentences."""
    found = jax.local_devices()
    backend = found[0].platform
    return {
        "platform": backend,
        "devices": [_device(d) for d in found],
        "processes": jax.process_count(),
        "process": jax.process_index(),
        "devices_of_all_processes": jax.device_count(),
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "memory_bytes": _memory(),
        "float64": bool(jax.config.jax_enable_x64),
        "precision": _PRECISION.get(backend, _PRECISION["gpu"]),
        "layout": layout(len(found), backend),
        "change": dict(_CHANGE),
        "environment": {k: os.environ[k] for k in _VARIABLES if k in os.environ},
        "versions": versions(),
        "notes": missing_plugins(backend),
    }


_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", POOL)

_PRECISION = {
    "cpu": "64 bits; paths in turbulence 32 bits unless --precision double",
    "gpu": "64 bits, in hardware at a half (data-centre cards) to a 64th (others) of the speed of 32 bits; paths in "
    "turbulence 32 bits unless --precision double",
    "tpu": "64 bits, emulated and slow; paths in turbulence 32 bits; the likelihood as a difference is made for 32 "
    "bits (Python: diffcr.inference.likelihood.conditional_difference)",
}

_CHANGE = {
    "which platform": "JAX_PLATFORMS=cpu (or cuda, rocm, tpu) before the command",
    "how many devices": "--devices N of sample and backtrack; cores of a processor each become one",
    "which cores": "taskset -c 0-7 before the command, or what Slurm gives",
    "several machines": "--hosts of sample and backtrack; --workers, --scheduler, --slurm of scan, toys and bin",
}


def layout(number: int, backend: str) -> dict[str, str]:
    """What each command lays over so many devices."""
    own = f"{cores()} cores, each a device of its own" if backend == "cpu" else f"{number} devices"
    pool = f"one device, {cores()} threads" if backend == "cpu" else "the first device"
    return {
        "sample": f"chains over {own}",
        "backtrack": f"particles over {own}; over hosts realisations",
        "toys": f"skies over {number} device{'s' if number > 1 else ''}; blocks over workers",
        "scan": "points over workers; side by side in one call where they have one shape",
        "bin": "files over workers",
        "predict, lens": pool,
        "fit, map, estimate, compare, spectrum, sources": "one device, one thread of JAX",
        "calibrate": "data sets side by side on one device",
    }


def _device(device) -> dict[str, Any]:
    try:
        stats = device.memory_stats() or {}
    except Exception:  # Not every plugin has it, and each says so in its own way.
        stats = {}
    return {"id": device.id, "kind": device.device_kind, "memory_bytes": stats.get("bytes_limit")}


def _memory() -> int | None:
    """Memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def versions() -> dict[str, str]:
    """Versions of what computes."""
    out = {"python": platform.python_version()}
    for name in ("diffcr", "jax", "jaxlib", "numpyro", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out


def missing_plugins(backend: str, devices: Path = Path("/dev")) -> list[str]:
    """Accelerators that are there and that JAX does not use, one sentence with the remedy for each.

    Args:
        backend: Platform that JAX runs on.
        devices: Folder of the device files.
    """
    if backend != "cpu":
        return []
    notes = []
    asked = os.environ.get("JAX_PLATFORMS", "")
    nvidia = any(devices.glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None
    if nvidia and not _has("cuda"):
        notes.append("there is an NVIDIA card, but JAX has no plugin for it: pip install 'diffcr[cuda]'")
    elif nvidia and "cpu" in asked:
        notes.append(f"there is an NVIDIA card, but JAX_PLATFORMS={asked} keeps JAX off it: unset it")
    elif nvidia:
        notes.append("there is an NVIDIA card and a plugin, but JAX cannot use it: run nvidia-smi, and see its driver")
    if (devices / "kfd").exists() and not _has("rocm"):
        notes.append("there is an AMD card, but JAX has no plugin for it: install the jax-rocm plugin of its driver")
    if any(devices.glob("accel[0-9]*")) and importlib.util.find_spec("libtpu") is None:
        notes.append("there is a TPU, but JAX has no plugin for it: pip install 'jax[tpu]'")
    return notes


def _has(kind: str) -> bool:
    return any(importlib.util.find_spec(name) is not None for name in _PLUGINS[kind])
