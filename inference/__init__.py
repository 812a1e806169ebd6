"""Inference on arrival directions: from event lists to the dipole and the multipoles, with honest errors."""

from .binning import BinningOptions as BinningOptions
from .blinding import blind as blind
from .blinding import unblind as unblind
from .data import Counts as Counts
from .data import combine as combine
from .data import load_counts as load_counts
from .dipole import Dipole as Dipole
from .discs import disc_map as disc_map
from .epochs import merge_epochs as merge_epochs
from .epochs import merge_test as merge_test
from .estimators import rayleigh as rayleigh
from .estimators import rayleigh_of_counts as rayleigh_of_counts
from .events import EventReader as EventReader
from .fit import FitResult as FitResult
from .fit import fit as fit
from .inputs import read_counts as read_counts
from .maps import iterative_map as iterative_map
from .maps import sky_map as sky_map
from .scan import scan as scan
from .simulate import Simulation as Simulation
from .simulate import simulate_counts as simulate_counts
from .simulate import simulate_events as simulate_events
from .toys import toys as toys
from .workers import Workers as Workers

_LATER = {
    "Plan": "sampler",
    "Specification": "specification",
    "sample": "posterior",
    "summarise": "summary",
}
"""What needs numpyro and ArviZ is imported when it is first asked for."""


def __getattr__(name: str):
    import importlib

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
