"""Which multipoles a field of view and a livetime can measure, from the expected information alone."""

import math

import numpy as np

from diffcr.errors import InputError

from .data import Counts
from .multipoles import expected_information

MAX_INFLATION = 10.0
"""A parameter whose error is more than this times that of full, even coverage counts as unmeasurable."""


def require_measurable(counts: Counts, data, modes, degree, order, prior) -> float:
    """Refuse multipoles the field of view or the livetime cannot support; return the livetime's inflation."""
    if counts.effective_events < 10:
        raise InputError(
            f"{int(counts.num_events.sum())} events are too few events for a fit of rate and acceptance; add data"
        )
    pairs = [(np.asarray(d.local), np.asarray(d.rate), m) for d, m in zip(data, modes, strict=True)]
    information = sum(expected_information(*pair) for pair in pairs)
    even = sum(expected_information(n, np.full_like(rate, 1 / len(rate)), m) for n, rate, m in pairs)
    scale = counts.sum_weights / (4 * np.pi)
    errors, errors_even = (_errors(f + np.diag(prior), scale) for f in (information, even))
    worst = int(np.argmax(np.where(prior > 0, 0, errors)))
    free_worst = errors[worst] if prior[worst] == 0 else 0.0
    if free_worst > MAX_INFLATION:
        l, m = int(degree[worst]), int(order[worst])
        blame = "the dead sidereal bins leave" if errors_even[worst] < MAX_INFLATION else "this field of view leaves"
        remedy = "add the missing sidereal hours, a second site, or lower --lmax"
        if int(degree.max()) == 1:
            remedy = "add a second site or data that cover more hour angles and sidereal hours"
        elif errors_even[worst] >= MAX_INFLATION:
            remedy = "lower --lmax, add a site in the other hemisphere, or give a prior with --prior-cl"
        raise InputError(
            f"the multipole l = {l}, m = {m} cannot be measured: {blame} it an error {_times(free_worst)} that "
            f"of full coverage (limit {MAX_INFLATION:g}); {remedy}"
        )
    dipole_error = math.sqrt(3 / counts.effective_events) * max(errors[:2])
    if dipole_error > 0.7:
        raise InputError(
            f"{int(counts.num_events.sum())} events give the dipole an error of {dipole_error:.2g}, and it cannot "
            "exceed 1: too few events for a fit; add data"
        )
    return float(np.max(errors[:2] / errors_even[:2]))


def _times(value: float) -> str:
    return f"{value:.3g} times" if value < 1e5 else "beyond any bound of"


def _errors(information: np.ndarray, scale: float) -> np.ndarray:
    """Error of each parameter over that of even full-sky coverage, infinite on null directions."""
    values, vectors = np.linalg.eigh(information / scale)
    variance = np.where(values > 1e-9, 1 / np.maximum(values, 1e-300), 1e30)
    return np.sqrt((vectors**2) @ variance)
