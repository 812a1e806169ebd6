"""Results of single points on disk: one npz file each, without pickles, labelled and checked."""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from diffcr.errors import InputError

from .archives import read_archive
from .files import atomic

FORMAT = "diffcr scan point 1"


class Stored(NamedTuple):
    """What a file of a point holds.

    Attributes:
        dataset: The result.
        label: What `save` was given beside it.
    """

    dataset: xr.Dataset
    label: dict[str, Any]


def path_of(folder: Path, key: str) -> Path:
    """The file of a point."""
    return folder / f"{key}.npz"


def save(folder: Path, key: str, dataset: xr.Dataset, label: Mapping[str, Any] | None = None) -> None:
    """Write the result of a point; it appears under its name only when complete.

    Args:
        folder: Existing folder.
        key: Hash of the point, the name of its file.
        dataset: Numbers, truth values and words, with their coordinates and attributes of JSON content.
        label: JSON content to keep beside it, such as the settings.

    Raises:
        InputError: If it cannot be written.
    """
    content = encoded(key, dataset, label)
    with atomic(path_of(folder, key)) as part:
        part.write_bytes(content)


def encoded(key: str, dataset: xr.Dataset, label: Mapping[str, Any] | None = None) -> bytes:
    """Content of the file of a point."""
    # All values of one kind in one array: files of scans are many, and most of their variables are single numbers.
    parts: dict[str, list[np.ndarray]] = {}
    variables = {}
    for name, variable in dataset.variables.items():
        values = variable.values
        text = values.dtype.kind in "OT"
        values = values.astype(str) if text else values
        kind = parts.setdefault(values.dtype.str, [])
        variables[str(name)] = {
            "array": values.dtype.str,
            "start": sum(map(len, kind)),
            "shape": list(values.shape),
            "dims": [str(dim) for dim in variable.dims],
            "attrs": _plain(variable.attrs),
            "coordinate": name in dataset.coords,
            "object": text,
        }
        kind.append(values.ravel())
    places = {kind: f"v{number}" for number, kind in enumerate(parts)}
    arrays = {places[kind]: np.concatenate(each) for kind, each in parts.items()}
    for each in variables.values():
        each["array"] = places[each["array"]]
    about = {"format": FORMAT, "key": key, "label": _plain(label or {})}
    about |= {"variables": variables, "attrs": _plain(dataset.attrs)}
    about["checksum"] = _checksum(about, arrays)
    file = io.BytesIO()
    np.savez_compressed(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return file.getvalue()


def load(folder: Path, key: str) -> Stored | None:
    """The result of a point as it was saved, or None where there is none.

    Raises:
        InputError: If the file is damaged, or is that of another point.
    """
    path = path_of(folder, key)
    found = read_archive(path, "about.npy")
    if found is None:
        return None
    about, arrays = found
    try:
        if about["format"] != FORMAT or about["key"] != key or about.pop("checksum") != _checksum(about, arrays):
            raise ValueError("its content is not what its label says")
        return Stored(_decoded(about, arrays), dict(about["label"]))
    # Whatever a label of another hand leads to.
    except Exception as error:
        raise InputError(f"{path}: is damaged ({error})") from error


def _decoded(about: dict, arrays: dict[str, np.ndarray]) -> xr.Dataset:
    data, coordinates = {}, {}
    for name, each in about["variables"].items():
        shape, start = tuple(each["shape"]), each["start"]
        values = arrays[each["array"]][start : start + math.prod(shape)].reshape(shape)
        values = values.astype(object) if each["object"] else values
        (coordinates if each["coordinate"] else data)[name] = (tuple(each["dims"]), values, each["attrs"])
    return xr.Dataset(data, coordinates, about["attrs"])


def _plain(value: Any) -> Any:
    """The same with the numbers and arrays of NumPy as those of Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _checksum(about: dict, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
