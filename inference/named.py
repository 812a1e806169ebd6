"""Draws as xarray datasets with named dimensions, in the container of the installed ArviZ."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from .arviz_import import arviz as az
from .data import Counts
from .sky_likelihood import SkyLikelihood

COORDINATES = {
    "field",
    "field_sine_declination",
    "dipole",
    "sources",
    "delta_N_scaled",
    "log_power_scaled",
    "log_power_2_scaled",
    "log_perpendicular_scaled",
    "spectral_index_scaled",
    "velocity_scaled",
    "power_index_scaled",
    "log_depth_scaled",
    "end_scaled",
    "index_scaled",
    "floor_scaled",
    "width_scaled",
    "strength_scaled",
    "centre_scaled",
}
"""Sites in which the sampler moves; what they mean is reported under other names."""

_FIXED = {
    "rate": ("observatory", "time"),
    "power": ("l",),
    "profile": ("l",),
    "aligned_power": ("l",),
    "degree_density": ("l",),
    "multipoles": ("l", "m"),
    "field_direction": ("axis",),
    "field_axis": ("axis",),
    "velocity": ("axis",),
    "n_time": ("observatory", "time"),
    "n_ra": ("observatory", "ra"),
    "n_ring": ("observatory", "ring"),
}


# Asking ArviZ 1 for InferenceData is a warning, which may be an error.
_OLD_ARVIZ = int(az.__version__.partition(".")[0]) < 1


@dataclasses.dataclass(frozen=True)
class Names:
    """What stands along each dimension.

    Attributes:
        counts: The data; its grid gives bin centres.
        sky: The likelihood; it gives configurations ("observatory"), energies, l and m.
    """

    counts: Counts
    sky: SkyLikelihood

    def dataset(self, values: dict[str, np.ndarray], lead: tuple[str, ...] = ("chain", "draw")) -> xr.Dataset:
        """Arrays with the leading dimensions `lead` as a Dataset; log rates become relative rates that sum to 1."""
        out = {}
        for name, value in values.items():
            if name in COORDINATES:
                continue
            if name == "log_rate":
                name, value = "rate", relative_rates(self.sky, value)
            if name == "multipoles":
                value = self._square(value)
            own = value.shape[len(lead) :]
            if name == "theta_of_date":
                dims = ("energy", "multipole_of_date")[2 - len(own) :]
                out[name] = xr.DataArray(value, dims=(*lead, *dims), name=name)
                continue
            dims = _FIXED.get(name) or (("energy",) if own == (len(self.sky.energies),) else ())
            if len(dims) != len(own):
                dims = tuple(f"{name}_dim_{k}" for k in range(len(own)))
            along = {d: self._along(d, n) for d, n in zip(dims, own, strict=True)}
            out[name] = xr.DataArray(
                value, dims=(*lead, *dims), coords={k: v for k, v in along.items() if v is not None}, name=name
            )
        merged = xr.merge(out.values(), join="outer", compat="override", combine_attrs="drop")
        return merged.assign_coords({d: np.arange(merged.sizes[d]) for d in lead})

    def _along(self, dimension: str, size: int) -> Any:
        grid, l_max = self.counts.grid, self.sky.l_max
        if dimension == "l":
            # C_l and profiles begin at 2, multipoles at 1.
            return np.arange(l_max + 1 - size, l_max + 1)
        if dimension == "time":
            return np.degrees(2 * np.pi * (np.arange(size) + 0.5) / size)
        return {
            "observatory": list(self.sky.names),
            "ra": np.degrees(grid.right_ascension),
            "ring": np.degrees(grid.declination),
            "m": np.arange(-l_max, l_max + 1),
            "axis": ["0h", "6h", "north"],
            "energy": list(self.sky.energies),
        }.get(dimension)

    def _square(self, values: np.ndarray) -> np.ndarray:
        """Multipoles on (l, m), not a number where there is none."""
        l_max = self.sky.l_max
        out = np.full((*values.shape[:-1], l_max, 2 * l_max + 1), np.nan)
        out[..., np.array(self.sky.degree) - 1, np.array(self.sky.order) + l_max] = values
        return out


def relative_rates(sky: SkyLikelihood, log_rates: np.ndarray) -> np.ndarray:
    """Relative rates of each configuration, summing to 1, from u of shape (.., configuration, group)."""
    rate = np.asarray(sky.block.rate_modes)[:, -1] * np.exp(log_rates)
    return rate / rate.sum(axis=-1, keepdims=True)


def container(groups: dict[str, xr.Dataset]) -> Any:
    """InferenceData, or from ArviZ 1 on a DataTree."""
    return az.InferenceData(**groups) if _OLD_ARVIZ else xr.DataTree.from_dict(groups)


def tree(posterior: Any) -> xr.DataTree:
    """An ArviZ object of either generation as a DataTree, in which both read it back."""
    if not _OLD_ARVIZ:
        return posterior
    return xr.DataTree.from_dict({name: posterior[name] for name in posterior.groups()})


def group(posterior: Any, name: str) -> xr.Dataset:
    """One group of an ArviZ object of either generation as a Dataset."""
    found = posterior[name]
    return found.to_dataset() if hasattr(found, "to_dataset") else found
