"""Part of the counts: one observatory, one energy bin, one epoch, a band of declination."""

import math

import numpy as np

from diffcr.errors import InputError

from .data import Counts

_WITH_RINGS = ("n_sky", "n_local", "n_half")
"""Marginals whose last axis but one is the ring."""

_OF_ALL_EVENTS = ("right_ascension_harmonic",)
"""Entries of `Counts.inputs` that are sums over the whole list and mean nothing for a part of it."""


def select(
    counts: Counts,
    observatory: str | int | None = None,
    energy: str | int | None = None,
    epoch: str | int | None = None,
    declination: tuple[float, float] | None = None,
) -> Counts:
    """Counts of one observatory, energy bin or epoch, and of the rings of a band of declination.

    The grid stays whole: rings outside the band hold zero, in the equatorial and in the local maps alike, because a
    local cell keeps its declination while the sky turns. Rates are those of the band: n_time is the sum of what is
    left of n_half. Events of one band and their rate and acceptance are thus a data set of their own.

    In a band, `num_events` is exact for unit weights. For weighted counts the rows of a ring are not known; they are
    estimated from (sum w)^2 / sum w^2 of the band, with the ratio of rows to this number that the whole configuration
    has: exact where the spread of the weights relative to their mean is the same inside and outside. `moments` are NaN
    for every configuration that lost events, because only their sum over all declinations is known; `mean_epoch`,
    `livetime` and `span` stay those of the whole configuration.

    Args:
        counts: What to take from.
        observatory: Name or index of one observatory; None keeps all.
        energy: Label or index of one energy bin; None keeps all.
        epoch: Label or index of one epoch; None keeps all.
        declination: (lowest, highest) declination of date [rad]; rings whose centres lie inside are kept whole.

    Returns:
        Counts on the same grid, axes of length 1 where one entry was chosen; `history` says what was selected.

    Raises:
        InputError: If a label or index is unknown, the band is empty or not in radians, or no event is left.
    """
    labels = {
        "observatory": tuple(each.name for each in counts.sites),
        "energy": counts.energies,
        "epoch": counts.epochs,
    }
    wanted = {"observatory": observatory, "energy": energy, "epoch": epoch}
    chosen = {axis: _indices(axis, wanted[axis], labels[axis]) for axis in labels}
    record = {axis: labels[axis][chosen[axis][0]] for axis in labels if wanted[axis] is not None}
    part = _take(counts, chosen) if record else counts
    if declination is not None:
        part = _cut(part, declination)
        record["declination_deg"] = [math.degrees(edge) for edge in declination]
    if not record:
        return counts
    if not part.n_time.sum() > 0:
        what = ", ".join(f"{name} {value}" for name, value in record.items())
        raise InputError(f"the selection ({what}) holds no event: widen the band, or choose another part")
    inputs = tuple({k: v for k, v in entry.items() if k not in _OF_ALL_EVENTS} for entry in part.inputs)
    history = part.history | {"selected": part.history.get("selected", {}) | record}
    return part.replace(inputs=inputs, history=history)


def _indices(axis: str, wanted: str | int | None, labels: tuple[str, ...]) -> list[int]:
    if wanted is None:
        return list(range(len(labels)))
    known = ", ".join(labels)
    if isinstance(wanted, str):
        if wanted not in labels:
            raise InputError(f"the counts have no {axis} {wanted!r}; choose one of: {known}")
        return [labels.index(wanted)]
    if not 0 <= wanted < len(labels):
        raise InputError(f"{axis} {wanted} does not exist: indices go from 0 to {len(labels) - 1} ({known})")
    return [int(wanted)]


def _take(counts: Counts, chosen: dict[str, list[int]]) -> Counts:
    place = np.ix_(*chosen.values())
    arrays = ("n_sky", "n_time", "n_local", "n_half", "num_events", "mean_epoch", "livetime", "span", "moments")
    cube = getattr(counts, "cube", None)
    more = {} if cube is None else {"cube": cube[place]}
    return counts.replace(
        sites=tuple(counts.sites[i] for i in chosen["observatory"]),
        energies=tuple(counts.energies[i] for i in chosen["energy"]),
        epochs=tuple(counts.epochs[i] for i in chosen["epoch"]),
        **{name: getattr(counts, name)[place] for name in arrays},
        w2={name: values[place] for name, values in counts.w2.items()},
        **more,
    )


def _cut(counts: Counts, band: tuple[float, float]) -> Counts:
    inside = _rings_inside(counts, band)
    sums = _banded({name: getattr(counts, name) for name in _WITH_RINGS}, inside)
    squares = _banded(counts.w2, inside) if counts.weighted else {}
    whole, left = counts.n_time.sum(-1), sums["n_time"].sum(-1)
    untouched = np.isclose(left, whole, rtol=1e-12, atol=0.0)
    cube = getattr(counts, "cube", None)
    more = {} if cube is None else {"cube": np.where(inside[:, None], cube, 0.0)}
    return counts.replace(
        **sums,
        w2=squares,
        num_events=np.where(untouched, counts.num_events, _rows(counts, left, squares)),
        moments=np.where(untouched[..., None, None], counts.moments, np.nan),
        **more,
    )


def _rings_inside(counts: Counts, band: tuple[float, float]) -> np.ndarray:
    low, high = (float(edge) for edge in band)
    if not low < high:
        raise InputError(f"the declination band must be (lowest, highest), not ({low:g}, {high:g})")
    if max(abs(low), abs(high)) > np.pi / 2 + 1e-9:
        raise InputError(
            f"the declination band ({low:g}, {high:g}) leaves -pi/2 to pi/2: give radians, such as np.radians((-30, 0))"
        )
    centres = counts.grid.declination
    return (centres >= low - 1e-12) & (centres <= high + 1e-12)


def _banded(arrays: dict[str, np.ndarray], inside: np.ndarray) -> dict[str, np.ndarray]:
    kept = {name: np.where(inside[:, None], arrays[name], 0.0) for name in _WITH_RINGS}
    return kept | {"n_time": kept["n_half"].sum((-3, -2))}


def _rows(counts: Counts, left: np.ndarray, squares: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of the band: exact for unit weights, else from the effective numbers."""
    if not counts.weighted:
        return np.rint(left).astype(np.int64)
    whole, all_squares = counts.n_time.sum(-1), counts.w2["n_time"].sum(-1)
    band_squares = squares["n_time"].sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = counts.num_events * (left**2 / band_squares) / (whole**2 / all_squares)
    # At least one row where there is weight, and never more than the configuration has.
    rows = np.where(left > 0, np.clip(np.rint(rows), 1, counts.num_events), 0)
    return rows.astype(np.int64)
