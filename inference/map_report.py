"""What `diffcr map` writes: map.fits, map.json and pictures."""

import dataclasses
import math
from pathlib import Path

import numpy as np

import diffcr

from . import plots
from .dipole import Dipole, log10_p_value, significance_sigma
from .discs import DiscMap, Null
from .files import finite
from .fit import _to_j2000, dead_bins
from .map_products import Frame, HealpixMap, Spot, frame_of, map_dipole
from .maps import SkyMap, cell_significance
from .multipoles import free_multipoles
from .post_trial import PostTrial
from .report import describe_systematics


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Everything that was made of one free map.

    Attributes:
        sky: The free (or iterative, or Wiener) map.
        healpix: The same on HEALPix pixels.
        discs: Smoothed, or None.
        null: What excesses are judged against; None for isotropy.
        removed: Highest degree of the multipoles removed, 0 for none.
        spots: What stands out.
        hottest, coldest: Post-trial; None where no isotropic skies were drawn.
        power: Prior C_l of a Wiener map, and whether it was fitted; None otherwise.
    """

    sky: SkyMap
    healpix: HealpixMap
    discs: DiscMap | None
    null: Null | None
    removed: int
    spots: list[Spot]
    hottest: PostTrial | None = None
    coldest: PostTrial | None = None
    power: tuple[np.ndarray, bool] | None = None

    @property
    def frame(self) -> Frame:
        """The frame of the results."""
        return frame_of(self.sky.counts)


def map_summary(analysis: Analysis, cpu_seconds: float, systematics: dict | None = None) -> dict:
    """Everything map.json holds. Angles in degrees; null where not known or blinded. `systematics` is the block of
    that name."""
    sky, discs = analysis.sky, analysis.discs
    counts, frame = sky.counts, analysis.frame
    hidden = counts.blinded
    log10_p = log10_p_value(sky.test_statistic, sky.degrees_of_freedom)
    exposed = np.isfinite(sky.contrast)
    expected = sky.background[exposed] * sky.cells[0] * sky.cells[1]
    content = {
        "software": f"diffcr {diffcr.__version__}",
        "method": sky.method,
        "num_events": int(counts.num_events.sum()),
        "sum_weights": counts.sum_weights,
        "effective_events": counts.effective_events,
        "observatories": [s.name for s in counts.sites],
        "configurations": [
            {
                "name": counts.label(p),
                "num_events": int(counts.num_events[p]),
                "rate_bins": e.groups,
                "dead_bins": int(dead_bins(counts.n_time[p]).sum()),
            }
            for p, e in zip(counts.configurations(), sky.seen, strict=True)
        ],
        "time_frame": counts.time_frame,
        "equinox": frame.name,
        "mean_epoch": finite(counts.overall_epoch()),
        "grid": list(counts.grid.shape),
        "cells": list(sky.cells),
        "median_expectation_per_cell": float(np.median(expected)),
        "nside": analysis.healpix.nside,
        "sky_fraction": float((exposed * counts.grid.solid_angle[:, None]).sum() / (4 * np.pi)),
        "converged": sky.converged if sky.method != "iterative" else None,
        "remaining_gain": finite(sky.remaining_gain),
        "iterations": sky.newton_steps,
        "gradient_steps": sky.gradient_steps,
        "cpu_seconds": cpu_seconds,
        "log_likelihood_over_isotropy": sky.log_likelihood,
        "test_statistic": sky.test_statistic,
        "degrees_of_freedom": sky.degrees_of_freedom,
        "log10_p": log10_p,
        "significance_sigma": significance_sigma(log10_p),
        "dipole": _dipole(analysis, hidden),
        "removed_lmax": analysis.removed,
        "smoothing_deg": None if discs is None else math.degrees(discs.radius),
        "significance": (
            "signed profile-likelihood ratio of one amplitude per disc, rates and acceptances refitted; pre-trial"
            if discs is not None
            else "signed root of the likelihood ratio of each cell; pre-trial"
        ),
        "li_ma": None if discs is None else _li_ma(discs),
        "hottest": _extreme(analysis, 1, analysis.hottest, hidden),
        "coldest": _extreme(analysis, -1, analysis.coldest, hidden),
        "excesses": [_spot(s, hidden) for s in analysis.spots if s.significance > 0],
        "deficits": [_spot(s, hidden) for s in analysis.spots if s.significance < 0],
        "prior_cl": None if analysis.power is None else list(map(float, analysis.power[0])),
        "prior_cl_fitted": None if analysis.power is None else analysis.power[1],
        "notes": _notes(analysis),
        "blinded": hidden,
        "inputs": list(counts.inputs),
        "history": counts.history,
    }
    if systematics is not None:
        content["systematics"] = systematics
    return finite(content)


_DEAD_DAY = 0.1
"""Part of the sidereal day without livetime from which errors of the contrast are noticeably too small (9 % at a
sixth)."""


def _notes(analysis: Analysis) -> list[str]:
    """What a reader of the numbers must know about these data."""
    counts, notes = analysis.sky.counts, []
    for place in counts.configurations():
        dead = float(dead_bins(counts.n_time[place]).mean())
        if dead > _DEAD_DAY and analysis.sky.method != "wiener":
            notes.append(
                f"{counts.label(place)}: no livetime for {24 * dead:.1f} h of the day; ERROR is too small "
                "(10 % at 4 h, half at 6 h), SIGNIFICANCE of discs is not affected"
            )
        if counts.weighted:
            local, squares = counts.n_local[place], counts.w2["n_local"][place]
            per_ring = squares.sum(1)[local.sum(1) > 0] / local.sum(1)[local.sum(1) > 0]
            if np.average(np.abs(per_ring / np.median(per_ring) - 1), weights=local.sum(1)[local.sum(1) > 0]) > 0.1:
                notes.append(
                    f"weights of {counts.label(place)} depend on the direction: errors and significances hold on "
                    "average over the sky only; `diffcr fit` has them right for the dipole"
                )
    return notes


def dipole_of(analysis: Analysis) -> Dipole:
    """Least-squares dipole of the map in the frame of the results."""
    delta, covariance = map_dipole(analysis.sky)
    degree, order = free_multipoles(1)
    turn = _to_j2000(analysis.sky.counts, degree, order)
    if turn is not None:
        # Multipoles come as (1, -1), (1, 1): delta_6h first.
        place = [int(np.flatnonzero(order == 1)[0]), int(np.flatnonzero(order == -1)[0])]
        turn = turn[np.ix_(place, place)]
        delta, covariance = turn @ delta, turn @ covariance @ turn.T
    return Dipole(delta, covariance)


def _dipole(analysis: Analysis, hidden: bool) -> dict:
    dipole = dipole_of(analysis)
    delta, covariance = dipole.delta, dipole.covariance
    return {
        "delta_0h": None if hidden else float(delta[0]),
        "delta_6h": None if hidden else float(delta[1]),
        "covariance": None if hidden else covariance.tolist(),
        "amplitude": dipole.amplitude,
        "amplitude_error": dipole.amplitude_error,
        "right_ascension_deg": None if hidden else math.degrees(dipole.right_ascension),
        "right_ascension_error_deg": math.degrees(dipole.right_ascension_error),
    }


def _li_ma(discs: DiscMap) -> dict:
    return {
        "label": "background taken as known: not N(0, 1), see the predicted width",
        "maximum": float(np.nanmax(discs.li_ma)),
        "minimum": float(np.nanmin(discs.li_ma)),
        "predicted_width_median": float(np.nanmedian(discs.li_ma_width)),
    }


def _spot(spot: Spot, hidden: bool) -> dict:
    return {
        "right_ascension_deg": None if hidden else math.degrees(spot.right_ascension),
        "declination_deg": math.degrees(spot.declination),
        "significance": spot.significance,
        "contrast": spot.contrast,
        "contrast_error": spot.error,
    }


def _extreme(analysis: Analysis, sign: int, trial: PostTrial | None, hidden: bool) -> dict | None:
    chosen = [s for s in analysis.spots if sign * s.significance > 0]
    if not chosen:
        return None
    entry = _spot(max(chosen, key=lambda s: sign * s.significance), hidden)
    if trial is None:
        return entry | {"post_trial": None}
    return entry | {
        "post_trial": {
            "isotropic_skies": len(trial.maxima),
            "as_strong": trial.larger,
            "chance_probability": trial.fraction,
            "chance_probability_upper_limit_95": trial.upper_limit_95,
            "log10_p": trial.log10_p,
            "log10_p_from": "counted skies" if trial.counted else "tail fitted to the maxima of the skies",
            "tail_number_exponent": list(trial.tail),
            "significance_sigma_one_sided": trial.significance,
        }
    }


def describe_map(content: dict) -> list[str]:
    """The lines that `diffcr map` prints."""
    steps = f"{content['iterations']} steps, {content['gradient_steps']} conjugate-gradient steps"
    state = {True: f"yes ({steps})", False: f"NO ({steps})", None: f"not asked ({content['iterations']} iterations)"}
    lines = [
        f"events           {content['num_events']} ({', '.join(content['observatories'])})",
        f"map              {content['method']}, {content['cells'][1]} x {content['cells'][0]} bins x rings a cell, "
        f"{content['median_expectation_per_cell']:.3g} events in a median cell",
        f"converged        {state[content['converged']]}",
        f"against isotropy TS {content['test_statistic']:.1f} for {content['degrees_of_freedom']} degrees of freedom, "
        f"{content['significance_sigma']:.2f} sigma (two-sided)",
    ]
    d = content["dipole"]
    phase = (
        "hidden"
        if content["blinded"]
        else f"{d['right_ascension_deg']:.1f} +- {d['right_ascension_error_deg']:.1f} degrees"
    )
    amplitude = f"{d['amplitude']:.3e} +- {d['amplitude_error']:.1e}"
    lines.append(f"dipole           {amplitude}, right ascension {phase} ({content['equinox']})")
    if content["smoothing_deg"] is not None:
        lines.append(f"discs            radius {content['smoothing_deg']:g} degrees")
    for name in ("hottest", "coldest"):
        spot = content[name]
        if spot is None:
            continue
        ra = "hidden" if content["blinded"] else f"{spot['right_ascension_deg']:.1f}"
        text = f"{spot['significance']:+.2f} sigma at RA {ra}, dec {spot['declination_deg']:+.1f}"
        if spot["post_trial"]:
            trial = spot["post_trial"]
            text += f"; post-trial p = {10 ** trial['log10_p']:.2g}"
            sigma = trial["significance_sigma_one_sided"]
            text += f" ({sigma:.2f} sigma, one-sided)" if sigma > 0 else ""
        lines.append(f"{name:<17}{text}")
    lines += [f"note             {note}" for note in content["notes"]]
    if "systematics" in content:
        lines += describe_systematics(content["systematics"])
    return lines


def write_map_pictures(analysis: Analysis, folder: Path) -> list[Path]:
    """Draw relative intensity, its error and significance, in the frame of date of the grid; returns the paths."""
    sky, discs = analysis.sky, analysis.discs
    counts = sky.counts
    names = ", ".join(s.name for s in counts.sites)
    label = counts.time_frame
    if label == "sidereal":
        year = counts.overall_epoch()
        label = f"equatorial, of date ({year:.1f})" if np.isfinite(year) else "equatorial, of date"
    common = {
        "declination_edges": counts.grid.declination_edges,
        "galactic_plane": counts.time_frame == "sidereal" and not counts.blinded,
        "frame_label": "right ascension blinded" if counts.blinded else label,
    }
    what = f"{names}: " + ("cells" if discs is None else f"discs of {math.degrees(discs.radius):g} degrees")
    if analysis.removed:
        what += rf", $\ell \leq {analysis.removed}$ removed"
    contrast = contrast_shown(analysis)
    error = sky.error if discs is None else discs.error
    significance = significance_shown(analysis)
    marked = [] if counts.blinded or discs is None else _markers(analysis)
    # The edge of the field of view, where errors are largest, must not set the colours.
    judged = np.isfinite(contrast) & (error < 2 * np.nanmedian(error))
    limit = float(np.nanmax(np.abs(np.where(judged, contrast, np.nan)))) or 1.0
    drawn = {
        "relative_intensity": plots.sky_map(
            contrast, title=what, colorbar_label="Relative intensity minus 1", diverging=True,
            limits=(-limit, limit), markers=marked, **common,
        ),
        "error": plots.sky_map(
            error, title=what, colorbar_label="Error of the relative intensity",
            limits=_range(error, judged), **common,
        ),
        "significance": plots.sky_map(
            significance, title=what, colorbar_label="Pre-trial significance [standard deviations]", diverging=True,
            markers=marked, **common,
        ),
    }  # fmt: skip
    return [plots.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def contrast_shown(analysis: Analysis) -> np.ndarray:
    """Relative intensity minus one of cells or discs, over that of the multipoles removed; (ring, ra)."""
    if analysis.discs is not None:
        return analysis.discs.contrast
    if analysis.null is None:
        return analysis.sky.contrast
    return (1 + analysis.sky.contrast) / analysis.null.intensity - 1


def significance_shown(analysis: Analysis) -> np.ndarray:
    """Pre-trial significance of cells or discs, (ring, ra)."""
    if analysis.discs is not None:
        return analysis.discs.significance
    contrast, sky = contrast_shown(analysis), analysis.sky
    return contrast / sky.error if sky.method == "wiener" else cell_significance(contrast, sky.isotropic_error)


def _range(error: np.ndarray, judged: np.ndarray) -> tuple[float, float]:
    values = error[judged]
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (0.9 * low, 1.1 * high)


def _markers(analysis: Analysis) -> list[tuple[float, float, str]]:
    """Hottest and coldest disc, of date as the pictures are."""
    grid, out = analysis.sky.grid, []
    for sign, text in ((1, "max"), (-1, "min")):
        chosen = [s for s in analysis.spots if sign * s.significance > 0]
        if chosen:
            ring, column = max(chosen, key=lambda s: sign * s.significance).cell
            angles = np.degrees([grid.right_ascension[column], grid.declination[ring]])
            out.append((float(angles[0]), float(angles[1]), text))
    return out
