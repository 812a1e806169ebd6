"""Tables of published dipoles: the shipped one, digitised ones joined to what is known of them, and what is refused."""

import csv
import fnmatch
import tomllib
from pathlib import Path

import numpy as np
import pytest
from diffcr.inference.dipole_table import read_dipoles

from diffcr.errors import InputError
from diffcr.observer import compton_getting_dipole, interstellar_velocity, lsr_velocity

DEGREE = np.pi / 180
HEADER = (
    "experiment,sample,energy_TeV,amplitude_1e-3,amplitude_err_lo_1e-3,amplitude_err_hi_1e-3,phase_deg,phase_err_deg,"
    "upper_limit,definition,declination_min_deg,declination_max_deg,overlaps_with,use"
)
GOOD = "Array,array-1,10,1.0,0.1,0.2,40,5,,ra_harmonic,-10,70,,fit"
DRAWN = (
    "experiment,energy_GeV,amplitude_1e-3,amplitude_err_lo,amplitude_err_hi,phase_deg,phase_err_deg,upper_limit,"
    "plotted_scale_factor,note"
)
# IceCube, twelve years: energy [GeV], equatorial amplitude and its error [1e-3], phase and its error [degrees].
ICECUBE = [
    (13000, 1.333, 0.005, 52.76, 0.2),
    (24000, 1.124, 0.005, 50.91, 0.2),
    (42000, 0.828, 0.009, 49.2, 0.6),
    (67000, 0.481, 0.017, 41.5, 2),
    (130000, 0.204, 0.033, 18, 9),
    (240000, 0.36, 0.05, 289, 9),
    (470000, 0.72, 0.08, 274, 6),
    (1.5e6, 1.4, 0.24, 275, 10),
    (5.3e6, 1.8, 0.7, 253, 22),
]


def drawn(*rows):
    return "# A comment, with commas\n" + DRAWN + "\n" + "\n".join(rows) + "\n"


def icecube_rows():
    return [f"IceCube (2025),{e},{a},{da},{da},{p},{dp},0,1," for e, a, da, p, dp in ICECUBE]


def table(*rows, header=HEADER):
    return header + "\n" + "\n".join(rows) + "\n"


def changed(**columns):
    """The good row with some columns replaced."""
    names = HEADER.split(",")
    values = GOOD.split(",")
    for name, value in columns.items():
        values[names.index(next(each for each in names if each.startswith(name)))] = value
    return ",".join(values)


# The shipped table --------------------------------------------------------------------------------------


def test_the_shipped_table_holds_what_was_published():
    """HAWC and IceCube printed the components, (0.916, 0.725)e-3 with 0.004e-3 each: the amplitude and phase are
    theirs, and so is the covariance. Auger: r = 0.0466 +- 0.0079 over <cos dec> = 0.783."""
    dipoles = read_dipoles()
    assert len(dipoles) == 10
    row = dipoles.experiments.index("HAWC+IceCube")
    row = np.flatnonzero(dipoles.experiment == dipoles.experiments[row])[0]
    value, covariance = dipoles.cartesian()
    np.testing.assert_allclose(value[row], [0.916e-3, 0.725e-3], atol=0.001e-3)
    np.testing.assert_allclose(covariance[row], 0.004e-3**2 * np.eye(2), atol=0.05 * 0.004e-3**2)
    row = np.flatnonzero(dipoles.sample == "auger-2017")[0]
    np.testing.assert_allclose(dipoles.amplitude[row], 0.0466 / 0.783, rtol=2e-3)
    np.testing.assert_allclose(dipoles.error_low[row], 0.0079 / 0.783, rtol=2e-3)
    np.testing.assert_allclose(dipoles.phase[row], 100.3 * DEGREE)
    np.testing.assert_allclose(dipoles.energy[row], 11.5e6)


def test_only_rows_as_observed_with_a_vector_are_fitted():
    """Utah took out the solar motion; the abstract of Auger 2020 has no phase, and holds the events of 2017."""
    dipoles = read_dipoles()
    fitted = dipoles.select("fit")
    assert set(dipoles.sample) - set(fitted.sample) == {"utah-1981", "auger-2020"}
    assert set(fitted.frame) == {"observed"}
    assert np.all(np.isfinite(fitted.cartesian()[0]))
    assert np.isnan(dipoles.select("plot").cartesian()[0]).any()
    assert len(dipoles.select("fit")) + len(dipoles.select("plot")) == len(dipoles)
    assert dipoles.select(experiment="IceTop (11 yr)").energy.tolist() == [300, 900, 2300, 6800]


@pytest.mark.parametrize("name", ["dipoles.csv", "dipole_curation.csv"])
def test_the_tables_are_in_the_wheel_and_described(name):
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["diffcr.inference.datasets"]
    assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    assert name in (root / "inference" / "datasets" / "README.md").read_text(encoding="utf-8")


# Vectors ------------------------------------------------------------------------------------------------


def test_the_errors_of_a_vector_are_those_of_amplitude_and_phase_drawn_at_random(write):
    """Along the vector the amplitude's error, across it amplitude times the phase's: a small phase error at 45 degrees
    leaves the two components correlated, at 135 degrees anticorrelated."""
    rows = [changed(amplitude_1="2.0", phase_deg=phase, phase_err="1") for phase in ("45", "135", "260")]
    rows = [row.replace("array-1", f"array-{k}") for k, row in enumerate(rows)]
    value, covariance = read_dipoles(write(table(*rows))).cartesian()
    rng = np.random.default_rng(1)
    for k, phase in enumerate((45, 135, 260)):
        amplitude = 2e-3 + 0.15e-3 * rng.standard_normal(200_000)
        angle = (phase + 1.0 * rng.standard_normal(200_000)) * DEGREE
        drawn = np.stack([amplitude * np.cos(angle), amplitude * np.sin(angle)])
        np.testing.assert_allclose(value[k], drawn.mean(axis=1), atol=3e-6)
        np.testing.assert_allclose(covariance[k], np.cov(drawn), atol=2e-10)
    assert covariance[0, 0, 1] > 0 > covariance[1, 0, 1]


@pytest.mark.parametrize(
    ("frame", "flip"),
    [(None, 176), (lsr_velocity, 253), (interstellar_velocity, 335)],
)
def test_the_dipole_of_icecube_flips_where_the_frame_says(write, frame, flip):
    """Along right ascension 48.5 degrees, linear in log energy: 176 TeV as observed, 253 TeV in the local standard of
    rest and 335 TeV in the interstellar gas."""
    rows = read_dipoles(write(drawn(*icecube_rows()))).select("fit", "IceCube")
    motion = np.zeros(3) if frame is None else np.asarray(compton_getting_dipole(frame(), 2.7))
    along = (rows.cartesian()[0] - motion[:2]) @ [np.cos(48.5 * DEGREE), np.sin(48.5 * DEGREE)]
    (place,) = np.flatnonzero(np.diff(np.sign(along)))
    crossing = np.interp(0, -along[place : place + 2], np.log(rows.energy[place : place + 2]))
    np.testing.assert_allclose(np.exp(crossing), flip, atol=0.5)


# Windows ------------------------------------------------------------------------------------------------


def test_the_mean_cosine_is_that_of_directions_drawn_over_the_window(write):
    """And the first harmonic of a dipole is its equatorial amplitude times it."""
    rows = read_dipoles(
        write(table(GOOD, GOOD.replace("array-1", "b").replace("ra_harmonic,-10,70", "projected,-90,0")))
    )
    rng = np.random.default_rng(2)
    for k, (low, high) in enumerate([(-10, 70), (-90, 0)]):
        sine = rng.uniform(np.sin(low * DEGREE), np.sin(high * DEGREE), 400_000)
        ra = rng.uniform(0, 2 * np.pi, 400_000)
        cosine = np.sqrt(1 - sine**2)
        np.testing.assert_allclose(rows.mean_cosine[k], cosine.mean(), rtol=2e-3)
        seen = 1 + 0.5 * cosine * np.cos(ra)
        np.testing.assert_allclose(2 * np.mean(seen * np.cos(ra)), 0.5 * rows.mean_cosine[k], rtol=1e-2)
    np.testing.assert_allclose(rows.equatorial_factor, [1 / rows.mean_cosine[0], 1])


def test_the_windows_agree_with_the_factors_by_which_a_figure_multiplied_first_harmonics(write):
    """1 / <cos dec> as printed in its legend, two or three digits; EAS-TOP's 1.38 is more than its sky gives."""
    factors = {
        "K-Grande (limit)": (2.7e6, 1.34),
        "Super-K": (12000, 1.21),
        "Milagro": (6000, 1.21),
        "ARGO-YBJ": (4000, 1.18),
        "Tibet-ASgamma": (15000, 1.18),
        "LHAASO": (23000, 1.182),
        "IceTop (2013)": (500000, 1.74),
    }
    rows = [f"{name},{energy},1,0.1,0.1,40,5,0,1," for name, (energy, _) in factors.items()]
    read = read_dipoles(write(drawn(*rows)))
    got = read.equatorial_factor[: len(rows)]
    np.testing.assert_allclose(got, [factor for _, factor in factors.values()], rtol=7e-3)


# Digitised figures --------------------------------------------------------------------------------------


def test_a_drawn_amplitude_is_taken_back_to_the_published_one(write):
    """EAS-TOP published 0.26 +- 0.08 at 110 TeV, drawn times 1.38; it is a first harmonic, and its phase stays."""
    read = read_dipoles(write(drawn("EAS-TOP,110000,0.3588,0.1104,0.1104,6,18,0,1.38,drawn")))
    assert (read.experiment[0], read.definition[0], read.use[0]) == ("EAS-TOP", "ra_harmonic", "fit")
    np.testing.assert_allclose([read.energy[0], read.amplitude[0], read.error_high[0]], [110, 0.26e-3, 0.08e-3])
    np.testing.assert_allclose(read.phase[0], 6 * DEGREE)
    assert read.note[0].endswith("drawn") and "factor 1.38" in read.note[0]


def test_what_a_digitised_sample_supersedes_is_only_drawn(write):
    """Alone, the shipped HAWC+IceCube and EAS-TOP 1999 are fitted; beside HAWC's own energies they are not. The
    shipped rows are always there, and nothing else of them changes."""
    shipped = read_dipoles()
    read = read_dipoles(write(drawn("HAWC,2000,0.81,0.04,0.04,42.9,2.5,0,1,")))
    assert len(read) == 1 + len(shipped)
    use = dict(zip(read.sample, read.use, strict=True))
    assert use["hawc-2018"] == "fit" and use["eastop-1999"] == "fit"
    assert use["hawc-icecube-2019"] == "plot"
    assert "hawc-2018 is fitted in its place" in read.note[read.sample == "hawc-icecube-2019"][0]
    assert (shipped.use == "fit").sum() - (read.use[1:] == "fit").sum() == 1


def test_limits_of_a_figure_are_of_99_percent_and_say_so(write):
    """A limit drawn with a phase is a limit without one."""
    read = read_dipoles(write(drawn("K-Grande (limit),2.7e+06,6.566,,,225,22,1,1.34,arrow")))
    assert read.is_limit[0] and read.limit[0] == 0.99
    np.testing.assert_allclose(read.amplitude[0], 4.9e-3)
    assert "99% confidence" in read.note[0]
    assert np.isnan(read.cartesian()[0][0]).all()


def test_of_two_analyses_and_of_a_limit_and_its_measurement_one_is_fitted(write):
    rows = [
        "ARGO-YBJ,3.9e4,0.9,0.05,0.05,358.9,3.1,0,1.18,",
        "ARGO-YBJ,980,0.7198,0.0118,0.0118,42,1,0,1.18,",
        "K-Grande (not sig.),2.7e+06,3.484,1.34,1.34,225,22,0,1.34,",
        "K-Grande (limit),2.7e+06,6.566,,,225,22,1,1.34,",
        "IceCube (2025),5.3e6,1.8,0.7,0.7,253,22,0,1,",
        "IceCube (limit) (2025),5.30884e+06,3.34267,,,,,1,1,",
        "Milagro,6000,2.42,1.21,1.21,10,5,0,1.21,",
    ]
    read = read_dipoles(write(drawn(*rows)))
    assert read.use[: len(rows)].tolist() == ["fit", "plot", "plot", "fit", "fit", "plot", "plot"]


def test_what_is_known_of_experiments_never_puts_events_into_the_fit_twice(write):
    """Every experiment at every energy it is known at, all at once; and every choice is explained."""
    path = Path(__file__).parents[1] / "inference" / "datasets" / "dipole_curation.csv"
    with path.open(encoding="utf-8") as file:
        facts = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rows = [
        f"{fact['drawn_as']},{energy},1,0.1,0.1,40,5,0,1,"
        for fact in facts
        for energy in (fact["energies_GeV"].split() or ["12345"])
    ]
    read = read_dipoles(write(drawn(*rows)))
    assert len(read) == len(rows) + len(read_dipoles())
    assert all(fact["note"] and fact["reference"] for fact in facts)
    assert all(read.note) and all(read.reference)


# What is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"amplitude_1": "-1"}, r"line 2: amplitude_1e-3 must not be negative, not -1; turn the phase by 180"),
        ({"amplitude_1": "x"}, r"line 2: amplitude_1e-3 must be a finite number or empty, not 'x'"),
        ({"amplitude_1": "inf"}, r"amplitude_1e-3 must be a finite number"),
        ({"amplitude_1": "0"}, r"amplitude_1e-3 is empty or zero"),
        ({"phase_err": ""}, r"line 2: phase_err_deg is empty or zero; a measured row needs it .*use = plot"),
        ({"phase_err": "0"}, r"phase_err_deg must be above zero"),
        ({"amplitude_err_lo": ""}, r"amplitude_err_lo_1e-3 is empty"),
        ({"energy": "0"}, r"energy_TeV must be above zero"),
        ({"energy": ""}, r"energy_TeV must be above zero, not nan"),
        ({"definition": "ra_harmonics"}, r"line 2: there is no definition 'ra_harmonics'; did you mean 'ra_harmonic'"),
        ({"use": "fitt"}, r"there is no use 'fitt'; did you mean 'fit'"),
        ({"declination_min": "-91"}, r"declination_min_deg -91 and declination_max_deg 70 are no window"),
        ({"declination_min": "80"}, r"declination_min_deg 80 and declination_max_deg 70 are no window"),
        ({"declination_max": ""}, r"are no window"),
        ({"upper_limit": "99"}, r"upper_limit must be a confidence level between 0 and 1, such as 0.99, not 99"),
        ({"upper_limit": "0.99", "amplitude_1": "0"}, r"amplitude_1e-3 of an upper limit must be above zero"),
        ({"experiment": ""}, r"experiment is empty"),
        ({"sample": ""}, r"sample is empty"),
    ],
)
def test_a_bad_value_is_named_with_line_and_column(write, columns, message):
    with pytest.raises(InputError, match=message):
        read_dipoles(write(table(changed(**columns))))


def test_a_limit_needs_neither_phase_nor_errors(write):
    row = changed(upper_limit="0.95", phase_deg="", phase_err="", amplitude_err_lo="", amplitude_err_hi="")
    assert read_dipoles(write(table(row))).is_limit.all()


def test_rows_out_of_the_observed_frame_are_not_fitted(write):
    with pytest.raises(InputError, match="line 2: use must be plot where the observer's motion was taken out"):
        read_dipoles(write(table(GOOD + ",corrected", header=HEADER + ",frame")))
    with pytest.raises(InputError, match="there is no frame 'sun'"):
        read_dipoles(write(table(GOOD + ",sun", header=HEADER + ",frame")))


def test_overlapping_samples_are_refused_by_name_whichever_of_them_says_so(write):
    first, second = changed(sample="one", overlaps="two"), changed(sample="two", energy="20")
    message = "sample 'one' is fitted together with 'two' .*line {}.*same events; set use = plot"
    with pytest.raises(InputError, match=message.format(3)):
        read_dipoles(write(table(first, second)))
    with pytest.raises(InputError, match=message.format(2)):
        read_dipoles(write(table(second, first)))
    assert len(read_dipoles(write(table(first, second.replace(",fit", ",plot")))).select("fit")) == 1
    # Other energies of one sample are other events; the same energy is the same row.
    assert len(read_dipoles(write(table(first, changed(sample="one", overlaps="two", energy="20"))))) == 2
    with pytest.raises(InputError, match="line 3: sample 'array-1' at 10 TeV is fitted already .*line 2"):
        read_dipoles(write(table(GOOD, GOOD)))


def test_files_that_are_no_tables_are_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"no column 'ampltude_1e-3'; did you mean 'amplitude_1e-3'"):
        read_dipoles(write(table(GOOD, header=HEADER.replace("amplitude_1e-3", "ampltude_1e-3"))))
    with pytest.raises(InputError, match="the column 'use' is missing"):
        read_dipoles(write(table(GOOD.removesuffix(",fit"), header=HEADER.removesuffix(",use"))))
    with pytest.raises(InputError, match="the column 'use' stands twice"):
        read_dipoles(write(table(GOOD + ",fit", header=HEADER + ",use")))
    with pytest.raises(InputError, match=r"line 2: there are 15 values for 14 columns"):
        read_dipoles(write(table(GOOD + ",more")))
    with pytest.raises(InputError, match="no line of column names"):
        read_dipoles(write("# nothing\n"))
    with pytest.raises(InputError, match="cannot be read"):
        read_dipoles(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no experiment 'Aray'; did you mean 'Array'"):
        read_dipoles(write(table(GOOD))).select(experiment="Aray")
    with pytest.raises(InputError, match="no use 'plots'; did you mean 'plot'"):
        read_dipoles().select("plots")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("HAWK,2000,0.81,0.04,0.04,42.9,2.5,0,1,", r"line 3: .*does not hold 'HAWK'; did you mean 'HAWC'"),
        ("ARGO-YBJ,5000,0.81,0.04,0.04,42.9,2.5,0,1.18,", r"'ARGO-YBJ' has no known sample at energy_GeV = 5000, only"),
        ("HAWC,2000,0.81,0.04,0.04,42.9,2.5,0,0,", "plotted_scale_factor must be above zero"),
        ("HAWC,2000,0.81,0.04,0.04,42.9,2.5,2,1,", "upper_limit must be 0 or 1, not '2'"),
        ("HAWC,2000,-0.81,0.04,0.04,42.9,2.5,0,1,", "line 3: amplitude_1e-3 must not be negative"),
        ("HAWC,2000,0.81,0.04,0.04,42.9,,0,1,", "line 3: phase_err_deg is empty"),
    ],
)
def test_a_bad_row_of_a_digitised_figure_is_refused(write, row, message):
    with pytest.raises(InputError, match=message):
        read_dipoles(write(drawn(row)))
