"""Files that appear under their names only when they are complete."""

import contextlib
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffcr.errors import InputError


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, which becomes `path` when the block ends well and vanishes when it does not.

    The content reaches the disk before the name does, so that neither a kill nor a power cut leaves half a file.

    Raises:
        InputError: If it cannot be written; whatever stood under the name before is untouched.
    """
    path = Path(path)
    # Two hosts that share the folder may have processes of one number.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another -o or free some space") from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def together(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files all move into `folder` once all are written.

    An interrupt before leaves the older files as they were, and no new one beside them.
    """
    with tempfile.TemporaryDirectory(prefix=".", suffix=f".{os.getpid()}.part", dir=folder) as name:
        part = Path(name)
        yield part
        # The JSON last: it says what the rest is.
        for file in sorted((p for p in part.rglob("*") if p.is_file()), key=lambda p: (p.suffix == ".json", p)):
            place = folder / file.relative_to(part)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
            except OSError as error:
                raise InputError(f"{place}: cannot be written ({error}); choose another -o") from error


def write_netcdf(path: str | os.PathLike, content: Any, **options: Any) -> None:
    """Write an xarray Dataset or DataTree as NetCDF 4; it appears under its name only when complete.

    The file is made in memory: HDF5 that meets a full disk prints lines of its own and may not say that it failed.

    Args:
        path: Where to.
        content: The Dataset or DataTree.
        options: Of `to_netcdf`, such as the encoding.

    Raises:
        InputError: If it cannot be written.
    """
    with atomic(path) as part:
        part.write_bytes(content.to_netcdf(None, engine="h5netcdf", **options))


PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0, 15.0, 30.0)
"""Seconds between looks for a file that another machine has written."""


def awaited(load: Callable[[], Any]) -> Any:
    """What `load` gives once it is not None: a network file system may show a file up to a minute after it is written.

    None where it stays away.
    """
    for pause in PAUSES:
        if (found := load()) is not None:
            return found
        time.sleep(pause)
    return load()


def finite(content: Any) -> Any:
    """The same as JSON has it: None for every number that is not finite, lists for tuples."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if math.isfinite(content) else None
    return content
