"""Real data shipped with the package, each with its source and licence (see README.md in this folder)."""

import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass

from diffcr.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """A data set shipped with the package.

    Attributes:
        name: What stands after `dataset:`.
        file: File name inside `diffcr.inference.datasets`.
        title: What the list holds.
        site: Name of the observatory site.
        options: How the file is to be read where the user says nothing else: `equinox` of its RA and
            dec ("date" or "j2000"), `azimuth` convention, `time_format` (absent: year and day).
        citation: What to cite.
        licence: Terms of redistribution.
    """

    name: str
    file: str
    title: str
    site: str
    options: Mapping[str, str]
    citation: str
    licence: str

    @property
    def path(self) -> str:
        """Where the file lies in this installation."""
        return str(importlib.resources.files("diffcr.inference.datasets") / self.file)


DATASETS: dict[str, Dataset] = {
    "auger-8eev": Dataset(
        name="auger-8eev",
        file="Arrival_directions_8EeV_Science_2017.dat",
        title="32187 events of the Pierre Auger Observatory above 8 EeV, 2004 to 2016",
        site="auger",
        options={"equinox": "date", "azimuth": "east-counterclockwise", "time_format": "unix"},
        citation="Pierre Auger Collaboration, Science 357 (2017) 1266",
        licence="CC BY-SA 4.0, (c) Pierre Auger Collaboration 2017",
    ),
    "auger-52eev": Dataset(
        name="auger-52eev",
        file="Auger2014_E52EeV_231events.txt",
        title="231 events of the Pierre Auger Observatory above 52 EeV, 2004 to 2014",
        site="auger",
        options={"equinox": "j2000"},
        citation="Pierre Auger Collaboration, arXiv:1411.6111",
        licence="CC BY-SA 4.0, (c) Pierre Auger Collaboration 2014",
    ),
}
"""Shipped data sets by name: `dataset:NAME` stands for the file wherever one is expected."""


def resolve_input(name: str | os.PathLike) -> tuple[str, Dataset | None]:
    """(path, data set) of an input name: `dataset:NAME` is a shipped file, anything else is a path.

    Raises:
        InputError: If there is no data set of that name; the message lists those there are.
    """
    text = os.fspath(name)
    if not text.startswith("dataset:"):
        return text, None
    key = text.removeprefix("dataset:")
    if key not in DATASETS:
        known = ", ".join(f"dataset:{each}" for each in DATASETS)
        raise InputError(f"{text}: there is no data set of this name; use one of {known}")
    return DATASETS[key].path, DATASETS[key]
