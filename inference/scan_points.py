"""The points of a scan: their settings, the hash that each is kept under, and the batches they are computed in."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from diffcr.errors import InputError

from .code_version import code_version
from .scan_files import record_of, require_unchanged
from .scan_spec import Spec

_SHARES = 8
"""A group of points is cut into at least so many batches where it has as many, so that workers can share them."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a scan.

    Attributes:
        values: Its varied settings.
        settings: All settings, or None where they do not go together.
        key: Hash under which its result is kept; "" where there are no settings.
        message: Why they do not go together, or "".
    """

    values: dict[str, Any]
    settings: dict[str, Any] | None
    key: str
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a scan will compute.

    Attributes:
        spec: What was asked for.
        points: In the order of the design.
        inputs: For each input its name, size and SHA-256.
        files: Inputs, and files that settings name, as `scan_files.record_of` found them: their content is in the keys.
        code: Version of the program, with a digest of its sources.
    """

    spec: Spec
    points: tuple[Point, ...]
    inputs: tuple[dict[str, Any], ...]
    files: tuple[dict[str, Any], ...]
    code: str

    @property
    def keys(self) -> list[str]:
        """Hashes of the points that can be computed, each once."""
        return list(dict.fromkeys(point.key for point in self.points if point.key))

    def groups(self) -> dict[str, list[Point]]:
        """Points that can be computed, each once, by the group that their task puts them in."""
        out: dict[str, list[Point]] = {}
        for point in {point.key: point for point in self.points if point.key}.values():
            out.setdefault(self.spec.task.group(point.settings), []).append(point)
        return out

    def batches(self) -> list[list[Point]]:
        """Points that are computed together.

        They depend neither on what is finished nor on the workers, so that sums are rounded alike in a run that was
        killed, continued, or shared.
        """
        out = []
        for points in self.groups().values():
            size = min(self.spec.task.batch, math.ceil(len(points) / _SHARES))
            out += [points[k : k + size] for k in range(0, len(points), size)]
        return out


def plan_scan(spec: Spec, progress: Callable[[str], None] | None = None) -> Plan:
    """Settle the points of a scan, and the hashes under which they are kept.

    Args:
        spec: The scan.
        progress: Called with the name of each input before it is read for its checksum.

    Raises:
        InputError: If an input cannot be read, or a value goes together with no others.
    """
    inputs, files = [], {}
    for name in spec.source.inputs:
        if progress is not None:
            progress(name)
        files[name] = _record(name, f"{spec.where}: inputs")
        inputs.append({key: files[name][key] for key in ("file", "sha256", "bytes")})
    rows = [(values, _completed(spec, values)) for values in spec.design.rows()]
    named = (name for _, settings in rows if not isinstance(settings, str) for name in spec.task.files(settings))
    files |= {name: _record(name, spec.where) for name in dict.fromkeys(named)}
    code = code_version()
    source = spec.source.as_json() | {"inputs": [each["sha256"] for each in inputs]}
    points = tuple(_point(spec, *row, source, code) for row in rows)
    # Now what is in the keys is what is in the records.
    require_unchanged(files.values())
    _require_some(spec, points)
    return Plan(spec, points, tuple(inputs), tuple(files.values()), code)


def _record(name: str, where: str) -> dict[str, Any]:
    try:
        return record_of(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _completed(spec: Spec, values: dict[str, Any]) -> dict[str, Any] | str:
    """All settings of a point, or why they do not go together."""
    try:
        return spec.task.complete(spec.fixed | values)
    except InputError as error:
        return str(error)


def _point(spec: Spec, values: dict[str, Any], settings: dict[str, Any] | str, source: dict, code: str) -> Point:
    if isinstance(settings, str):
        return Point(values, None, "", settings)
    try:
        content = {"code": code, "run": spec.task.name, "source": source, "settings": spec.task.identity(settings)}
    except InputError as error:
        return Point(values, None, "", str(error))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # 128 bits of it, so that names stay short enough to be read out.
    return Point(values, settings, hashlib.sha256(text.encode()).hexdigest()[:32])


def _require_some(spec: Spec, points: tuple[Point, ...]) -> None:
    """Refuse a scan with a value that goes together with no others.

    What some pairs of axes leave out, such as energy_min above energy_max, are points without a result. Points that
    were written side by side were all meant.
    """
    bad = [point for point in points if not point.key]
    if len(bad) == len(points) or (bad and spec.design.kind == "list"):
        shown = ", ".join(f"{name} = {value}" for name, value in bad[0].values.items())
        raise InputError(f"{spec.where}: {bad[0].message} (at {shown})")
    if spec.design.kind != "grid":
        return
    for axis in spec.design.axes:
        good = {json.dumps(point.values[axis.name]) for point in points if point.key}
        for point in bad:
            if json.dumps(point.values[axis.name]) not in good:
                value = point.values[axis.name]
                raise InputError(f"{spec.where}: [vary] {axis.name} = {value} suits no other value: {point.message}")
