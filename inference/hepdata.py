"""Tables for HEPData: a folder with submission.yaml and one YAML file for each result.

The format is that of hepdata-submission: independent and dependent variables, each with a header (name, units) and
values, those of dependent variables with errors. YAML is written in block style by the few rules it needs: every string
is quoted, and every number has a point and a signed exponent, as YAML 1.1 asks of floats.
"""

import json
import math
import re
from pathlib import Path

import numpy as np

from .estimate_plots import measured, name_of
from .files import atomic


def write_hepdata(folder: Path, summary: dict) -> list[Path]:
    """Write the tables of a summary; submission.yaml, which names them, comes last.

    Args:
        folder: Where to; made if missing. Tables that an earlier submission.yaml of ours names are removed first.
        summary: From `estimates.estimates`.

    Raises:
        InputError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = hepdata_tables(summary)
    _remove_earlier(folder)
    written = [_written(folder / f"{stem}.yaml", yaml(table["content"])) for stem, table in tables.items()]
    comment = (
        f"{summary['software']}; {summary['num_events']} events of {', '.join(summary['observatories'])}; vectors in "
        f"the equatorial frame of {summary['equinox']}. Every value is as in estimates.json."
    )
    documents = [{"comment": comment}]
    for stem, table in tables.items():
        documents.append(
            {
                "name": table["name"],
                "description": table["description"],
                "keywords": [
                    {"name": "observables", "values": table["observables"]},
                    {"name": "phrases", "values": ["Cosmic rays", "Anisotropy", "Arrival directions"]},
                ],
                "data_file": f"{stem}.yaml",
            }
        )
    text = "".join("---\n" + yaml(document) for document in documents)
    return [*written, _written(folder / "submission.yaml", text)]


def _remove_earlier(folder: Path) -> None:
    """HEPData refuses files that no table names, so what an earlier run has left must not stay."""
    index = folder / "submission.yaml"
    if index.is_file():
        for name in re.findall(r'^data_file: "(\w+\.yaml)"$', index.read_text(encoding="utf-8"), re.M):
            (folder / name).unlink(missing_ok=True)
        index.unlink()


def _written(path: Path, text: str) -> Path:
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


# --- YAML --------------------------------------------------------------------------------------------------


def yaml(content, indent: int = 0) -> str:
    """A dict or list of dicts, lists, strings, numbers and booleans as YAML in block style."""
    pad = "  " * indent
    if isinstance(content, dict):
        return "".join(f"{pad}{_key(key)}:" + _nested(value, indent + 1) for key, value in content.items())
    lines = []
    for value in content:
        text = _nested(value, indent + 1)
        # A block within a list item starts on the line of its dash.
        lines.append(f"{pad}-" + (" " + text[1:].lstrip(" ") if text.startswith("\n") else text))
    return "".join(lines)


def _nested(value, indent: int) -> str:
    if isinstance(value, dict | list):
        if not value:
            return " {}\n" if isinstance(value, dict) else " []\n"
        return "\n" + yaml(value, indent)
    return f" {_scalar(value)}\n"


def _key(name: str) -> str:
    return (
        name
        if re.fullmatch("[a-z_]{3,}", name) and name not in ("yes", "off", "true", "false", "null")
        else _scalar(name)
    )


def _scalar(value) -> str:
    if isinstance(value, float):
        return yaml_float(value)
    # Strings of JSON are strings of YAML; quoted, none can be taken for a number, a date or a boolean.
    return json.dumps(value, ensure_ascii=False)


def yaml_float(value: float) -> str:
    """A float that YAML 1.1 and 1.2 read as one: `1.0e-05`, where Python writes `1e-05`."""
    mantissa, e, exponent = repr(float(value)).partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"


# --- Tables ------------------------------------------------------------------------------------------------


def hepdata_tables(summary: dict) -> dict[str, dict]:
    """Tables by the stem of their file: name (at most 64 characters), description, observables, content."""
    tables: dict[str, dict] = {}
    for number, part in enumerate(summary["parts"]):
        suffix = "" if number == 0 else f"_{number}"
        tables |= {f"{stem}{suffix}": table for stem, table in _tables_of(part, summary["equinox"]).items()}
    if summary.get("frames"):
        tables["time_frames"] = _frames(summary["frames"])
    if summary.get("stability"):
        tables["stability"] = _stability(summary["stability"], summary["equinox"])
    if summary.get("solar_index"):
        tables["solar_index"] = _solar(summary["solar_index"]["bins"])
    if summary.get("top_hat"):
        tables["discs"] = _discs(summary["top_hat"], summary["equinox"])
    for number, table in enumerate(tables.values(), 1):
        table["name"] = f"Table {number}: {table['name']}"[:64]
    return tables


def _tables_of(part: dict, equinox: str) -> dict[str, dict]:
    methods, label = part["methods"], part["label"]
    tables = {}
    if measured(part):
        tables["dipole"] = _dipoles(part, equinox)
    for method, stem, title in (
        ("power", "power_spectrum", "Quadratic power spectrum"),
        ("pseudo-power", "pseudo_power_spectrum", "Pseudo power spectrum"),
    ):
        if method in methods:
            tables[stem] = _power(methods[method], f"{title} ({label})")
            tables[f"{stem}_covariance"] = _covariance(methods[method], f"Covariance, {title.lower()} ({label})")
    if "two-point" in methods:
        tables["two_point"] = _two_point(methods["two-point"], label)
    if methods.get("projection", {}).get("curve"):
        tables["projection"] = _projection(methods["projection"]["curve"], label, equinox)
    return tables


def _table(name: str, description: str, observables: list[str], independent: list, dependent: list) -> dict:
    content = {"independent_variables": independent, "dependent_variables": dependent}
    return {"name": name, "description": description, "observables": observables, "content": content}


def variable(name: str, values: list, errors: list | None = None, units: str = "", qualifiers=()) -> dict:
    """One column. A value that is not known is "-" and has no error; an error of zero is left out.

    Args:
        name: Of the column.
        values: Numbers, strings, None, or (low, high) for the limits of a bin.
        errors: Symmetric standard errors.
        units: Left out where empty.
        qualifiers: Dicts of name and value.
    """
    out: dict = {"header": {"name": name} | ({"units": units} if units else {})}
    if qualifiers:
        out["qualifiers"] = list(qualifiers)
    rows = []
    for value, error in zip(values, errors or [None] * len(values), strict=True):
        if isinstance(value, tuple):
            rows.append({"low": float(value[0]), "high": float(value[1])})
            continue
        known = isinstance(value, str) or (value is not None and math.isfinite(value))
        row: dict = {"value": (value if isinstance(value, str) else float(value)) if known else "-"}
        if known and error is not None and math.isfinite(error) and error > 0:
            row["errors"] = [{"symerror": float(error), "label": "stat"}]
        rows.append(row)
    return out | {"values": rows}


def _dipoles(part: dict, equinox: str) -> dict:
    entries = measured(part)
    sigma = np.sqrt([np.diag(e["covariance"]) for e in entries.values()])
    frame = [{"name": "Frame", "value": equinox}, {"name": "Data", "value": part["label"]}]

    def of(key):
        return [e[key] for e in entries.values()]

    correlation = [e["covariance"][0][1] for e in entries.values()] / (sigma[:, 0] * sigma[:, 1])
    columns = [
        variable("DELTA(0H)", [e["vector"][0] for e in entries.values()], sigma[:, 0].tolist(), "", frame),
        variable("DELTA(6H)", [e["vector"][1] for e in entries.values()], sigma[:, 1].tolist(), "", frame),
        variable("CORRELATION(DELTA(0H),DELTA(6H))", correlation.tolist(), None, "", frame),
        variable("AMPLITUDE", of("amplitude"), of("amplitude_error"), "", frame),
        variable("RIGHT ASCENSION", of("right_ascension_deg"), of("right_ascension_error_deg"), "deg", frame),
        variable("LOG10(P)", of("log10_p"), None, "", frame),
    ]
    return _table(
        f"Equatorial dipole ({part['label']})",
        "Equatorial dipole by each method: components towards right ascension 0 h and 6 h, amplitude, right ascension "
        f"of the maximum ({equinox}) and chance probability under isotropy. Statistical errors; all methods use the "
        "same events.",
        ["DELTA(0H)", "DELTA(6H)", "AMPLITUDE", "RIGHT ASCENSION"],
        [variable("Method", [name_of(name) for name in entries])],
        columns,
    )


def _power(entry: dict, title: str) -> dict:
    return _table(
        title,
        "Angular power C_l, the variance of one multipole m != 0, after subtraction of the noise. The error is with "
        "the estimated signal; the isotropic error is that of noise alone.",
        ["C(L)"],
        [_degrees(entry)],
        [
            variable("C(L)", entry["power"], entry["error"]),
            variable("ISOTROPIC ERROR", entry["isotropic_error"], None),
            variable("SUBTRACTED NOISE", entry["noise"], None),
        ],
    )


def _degrees(entry: dict) -> dict:
    low, high = entry["l_low"], entry["l_high"]
    middle = [float(a) if a == b else (a, b) for a, b in zip(low, high, strict=True)]
    return variable("L", middle)


def _covariance(entry: dict, title: str) -> dict:
    labels = variable("L", entry["l_low"])["values"]
    rows = [(a, b, value) for a, row in zip(labels, entry["power_covariance"], strict=True)
            for b, value in zip(labels, row, strict=True)]  # fmt: skip
    return _table(
        title,
        "Covariance of the C_l, with the estimated signal; bins are named by their first degree.",
        ["COV(C(L))"],
        [
            {"header": {"name": "L"}, "values": [dict(a) for a, _, _ in rows]},
            {"header": {"name": "L'"}, "values": [dict(b) for _, b, _ in rows]},
        ],
        [variable("COV(C(L),C(L'))", [value for _, _, value in rows])],
    )


def _two_point(entry: dict, label: str) -> dict:
    edges = entry["edges_deg"]
    return _table(
        f"Two-point correlation ({label})",
        "Correlation of the relative intensity of pairs of cells in bins of their separation, noise subtracted, with "
        "the error under isotropy. The background is that of time scrambling over 24 h.",
        ["XI"],
        [variable("Separation", list(zip(edges, edges[1:], strict=False)), None, "deg")],
        [variable("XI", entry["xi"], entry["error"])],
    )


def _projection(curve: dict, label: str, equinox: str) -> dict:
    return _table(
        f"Right-ascension projection ({label})",
        f"Events over the isotropic background minus one, in bins of right ascension (centres, {equinox}); errors of "
        "the counts.",
        ["RELATIVE INTENSITY"],
        [variable("Right ascension", curve["right_ascension_deg"], None, "deg")],
        [variable("RELATIVE INTENSITY", curve["relative_intensity"], curve["error"])],
    )


def _frames(frames: dict) -> dict:
    rows = {name: entry for name, entry in frames.items() if isinstance(entry, dict)}
    left = [entry["residual"] for entry in rows.values()]
    sigma = np.sqrt([np.diag(each["covariance"]) for each in left])
    return _table(
        "Dipole in control time frames",
        "Dipole in each time frame after the line of the Earth's orbital motion, which follows from the spectral index "
        f"{frames['spectral_index']:g}.",
        ["DELTA(0H)", "DELTA(6H)"],
        [variable("Time frame", list(rows))],
        [
            variable("DELTA(0H)", [each["delta_0h"] for each in left], sigma[:, 0].tolist()),
            variable("DELTA(6H)", [each["delta_6h"] for each in left], sigma[:, 1].tolist()),
            variable("P", [each["p_value"] for each in left]),
        ],
    )


def _stability(content: dict, equinox: str) -> dict:
    periods = content["periods"]
    sigma = np.sqrt([np.diag(p["covariance"]) for p in periods])
    return _table(
        "Equatorial dipole by period",
        f"Equatorial dipole ({equinox}) of each period, by {content['method']}; chi2 about the common dipole is "
        f"{content['chi2']:.2f} for {content['degrees_of_freedom']} degrees of freedom.",
        ["DELTA(0H)", "DELTA(6H)"],
        [variable("Period", [p["label"] for p in periods])],
        [
            variable("DELTA(0H)", [p["dipole"][0] for p in periods], sigma[:, 0].tolist()),
            variable("DELTA(6H)", [p["dipole"][1] for p in periods], sigma[:, 1].tolist()),
        ],
    )


def _solar(bins: list[dict]) -> dict:
    return _table(
        "Spectral index from the solar dipole",
        "Index Gamma of the intensity in energy, from the amplitude (2 + Gamma) v / c of the dipole in solar time "
        "along its expected phase.",
        ["GAMMA"],
        [variable("Energy", [each["energy"] for each in bins])],
        [variable("GAMMA", [each["index"] for each in bins], [each["index_error"] for each in bins])],
    )


def _discs(search: dict, equinox: str) -> dict:
    scans = search["targets"] if "targets" in search else [search["blind"]]
    best = [scan["best"] for scan in scans]
    return _table(
        "Events in discs",
        f"Events within discs about the given directions ({equinox}), above an energy, and their binomial chance "
        f"against the {search['exposure']} exposure; penalised for the scan where there was one.",
        ["N", "LOG10(P)"],
        [
            variable("Right ascension", [each["right_ascension_deg"] for each in best], None, "deg"),
            variable("Declination", [each["declination_deg"] for each in best], None, "deg"),
            variable("Radius", [each["radius_deg"] for each in best], None, "deg"),
            variable("Smallest energy", [each["threshold"] for each in best]),
        ],
        [
            variable("N", [each["num_on"] for each in best]),
            variable("EXPECTED", [each["expected"] for each in best]),
            variable("LI-MA SIGNIFICANCE", [each["significance"] for each in best]),
            variable("LOG10(P)", [each["log10_p"] for each in best]),
            variable("PENALISED P", [scan["penalised_p"] for scan in scans]),
        ],
    )
