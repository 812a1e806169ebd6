"""Results on disk: fit.json, the pictures beside it, and the words on the terminal."""

import json
import math
from pathlib import Path

import numpy as np

import diffcr
from diffcr.detector import field_of_view
from diffcr.errors import InputError
from diffcr.grid import RingGrid, rebin

from . import plots
from .data import Counts
from .epochs import merge_test
from .estimators import RayleighResult, rayleigh_of_counts
from .files import atomic, finite
from .fit import FitResult, dead_bins
from .smoothing import smooth_sky

PICTURES = ("acceptance", "relative_intensity", "counts", "rate", "projection", "dipole", "panel")
_SMOOTHING = math.radians(45.0)


def fit_summary(result: FitResult, systematics: dict | None = None) -> dict:
    """Everything fit.json holds. Angles in degrees. `systematics` is the block of that name, which is else absent.

    Phases are null while the counts are blinded; so are errors and limits where the fit has not reached a
    maximum, and with it no covariance; and every number that is not finite.
    """
    counts, dipole = result.counts, result.dipole
    hidden = counts.blinded

    def open_(value):
        return None if hidden else value

    entry = {
        "delta_0h": open_(float(dipole.delta[0])),
        "delta_6h": open_(float(dipole.delta[1])),
        "covariance": open_(dipole.covariance[:2, :2].tolist()),
        "amplitude": dipole.amplitude,
        **dict.fromkeys(("amplitude_error", "amplitude_debiased", "upper_limit_95", "upper_limit_99")),
        "right_ascension_deg": open_(math.degrees(dipole.right_ascension)),
        "right_ascension_error_deg": None,
    }
    if result.known_exposure:
        entry |= {"delta_N": float(dipole.delta[2]), "delta_N_error": None}
        entry["covariance_3d"] = open_(dipole.covariance.tolist())
    if has_errors(result):
        entry |= {
            "amplitude_error": dipole.amplitude_error,
            "amplitude_debiased": dipole.amplitude_debiased,
            "upper_limit_95": dipole.upper_limit(0.95),
            "upper_limit_99": dipole.upper_limit(0.99),
            "right_ascension_error_deg": math.degrees(dipole.right_ascension_error),
        }
        if result.known_exposure:
            entry["delta_N_error"] = float(np.sqrt(dipole.covariance[2, 2]))
    summary = {
        "software": f"diffcr {diffcr.__version__}",
        "num_events": int(counts.num_events.sum()),
        "sum_weights": counts.sum_weights,
        "effective_events": counts.effective_events,
        "observatories": [_observatory(counts, k) for k in range(len(counts.sites))],
        "configurations": [
            {
                "name": counts.label(place),
                "num_events": int(counts.num_events[place]),
                "mean_epoch": finite(counts.mean_epoch[place]),
                "rate_bins": bins,
                "dead_bins": dead,
            }
            for place, bins, dead in zip(counts.configurations(), result.rate_bins, result.dead_bins, strict=True)
        ],
        "time_frame": counts.time_frame,
        "equinox": result.equinox,
        "mean_epoch": finite(counts.overall_epoch()),
        "grid": list(counts.grid.shape),
        "lmax": result.l_max,
        "exposure": "known" if result.known_exposure else "fitted",
        "converged": result.converged,
        "remaining_gain": result.remaining_gain,
        "num_steps": result.num_steps,
        "condition": finite(result.condition),
        "livetime_inflation": result.livetime_inflation,
        "test_statistic": result.test_statistic,
        "degrees_of_freedom": result.degrees_of_freedom,
        "log10_p": result.log10_p,
        "significance_sigma": result.significance,
        "merge_test": _merge_test(result),
        "blinded": hidden,
        "dipole": entry,
        "multipoles": _multipoles(result, hidden),
        "rayleigh": _rayleigh(rayleigh_of_counts(counts), hidden),
        "inputs": list(counts.inputs),
        "history": counts.history,
    }
    if systematics is not None:
        summary["systematics"] = systematics
    return finite(summary)


def has_errors(result: FitResult) -> bool:
    """Whether the dipole has a covariance: finite and positive definite. It has none far from a maximum."""
    covariance = result.dipole.covariance
    return bool(np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance)[0] > 0)


def _observatory(counts: Counts, k: int) -> dict:
    site = counts.sites[k]
    degrees = {f"{n}_deg": math.degrees(getattr(site, n)) for n in ("latitude", "longitude", "zenith_max")}
    return {"name": site.name, **degrees, "num_events": int(counts.num_events[k].sum())}


def _merge_test(result: FitResult) -> dict | None:
    """Whether the epochs could share one acceptance; None for one epoch, or too few events to tell."""
    if len(result.counts.epochs) < 2:
        return None
    try:
        test = merge_test(result)
    except InputError:
        return None
    return {
        "test_statistic": test.test_statistic,
        "degrees_of_freedom": test.degrees_of_freedom,
        "log10_p": test.log10_p,
        "allowed": test.allowed,
    }


def _multipoles(result: FitResult, hidden: bool) -> dict:
    errors = np.sqrt(np.abs(np.diag(result.covariance)))
    return {
        "basis": "real, orthonormal, without the Condon-Shortley phase; m < 0 goes with sin(|m| RA)",
        "l": result.degree.tolist(),
        "m": result.order.tolist(),
        "value": None if hidden else result.multipoles.tolist(),
        "error": errors.tolist(),
        "inflation": result.inflation.tolist(),
        "prior_precision": result.prior_precision.tolist(),
        "covariance": None if hidden else result.covariance.tolist(),
    }


def _rayleigh(result: RayleighResult, hidden: bool) -> dict:
    return {
        "amplitude": result.amplitude,
        "amplitude_error": result.sigma,
        "phase_deg": None if hidden else math.degrees(result.phase),
        "log10_p": result.log10_p,
        "note": "first harmonic in right ascension of date; assumes uniform exposure in right ascension",
    }


def write_json(path: Path, content: dict) -> Path:
    """Write JSON; it appears under its name only when complete."""
    with atomic(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def projection(result: FitResult) -> tuple[np.ndarray, np.ndarray]:
    """Right-ascension projection: counts over fitted background minus one, and its error; shapes (ra,).

    The background is what the fitted rates and acceptances expect of an isotropic sky, so that the fitted sky is
    what is left. Errors are those of the counts alone.
    """
    counts = result.counts
    observed, background, variance = (np.zeros(counts.grid.n_ra) for _ in range(3))
    for place, expected in zip(counts.configurations(), backgrounds(result), strict=True):
        observed += counts.n_sky[place].sum(axis=0)
        background += expected.sum(axis=0)
        variance += (counts.w2["n_sky"] if counts.weighted else counts.n_sky)[place].sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(background > 0, observed / background - 1, np.nan)
        error = np.where(background > 0, np.sqrt(np.maximum(variance, 1e-300)) / background, np.nan)
    return ratio, error


def backgrounds(result: FitResult) -> list[np.ndarray]:
    """Counts expected on the sky (ring, ra) of each configuration from its fitted rate and acceptance, I = 1."""
    out = []
    for place, rate, acceptance in zip(result.counts.configurations(), result.rates, result.acceptances, strict=True):
        n = len(rate)
        sky = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(acceptance, axis=1)), n=n, axis=1)
        counts = result.counts
        # The scale of rate times acceptance is where the fitted sky reproduces the number of events.
        intensity = 1 + contrast_of_date(result)
        sky = np.maximum(sky, 0)
        out.append(sky * counts.n_time[place].sum() / (sky * intensity).sum())
    return out


def contrast_of_date(result: FitResult) -> np.ndarray:
    """Fitted delta I on the grid, in the frame of date, shape (ring, ra)."""
    from diffcr.harmonics import synthesis

    full = np.zeros((result.l_max + 1) ** 2)
    full[result.degree**2 + result.degree + result.order] = result.multipoles_of_date
    return np.asarray(synthesis(full, result.counts.grid, cell_average=True))


def write_pictures(result: FitResult, folder: Path) -> list[Path]:
    """Draw the pictures of a fit into a folder; returns the paths.

    While the counts are blinded, pictures that would tell a phase, or the angle by comparison with an open one
    (rate, projection, dipole, panel), are left out. Without errors there is no error ellipse.
    """
    counts, grid = result.counts, result.counts.grid
    drawn = {f"acceptance{suffix}": _acceptance_picture(result, k) for k, suffix in _first_of_each(counts)}
    sky = _sky_arguments(result)
    drawn["relative_intensity"] = plots.sky_map(**sky)
    background = sum(backgrounds(result))
    drawn["counts"] = plots.sky_map(
        *_per_square_degree(counts.n_sky.sum(axis=(0, 1, 2)), background, grid),
        f"{_names(counts)}: counts",
        "Counts per square degree" if not counts.weighted else "Sum of weights per square degree",
        galactic_plane=sky["galactic_plane"],
        frame_label=sky["frame_label"],
    )
    if not counts.blinded:
        rates = {suffix: _rate_arguments(result, k) for k, suffix in _first_of_each(counts)}
        drawn |= {f"rate{suffix}": plots.rate(**arguments) for suffix, arguments in rates.items()}
        along = _projection_arguments(result)
        drawn["projection"] = plots.right_ascension_projection(**along)
        if has_errors(result):
            dipole = _dipole_arguments(result)
            drawn["dipole"] = plots.dipole_ellipse(**dipole)
            drawn["panel"] = plots.demo_panel(sky, along, next(iter(rates.values())), dipole)
    return [plots.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def _names(counts: Counts) -> str:
    return ", ".join(s.name for s in counts.sites)


def _first_of_each(counts: Counts) -> list[tuple[int, str]]:
    """(configuration, suffix of the file name) of the first configuration of each observatory."""
    firsts: dict[int, int] = {}
    for k, place in enumerate(counts.configurations()):
        firsts.setdefault(place[0], k)
    if len(firsts) == 1:
        return [(0, "")]
    return [
        (k, "_" + "".join(c if c.isalnum() else "-" for c in counts.sites[site].name)) for site, k in firsts.items()
    ]


def _sky_arguments(result: FitResult) -> dict:
    counts, grid = result.counts, result.counts.grid
    frame = counts.time_frame
    if frame == "sidereal":
        frame = f"equatorial, of date ({counts.overall_epoch():.1f})"
    background = sum(backgrounds(result))
    sky = counts.n_sky.sum(axis=(0, 1, 2))
    return {
        "values": smooth_sky(sky, background, grid.declination, grid.right_ascension, _SMOOTHING),
        "declination_edges": grid.declination_edges,
        "title": f"{_names(counts)}: relative intensity in discs of 45 degrees radius",
        "colorbar_label": "Relative intensity minus 1",
        "diverging": True,
        "galactic_plane": counts.time_frame == "sidereal" and not counts.blinded,
        "frame_label": "right ascension blinded" if counts.blinded else frame,
    }


def _projection_arguments(result: FitResult) -> dict:
    counts, grid = result.counts, result.counts.grid
    ratio, error = projection(result)
    bins = max(d for d in range(1, 25) if grid.n_ra % d == 0)
    mean_cos = _projected(result)
    delta, covariance = _of_date(result)
    return {
        "right_ascension_deg": np.degrees(grid.right_ascension).reshape(bins, -1).mean(axis=1),
        "excess": np.nanmean(ratio.reshape(bins, -1), axis=1),
        "error": np.sqrt(np.nansum(error.reshape(bins, -1) ** 2, axis=1)) / (grid.n_ra // bins),
        "harmonic": mean_cos * delta,
        "harmonic_covariance": mean_cos**2 * covariance,
        "title": rf"{_names(counts)}: projection, dipole times $\langle\cos\delta\rangle$ = {mean_cos:.2f}",
    }


def _rate_arguments(result: FitResult, k: int) -> dict:
    counts = result.counts
    place = counts.configurations()[k]
    arguments = {
        "time_counts": counts.n_time[place],
        "time_frame": counts.time_frame,
        "fitted": result.rates[k] * counts.n_time[place].sum(),
        "dead": dead_bins(counts.n_time[place]),
        "title": f"{counts.label(place)}: rate",
    }
    return arguments | ({"variance": counts.w2["n_time"][place]} if counts.weighted else {})


def _dipole_arguments(result: FitResult) -> dict:
    dipole = result.dipole
    return {
        "delta": dipole.equatorial,
        "covariance": dipole.covariance[:2, :2],
        "label": "Maximum likelihood",
        "title": f"{_names(result.counts)}: equatorial dipole, {result.equinox}",
    }


def _acceptance_picture(result: FitResult, k: int):
    counts = result.counts
    place = counts.configurations()[k]
    return plots.local_map(
        _smoothed_acceptance(result, k),
        counts.grid.declination_edges,
        counts.sites[place[0]].latitude,
        _zenith_edge(counts, place[0]),
        title=f"{counts.label(place)}: fitted acceptance",
    )


def _zenith_edge(counts: Counts, k: int) -> float:
    return min(counts.sites[k].zenith_max + math.radians(2), math.pi / 2)


def _per_square_degree(sky: np.ndarray, background: np.ndarray, grid: RingGrid) -> tuple[np.ndarray, np.ndarray]:
    """Counts per square degree on cells joined until they hold 25 on average, and their declination edges."""
    seen = max(int((background > 1e-3 * background.max()).sum()), 1)
    wanted = max(25 * seen / sky.sum(), 1)
    factors = [f for f in range(1, 31) if grid.n_ring % f == 0 and grid.n_ra % f == 0]
    factor = next((f for f in factors if f * f >= wanted), factors[-1])
    coarse = RingGrid(max(grid.n_ring // factor, 4), max(grid.n_ra // factor, 4))
    if grid.n_ring % coarse.n_ring or grid.n_ra % coarse.n_ra:
        coarse = grid
    joined, expected = rebin(sky, grid, coarse), rebin(background, grid, coarse)
    density = joined / (coarse.solid_angle[:, None] * np.degrees(1) ** 2)
    return np.where((joined > 0) | (expected > 1e-3 * expected.max()), density, np.nan), coarse.declination_edges


def _smoothed_acceptance(result: FitResult, k: int) -> np.ndarray:
    """Acceptance of a configuration, averaged over discs that hold some 100 events where cells hold fewer."""
    counts, grid, acceptance = result.counts, result.counts.grid, result.acceptances[k]
    place = counts.configurations()[k]
    events = counts.n_local[place]
    per_steradian = events.sum() / ((events > 0) * grid.solid_angle[:, None]).sum()
    radius = math.sqrt(100 / per_steradian / math.pi)
    if radius < grid.step:
        return acceptance
    # Only what the site sees counts as area: otherwise discs on the edge would look dark.
    seen = np.asarray(field_of_view(counts.sites[place[0]], grid, profile="triangle"))
    seen = np.where(acceptance > 0, np.maximum(seen, 0.01), seen)
    area = grid.solid_angle[:, None] * seen
    smooth = smooth_sky(acceptance, area, grid.declination, grid.right_ascension, min(radius, 0.2), 0.0) + 1
    return np.where(seen > 0, smooth * grid.solid_angle[:, None], 0.0)


def _projected(result: FitResult) -> float:
    """Mean cos(dec) of the expected counts: what a dipole loses in the projection."""
    weight = sum(backgrounds(result)).sum(axis=1)
    return float(weight @ np.cos(result.counts.grid.declination) / weight.sum())


def _of_date(result: FitResult) -> tuple[np.ndarray, np.ndarray]:
    """The equatorial dipole in the frame of date, for pictures in that frame, with its covariance."""
    norm = math.sqrt(4 * math.pi / 3)
    place = [int(np.flatnonzero((result.degree == 1) & (result.order == m))[0]) for m in (1, -1)]
    # The rotation by precession hardly changes the covariance.
    return result.multipoles_of_date[place] / norm, result.dipole.covariance[:2, :2]


def describe(summary: dict) -> list[str]:
    """The result in a few lines for the terminal."""
    dipole = summary["dipole"]
    hidden = summary["blinded"]
    power = _power(dipole["amplitude_error"] or 0.0)
    unit = f" x 1e{power}" if power else ""

    def number(value, form="+.2f", scale=10.0**power):
        return "unknown" if value is None else f"{value / scale:{form}}"

    def component(name, k):
        error = dipole["amplitude_error"]
        if error is not None and not hidden:
            error = math.sqrt(dipole["covariance"][k][k])
        value = "hidden" if hidden else number(dipole[name])
        return f"{name:<17}{value} +- {number(error, '.2f')}{unit}"

    lines = [
        f"events           {summary['num_events']} ({', '.join(o['name'] for o in summary['observatories'])})",
        component("delta_0h", 0),
        component("delta_6h", 1),
    ]
    if "delta_N" in dipole:
        lines.append(f"delta_N          {number(dipole['delta_N'])} +- {number(dipole['delta_N_error'], '.2f')}{unit}")
    lines.append(
        f"amplitude        {number(dipole['amplitude'], '.2f')} +- {number(dipole['amplitude_error'], '.2f')}{unit}"
        f" (below {number(dipole['upper_limit_95'], '.2f')} at 95 %)"
    )
    phase = "hidden" if hidden else number(dipole["right_ascension_deg"], ".1f", 1)
    error = number(dipole["right_ascension_error_deg"], ".1f", 1)
    lines.append(f"right ascension  {phase} +- {error} degrees ({summary['equinox']})")
    lines.append(
        f"significance     {number(summary['significance_sigma'], '.2f', 1)} sigma (TS "
        f"{number(summary['test_statistic'], '.1f', 1)} for {summary['degrees_of_freedom']:.3g} degrees of freedom, "
        f"log10 p {number(summary['log10_p'], '.2f', 1)}"
        + (
            f", all {len(summary['multipoles']['l'])} multipoles together)"
            if len(summary["multipoles"]["l"]) > 2
            else ")"
        )
    )
    merge = summary["merge_test"]
    if merge:
        verdict = "not excluded" if merge["allowed"] else "excluded"
        lines.append(
            f"epochs           one acceptance for all is {verdict} (TS {merge['test_statistic']:.1f} for "
            f"{merge['degrees_of_freedom']} degrees of freedom, log10 p {merge['log10_p']:.2f})"
        )
    if (summary["livetime_inflation"] or 1.0) > 1.01:
        dead = sum(c["dead_bins"] for c in summary["configurations"])
        lines.append(
            f"livetime         uneven, {dead} dead time bins: errors {summary['livetime_inflation']:.2f} times those "
            "of a constant rate"
        )
    if "systematics" in summary:
        lines += describe_systematics(summary["systematics"])
    state = "yes" if summary["converged"] else "NO: this is not a maximum"
    lines.append(f"converged        {state} ({summary['num_steps']} steps)")
    return lines


def describe_systematics(block: dict) -> list[str]:
    """The systematics block in a line or two."""
    if block["covariance"] is None:
        return ["systematics      no check could run (see not_run)"]
    source, number = block["source"], len(block["checks"])
    told = f"from {source}" if source else "every check passes"
    statistical, systematic, total = (
        f"{100 * block['amplitude_error'][kind]:.2g} ({kind})" for kind in ("statistical", "systematic", "total")
    )
    lines = [
        f"systematics      {number} check{'s' if number > 1 else ''}, {told}: amplitude error {statistical}, "
        f"{systematic}, {total} %"
    ]
    missing = ", ".join(entry["check"] for entry in block["not_run"])
    return lines + ([f"                 not possible: {missing} (see not_run)"] if missing else [])


def _power(value: float) -> int:
    """Power of ten that makes an error a number with one or two digits before the point."""
    exponent = math.floor(math.log10(value)) if value > 0 else 0
    return exponent if exponent < -1 else (-2 if exponent == -1 or exponent == -2 else 0)
