"""How the results of many points lie in common arrays: learned from one result after the other, then filled.

Results are looked at one by one, so that a scan of many points does not hold them all twice.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

RESULT = "_result"
"""Appended to the name of a result that an axis has already."""

Variable = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]
"""Dimensions, values, attributes."""


@dataclasses.dataclass
class _Seen:
    """What was seen of one variable."""

    dims: tuple[str, ...]
    first: np.ndarray
    attrs: dict[str, Any]
    kinds: set[str] = dataclasses.field(default_factory=set)
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    number: int = 0
    coordinate: bool = True
    same: bool = True


@dataclasses.dataclass
class _Dimension:
    """What was seen of one dimension of the results: its largest size and its coordinates."""

    size: int = 0
    first: np.ndarray | None = None
    lists: set[tuple] = dataclasses.field(default_factory=set)
    joined: bool = True
    same: bool = True
    seen: bool = False

    def add(self, size: int, values: np.ndarray | None) -> None:
        """One more result with this dimension; `values` are its coordinates, if it has some."""
        if not self.seen:
            self.first, self.seen = values, True
        alike = values is not None and self.first is not None and _equal(values, self.first)
        self.same &= alike or (values is None and self.first is None)
        self.joined &= values is not None and values.dtype.kind in "iuUOT"
        if self.joined:
            self.lists.add(tuple(values.tolist()))
        self.size = max(self.size, size)

    @property
    def loose(self) -> bool:
        """Whether coordinates differ and cannot be joined."""
        return not self.same and not self.joined

    @property
    def length(self) -> int:
        """Length of the common dimension."""
        return self.size if self.coordinates is None else len(self.coordinates)

    @property
    def coordinates(self) -> np.ndarray | None:
        """Of all results together; None where there are none, or they are loose."""
        if self.same:
            return self.first
        if not self.joined:
            return None
        # Not in the order in which results came, which depends on the workers.
        values = dict.fromkeys(value for each in sorted(self.lists, key=lambda x: (-len(x), x)) for value in each)
        return np.array(list(values), str) if self.first.dtype.kind in "UOT" else np.array(sorted(values))


class Layout:
    """What variables, dimensions and coordinates the results of a scan have.

    Inner coordinates are joined where they are whole numbers or words, such as degrees. Where other ones, such as
    energies, differ between points they become a variable over NAME_index.

    Args:
        taken: Names that results must not have; theirs end in `RESULT`.
    """

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = set(taken)
        self._variables: dict[str, _Seen] = {}
        self._dimensions: dict[str, _Dimension] = {}
        self._number = 0

    def add(self, dataset: xr.Dataset) -> None:
        """Learn from one more result."""
        self._number += 1
        dataset = self._renamed(dataset)
        variables = dataset.variables
        for dim, size in dataset.sizes.items():
            values = variables[dim].values if dim in variables else None
            self._dimensions.setdefault(str(dim), _Dimension()).add(size, values)
        for name, variable in variables.items():
            dims, values = tuple(map(str, variable.dims)), variable.values
            seen = self._variables.setdefault(str(name), _Seen(dims, values, dict(variable.attrs)))
            assert seen.dims == dims, f"{name} has the dimensions {dims} at one point and {seen.dims} at another"
            seen.kinds.add(values.dtype.kind)
            seen.shapes.add(values.shape)
            seen.number += 1
            seen.coordinate &= name in dataset.coords
            seen.same = seen.same and _equal(values, seen.first)

    def _renamed(self, dataset: xr.Dataset) -> xr.Dataset:
        names = {*map(str, dataset.variables), *map(str, dataset.dims)} & self._taken
        return dataset.rename({name: f"{name}{RESULT}" for name in names}) if names else dataset

    def _is_shared(self, name: str) -> bool:
        """Whether a variable is a coordinate of all points, and the same: names of degrees, say."""
        seen = self._variables[name]
        loose = any(self._dimensions[dim].loose for dim in seen.dims)
        return seen.coordinate and seen.same and seen.number == self._number and bool(seen.dims) and not loose

    def coordinates(self) -> dict[str, Variable]:
        """Coordinates of the results' own dimensions, and what else is a coordinate of all of them."""
        out = {}
        for name, seen in self._variables.items():
            own = self._dimensions[name].coordinates if name in self._dimensions else None
            if own is not None:
                out[name] = ((name,), own, seen.attrs)
            elif self._is_shared(name):
                out[name] = (seen.dims, seen.first, seen.attrs)
        return out

    def filled(
        self, dims: tuple[str, ...], shape: tuple[int, ...], results: Iterable[xr.Dataset | None], complete: bool
    ) -> dict[str, Variable]:
        """All other variables, with the dimensions of the points before their own.

        NaN, False (of `converged`) or "" where there is nothing; whole numbers of which some are missing become floats.

        Args:
            dims: Of the points.
            shape: Of the points.
            results: The result of each point, the last axis fastest; None where there is none.
            complete: Whether there is one for every point.
        """
        fixed = self.coordinates()
        arrays = {name: self._empty(name, shape, complete) for name in self._variables if name not in fixed}
        places = {name: _places(each) for name, each in self._dimensions.items()}
        for point, result in enumerate(results):
            variables = {} if result is None else self._renamed(result).variables
            for name, variable in variables.items():
                if name not in arrays:
                    continue
                at = [_positions(size, places[d], variables.get(d)) for d, size in variable.sizes.items()]
                arrays[name][(point, *np.ix_(*at))] = variable.values
        out = {}
        for name, values in arrays.items():
            seen = self._variables[name]
            own = tuple(f"{dim}_index" if self._dimensions[dim].loose else dim for dim in seen.dims)
            values = values.astype(str) if values.dtype == object else values
            out[name] = (dims + own, values.reshape(shape + values.shape[1:]), seen.attrs)
        return out

    def _empty(self, name: str, shape: tuple[int, ...], complete: bool) -> np.ndarray:
        """An array in which all values of a variable find place, with what stands where there is none."""
        seen = self._variables[name]
        own = tuple(self._dimensions[dim].length for dim in seen.dims)
        whole = complete and seen.number == self._number and seen.shapes == {own}
        full = (int(np.prod(shape)), *own)
        if seen.kinds == {"b"} and (whole or name == "converged"):
            return np.zeros(full, bool)
        if seen.kinds <= {"i", "u"} and whole:
            return np.zeros(full, np.int64)
        return np.full(full, np.nan) if seen.kinds <= {"b", "i", "u", "f"} else np.full(full, "", object)


def _equal(one: np.ndarray, two: np.ndarray) -> bool:
    number = one.dtype.kind == two.dtype.kind == "f"
    return np.array_equal(one, two, equal_nan=number)


def _places(dimension: _Dimension) -> dict[Any, int] | None:
    """Where the values of a joined coordinate stand; None where every result has the first places."""
    if dimension.same or dimension.loose:
        return None
    return {value: k for k, value in enumerate(dimension.coordinates.tolist())}


def _positions(size: int, places: dict[Any, int] | None, coordinate: xr.Variable | None) -> np.ndarray:
    if places is None:
        return np.arange(size)
    return np.array([places[value] for value in coordinate.values.tolist()], int)
