"""Blocks of toys on disk: one npz file each, which says what it is of and appears under its name only when complete."""

import functools
import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffcr.errors import InputError

from .files import atomic
from .toy_plan import ToyPlan, plan_of_arrays

FOLDER = "blocks"
"""Where blocks go, within the folder of the results."""

_BROKEN = (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)


class Block(NamedTuple):
    """Dipole fits of one block of skies.

    Attributes:
        estimates: Fitted (delta_0h, delta_6h) in the equator of date, shape (toy, 2).
        covariances: Variance of delta_0h, covariance, variance of delta_6h, shape (toy, 3).
        test_statistics: 2 ln(L / L_isotropic), scaled for weights, shape (toy,).
        converged: Whether the fit is at a maximum, shape (toy,).
        seconds: Wall time of drawing and fitting.
    """

    estimates: Float[np.ndarray, "toy 2"]
    covariances: Float[np.ndarray, "toy 3"]
    test_statistics: Float[np.ndarray, " toy"]
    converged: Bool[np.ndarray, " toy"]
    seconds: float


_ARRAYS = Block._fields[:4]


def block_path(folder: Path, plan: ToyPlan, number: int) -> Path:
    """Where a block is written."""
    return folder / FOLDER / f"{plan.kind}_{number:05d}.npz"


def save_block(folder: Path, plan: ToyPlan, number: int, block: Block) -> None:
    """Write a block.

    Raises:
        InputError: If it cannot be written.
    """
    arrays = {name: getattr(block, name) for name in _ARRAYS}
    own = {"number": number, "toys": len(block.converged), "arrays": _digest(arrays)}
    _save(block_path(folder, plan, number), plan.label | own, arrays | {"seconds": np.array(block.seconds)})


def load_block(folder: Path, plan: ToyPlan, number: int) -> Block | str | None:
    """A finished block, cut to the skies that the plan has in it; a sentence where the file cannot be read; or None
    where there is none, or one of too few skies.

    Raises:
        InputError: If it is of another plan.
    """
    path = block_path(folder, plan, number)
    if not path.exists():
        return None
    try:
        label, arrays = _load(path)
        seconds, found = float(arrays.pop("seconds")), label.pop("arrays")
        number_found, size = label.pop("number"), label.pop("toys")
        if found != _digest({name: arrays[name] for name in _ARRAYS}) or number_found != number:
            raise ValueError("its checksum is another one")
    except _BROKEN as error:
        return f"{path}: cannot be read ({error}); its toys are drawn again"
    _require_same(path, label, plan.label)
    wanted = plan.size(number)
    if size < wanted:
        return None
    return Block(*(arrays[name][:wanted] for name in _ARRAYS), seconds * wanted / size)


def save_plan(folder: Path, plan: ToyPlan) -> None:
    """Write what the blocks are of, for the workers.

    Raises:
        InputError: If another plan of the same kind is there, or it cannot be written.
    """
    path = _plan_path(folder, plan.kind)
    if path.exists():
        try:
            found, _ = _load(path)
        except _BROKEN:
            found = plan.label
        _require_same(path, found, plan.label)
    _save(path, plan.label, plan.arrays())


@functools.lru_cache(maxsize=4)
def load_plan(folder: Path, kind: str, checksum: str, toys: int) -> ToyPlan:
    """The plan that was written, for the given number of skies.

    Raises:
        InputError: If it is not there, or another one.
    """
    path = _plan_path(folder, kind)
    try:
        plan = plan_of_arrays(*_load(path), toys)
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be read ({error}); run the same command again") from error
    if plan.checksum != checksum:
        raise InputError(f"{path}: was changed by another run; choose another -o for one of them")
    return plan


def _plan_path(folder: Path, kind: str) -> Path:
    return folder / FOLDER / f"{kind}_plan.npz"


def _save(path: Path, label: dict, arrays: dict[str, np.ndarray]) -> None:
    text = np.frombuffer(json.dumps(label, sort_keys=True).encode(), np.uint8)
    with atomic(path) as part, part.open("wb") as file:
        np.savez(file, label=text, **arrays)


def _load(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(bytes(arrays.pop("label")).decode()), arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _require_same(path: Path, old: dict, new: dict) -> None:
    differing = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if differing:
        raise InputError(
            f"{path}: is of toys with other {', '.join(differing)}; repeat the command that made them, or choose "
            "another -o"
        )
