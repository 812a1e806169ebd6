"""Archives of arrays (npz) with a JSON label, from disks that may fail and hands that may not be trusted.

A file is read whole and found sound, or refused in one line: it can neither ask for more memory than its own size
allows, nor wait for what is no file, nor raise anything but `InputError`.
"""

import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffcr.errors import InputError

_DENSEST = 1032
"""Deflate makes no more of a byte than so many."""

_SLACK = 64
"""Bytes of an empty member."""

_ENCRYPTED = 0x1


class Archive(NamedTuple):
    """What an archive holds.

    Attributes:
        label: JSON content that says what the arrays are.
        arrays: By name.
    """

    label: dict[str, Any]
    arrays: dict[str, np.ndarray]


def read_archive(path: Path, label: str = "label.npy", leave_out: Collection[str] = ()) -> Archive | None:
    """The label and the arrays of an archive; None where there is none.

    Args:
        path: The npz file.
        label: Member with the label: JSON text, or an array of its bytes where the name ends in .npy.
        leave_out: Names of arrays that are not read.

    Raises:
        InputError: If it cannot be read, is cut short, changed or no such archive; the message names it and the reason.
    """
    return _read(path, label, lambda name: name.removesuffix(".npy") not in leave_out)


def read_label(path: Path, label: str = "label.npy") -> dict[str, Any] | None:
    """The label of an archive alone; None where there is none.

    Raises:
        InputError: As `read_archive`.
    """
    found = _read(path, label, lambda _: False)
    return None if found is None else found.label


def _read(path: Path, label: str, is_wanted) -> Archive | None:
    try:
        # Opening a pipe would wait for what nobody writes.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise ValueError("it is no regular file")
            with zipfile.ZipFile(handle) as file:
                members = _sound_members(file, os.fstat(handle.fileno()).st_size)
                about = _label(file, members, label)
                names = [name for name in members if name != label and is_wanted(name)]
                return Archive(about, {name.removesuffix(".npy"): _array(file, members[name]) for name in names})
    except FileNotFoundError:
        return None
    # Libraries meet damage with whatever it leads them to: from RecursionError to MemoryError.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason})") from error


def _sound_members(file: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by name, once what they say of themselves fits into a file of this size."""
    members = {member.filename: member for member in file.infolist()}
    if len(members) < len(file.infolist()):
        raise ValueError("a member is there twice")
    if sum(member.compress_size for member in members.values()) > size:
        raise ValueError("its members are larger than the file")
    for name, member in members.items():
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{name} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} has an unknown compression")
        if member.file_size > _DENSEST * member.compress_size + _SLACK:
            raise ValueError(f"{name} is larger than can be")
    return members


def _label(file: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> dict[str, Any]:
    if name not in members:
        raise ValueError(f"it has no {name}")
    content = bytes(_array(file, members[name])) if name.endswith(".npy") else file.read(members[name])
    label = json.loads(content.decode())
    if not isinstance(label, dict):
        raise ValueError("its label is no table")
    return label


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array, once its header says what the member has."""
    # Whole, so that its checksum is tested before anything is made of it.
    content = io.BytesIO(file.read(member))
    version = np.lib.format.read_magic(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{member.filename} is of an unknown version")
    shape, _, kind = readers[version](content)
    number, there = math.prod(shape), member.file_size - content.tell()
    if kind.hasobject or min(shape, default=0) < 0 or (number and not kind.itemsize):
        raise ValueError(f"{member.filename} is no array of numbers or words")
    if number * kind.itemsize != there:
        raise ValueError(f"{member.filename} has {there} bytes, not the {number * kind.itemsize} that it says")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)
