"""Scans over settings: many points, one file each, on one machine or a cluster, continued after any end.

A point is known by a hash of its task, its settings, its data and the program, and its result goes into one file that
appears under its name only when complete. What is finished is never computed again, also where a run was killed, and
also where another scan into the same folder meets the same point.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from diffcr.errors import FitError, InputError

from . import scan_store
from .files import awaited, finite, together, write_netcdf
from .scan_batch import POINTS, run_batch
from .scan_dataset import assemble, best_point, layout_of, require_quantity
from .scan_files import require_unchanged
from .scan_layout import Layout
from .scan_points import Plan, plan_scan
from .scan_spec import spec_of
from .scan_store import Stored
from .workers import Workers, run_jobs

_ABANDONED_SECONDS = 3600

Progress = Callable[[int, int, float], None]
Tell = Callable[[str], None]


class ScanResult(NamedTuple):
    """What a scan gave.

    Attributes:
        dataset: All points, as `scan.nc` has them.
        summary: What `scan.json` says.
    """

    dataset: xr.Dataset
    summary: dict[str, Any]


def scan(
    run: str,
    vary: Mapping[str, Any],
    inputs: Sequence[str | os.PathLike] | str = (),
    fixed: Mapping[str, Any] | None = None,
    design: Mapping[str, Any] | None = None,
    output: str | os.PathLike | None = None,
    workers: Workers | None = None,
    best: Mapping[str, str] | None = None,
    site: Any = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    **reader: Any,
) -> xr.Dataset:
    """Run a task at every point of a design.

    Args:
        run: What is done at each point: "fit", "sample", "predict", "backtrack", "calibrate", "map" or "toys".
        vary: Settings that vary: a list of values, {"from", "to", "number", "scale"}, or a distribution.
        inputs: Event lists, counts files or `dataset:NAME`; none for tasks without data.
        fixed: Settings that are held.
        design: {"kind", "points", "seed"}: "grid" (default), "list", "latin-hypercube", "sobol" or "random".
        output: Folder for the results; a second call with it computes what is missing. None keeps nothing on disk.
        workers: Where points are computed; by default in this process.
        best: {"quantity", "sense"} by which points are ranked.
        site: Observatory of event lists: one for all inputs, or one each.
        progress: Called with the points done, those in all, and the seconds so far.
        tell: Called with one line for each thing worth knowing, such as a damaged file that is not used.
        reader: columns, time_format, azimuth, prefer, equinox, skip_bad_rows of event lists.

    Returns:
        A dimension for each axis of a grid, otherwise the dimension "point"; beside the results `seconds`, `converged`
        and `message`. Points that failed are NaN and have a message.

    Raises:
        InputError: If something asked for cannot be used, or a file cannot be written.
        FitError: If workers or their scheduler are lost; the same call goes on.
    """
    given = {"run": run, "vary": vary, "inputs": inputs, "fixed": fixed, "design": design, "best": best, "site": site}
    content = {name: value for name, value in (given | reader).items() if value is not None}
    content["inputs"] = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    plan = plan_scan(spec_of(content))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if output is None else output
        return run_scan(plan, Path(folder), workers, progress, tell).dataset


def run_scan(
    plan: Plan,
    folder: Path,
    workers: Workers | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    command: str = "",
    pictures: bool = False,
) -> ScanResult:
    """Compute the points of a plan that are not there yet, and write scan.nc, scan.json and, if asked for, pictures.

    Args:
        plan: From `plan_scan`.
        folder: For the results; made if missing.
        workers: Where points are computed; by default in this process.
        progress: Called with the points done, those in all, and the seconds so far.
        tell: Called with one line for each thing worth knowing, such as a damaged file.
        command: Command line, kept with the origin of the data.
        pictures: Whether to draw.

    Raises:
        InputError: If a file cannot be written, or one that the points depend on changed since they were planned.
        FitError: If workers or their scheduler are lost; a further call goes on.
    """
    begun, tell = time.monotonic(), tell or (lambda _: None)
    points = folder / POINTS
    try:
        points.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{points}: cannot be made ({error.strerror}); choose another -o") from error
    _sweep(points)
    layout = layout_of(plan)
    done = finished_points(plan, points, tell, layout.add)
    known = set(plan.keys)
    others = sum(path.stem not in known for path in points.glob("*.npz"))
    if others and not done:
        tell(f"{others} points in {points} are of other settings or data, or another version of diffcr, and not used")
    failed = _compute(plan, folder, done, layout, workers or Workers(), progress, begun)
    dataset = assemble(plan, layout, lambda key: _arrived(points, key) if key in done else None, failed, command)
    summary = summary_of(plan, dataset)
    require_unchanged(plan.files)
    _write(plan, dataset, summary, failed, folder, pictures)
    return ScanResult(dataset, summary)


def finished_points(plan: Plan, folder: Path, tell: Tell, see: Callable[[xr.Dataset], None] | None = None) -> set[str]:
    """Hashes of points whose results are there already; damaged files are told, and count as missing.

    Args:
        plan: The scan.
        folder: That of the points.
        tell: Called with one line for each damaged file.
        see: Called with each result.

    Raises:
        InputError: If points cannot be ranked as asked for.
    """
    found = set()
    for key in plan.keys:
        try:
            stored = scan_store.load(folder, key)
        except InputError as error:
            tell(f"{error}; the point is computed again")
            continue
        if stored is not None:
            _require_rankable(plan, stored)
            found.add(key)
            if see is not None:
                see(stored.dataset)
    return found


def _compute(
    plan: Plan,
    folder: Path,
    done: set[str],
    layout: Layout,
    workers: Workers,
    progress: Progress | None,
    begun: float,
) -> dict[str, str]:
    """Compute what is missing, add it to `done` and to the layout, and return the messages of points that failed."""
    jobs, failed, number = _jobs(plan, folder, done), {}, len(plan.keys)

    def arrived(_: int, result: dict[str, Any]) -> None:
        failed.update(result["failed"])
        for key in result["computed"]:
            stored = _arrived(folder / POINTS, key)
            _require_rankable(plan, stored)
            layout.add(stored.dataset)
            done.add(key)
        if progress is not None:
            progress(len(done) + len(failed), number, time.monotonic() - begun)

    if progress is not None and done:
        progress(len(done), number, time.monotonic() - begun)
    run_jobs(run_batch, jobs, workers, arrived, folder)
    return failed


def _arrived(folder: Path, key: str) -> Stored:
    """The result of a point that has been written, perhaps just now by a worker."""
    stored = awaited(lambda: scan_store.load(folder, key))
    if stored is not None:
        return stored
    raise FitError(f"{scan_store.path_of(folder, key)}: is gone after it was written; run the same command again")


def _require_rankable(plan: Plan, stored: Stored) -> None:
    # Told with the first point rather than after the last.
    if plan.spec.best is not None:
        require_quantity(stored.dataset, plan.spec.best[0], plan.spec.where)


def _jobs(plan: Plan, folder: Path, done: set[str]) -> list[dict[str, Any]]:
    common = {
        "run": plan.spec.task.name,
        "source": plan.spec.source.as_json(),
        "folder": str(folder.resolve()),
        "code": plan.code,
        "files": list(plan.files),
    }
    missing = [[point for point in batch if point.key not in done] for batch in plan.batches()]
    return [
        common | {"points": [{"key": point.key, "settings": point.settings} for point in batch]}
        for batch in missing
        if batch
    ]


def _sweep(folder: Path) -> None:
    """Remove what killed runs left half-written; another run may be writing just now."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink()


# What is written ----------------------------------------------------------------------------------------


def summary_of(plan: Plan, dataset: xr.Dataset) -> dict[str, Any]:
    """What `scan.json` says: points and how they ended, axes, the best point, the origin of the data."""
    messages = dataset["message"].values.ravel()
    there = [text == "" for text in messages]
    converged = dataset["converged"].values.ravel()
    quantity, sense = dataset.attrs["best_quantity"], dataset.attrs["best_sense"]
    axes = {}
    for axis in plan.spec.design.axes:
        values = dataset[axis.name].values
        # Drawn values may be a million, and stand in scan.nc.
        told = {"values": values.tolist()} if axis.values else {"low": values.min().item(), "high": values.max().item()}
        axes[axis.name] = dict(dataset[axis.name].attrs) | told
    return finite(
        {
            "run": plan.spec.task.name,
            "design": {"kind": plan.spec.design.kind, "shape": list(plan.spec.design.shape)},
            "points": len(plan.points),
            "failed": len(there) - sum(there),
            "not_converged": int(sum(ok and not c for ok, c in zip(there, converged, strict=True))),
            "first_message": next((str(text) for text in messages if text), None),
            "best": best_point(dataset, quantity, sense),
            "seconds_of_all_points": float(dataset["seconds"].sum()),
            "axes": axes,
            "fixed": plan.spec.fixed,
            "scan": plan.spec.content,
            "inputs": list(plan.inputs),
            **{name: dataset.attrs[name] for name in ("software", "command", "created", "machine")},
        }
    )


def _write(plan: Plan, dataset: xr.Dataset, summary: dict, failed: dict[str, str], folder: Path, pictures: bool):
    """All results at once, so that those of different runs never stand side by side."""
    from .report import write_json

    reasons = [
        {"point": p.key, "settings": p.values, "message": p.message or failed[p.key]}
        for p in plan.points
        if p.message or p.key in failed
    ]
    with together(folder) as part:
        write_netcdf(part / "scan.nc", dataset)
        if pictures:
            from .scan_plots import write_pictures

            write_pictures(dataset, part)
        if reasons:
            write_json(part / "failed.json", {"failed": reasons})
        write_json(part / "scan.json", summary)
    if not reasons:
        (folder / "failed.json").unlink(missing_ok=True)
