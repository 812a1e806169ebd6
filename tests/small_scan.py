"""A task for tests of scans, quick and of known results: the height of a wave at a place."""

import os
import time

import numpy as np
import xarray as xr
from diffcr.inference import scan_points, scan_tasks
from diffcr.inference.scan_task import OVERHEAD, Setting, Task, catalogue

from diffcr.errors import FitError, InputError


class Waves(Task):
    """height = x^2 + 10 y: largest where both are; `order` has the multiples of x up to l_max."""

    name = "waves"
    settings = catalogue(
        Setting("x", float, 1.0, "pc", "place", low=-100, high=100),
        Setting("y", float, 0.0, above=-50),
        Setting("l_max", int, 2, low=1, high=9),
        Setting("word", str, "even", choices=("even", "odd")),
        Setting("strict", bool, False),
        Setting("numbers", tuple),
        Setting("file", str, path=True),
        Setting("seconds", float, 0.0, low=0),
        Setting("trouble", str, "none", choices=("none", "message", "input", "fit", "fault", "memory")),
    )
    best = ("height", "largest")
    batch = 4

    def require(self, settings):
        if settings["y"] > 20 and settings["x"] > 5:
            raise InputError("x above 5 does not go with y above 20; lower one")

    def group(self, settings):
        return str(settings["l_max"])

    def run(self, source, settings):
        # As compiled programs do, all together: one that fails takes the others with it.
        for each in settings:
            # Processes that are to be killed take their time, without that being another point.
            time.sleep(each["seconds"] + float(os.environ.get("WAVES_SECONDS", "0")))
            errors = {"input": InputError, "fit": FitError, "fault": ZeroDivisionError, "memory": MemoryError}
            if each["trouble"] in errors:
                raise errors[each["trouble"]](f"a point of\n{each['trouble']}")
        return ["x is unlucky" if each["trouble"] == "message" else self.wave(each) for each in settings]

    def wave(self, settings):
        """The result of one point."""
        order = np.arange(1, settings["l_max"] + 1)
        return xr.Dataset(
            {
                "height": ((), settings["x"] ** 2 + 10 * settings["y"], {"units": "m", "long_name": "height"}),
                "order": (("l",), settings["x"] * order),
                "number": ((), settings["l_max"]),
                "parity": ((), settings["word"]),
                "converged": ((), settings["x"] >= -50),
            },
            {"l": order},
        )

    def memory(self, source, settings):
        return OVERHEAD + 1e8 * settings["l_max"]


def register():
    """Make scans know the task, in a process of its own; the program is taken for the same while it is edited."""
    scan_points.code_version = lambda: "diffcr 0 (of tests)"
    scan_tasks.TASKS["waves"] = Waves()
