"""Differentiable models of the arrival-direction anisotropy of cosmic rays."""

from importlib.metadata import version as _version

from .errors import FitError as FitError
from .errors import InputError as InputError
from .grid import RingGrid as RingGrid

__version__ = _version("diffcr")
