"""The part of a scan that runs in a worker: some points computed, each written, and a line of the log for each."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from diffcr.errors import FitError, InputError

from . import scan_points, scan_store
from .scan_files import require_unchanged
from .scan_task import Source, Task, message_of
from .scan_tasks import task as find_task

POINTS = "points"
"""Folder of the files of the points, in that of the results."""

LOG = "scan.log"
"""File with a line of JSON for each computed point: hash, seconds, where and when."""


def run_batch(job: dict[str, Any]) -> dict[str, Any]:
    """Compute the points of a job and write each; those that are there already are left alone.

    Args:
        job: run, source, folder, code, files (from the plan), and points with their key and settings; JSON.

    Returns:
        computed: keys of points that are on disk now; failed: key -> message.

    Raises:
        InputError: If a file cannot be written, one that the points depend on is no longer what their keys say, or the
            worker runs other code.
    """
    code = scan_points.code_version()
    if job["code"] != code:
        raise InputError(
            f"worker on {socket.gethostname()} has {code}, not {job['code']}; install the same there, and start the "
            "workers again after a change"
        )
    folder = Path(job["folder"])
    task, source = find_task(job["run"]), Source.from_json(job["source"])
    todo = [point for point in job["points"] if not _is_finished(folder / POINTS, point["key"])]
    computed, failed = [p["key"] for p in job["points"] if p not in todo], {}
    if todo:
        require_unchanged(job["files"])
    for point, result, seconds in _results(task, source, todo):
        # The key names the content that was hashed: nothing else may be kept under it.
        require_unchanged(job["files"])
        if isinstance(result, str):
            failed[point["key"]] = result
            continue
        label = {"run": job["run"], "settings": point["settings"], "code": job["code"], "seconds": seconds}
        scan_store.save(folder / POINTS, point["key"], result, label)
        _log(folder / LOG, point["key"], seconds)
        computed.append(point["key"])
    return {"computed": computed, "failed": failed}


def _is_finished(folder: Path, key: str) -> bool:
    try:
        return scan_store.load(folder, key) is not None
    except InputError:
        return False


def _results(task: Task, source: Source, points: list[dict]) -> Iterator[tuple[dict, xr.Dataset | str, float]]:
    """Each point with its result, or the message of its failure, and the seconds it took.

    Where points fail together each is tried on its own, so that one does not take the others with it. Whatever a
    point meets is its message: days of other points must not be lost to it.
    """
    if not points:
        return
    begun = time.monotonic()
    try:
        results = task.run(source, [point["settings"] for point in points])
    except Exception as error:
        if len(points) == 1:
            expected = isinstance(error, InputError | FitError)
            told = message_of(error) if expected else f"unexpected {type(error).__name__}: {message_of(error)}"
            yield points[0], told, time.monotonic() - begun
            return
        for point in points:
            yield from _results(task, source, [point])
        return
    seconds = (time.monotonic() - begun) / len(points)
    for point, result in zip(points, results, strict=True):
        yield point, result, seconds


def _log(path: Path, key: str, seconds: float) -> None:
    line = {
        "point": key,
        "seconds": round(seconds, 4),
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # One call, so that lines of several workers do not mix.
            os.write(handle, (json.dumps(line) + "\n").encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); free some space, then run the same command") from error
