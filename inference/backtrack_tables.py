"""Tables and maps of backtracked skies: an xarray Dataset, HEALPix files; and measured spectra to compare with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import diffcr
from diffcr.backtracking import sky_map
from diffcr.errors import InputError
from diffcr.resampling import jackknife
from diffcr.small_scale import plateau_weight, quadratic
from diffcr.spectrum import coherence_length

from .backtrack import settings
from .backtrack_summary import Analysis, Orientation, gradient_of, vector_of
from .exchange import write_map

CONVENTIONS = (
    "B_0 along z; lengths, and times with c = 1, in L_c, the unit of the spectrum; sky directions are where particles "
    "come from; r(-T) relative to the observer, its mean over the sky left in; the power of a perpendicular gradient "
    "is the mean of x and y, its sky files have x; skies have no monopole; L_c is the bend-over length of a bend-over "
    "spectrum, not its coherence length; C_l as healpy has them, of delta I = r . grad n / n for a gradient of "
    "1 / L_c; errors are standard errors of the mean over realisations (jackknife)"
)


def dataset(analysis: Analysis) -> xr.Dataset:
    """Everything as one xarray Dataset: spectra of each realisation, ensemble means with errors, kept maps."""
    run, setup, ensemble = analysis.result.run, analysis.setup, analysis.ensemble
    each = ("realisation", "time")
    out = xr.Dataset(
        {
            "power": ((*each, "degree", "i", "j"), ensemble.power, _about("C_l^ij of r_i and r_j", "L_c^2")),
            "second_moment": ((*each, "i", "j"), ensemble.second_moment, _about("<r_i r_j> over the sky", "L_c^2")),
            "velocity_displacement": (
                (*each, "i", "j"),
                ensemble.velocity_displacement,
                _about("<v_i(0) r_j(-T)> over the sky, v = -n", "L_c"),
            ),
            "mean_displacement": ((*each, "i"), ensemble.mean, _about("<r_i> over the sky", "L_c")),
            "multipoles": (
                (*each, "i", "coefficient"),
                ensemble.multipoles,
                _about("real multipoles of r_i, index l (l + 1) + m", "L_c"),
            ),
            "seconds": (("realisation",), analysis.result.seconds, _about("wall time", "s")),
        },
        coords={
            "realisation": np.arange(run.realisations),
            "time": ("time", ensemble.times, _about("time T traced back, c = 1", "L_c")),
            "omega_t": ("time", analysis.omega_t, _about("Omega T", "1")),
            "degree": np.arange(ensemble.power.shape[2]),
            "i": list("xyz"),
            "j": list("xyz"),
        },
        attrs={
            "software": f"diffcr {diffcr.__version__}",
            "conventions": CONVENTIONS,
            **_flat(settings(setup)),
            "coherence_length": float(coherence_length(setup.spectrum)),
            "plateau_degrees": list(analysis.degrees),
        },
    )
    tensor = analysis.diffusion.tensor
    out["diffusion_tensor"] = (("time", "i", "j"), tensor.value, _about("K_ij = -<v_i(0) r_j(-T)>, mean", "L_c"))
    out["diffusion_tensor_error"] = (("time", "i", "j"), tensor.error, _about("its standard error", "L_c"))
    out = out.merge(_of_orientations(analysis))
    if analysis.result.half_step:
        power = np.stack([one.power for one in analysis.result.half_step])
        out["power_half_step"] = (
            ("checked", "time", "degree", "i", "j"),
            power,
            _about("C_l^ij of the first realisations with half the step", "L_c^2"),
        )
    if analysis.result.maps:
        kept = sorted(analysis.result.maps)
        out = out.assign_coords(mapped=("mapped", kept, _about("realisations whose maps are kept", "1")))
        maps = np.stack([analysis.result.maps[k] for k in kept])
        out["displacement"] = (
            ("mapped", "time", "i", "pixel"),
            maps,
            _about(f"r_i(-T; n), HEALPix nside {setup.nside}, RING order, B_0 along z", "L_c"),
        )
    return out


def _of_orientations(analysis: Analysis) -> xr.Dataset:
    rows = analysis.orientations
    stacked = lambda name, part: np.stack([getattr(getattr(row, name), part) for row in rows])
    out = xr.Dataset(coords={"gradient": [row.name for row in rows]})
    out["angle"] = ("gradient", [row.angle for row in rows], _about("between gradient and B_0", "deg"))
    for name, what, dims, unit in (
        ("power", "mean <C_l> for unit gradient", ("gradient", "time", "degree"), "1"),
        ("plateau", "mean of C_l over the degrees of the plateau", ("gradient", "time"), "1"),
        ("noise", "(4 pi / N_pix) 2 T K_ij d_i d_j", ("gradient", "time"), "1"),
        ("dipole_to_quadrupole", "C_1 / C_2, plateau subtracted", ("gradient", "time"), "1"),
        ("dipole_excess", "C_1 over that of standard diffusion", ("gradient", "time"), "1"),
        ("aligned", "share of <C_l> that the mean sky holds", ("gradient", "time", "kept_degree"), "1"),
        ("shape", "C_l / C_2, plateau subtracted", ("gradient", "time", "ratio_degree"), "1"),
        ("step", "<C_l> over that with half the step", ("gradient", "time", "degree"), "1"),
    ):
        if getattr(rows[0], name) is None:
            continue
        label = {"power": "mean_power", "step": "step_ratio"}.get(name, name)
        out[label] = (dims, stacked(name, "value"), _about(what, unit))
        out[f"{label}_error"] = (dims, stacked(name, "error"), _about(f"standard error of {label}", unit))
    if rows[0].shape is not None:
        out = out.assign_coords(ratio_degree=np.arange(3, 3 + rows[0].shape.value.shape[-1]))
    return out


def skies(analysis: Analysis, realisation: int) -> dict[str, np.ndarray]:
    """delta I of one realisation for unit gradient, (sample, pixel) by name of the orientation; none if not kept."""
    maps = analysis.result.maps.get(realisation)
    if maps is None:
        return {}
    return {row.name: sky_map(maps, vector_of(row.angle)) for row in analysis.orientations}


def write_sky(path: Path, analysis: Analysis, sky: np.ndarray) -> None:
    """Write maps of one realisation as HEALPix FITS, a column for each time.

    Args:
        path: Where to.
        analysis: The run.
        sky: delta I of unit gradient, shape (sample, pixel), RING order.
    """
    name = path.stem.removeprefix("sky_")
    angle = next(row.angle for row in analysis.orientations if row.name == name)
    setup = analysis.setup
    header = [
        ("COORDSYS", "B0", "frame of the regular field: z along B_0"),
        ("FRAME", "z axis along B_0, gradient in x-z", "not of the sky"),
        ("GRADANG", float(angle), "[deg] angle between gradient and B_0"),
        ("REALISAT", 0, "number of the realisation"),
        ("SIGMA2", float(setup.sigma2), "<dB^2> / B_0^2"),
        ("RLARMOR", float(setup.larmor_radius), "Larmor radius in B_0 [L_c]"),
        ("OMEGADT", float(setup.omega_t / setup.steps), "step times gyrofrequency"),
        ("SEED", int(setup.seed), "of the random numbers"),
        ("CREATOR", f"diffcr {diffcr.__version__}", "software"),
        ("GRADUNIT", "L_c grad n / n", "delta I is per this; no monopole"),
    ]
    write_map(path, list(sky), [f"DELTA_I_OMEGA_T_{turns:.4g}" for turns in analysis.omega_t], None, header)


def write_power(path: Path, analysis: Analysis, row: Orientation) -> None:
    """Write <C_l> at the last time as CSV, the plateau subtracted: what `read_power` and the prior template take.

    The error is that of the difference, by the jackknife. Degrees end where the plateau begins.
    """
    weight = plateau_weight(analysis.ensemble, analysis.degrees)
    power = quadratic(analysis.ensemble.power, gradient_of(row.angle))[:, -1]
    less = jackknife(lambda power: power - (power @ weight)[:, None], power)
    lines = [
        f"# <C_l> of delta I for grad n / n = 1 / L_c at {row.angle:g} degrees to B_0, Omega T = "
        f"{analysis.omega_t[-1]:g}, {analysis.result.run.realisations} realisations; diffcr {diffcr.__version__}",
        "# perpendicular: mean of gradients along x and y, both across B_0 (sky files and pictures have x)",
        f"# C_l and its error less the plateau of l = {analysis.degrees[0]} to {analysis.degrees[1]}; C_l_raw with it",
        "l,C_l,error,C_l_raw",
    ]
    for l in range(1, analysis.degrees[0]):
        lines.append(f"{l},{less.value[l]:.8g},{less.error[l]:.3g},{row.power.value[-1, l]:.8g}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _about(long_name: str, units: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units}


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as attributes of NetCDF: no tables within tables, no nulls."""
    out = {}
    for key, value in content.items():
        if isinstance(value, dict):
            out |= {f"{key}_{k}": v for k, v in value.items()}
        else:
            out[key] = value
    return {k: ("none" if v is None else v) for k, v in out.items()}


# Measured spectra ---------------------------------------------------------------------------------------


def read_power(path: str) -> dict[str, np.ndarray]:
    """A measured angular power spectrum over its C_2: CSV with the columns l, C_l and error.

    Returns:
        `degree`, `shape` and `error` (of C_l over C_2; the error of C_2 is not in it), as `power_shape` takes them.

    Raises:
        InputError: If the file cannot be read, a column is missing, a value is no number, or there is no l = 2.
    """
    try:
        table = pd.read_csv(path, comment="#", skipinitialspace=True)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV file with columns l,C_l,error") from None
    names = {str(name).strip().lower(): name for name in table.columns}
    columns = []
    for wanted in (("l", "ell", "degree"), ("c_l", "cl", "power"), ("error", "err", "sigma", "c_l_error")):
        name = next((names[each] for each in wanted if each in names), None)
        if name is None:
            raise InputError(f"{path}: has no column {wanted[0]}; write the header l,C_l,error")
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise InputError(f"{path}: row {bad[0] + 1} has no number in the column {name}; correct or leave it out")
        columns.append(values)
    degree, power, error = columns
    two = power[degree == 2]
    if two.size != 1 or not two[0] > 0 or np.any(degree < 1) or np.any(error < 0):
        raise InputError(f"{path}: needs l of at least 1, one row of l = 2 with C_l above 0, and errors not below 0")
    return {"degree": degree, "shape": power / two[0], "error": error / two[0]}
