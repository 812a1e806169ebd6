"""What a scan will take: points that are left, time, memory and disk, from timing a few of them."""

import dataclasses
import math
import time
from pathlib import Path

import xarray as xr

from diffcr.errors import FitError, InputError

from . import scan_store
from .scan import Tell, finished_points
from .scan_batch import POINTS
from .scan_points import Plan, Point
from .scan_task import message_of

_TIMED_GROUPS = 3
"""Groups of which points are timed at most."""

_WEIGHED_GROUPS = 100
"""Groups that are asked for their memory at most."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a scan takes.

    Attributes:
        points: In all.
        refused: Of them, those whose settings do not go together.
        done: Of them, those that are on disk.
        groups: Groups of points that share compiled programs, of those that are left.
        batches: Jobs that are left.
        start_seconds: Time that the first point of a group takes longer than the next; NaN where nothing was timed.
        point_seconds: Time of each further point; NaN where nothing was timed.
        memory: Bytes of each worker, roughly.
        disk: Bytes of all files of points; NaN where nothing was timed.
        timed: Points that were timed.
        failures: Why some of them have no result.
    """

    points: int
    refused: int
    done: int
    groups: int
    batches: int
    start_seconds: float
    point_seconds: float
    memory: float
    disk: float
    timed: int
    failures: tuple[str, ...]

    @property
    def left(self) -> int:
        """Points to compute."""
        return self.points - self.refused - self.done

    def seconds(self, workers: int = 1) -> float:
        """Wall time on so many workers; each compiles every group that it meets."""
        if not self.left:
            return 0.0
        shared = max(1, min(workers, self.batches))
        return self.start_seconds * self.groups + self.point_seconds * math.ceil(self.left / shared)


def cost_of(plan: Plan, folder: Path, tell: Tell) -> Cost:
    """The cost of a scan; runs up to two points of up to three groups, and writes nothing.

    Args:
        plan: From `plan_scan`.
        folder: Where the scan would write.
        tell: Called with one line for each thing worth knowing, such as a timed point that fails.
    """
    done = finished_points(plan, folder / POINTS, tell)
    groups = [[p for p in points if p.key not in done] for points in plan.groups().values()]
    groups = [points for points in groups if points]
    batches = sum(any(p.key not in done for p in batch) for batch in plan.batches())
    task, source = plan.spec.task, plan.spec.source
    step = max(1, len(groups) // _WEIGHED_GROUPS)
    memory = max((task.memory(source, points[0].settings) for points in groups[::step]), default=0.0)
    some = [scan_store.path_of(folder / POINTS, key) for key in plan.keys if key in done]
    starts, each, sizes, failures, timed = [], [], [path.stat().st_size for path in some[:20]], [], 0
    for points in groups[:: max(1, len(groups) // _TIMED_GROUPS)][:_TIMED_GROUPS]:
        took = [_timed(plan, point, sizes, failures, tell) for point in points[:2]]
        timed += len(took)
        starts.append(max(0.0, took[0] - took[-1]))
        each.append(took[-1])
    return Cost(
        points=len(plan.points),
        refused=sum(not point.key for point in plan.points),
        done=sum(point.key in done for point in plan.points),
        groups=len(groups),
        batches=batches,
        start_seconds=_mean(starts),
        point_seconds=_mean(each),
        memory=memory,
        disk=_mean(sizes) * len(plan.keys),
        timed=timed,
        failures=tuple(failures),
    )


def _timed(plan: Plan, point: Point, sizes: list[int], failures: list[str], tell: Tell) -> float:
    """Seconds that a point takes; the size of its file is added to `sizes`, or why it fails to `failures`."""
    begun = time.monotonic()
    try:
        (result,) = plan.spec.task.run(plan.spec.source, [point.settings])
    except (InputError, FitError) as error:
        result = message_of(error)
    seconds = time.monotonic() - begun
    if isinstance(result, xr.Dataset):
        sizes.append(len(scan_store.encoded(point.key, result, {"settings": point.settings})))
    else:
        shown = ", ".join(f"{name} = {value}" for name, value in point.values.items())
        failures.append(result)
        tell(f"the point {shown} fails: {result}")
    return seconds


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
