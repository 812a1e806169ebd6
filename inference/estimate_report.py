"""What `diffcr estimate` writes: estimates.json, estimates.tex, the HEPData tables and the pictures; and its words."""

import math
from pathlib import Path

import numpy as np

from . import estimate_plots, plots
from .estimate_plots import measured, name_of
from .files import atomic, together
from .hepdata import write_hepdata
from .report import describe_systematics, write_json


def write_estimates(folder: Path, summary: dict, pictures: bool = True) -> list[Path]:
    """Write everything into a folder that exists; the files take the place of older ones together.

    Args:
        folder: Where to.
        summary: From `estimates.estimates`.
        pictures: Whether to draw.

    Returns:
        Paths of the files.

    Raises:
        InputError: If a file cannot be written.
    """
    with together(folder) as part:
        written = write_hepdata(part / "hepdata", summary)
        written.append(write_latex(part / "estimates.tex", summary))
        if pictures:
            written += write_estimate_pictures(part, summary)
        written.append(write_json(part / "estimates.json", summary))
    return [folder / path.relative_to(part) for path in written]


def write_estimate_pictures(folder: Path, summary: dict) -> list[Path]:
    """Draw what the summary allows; while counts are blinded nothing that tells a phase."""
    drawn = {}
    for number, part in enumerate(summary["parts"]):
        suffix = "" if number == 0 else f"_{number}"
        methods = part["methods"]
        if measured(part):
            drawn[f"estimates{suffix}"] = estimate_plots.dipole_comparison(part, summary["equinox"])
        if "power" in methods or "pseudo-power" in methods:
            drawn[f"power_spectrum{suffix}"] = estimate_plots.power_spectrum(part)
        if "two-point" in methods:
            drawn[f"two_point{suffix}"] = estimate_plots.correlation(part)
        if methods.get("projection", {}).get("curve"):
            drawn[f"projection{suffix}"] = _projection(part, summary["equinox"])
    if "stability" in summary:
        drawn["stability"] = estimate_plots.stability(summary["stability"], summary["equinox"])
    return [plots.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def _projection(part: dict, equinox: str):
    entry = part["methods"]["projection"]
    curve, first = entry["curve"], entry["harmonics"][0]
    values, errors = (
        np.array([np.nan if x is None else x for x in curve[name]], float) for name in ("relative_intensity", "error")
    )
    scale = first["amplitude_error"] ** 2 * np.eye(2)
    return plots.right_ascension_projection(
        np.array(curve["right_ascension_deg"], float),
        values,
        errors,
        (first["cosine"], first["sine"]),
        scale,
        f"Projection and first harmonic ({part['label']}, {equinox})",
    )


# --- LaTeX -------------------------------------------------------------------------------------------------

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands; characters beyond ASCII are left to the document's encoding."""
    return "".join(_ESCAPES.get(c, c) for c in " ".join(text.split()))


def latex_table(summary: dict) -> str:
    r"""The dipoles of all parts and methods as one tabular, to be read with \input into any document.

    Components and amplitudes are in units of 10^-k, k from the smallest error.
    """
    rows = [(part["label"], name, entry) for part in summary["parts"] for name, entry in _dipoles(part).items()]
    errors = [entry["amplitude_error"] for _, _, entry in rows if entry["amplitude_error"]]
    power = math.floor(math.log10(min(errors))) if errors else 0
    # In units of which the smallest error is between 1 and 10, two digits show it.
    unit = rf" [$10^{{{power}}}$]"
    lines = [
        f"% {' '.join(summary['software'].split())}, {summary['equinox']}",
        r"\begin{tabular}{llrrrrr}",
        r"\hline",
        rf"Data & Method & $\delta_{{0\mathrm{{h}}}}${unit} & $\delta_{{6\mathrm{{h}}}}${unit} & Amplitude{unit} & "
        r"R.A. [$^\circ$] & $\log_{10} p$ \\",
        r"\hline",
    ]
    for label, name, entry in rows:
        scale = 10.0**-power
        sigma = [None, None] if entry["covariance"] is None else np.sqrt(np.diag(entry["covariance"])).tolist()
        vector = [None, None] if entry["vector"] is None else entry["vector"]
        cells = [_pair(v, s, scale) for v, s in zip(vector, sigma, strict=True)]
        cells.append(_pair(entry["amplitude"], entry["amplitude_error"], scale))
        cells.append(_pair(entry["right_ascension_deg"], entry["right_ascension_error_deg"], 1.0))
        cells.append("--" if entry["log10_p"] is None else f"${entry['log10_p']:.2f}$")
        lines.append(" & ".join([escaped(label), escaped(name_of(name)), *cells]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _dipoles(part: dict) -> dict[str, dict]:
    """Entries with a dipole, its phase hidden or not."""
    return {name: entry for name, entry in part["methods"].items() if "vector" in entry}


def _pair(value: float | None, error: float | None, scale: float) -> str:
    if value is None:
        return "--"
    return f"${value * scale:.1f}$" if error is None else rf"${value * scale:.1f} \pm {error * scale:.1f}$"


def write_latex(path: Path, summary: dict) -> Path:
    """Write `latex_table`; the file appears under its name only when complete."""
    with atomic(path) as part:
        part.write_text(latex_table(summary), encoding="utf-8")
    return path


# --- Terminal ----------------------------------------------------------------------------------------------


def describe_estimates(summary: dict) -> list[str]:
    """The lines that `diffcr estimate` prints."""
    lines = [f"events           {summary['num_events']} ({', '.join(summary['observatories'])})"]
    for part in summary["parts"]:
        lines.append(f"\n{part['label']}: {part['num_events']} events ({summary['equinox']})")
        for name, entry in _dipoles(part).items():
            phase = "hidden" if entry["right_ascension_deg"] is None else f"{entry['right_ascension_deg']:.1f}"
            lines.append(
                f"  {name_of(name):<23}amplitude {100 * entry['amplitude']:.3g} +- "
                f"{100 * entry['amplitude_error']:.2g} %, right ascension {phase} +- "
                f"{entry['right_ascension_error_deg']:.1f} degrees, log10 p {entry['log10_p']:.2f}"
            )
        for name, label in (("power", "C_l, quadratic"), ("pseudo-power", "C_l, pseudo")):
            if name in part["methods"]:
                entry = part["methods"][name]
                first, last = entry["l_low"][0], entry["l_high"][0]
                degrees = f"{first}" if first == last else f"{first}-{last}"
                lines.append(
                    f"  {label:<23}C_{degrees} = {entry['power'][0]:.3g} +- {entry['error'][0]:.2g}, +- "
                    f"{entry['isotropic_error'][0]:.2g} if the sky were isotropic; to l = {entry['l_high'][-1]}"
                )
    lines += _of_all(summary)
    if summary["not_run"]:
        lines.append("\nnot run")
        lines += [f"  {entry['method']} ({entry['part']}): {entry['reason']}" for entry in summary["not_run"]]
    return lines


def _of_all(summary: dict) -> list[str]:
    lines = [""]
    for frame, entry in summary.get("frames", {}).items():
        if isinstance(entry, dict) and frame != "sidereal":
            left = entry["residual"]
            lines.append(
                f"{frame:<19}{100 * left['amplitude']:.3g} +- {100 * left['amplitude_error']:.2g} % after the orbital "
                f"line, p {left['p_value']:.2g}"
            )
    for entry in summary.get("solar_index", {}).get("bins", []):
        lines.append(
            f"solar index        {entry['index']:.3g} +- {entry['index_error']:.2g} (energy {entry['energy']}, Gamma)"
        )
    if "stability" in summary:
        found = summary["stability"]
        lines.append(
            f"stability          chi2 {found['chi2']:.1f} for {found['degrees_of_freedom']} degrees of freedom, p "
            f"{found['p_value']:.2g} ({found['method']})"
        )
        drift = found.get("drift")
        if drift:
            lines.append(
                f"drift              {100 * drift['along_mean']:+.3f} +- {100 * drift['along_mean_error']:.3f} % "
                f"a year along the mean direction, below {100 * drift['limit_95']:.2f} % in any at 95 %"
            )
    search = summary.get("top_hat", {})
    for entry in [*search.get("targets", []), *([search["blind"]] if "blind" in search else [])]:
        best = entry["best"]
        where = f"RA {best['right_ascension_deg']:.1f}, dec {best['declination_deg']:+.1f}"
        penalised = "" if entry["penalised_p"] is None else f", penalised p {entry['penalised_p']:.2g}"
        lines.append(
            f"disc               {best['num_on']} events, {best['expected']:.3g} expected within "
            f"{best['radius_deg']:.3g} degrees of {where} above "
            f"{best['threshold']:g}; p {10 ** best['log10_p']:.2g}{penalised}"
        )
    if "systematics" in summary:
        lines += describe_systematics(summary["systematics"])
    return lines if len(lines) > 1 else []
