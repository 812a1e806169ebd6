"""The results of all points of a scan as one xarray Dataset, and the best of them."""

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import InputError

from .scan_design import Axis
from .scan_layout import Layout, Variable
from .scan_points import Plan
from .scan_store import Stored

Load = Callable[[str], Stored | None]


def layout_of(plan: Plan) -> Layout:
    """A layout that knows which names are those of the axes."""
    return Layout({axis.name for axis in plan.spec.design.axes} | {"point", "seconds", "message"})


def assemble(plan: Plan, layout: Layout, load: Load, failed: Mapping[str, str], command: str = "") -> xr.Dataset:
    """One dataset of all points.

    A grid has a dimension for each axis; other designs have the dimension "point", with the axes as coordinates.
    Beside the results of the task stand `seconds`, `converged` and `message`; NaN, False and "" where there is nothing.

    Args:
        plan: The scan.
        layout: From `layout_of`, with all results added.
        load: Gives the result of the point of a hash, or None.
        failed: Messages of points without a result, by hash.
        command: Command line, kept with the origin of the data.
    """
    design, number = plan.spec.design, len(plan.points)
    grid = design.kind == "grid"
    dims = tuple(axis.name for axis in design.axes) if grid else ("point",)
    seconds, done = np.full(number, np.nan), np.zeros(number, bool)

    def results() -> Iterator[xr.Dataset | None]:
        for place, point in enumerate(plan.points):
            stored = load(point.key) if point.key else None
            if stored is not None:
                seconds[place], done[place] = stored.label.get("seconds", np.nan), True
            yield None if stored is None else stored.dataset

    complete = not failed and all(point.key for point in plan.points)
    data = layout.filled(dims, design.shape, results(), complete)
    messages = [p.message or ("" if ok else failed.get(p.key, "")) for p, ok in zip(plan.points, done, strict=True)]
    own = {
        "seconds": (seconds, {"long_name": "time that the point took", "units": "s"}),
        "converged": (done, {"long_name": "whether there is a result"}),
        "message": (np.array(messages, str), {"long_name": "why there is no result"}),
    }
    own = {name: (dims, values.reshape(design.shape), attrs) for name, (values, attrs) in own.items()}
    return xr.Dataset(own | data, layout.coordinates() | _axes(plan), _origin(plan, command))


def _axes(plan: Plan) -> dict[str, Variable]:
    """Coordinates of the axes, and numbers of points where these are no grid."""
    grid = plan.spec.design.kind == "grid"
    coords = {}
    for axis in plan.spec.design.axes:
        values = axis.values if grid else [point.values[axis.name] for point in plan.points]
        coords[axis.name] = ((axis.name if grid else "point",), _labels(values), _attributes(axis))
    if not grid:
        coords["point"] = (("point",), np.arange(len(plan.points)), {"long_name": "number of the point"})
    return coords


def _attributes(axis: Axis) -> dict[str, str]:
    return axis.setting.attributes | {"scale": "log" if axis.log else "linear"}


def _labels(values: Sequence[Any]) -> np.ndarray:
    """Values of an axis as an array; several numbers at once, and numbers beside words, as their JSON text."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float} or kinds in ({bool}, {str}):
        return np.array(values)
    return np.array([value if isinstance(value, str) else json.dumps(value) for value in values], str)


def _origin(plan: Plan, command: str) -> dict[str, str]:
    spec = plan.spec
    quantity, sense = spec.best or spec.task.best
    return {
        "format": "diffcr scan",
        "software": plan.code,
        "run": spec.task.name,
        "design": spec.design.kind,
        "axes": json.dumps([axis.name for axis in spec.design.axes]),
        "fixed": json.dumps(spec.fixed),
        "best_quantity": quantity,
        "best_sense": sense,
        "scan": json.dumps(spec.content),
        "inputs": json.dumps(list(plan.inputs)),
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.node()}, {platform.platform()}, {os.cpu_count()} cores",
    }


# The best point -----------------------------------------------------------------------------------------


def require_quantity(dataset: xr.Dataset, quantity: str, where: str) -> None:
    """Refuse a quantity by which the results of a point cannot be ranked.

    Raises:
        InputError: If there is none of the name, or it is no single number.
    """
    numbers = [str(k) for k, v in dataset.data_vars.items() if not v.dims and v.dtype.kind in "iuf"]
    if quantity not in numbers:
        raise InputError(
            f"{where}: [best] quantity {quantity!r} is no number that each point gives; choose one of "
            f"{', '.join(sorted(numbers))}"
        )


def best_point(dataset: xr.Dataset, quantity: str, sense: str) -> dict[str, Any] | None:
    """The point where a quantity is best: its place, settings and single numbers; None where no point has it.

    Points that did not converge are passed over, and those where it is not finite.

    Args:
        dataset: From `assemble`.
        quantity: Name of a variable with the dimensions of the points alone.
        sense: "largest" or "smallest".
    """
    points = dataset["message"].dims
    if quantity not in dataset or dataset[quantity].dims != points or dataset[quantity].dtype.kind not in "iuf":
        return None
    values = dataset[quantity].values
    there = np.isfinite(values) & dataset["converged"].values
    if not there.any():
        return None
    # What is not finite is no extreme: it is what a point without a result, or one at a singular place, gives.
    flat = (
        np.argmax(np.where(there, values, -np.inf))
        if sense == "largest"
        else np.argmin(np.where(there, values, np.inf))
    )
    place = dict(zip(points, (int(k) for k in np.unravel_index(flat, values.shape)), strict=True))
    here = dataset.isel(place)
    axes = json.loads(dataset.attrs["axes"])
    return {
        "quantity": quantity,
        "sense": sense,
        "value": here[quantity].item(),
        "settings": {name: here[name].item() for name in axes},
        "place": place,
        "results": {
            str(k): v.item() for k, v in here.data_vars.items() if not v.dims and k not in ("message", "converged")
        },
        "passed_over": int(np.sum(np.isfinite(dataset[quantity].values) & ~dataset["converged"].values)),
    }
