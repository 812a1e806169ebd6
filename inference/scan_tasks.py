"""The tasks that a scan can run, by name."""

from diffcr.errors import InputError

from .nearest import require_known
from .scan_task import Setting as Setting
from .scan_task import Source as Source
from .scan_task import Task as Task
from .scan_task_backtrack import Backtrack
from .scan_task_calibrate import Calibrate
from .scan_task_fit import Fit
from .scan_task_map import Map
from .scan_task_predict import Predict
from .scan_task_sample import Sample
from .scan_task_toys import Toys

TASKS: dict[str, Task] = {
    each.name: each for each in (Fit(), Sample(), Predict(), Backtrack(), Calibrate(), Map(), Toys())
}
"""Every task by the name that scan files give it: `run = NAME`."""


def task(name: object) -> Task:
    """The task of a name.

    Raises:
        InputError: If there is none; the message names the nearest one, or all.
    """
    if not isinstance(name, str):
        raise InputError(f"run must be one of {', '.join(TASKS)}, not {name!r}")
    require_known(name, TASKS, "there is no task")
    return TASKS[name]
