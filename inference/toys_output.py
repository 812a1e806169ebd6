"""Results of toys on disk: toys.nc with every toy, toys.json with what they say, and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .files import together, write_netcdf
from .toys import ToyResult
from .toys_report import Observed, summarise


def dataset(results: Sequence[ToyResult]) -> xr.Dataset:
    """Every toy: estimates, covariances, test statistics, convergence, with dimensions (sky, toy, ..)."""

    def of_each(name: str) -> np.ndarray:
        return np.stack([getattr(each, name) for each in results])

    notes = {
        "estimate": "dipole of the relative intensity in the equator of date",
        "covariance": "covariance of the estimate",
        "test_statistic": "2 ln(L / L_isotropic)",
        "converged": "whether the fit is at a maximum",
        "truth": "true dipole",
    }
    data = {
        "estimate": (("sky", "toy", "component"), of_each("estimates")),
        "covariance": (("sky", "toy", "pair"), of_each("covariances")),
        "test_statistic": (("sky", "toy"), of_each("test_statistics")),
        "converged": (("sky", "toy"), of_each("converged").astype(np.int8)),
        "truth": (("sky", "component"), np.array([each.plan.dipole for each in results])),
    }
    pairs = ["delta_0h delta_0h", "delta_0h delta_6h", "delta_6h delta_6h"]
    coordinates = {"sky": [r.plan.kind for r in results], "component": ["delta_0h", "delta_6h"], "pair": pairs}
    out = xr.Dataset(
        data, coords=coordinates, attrs={"title": "Dipole fits of simulated skies", "format": "diffcr toys"}
    )
    out.attrs["plans"] = json.dumps([each.plan.label for each in results])
    for name, text in notes.items():
        out[name].attrs["long_name"] = text
    return out


def write_toys(
    folder: Path,
    isotropic: ToyResult,
    dipole: ToyResult | None = None,
    observed: Observed | None = None,
    pictures: bool = True,
) -> dict[str, Any]:
    """Write toys.nc, pictures and toys.json, all or none; returns the summary.

    Raises:
        InputError: If they cannot be written.
    """
    from .report import write_json

    summary = summarise(isotropic, dipole, observed)
    with together(folder) as part:
        write_netcdf(part / "toys.nc", dataset([each for each in (isotropic, dipole) if each is not None]))
        if pictures:
            from .plots import save
            from .toys_plots import figures

            for name, figure in figures(isotropic, dipole, observed).items():
                save(figure, part / f"{name}.png")
        write_json(part / "toys.json", summary)
    return summary
