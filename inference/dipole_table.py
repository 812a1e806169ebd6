"""Published dipoles: amplitude and phase against energy, which quantity and which sky each is, and which are fitted."""

import csv
import dataclasses
import math
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from diffcr.errors import InputError
from diffcr.units import DEGREE, GEV

from .nearest import require_known

DEFINITIONS = ("ra_harmonic", "projected", "3d")
"""First harmonic in right ascension over the window; that over the window's <cos dec>; components of the dipole."""

USES = ("fit", "plot")
FRAMES = ("observed", "corrected")

ASSUMED_LEVEL = 0.99
"""Confidence level of the upper limits of a digitised figure that does not state it."""

_COLUMNS = {
    "experiment": "experiment",
    "sample": "sample",
    "energy_TeV": "energy",
    "amplitude_1e-3": "amplitude",
    "amplitude_err_lo_1e-3": "error_low",
    "amplitude_err_hi_1e-3": "error_high",
    "phase_deg": "phase",
    "phase_err_deg": "phase_error",
    "upper_limit": "limit",
    "definition": "definition",
    "declination_min_deg": "declination_min",
    "declination_max_deg": "declination_max",
    "overlaps_with": "overlaps_with",
    "use": "use",
    "frame": "frame",
    "reference": "reference",
    "note": "note",
}
_TEXTS = ("experiment", "sample", "definition", "overlaps_with", "use", "frame", "reference", "note")
_OPTIONAL = ("overlaps_with", "frame", "reference", "note")
_UNITS = dict.fromkeys(("amplitude", "error_low", "error_high"), 1e-3) | dict.fromkeys(
    ("phase", "phase_error", "declination_min", "declination_max"), DEGREE
)
_DRAWN = (
    *("experiment", "energy_GeV", "amplitude_1e-3", "amplitude_err_lo", "amplitude_err_hi", "phase_deg"),
    *("phase_err_deg", "upper_limit", "plotted_scale_factor", "note"),
)
_CURATION = (
    *("drawn_as", "energies_GeV", "experiment", "sample", "definition", "declination_min_deg"),
    *("declination_max_deg", "overlaps_with", "replaces", "use", "frame", "reference", "note"),
)


@dataclasses.dataclass(frozen=True)
class DipoleTable:
    """Published dipoles, one a row; not a number where the publication has none.

    Attributes:
        experiment: Name; rows of one experiment share its systematic errors.
        sample: Name of the set of events, as analysed in one publication.
        energy: Median energy [TeV].
        amplitude: Amplitude of the relative intensity, or its upper limit. Dimensionless.
        error_low: Its standard error downwards; none for a limit.
        error_high: Its standard error upwards; none for a limit.
        phase: Right ascension of the maximum [rad].
        phase_error: Its standard error [rad].
        limit: Confidence level of an upper limit; not a number where the amplitude is measured.
        definition: What the amplitude is, one of `DEFINITIONS`.
        declination_min: Southern end of the sky that was seen [rad].
        declination_max: Northern end [rad].
        overlaps_with: Samples that hold some of the same events, separated by spaces.
        use: "fit", or "plot" where the row is only drawn.
        frame: "observed", or "corrected" where the observer's motion has been taken out.
        reference: Where it was published.
        note: What else to know, and why the row is fitted or not.
        place: File and line of each row, for messages.
    """

    experiment: np.ndarray
    sample: np.ndarray
    energy: np.ndarray
    amplitude: np.ndarray
    error_low: np.ndarray
    error_high: np.ndarray
    phase: np.ndarray
    phase_error: np.ndarray
    limit: np.ndarray
    definition: np.ndarray
    declination_min: np.ndarray
    declination_max: np.ndarray
    overlaps_with: np.ndarray
    use: np.ndarray
    frame: np.ndarray
    reference: np.ndarray
    note: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments, in the order of the rows."""
        return list(dict.fromkeys(self.experiment.tolist()))

    @property
    def is_limit(self) -> np.ndarray:
        """Which rows are upper limits."""
        return np.isfinite(self.limit)

    @property
    def mean_cosine(self) -> np.ndarray:
        """<cos dec> of each window, over its solid angle; the equatorial amplitude is a first harmonic over it."""

        def integral(declination):
            return declination / 2 + np.sin(2 * declination) / 4

        low, high = self.declination_min, self.declination_max
        return (integral(high) - integral(low)) / (np.sin(high) - np.sin(low))

    @property
    def equatorial_factor(self) -> np.ndarray:
        """What turns each amplitude into that of an equatorial dipole: 1 / <cos dec> for a first harmonic, else 1."""
        return np.where(self.definition == "ra_harmonic", 1 / self.mean_cosine, 1.0)

    def select(self, use: str | None = None, experiment: str | None = None) -> "DipoleTable":
        """The rows of one use ("fit" or "plot") or of one experiment, in their order.

        Raises:
            InputError: If the use or the experiment is unknown.
        """
        keep = np.ones(len(self), bool)
        if use is not None:
            require_known(use, USES, "rows of a table of dipoles have no use")
            keep &= self.use == use
        if experiment is not None:
            require_known(experiment, self.experiments, "the table of dipoles has no experiment")
            keep &= self.experiment == experiment
        return self._map(lambda values: values[keep])

    def cartesian(self) -> tuple[np.ndarray, np.ndarray]:
        """(delta_0h, delta_6h) of each row, shape (row, 2), and its covariance, shape (row, 2, 2).

        The standard error along the vector is the mean of those down and up, that across it the amplitude times the
        phase error. Not a number for limits and for rows without a phase. The quantity stays that of `definition`.
        """
        cosine, sine = np.cos(self.phase), np.sin(self.phase)
        along, across = np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)
        radial = np.where(self.is_limit, np.nan, (self.error_low + self.error_high) / 2)
        tangential = np.where(self.is_limit, np.nan, self.amplitude * self.phase_error)
        covariance = sum(
            error[:, None, None] ** 2 * axis[:, :, None] * axis[:, None, :]
            for error, axis in ((radial, along), (tangential, across))
        )
        return np.where(self.is_limit, np.nan, self.amplitude)[:, None] * along, covariance

    def demote(self, samples: set[str], why: str) -> "DipoleTable":
        """The table with these samples only to be drawn; the reason is added to their notes."""
        put = np.isin(self.sample, list(samples)) & (self.use == "fit")
        note = np.where(put, [f"{each}; {why}" for each in self.note], self.note).astype(object)
        return dataclasses.replace(self, use=np.where(put, "plot", self.use).astype(object), note=note)

    def join(self, other: "DipoleTable") -> "DipoleTable":
        """The rows of this table, then those of another.

        Raises:
            InputError: If the fit would then meet the same events twice.
        """
        parts = (vars(self), vars(other))
        joined = DipoleTable(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        _require_once(joined)
        return joined

    def take(self, keep: np.ndarray) -> "DipoleTable":
        """The rows where `keep` is true, in their order."""
        return self._map(lambda values: values[keep])

    def _map(self, change) -> "DipoleTable":
        return DipoleTable(**{name: change(values) for name, values in vars(self).items()})


def read_dipoles(path: str | os.PathLike | None = None) -> DipoleTable:
    """A table of published dipoles, checked.

    A file in the columns of the shipped `dipoles.csv` is read as it is. One digitised from a figure (energy_GeV,
    plotted_scale_factor) is joined to what is known of its experiments, `dipole_curation.csv`, and to the shipped
    rows: amplitudes are taken back from the drawn factor to the published quantity, upper limits are taken to be of
    99 % confidence where the note states no other, and of samples that share events one enters the fit.

    Args:
        path: The file; the shipped table where it is left out.

    Raises:
        InputError: If the file cannot be read, a column is missing or unknown, a value is missing or out of range
            (the message names line and column), or the fit would meet the same events twice.
    """
    own = Path(str(resources.files("diffcr.inference.datasets") / "dipoles.csv"))
    names, rows = _lines(own if path is None else Path(path))
    file = own.name if path is None else str(path)
    if not {"energy_GeV", "plotted_scale_factor"} & set(names):
        return _table(names, rows, file)
    return _curated(names, rows, file)


# Digitised figures --------------------------------------------------------------------------------------


def _curated(names: list[str], rows: list[tuple[int, list[str]]], file: str) -> DipoleTable:
    _require_columns(names, _DRAWN, set(_DRAWN) - {"note"}, file)
    facts = _facts()
    out, replaced = [], {}
    for line, values in rows:
        drawn, where = dict(zip(names, values, strict=True)), f"{file}, line {line}"
        fact = _fact(facts, drawn, where)
        factor = _number(drawn["plotted_scale_factor"], where, "plotted_scale_factor")
        if not factor > 0:
            raise InputError(f"{where}: plotted_scale_factor must be above zero, not {factor:g}; 1 is no factor")
        note, level = drawn.get("note", ""), ""
        flag = drawn["upper_limit"].strip() or "0"
        if flag not in ("0", "1"):
            raise InputError(f"{where}: upper_limit must be 0 or 1, not {flag!r}; a figure does not tell the level")
        if flag == "1":
            level = f"{ASSUMED_LEVEL}"
            note = f"taken as a limit of {ASSUMED_LEVEL:.0%} confidence" + (f"; {note}" if note else "")
        if fact["use"] == "fit":
            replaced |= {sample: fact["sample"] for sample in fact["replaces"].split()}
        row = {
            "experiment": fact["experiment"],
            "energy_TeV": _text(_number(drawn["energy_GeV"], where, "energy_GeV") * GEV),
            "upper_limit": level,
            "phase_deg": drawn["phase_deg"],
            "phase_err_deg": drawn["phase_err_deg"],
            "note": "; ".join(part for part in (fact["note"], note) if part),
        }
        for column in ("amplitude_1e-3", "amplitude_err_lo", "amplitude_err_hi"):
            given = _number(drawn[column], where, column)
            name = column if column in _COLUMNS else f"{column}_1e-3"
            row[name] = "" if math.isnan(given) else _text(given / factor)
        for column in ("sample", "definition", "declination_min_deg", "declination_max_deg"):
            row[column] = fact[column]
        for column in ("overlaps_with", "use", "frame", "reference"):
            row[column] = fact[column]
        out.append((line, [row[column] for column in _COLUMNS]))
    shipped = read_dipoles()
    for old, new in replaced.items():
        shipped = shipped.demote({old}, f"{new} is fitted in its place")
    return _table(list(_COLUMNS), out, file).join(shipped)


def _facts() -> list[dict[str, str]]:
    path = Path(str(resources.files("diffcr.inference.datasets") / "dipole_curation.csv"))
    names, rows = _lines(path)
    _require_columns(names, _CURATION, set(_CURATION), path.name)
    return [dict(zip(names, values, strict=True)) for _, values in rows]


def _fact(facts: list[dict[str, str]], drawn: Mapping[str, str], where: str) -> dict[str, str]:
    name = drawn["experiment"].strip()
    energy = _number(drawn["energy_GeV"], where, "energy_GeV")
    known = dict.fromkeys(fact["drawn_as"] for fact in facts)
    require_known(name, known, f"{where}: what is known of experiments does not hold")
    for fact in facts:
        energies = [float(each) for each in fact["energies_GeV"].split()]
        if fact["drawn_as"] == name and (not energies or np.any(np.isclose(energy, energies, rtol=1e-4, atol=0))):
            return fact
    listed = " ".join(fact["energies_GeV"] for fact in facts if fact["drawn_as"] == name)
    raise InputError(
        f"{where}: {name!r} has no known sample at energy_GeV = {energy:g}, only at {listed}; "
        "give such a row in a file with the columns of dipoles.csv"
    )


# Reading and checking -----------------------------------------------------------------------------------


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and the line number and values of each row; lines that begin with # are comments."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV file of dipoles") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            rows.append((number, [value.strip() for value in next(csv.reader([line]))]))
    if not rows:
        raise InputError(f"{path}: there is no line of column names; give a CSV file of dipoles")
    names = rows.pop(0)[1]
    for number, values in rows:
        if len(values) != len(names):
            raise InputError(
                f"{path}, line {number}: there are {len(values)} values for {len(names)} columns; "
                "put text with commas in quotes"
            )
    return names, rows


def _require_columns(names, known, needed, file: str) -> None:
    for name in names:
        require_known(name, known, f"{file}: a table of dipoles has no column")
        if names.count(name) > 1:
            raise InputError(f"{file}: the column {name!r} stands twice; keep one")
    missing = [name for name in known if name in needed and name not in names]
    if missing:
        raise InputError(f"{file}: the column {missing[0]!r} is missing; add it, as in the shipped dipoles.csv")


def _number(text: str, where: str, column: str) -> float:
    """A finite number, or not a number for an empty field."""
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise InputError(f"{where}: {column} must be a finite number or empty, not {text!r}")
    return value


def _text(value: float) -> str:
    """Twelve digits: a value over the factor it was multiplied by is the round number that was published."""
    return f"{value:.12g}"


def _table(names: list[str], rows: list[tuple[int, list[str]]], file: str) -> DipoleTable:
    needed = [column for column in _COLUMNS if column not in _OPTIONAL]
    _require_columns(names, list(_COLUMNS), needed, file)
    columns: dict[str, list] = {field: [] for field in _COLUMNS.values()}
    place = [f"{file}, line {line}" for line, _ in rows]
    for where, (_, values) in zip(place, rows, strict=True):
        given = dict(zip(names, values, strict=True))
        for column, field in _COLUMNS.items():
            text = given.get(column, "")
            if field == "frame" and not text:
                text = "observed"
            columns[field].append(text if field in _TEXTS else _number(text, where, column))
        _require_row({field: column[-1] for field, column in columns.items()}, where)
    table = DipoleTable(
        place=np.array(place, object),
        **{
            field: np.array(values, object) if field in _TEXTS else np.array(values, float) * _UNITS.get(field, 1.0)
            for field, values in columns.items()
        },
    )
    _require_once(table)
    return table


def _require_row(row: dict, where: str) -> None:
    """Values as they stand in the file: degrees and 1e-3."""

    def refuse(field: str, what: str) -> None:
        column = next(name for name, each in _COLUMNS.items() if each == field)
        raise InputError(f"{where}: {column} {what}")

    for field in ("experiment", "sample"):
        if not row[field]:
            refuse(field, "is empty; name it")
    for field, known in (("definition", DEFINITIONS), ("use", USES), ("frame", FRAMES)):
        require_known(row[field], known, f"{where}: there is no {field}")
    if not row["energy"] > 0:
        refuse("energy", f"must be above zero, not {row['energy']:g}; give the median energy in TeV")
    if not row["amplitude"] >= 0:
        refuse("amplitude", f"must not be negative, not {row['amplitude']:g}; turn the phase by 180 degrees instead")
    for field in ("error_low", "error_high", "phase_error"):
        if row[field] <= 0:
            refuse(field, f"must be above zero, not {row[field]:g}; leave it empty where it is unknown")
    low, high = row["declination_min"], row["declination_max"]
    if not -90 <= low < high <= 90:
        refuse("declination_min", f"{low:g} and declination_max_deg {high:g} are no window; -90 <= min < max <= 90")
    measured = math.isnan(row["limit"])
    if not measured and not 0 < row["limit"] < 1:
        refuse("limit", f"must be a confidence level between 0 and 1, such as 0.99, not {row['limit']:g}")
    if not measured and not row["amplitude"] > 0:
        refuse("amplitude", "of an upper limit must be above zero")
    if row["use"] == "plot":
        return
    if row["frame"] == "corrected":
        refuse("use", "must be plot where the observer's motion was taken out; fitted rows are as observed")
    for field in ("amplitude", "error_low", "error_high", "phase", "phase_error") if measured else ():
        if math.isnan(row[field]) or (field == "amplitude" and row[field] == 0):
            refuse(field, "is empty or zero; a measured row needs it to be fitted: give it, or use = plot")


def _require_once(table: DipoleTable) -> None:
    """No events twice in the fit: neither in two samples that overlap, nor in a row that stands twice."""
    fit = np.flatnonzero(table.use == "fit")
    first = {table.sample[i]: table.place[i] for i in fit[::-1]}
    overlaps = {(table.sample[i], other) for i in fit for other in str(table.overlaps_with[i]).split()}
    for sample, other in sorted(overlaps):
        if other in first and other != sample:
            raise InputError(
                f"{first[sample]}: sample {sample!r} is fitted together with {other!r} ({first[other]}), which holds "
                "some of the same events; set use = plot for one of them"
            )
    seen: dict[tuple, str] = {}
    for i in fit:
        key = (table.sample[i], float(table.energy[i]))
        if key in seen:
            raise InputError(
                f"{table.place[i]}: sample {key[0]!r} at {key[1]:g} TeV is fitted already ({seen[key]}); "
                "remove one row, or set use = plot"
            )
        seen[key] = table.place[i]
