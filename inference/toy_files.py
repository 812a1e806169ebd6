"""Blocks of toys on disk: one npz file each, which says what it is of and appears under its name only when complete."""

import functools
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffcr.errors import InputError

from .archives import read_archive, read_label
from .files import atomic
from .toy_plan import ToyPlan, plan_of_arrays

FOLDER = "blocks"
"""Where blocks go, within the folder of the results."""


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
_OWN = ("number", "toys", "arrays")


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
    """A finished block, cut to the skies that the plan has in it; a sentence where the file cannot be used; or None
    where there is none, or one of too few skies."""
    path, again = block_path(folder, plan, number), "its toys are drawn again"
    try:
        found = read_archive(path)
        if found is None:
            return None
        label, block, size = _block_of(*found, number)
    except InputError as error:
        return f"{error}; {again}"
    # Whatever a label of another hand leads to.
    except Exception as error:
        return f"{path}: cannot be read ({error}); {again}"
    if label != plan.label:
        # Of a command that lost to the one whose plan is there.
        return f"{path}: is of toys with other {_differing(label, plan.label)}; {again}"
    wanted = plan.size(number)
    if size < wanted:
        return None
    return Block(*(values[:wanted] for values in block[:-1]), block.seconds * wanted / size)


def _block_of(label: dict, arrays: dict[str, np.ndarray], number: int) -> tuple[dict, Block, int]:
    """What identifies its toys, the block, and its number of skies."""
    label = dict(label)
    found, number_found, size = label.pop("arrays"), label.pop("number"), label.pop("toys")
    kept = {name: arrays[name] for name in _ARRAYS}
    if found != _digest(kept) or number_found != number:
        raise ValueError("its checksum is another one")
    if [each.shape for each in kept.values()] != [(size, 2), (size, 3), (size,), (size,)]:
        raise ValueError("its arrays are of other shapes")
    return label, Block(**kept, seconds=float(arrays["seconds"])), size


# Plans --------------------------------------------------------------------------------------------------


def save_plan(folder: Path, plan: ToyPlan) -> None:
    """Write what the blocks are of, for the workers, unless it is there.

    The plan that is there says whose the folder is. Of commands with different plans that begin at the same time one
    writes its own and the others are refused. A plan whose command left no blocks is replaced.

    Raises:
        InputError: If there are blocks of another plan of the same kind, or it cannot be written.
    """
    path = _plan_path(folder, plan.kind)
    found = _plan_there(path)
    if found is None and not path.exists():
        _require_blocks_of(folder, plan, plan.label)
        if _create(path, plan):
            return
        found = _plan_there(path)
        if found is not None and found != plan.label:
            raise _another(path, found, plan.label)
    if found == plan.label:
        return
    _require_blocks_of(folder, plan, plan.label if found is None else found)
    _save(path, plan.label, plan.arrays())


def require_plan(folder: Path, plan: ToyPlan) -> None:
    """Refuse to go on where the plan on disk is no longer this one.

    Raises:
        InputError: If it is not there, or another one.
    """
    path = _plan_path(folder, plan.kind)
    label = read_label(path)
    if label != plan.label:
        raise InputError(f"{path}: {_CHANGED}")


@functools.lru_cache(maxsize=4)
def load_plan(folder: Path, kind: str, checksum: str, toys: int) -> ToyPlan:
    """The plan that was written, for the given number of skies.

    Raises:
        InputError: If it is not there, or another one.
    """
    path = _plan_path(folder, kind)
    again = "run the same command again"
    try:
        found = read_archive(path)
    except InputError as error:
        raise InputError(f"{error}; {again}") from error
    if found is None:
        raise InputError(f"{path}: cannot be read (there is no such file); {again}")
    try:
        plan = plan_of_arrays(*found, toys)
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({error}); {again}") from error
    if plan.checksum != checksum:
        raise InputError(f"{path}: {_CHANGED}")
    return plan


_CHANGED = "was changed by another run; choose another -o for one of them"


def _plan_path(folder: Path, kind: str) -> Path:
    return folder / FOLDER / f"{kind}_plan.npz"


def _plan_there(path: Path) -> dict[str, Any] | None:
    """The label of a plan that can be used; None where there is none."""
    try:
        label, arrays = read_archive(path)
        detectors = plan_of_arrays(label, arrays, 1).label["detectors"]
        return label if detectors == label["detectors"] else None
    # What cannot be used for whatever reason is written again.
    except Exception:
        return None


def _require_blocks_of(folder: Path, plan: ToyPlan, label: dict[str, Any]) -> None:
    """Refuse a plan where blocks are there that are another's: of what is on disk, or, without a plan, any.

    Args:
        folder: That of the results.
        plan: The plan to be written.
        label: Of the plan that is there; without one, that of `plan`.
    """
    own = label == plan.label
    for path in sorted((folder / FOLDER).glob(f"{plan.kind}_[0-9]*.npz")):
        try:
            found = {name: value for name, value in (read_label(path) or {}).items() if name not in _OWN}
        except InputError:
            continue
        if found and (found != plan.label if own else found == label):
            raise _another(path if own else _plan_path(folder, plan.kind), found, plan.label)


def _create(path: Path, plan: ToyPlan) -> bool:
    """Write a plan where there is none; False where another command was faster."""
    spare = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        _save(spare, plan.label, plan.arrays())
        # Unlike a rename it fails where the name is taken.
        os.link(spare, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without links: the plan that is written last is the one that goes on.
        _save(path, plan.label, plan.arrays())
    finally:
        spare.unlink(missing_ok=True)
    return True


def _save(path: Path, label: dict, arrays: dict[str, np.ndarray]) -> None:
    text = np.frombuffer(json.dumps(label, sort_keys=True).encode(), np.uint8)
    with atomic(path) as part, part.open("wb") as file:
        np.savez(file, label=text, **arrays)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _differing(old: dict, new: dict) -> str:
    return ", ".join(sorted(k for k in {*old, *new} if old.get(k) != new.get(k)))


def _another(path: Path, old: dict, new: dict) -> InputError:
    return InputError(
        f"{path}: is of toys with other {_differing(old, new)}; repeat the command that made them, or choose another -o"
    )
