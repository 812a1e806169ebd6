"""Published sky maps and event tables of others: what healpy writes is understood, and what is not clear is asked."""

import warnings

import healpy
import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from diffcr.inference import read_counts
from diffcr.inference.inputs import EventFileReader
from diffcr.inference.sky_files import binary_table, read_sky

from diffcr.errors import InputError
from diffcr.grid import RingGrid

NSIDE, PIXELS = 16, 3072


def contrast(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1e-3, PIXELS)


def write_sky(path, columns, names, coord="C", **options):
    healpy.write_map(path, columns, column_names=names, coord=coord, dtype=np.float64, overwrite=True, **options)
    return path


# Maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (["relint", "sigma", "lima"], {"relative_intensity": 0, "error": 1}),
        (["SIGNIFICANCE", "Error", "Relative Intensity"], {"relative_intensity": 2, "error": 1}),
        (["data", "background", "relint"], {"counts": 0, "background": 1, "relative_intensity": 2}),
    ],
)
def test_columns_are_found_by_name_in_any_case(tmp_path, names, roles):
    values = [contrast(k) if "rel" in n.lower() else 100 + contrast(k) for k, n in enumerate(names)]
    sky = read_sky(write_sky(tmp_path / "a.fits", values, names))
    for role, index in roles.items():
        np.testing.assert_array_equal(getattr(sky, role), values[index])
    assert sky.nside == NSIDE
    assert (sky.counts is None) == ("counts" not in roles)


def test_counts_and_background_give_the_relative_intensity(tmp_path):
    """And its Poisson error; where nothing is expected there is none."""
    rng = np.random.default_rng(1)
    background = np.where(np.arange(PIXELS) < 500, 0.0, rng.uniform(50, 60, PIXELS))
    data = rng.poisson(background).astype(float)
    sky = read_sky(write_sky(tmp_path / "a.fits", [data, background, background], ["data", "background", "mu"]))
    assert np.isnan(sky.relative_intensity[:500]).all()
    assert np.isnan(sky.error[:500]).all()
    np.testing.assert_allclose(sky.relative_intensity[500:], data[500:] / background[500:] - 1, rtol=1e-14)
    np.testing.assert_allclose(sky.error[500:], np.sqrt(data[500:]) / background[500:], rtol=1e-14)
    np.testing.assert_array_equal(sky.counts, data)
    assert "relative intensity is counts / background - 1" in sky.notes


def test_maps_around_one_are_intensities(tmp_path):
    sky = read_sky(write_sky(tmp_path / "a.fits", [1 + contrast(), np.ones(PIXELS)], ["relative_intensity", "err"]))
    np.testing.assert_allclose(sky.relative_intensity, contrast(), atol=1e-15)
    assert "the map holds I around 1; 1 was subtracted" in sky.notes
    plain = read_sky(write_sky(tmp_path / "a.fits", [contrast()], ["relint"]))
    assert plain.notes == ()
    assert plain.error is plain.counts is plain.background is None


def test_nested_unseen_and_single_precision(tmp_path):
    values = contrast()
    values[7] = healpy.UNSEEN
    path = tmp_path / "a.fits"
    healpy.write_map(
        path, healpy.reorder(values, r2n=True), nest=True, column_names=["relint"], dtype=np.float32, coord="C"
    )
    sky = read_sky(path)
    assert np.isnan(sky.relative_intensity[7])
    keep = np.arange(PIXELS) != 7
    np.testing.assert_array_equal(sky.relative_intensity[keep], values[keep].astype(np.float32))
    assert sky.relative_intensity.dtype == np.float64 and sky.relative_intensity.dtype.isnative
    assert sky.notes == ("NESTED order was turned into RING",)


@pytest.mark.parametrize("nest", [False, True])
def test_partial_maps_are_filled_up(tmp_path, nest):
    values = np.where(np.arange(PIXELS) % 3 == 1, contrast(), healpy.UNSEEN)
    path = tmp_path / "a.fits"
    stored = healpy.reorder(values, r2n=True) if nest else values
    healpy.write_map(path, stored, nest=nest, partial=True, column_names=["relint"], dtype=np.float64, coord="C")
    sky = read_sky(path)
    np.testing.assert_array_equal(sky.relative_intensity, np.where(values < -1e30, np.nan, values))


@pytest.mark.parametrize(("coord", "frame"), [("G", "galactic"), ("E", "barycentricmeanecliptic")])
def test_other_systems_are_turned_into_equatorial(tmp_path, coord, frame):
    """A dipole drawn in the other system has its excess where astropy puts it; the sense of the rotation shows."""
    theta, phi = healpy.pix2ang(NSIDE, np.arange(PIXELS))
    toward = np.array(healpy.ang2vec(np.radians(70), np.radians(30)))
    values = 1e-3 * (np.array(healpy.ang2vec(theta, phi)) @ toward)
    values[:3] = healpy.UNSEEN
    sky = read_sky(write_sky(tmp_path / "a.fits", [values], ["relint"], coord))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = SkyCoord(30, 20, unit="deg", frame=frame).icrs
    excess = np.array(healpy.ang2vec(np.pi / 2 - place.dec.rad, place.ra.rad))
    expected = 1e-3 * (np.array(healpy.ang2vec(theta, phi)) @ excess)
    seen = np.isfinite(sky.relative_intensity)
    np.testing.assert_allclose(sky.relative_intensity[seen], expected[seen], atol=1.2e-5)
    assert 0 < (~seen).sum() < 20
    assert any("was turned into equatorial coordinates" in note for note in sky.notes)


def test_system_that_is_not_named_is_told(tmp_path):
    sky = read_sky(write_sky(tmp_path / "a.fits", [contrast()], ["relint"], None))
    assert sky.notes == ("the file names no coordinate system; equatorial was assumed",)
    for name in ("EQUATORIAL", "ICRS", "Celestial"):
        path = write_sky(tmp_path / "a.fits", [contrast()], ["relint"], None, extra_header=[("COORDSYS", name)])
        assert read_sky(path).notes == ()


def test_columns_may_be_named_or_counted(tmp_path):
    """Under the names multi-llh ends up with nothing can be guessed."""
    names = ["TEMPERATURE", "Q_POLARISATION", "U_POLARISATION"]
    path = write_sky(tmp_path / "a.fits", [contrast(k) for k in range(3)], names)
    with pytest.raises(InputError, match=r"neither a relative intensity nor .* #1 TEMPERATURE, #2 Q_POLARISATION, #3"):
        read_sky(path)
    sky = read_sky(path, {"relative_intensity": "#1", "error": "q_polarisation"})
    np.testing.assert_array_equal(sky.relative_intensity, contrast(0))
    np.testing.assert_array_equal(sky.error, contrast(1))
    pair = read_sky(path, columns={"counts": "#3", "background": "#2"})
    np.testing.assert_array_equal(pair.counts, contrast(2))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"relative_intensity": "#4"}, "there is no column #4; say which"),
        ({"relative_intensity": "x"}, "no columns are named 'x'"),
        ({"ri": "#1"}, "there is no role 'ri'; the roles are relative_intensity, error, counts, background"),
        ({"counts": "#1"}, "neither a relative intensity nor counts and background were found"),
        (None, r"several columns may be the relative intensity \(relint, intensity\)"),
    ],
)
def test_unclear_columns_are_asked_for(tmp_path, columns, message):
    path = write_sky(tmp_path / "a.fits", [contrast()] * 3, ["relint", "intensity", "sigma"])
    with pytest.raises(InputError, match=message):
        read_sky(path, columns)


def _header(**cards):
    def change(path):
        with fits.open(path, mode="update") as hdus:
            hdus[1].header.update(cards)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.write_text("hello"), "not a readable FITS file"),
        (lambda p: fits.PrimaryHDU(np.ones((3, 3))).writeto(p, overwrite=True), "has no table"),
        (_header(ORDERING="SPIRAL"), "ORDERING is SPIRAL; it must be RING or NESTED"),
        (_header(COORDSYS="L"), "coordinate system 'L' is unknown; it must be C, G or E"),
        (_header(INDXSCHM="EXPLICIT"), "a partial map needs a column PIXEL and NSIDE"),
        (lambda p: write_table(p, np.ones(100)), "100 values are no full HEALPix map"),
        (lambda p: write_table(p, np.full(12, "a")), "a column holds no real numbers"),
        (lambda p: write_table(p, np.ones(12), pixel=np.full(12, 12)), "pixel numbers are outside those of nside 1"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    path = write_sky(tmp_path / "a.fits", [contrast()], ["relint"])
    change(path)
    with pytest.raises(InputError, match=message):
        read_sky(path)


def write_table(path, values, pixel=None):
    kind = "1A" if values.dtype.kind == "U" else "D"
    columns = [fits.Column(name="relint", format=kind, array=values)]
    if pixel is not None:
        columns.append(fits.Column(name="PIXEL", format="J", array=pixel))
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update({"ORDERING": "RING", "NSIDE": 1} | ({} if pixel is None else {"INDXSCHM": "EXPLICIT"}))
    hdu.writeto(path, overwrite=True)


# Binary tables ------------------------------------------------------------------------------------------------


def table_bytes(tmp_path, columns, **header) -> bytes:
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update(header)
    hdu.writeto(tmp_path / "t.fits", overwrite=True)
    return (tmp_path / "t.fits").read_bytes()


def test_direct_reader_agrees_with_astropy(tmp_path):
    """Every plain kind, several values per row, a variable-length column that must not be read as it lies."""
    rng = np.random.default_rng(4)
    kinds = {"B": np.uint8, "I": np.int16, "J": np.int32, "K": np.int64, "E": np.float32, "D": np.float64}
    columns = [
        fits.Column(name=f"c{kind}", format=f"3{kind}", array=rng.integers(0, 99, (5, 3)).astype(dtype))
        for kind, dtype in kinds.items()
    ]
    ragged = fits.Column(name="v", format="PD()", array=np.array([np.ones(k) for k in range(1, 6)], dtype=object))
    for extra in ([], [ragged]):
        table = binary_table(table_bytes(tmp_path, [*columns, *extra]), "t", len(columns))
        for column, read in zip(columns, table.columns, strict=True):
            np.testing.assert_array_equal(read, np.ravel(column.array))
            assert read.dtype == np.float64


def test_header_values_are_understood(tmp_path):
    column = fits.Column(name="c", format="D", array=np.ones(3))
    content = table_bytes(tmp_path, [column], QUOTE="it's / odd", WHOLE=-3, REAL=1.5e-7, YES=True, NO=False)
    header = binary_table(content, "t", 1).header
    assert [header[k] for k in ("QUOTE", "WHOLE", "REAL", "YES", "NO")] == ["it's / odd", -3, 1.5e-7, True, False]


# Event tables of the Auger Open Data --------------------------------------------------------------------------


def auger_table(number=400) -> pd.DataFrame:
    """The columns of the summary tables of the release, synthetic values."""
    rng = np.random.default_rng(6)
    return pd.DataFrame(
        {
            "id": 40000000000 + np.arange(number),
            "sdid": 1000 + np.arange(number),
            "gpstime": rng.integers(757382413, 1198800018, number),
            "sd1500": 1,
            "multiEye": 0,
            "sd_gpsnanotime": rng.integers(0, 10**9, number),
            "sd_theta": rng.uniform(0, 60, number),
            "sd_dtheta": 0.5,
            "sd_phi": rng.uniform(-180, 180, number),
            "sd_dphi": 0.5,
            "sd_energy": rng.uniform(2.5, 50, number),
            "sd_denergy": 0.3,
            "sd_l": rng.uniform(-180, 180, number),
            "sd_b": rng.uniform(-90, 90, number),
            "sd_ra": 0.0,
            "sd_dec": 0.0,
            "sd_x": 1.0,
            "fd_theta": np.nan,
            "fd_energy": np.nan,
        }
    )


@pytest.fixture(scope="module")
def auger(tmp_path_factory):
    """Folder with the table; right ascensions of events at the zenith, so that they can have been seen."""
    table = auger_table()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = Time(table["gpstime"].to_numpy(), format="gps")
        sidereal = times.utc.sidereal_time("mean", longitude=-69.25, model="IAU2006").deg
    table["sd_ra"], table["sd_dec"] = sidereal, -35.2
    table["unix"] = times.unix
    folder = tmp_path_factory.mktemp("auger")
    table.drop(columns="unix").to_csv(folder / "dataSummarySD1500.csv", index=False)
    plain = {"sd_ra": "ra", "sd_dec": "dec", "sd_energy": "energy"}
    table.rename(columns=plain)[["unix", "ra", "dec", "energy"]].to_csv(folder / "plain.csv", index=False)
    return folder


def test_auger_open_data_are_read_as_they_are(auger):
    """Like a plain list whose times astropy converted to UTC; 14 to 18 seconds are 0.06 to 0.075 degrees."""
    options = {"grid": RingGrid(18, 3600), "energy_edges": (2.5, 8.0, 51.0)}
    counts = read_counts(auger / "dataSummarySD1500.csv", "auger", **options)
    plain = read_counts(auger / "plain.csv", "auger", **options)
    for name in ("n_sky", "n_time", "n_local", "num_events"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(plain, name))
    np.testing.assert_allclose(counts.mean_epoch, plain.mean_epoch, rtol=1e-11)
    (entry,) = counts.inputs
    assert entry["columns"]["time"] == "gpstime"
    assert entry["columns"]["energy"] == "sd_energy"
    assert any("GPS seconds turned into UTC" in note for note in entry["notes"])
    # All were put at the zenith: the hour angle is zero but for precession since J2000, 0.2 degrees and less.
    assert set(np.flatnonzero(counts.n_local[0].sum((0, 1, 2)))) <= {0, 3597, 3598, 3599}


def test_horizon_directions_of_auger_count_from_east(auger):
    reader = EventFileReader(auger / "dataSummarySD1500.csv", prefer="horizon")
    (chunk,) = list(reader)
    table = pd.read_csv(auger / "dataSummarySD1500.csv")
    np.testing.assert_allclose(np.degrees(chunk.zenith), table["sd_theta"])
    np.testing.assert_allclose(np.degrees(chunk.azimuth), np.mod(90 - table["sd_phi"], 360))


@pytest.mark.parametrize("chunk_size", [7, 1000])
def test_repeated_and_unreconstructed_rows_are_left_out(auger, tmp_path, chunk_size):
    """A shower seen by several telescopes counts once; so does none without a direction. Rows of others keep theirs."""
    table = pd.read_csv(auger / "dataSummarySD1500.csv")
    extra = table.iloc[[3, 10, 10]].copy()
    failed = table.iloc[[0]].assign(id=1, sd1500=0, sd_ra=np.nan, sd_dec=np.nan, sd_energy=np.nan)
    path = tmp_path / "a.csv"
    pd.concat([failed, table.iloc[:50], extra, table.iloc[50:]]).to_csv(path, index=False)
    reader = EventFileReader(path, chunk_size=chunk_size)
    chunks = list(reader)
    np.testing.assert_array_equal(np.concatenate([c.energy for c in chunks]), table["sd_energy"])
    assert "3 rows repeat the id of an earlier one and are left out" in reader.notes
    assert "1 rows with sd1500 = 0 are left out" in reader.notes
    assert reader.num_bad == 0
    # A bad row behind those is named with its own number.
    table.loc[60, "sd_dec"] = 99
    pd.concat([failed, table.iloc[:50], extra, table.iloc[50:]]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"row \d+ \(line 66\), column 'sd_dec': dec = 99"):
        list(EventFileReader(path, chunk_size=chunk_size))


def test_a_time_format_given_by_hand_decides(auger):
    """The seconds are then taken for what they are said to be: 10 years less 18 or fewer leap seconds earlier."""
    own, forced = (
        np.concatenate([c.days for c in EventFileReader(auger / "dataSummarySD1500.csv", time_format=format_)])
        for format_ in (None, "unix")
    )
    assert set(np.round((own - forced) * 86400 - 315964800).astype(int)) == {-13, -14, -15, -16, -17, -18}


def test_other_gps_times_are_still_refused(write):
    with pytest.raises(InputError, match="column 'gpstime' is GPS time"):
        read_counts(write("gpstime,ra,dec\n1000000000,1,2\n"), "auger")
