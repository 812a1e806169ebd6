"""The exchange format: what healpy and astropy write is read, what is written they read, and damage is named."""

import gzip
import json
import shutil

import h5py
import healpy
import numpy as np
import pytest
from astropy.io import fits
from diffcr.inference import Counts, read_counts
from diffcr.inference.exchange import ExchangeResult, read_array, read_exchange, write_exchange, write_map, write_result
from diffcr.inference.local_maps import LocalMaps, to_counts
from scipy.io import netcdf_file

from diffcr.errors import InputError
from diffcr.grid import RingGrid

PLACE = {"nside": 4, "latitude": 19.0, "longitude": -97.0, "thetamax": 57.0}
HAWC = ("HAWC", np.radians(19.0), np.radians(-97.0), np.radians(57.0))
BINS, PIXELS = 6, 192


def numbers(seed=0, bins=BINS) -> np.ndarray:
    return np.random.default_rng(seed).poisson(4.0, (bins, PIXELS)).astype(float)


def config(folder, detectors, name="config.json"):
    path = folder / name
    path.write_text(json.dumps({"detectors": detectors}))
    return path


def table(path, columns, header=(), primary=(), **options):
    """One file of a bin, written by healpy."""
    healpy.write_map(path, columns, dtype=np.float64, overwrite=True, extra_header=header, **options)
    if primary:
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.update(primary)


@pytest.fixture
def bins(tmp_path):
    """Files of the bins under names like those of the examples, and their configuration."""
    (tmp_path / "maps").mkdir()
    for k, row in enumerate(numbers()):
        table(tmp_path / "maps" / f"hawc_N4_{k:03d}_of_6.fits", row)
    return config(tmp_path, {"HAWC": PLACE | {"prefix": "maps/hawc_N4_", "suffix": "_of_6.fits"}})


# Reading ------------------------------------------------------------------------------------------------------


def test_files_of_the_bins_are_read_in_order(bins):
    (maps,) = read_exchange(bins)
    np.testing.assert_array_equal(maps.counts, numbers())
    assert maps.counts.dtype == np.float64 and maps.counts.dtype.isnative
    assert (maps.name, maps.nside, maps.sum_weights, maps.notes) == ("HAWC", 4, None, ())
    assert (maps.latitude, maps.longitude, maps.zenith_max) == pytest.approx(HAWC[1:])
    assert maps.source == "config.json: HAWC"
    assert len(read_exchange(bins, timesteps=6)) == 1


def test_prefix_is_taken_from_the_working_directory_first(bins, tmp_path, monkeypatch):
    """As multi-llh does; only what is not there is looked for beside the configuration."""
    other = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "maps", other / "maps")
    for k in range(BINS):
        table(other / "maps" / f"hawc_N4_{k:03d}_of_6.fits", numbers(1)[k])
    monkeypatch.chdir(other)
    np.testing.assert_array_equal(read_exchange(bins)[0].counts, numbers(1))
    monkeypatch.chdir(tmp_path / "maps")
    np.testing.assert_array_equal(read_exchange(bins)[0].counts, numbers())


def test_absolute_prefixes_and_numbers_as_text_are_taken(bins, tmp_path):
    """boost's property tree, through which multi-llh reads, holds text alone."""
    entry = {k: str(v) for k, v in PLACE.items()} | {"multifits": "false", "weights": "false"}
    entry |= {"prefix": str(tmp_path / "maps" / "hawc_N4_"), "suffix": "_of_6.fits"}
    np.testing.assert_array_equal(read_exchange(config(tmp_path, {"H": entry}))[0].counts, numbers())


@pytest.mark.parametrize("kind", ["gzip", "float32", "one per row", "integers", "scaled", "nested", "filled primary"])
def test_variants_of_the_table_are_read(tmp_path, kind):
    """The direct reader and astropy, to which what is unusual is left, give the same."""
    for k, row in enumerate(numbers()):
        path = tmp_path / f"a_{k:03d}.fits"
        if kind == "nested":
            table(path, healpy.reorder(row, r2n=True), nest=True)
        elif kind == "float32":
            healpy.write_map(path, row, dtype=np.float32)
        elif kind == "gzip":
            table(path, row)
            path.write_bytes(gzip.compress(path.read_bytes()))
        else:
            form = "J" if kind in ("integers", "scaled") else "D"
            stored = 2 * (row - 3) if kind == "scaled" else row
            hdu = fits.BinTableHDU.from_columns([fits.Column(name="counts", format=form, array=stored)])
            hdu.header["ORDERING"] = "RING"
            if kind == "scaled":
                hdu.header["TSCAL1"], hdu.header["TZERO1"] = 0.5, 3.0
            primary = fits.PrimaryHDU(np.zeros((3, 5)) if kind == "filled primary" else None)
            fits.HDUList([primary, hdu]).writeto(path)
    (maps,) = read_exchange(config(tmp_path, {"A": PLACE | {"prefix": "a_", "suffix": ".fits"}}))
    np.testing.assert_array_equal(maps.counts, numbers())
    assert maps.notes == (("NESTED order was turned into RING",) if kind == "nested" else ())


def test_more_than_a_thousand_bins_have_four_digits(tmp_path):
    """As setw(3) writes them: the width is the least, not the most."""
    row = np.ones(12)
    table(tmp_path / "a_000.fits", row)
    for k in range(1, 1002):
        (tmp_path / f"a_{k:03d}.fits").symlink_to(tmp_path / "a_000.fits")
    entry = PLACE | {"nside": 1, "prefix": "a_", "suffix": ".fits"}
    assert read_exchange(config(tmp_path, {"A": entry}))[0].counts.shape == (1002, 12)


@pytest.mark.parametrize("images", ["plain", "compressed", "nested"])
def test_multimaps_are_read(tmp_path, images):
    arrays = [numbers(k) for k in range(3)]
    if images == "nested":
        stored = [np.array([healpy.reorder(row, r2n=True) for row in each]) for each in arrays]
    else:
        stored = arrays
    # multi-llh makes compressed images where the name ends in .gz.
    kind = fits.CompImageHDU if images == "compressed" else fits.ImageHDU
    options = {"compression_type": "GZIP_2", "quantize_level": 0} if images == "compressed" else {}
    hdus = [kind(each, name=name, **options) for each, name in zip(stored, ("LMAPS", "WMAPS", "W2MAPS"), strict=True)]
    for hdu in hdus if images == "nested" else ():
        hdu.header["ORDERING"] = "NESTED"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "multi.fits")
    entry = PLACE | {"prefix": "multi.fits", "multifits": True}
    (plain,) = read_exchange(config(tmp_path, {"A": entry}))
    np.testing.assert_array_equal(plain.counts, arrays[0])
    assert plain.counts.dtype.isnative
    assert plain.sum_weights is None
    (weighted,) = read_exchange(config(tmp_path, {"A": entry | {"weights": True}}))
    for name, each in zip(("counts", "sum_weights", "sum_squares"), arrays, strict=True):
        np.testing.assert_array_equal(getattr(weighted, name), each)


def test_tables_with_squares_are_weighted(tmp_path):
    """Three columns, as its tool that makes multimaps wants them; without `weights` only the first is read."""
    for k in range(BINS):
        table(tmp_path / f"a_{k:03d}.fits", [numbers(s)[k] for s in range(3)])
    entry = PLACE | {"prefix": "a_", "suffix": ".fits"}
    (maps,) = read_exchange(config(tmp_path, {"A": entry | {"weights": True}}))
    for name, seed in (("counts", 0), ("sum_weights", 1), ("sum_squares", 2)):
        np.testing.assert_array_equal(getattr(maps, name), numbers(seed))
    assert read_exchange(config(tmp_path, {"A": entry}))[0].sum_weights is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "it has no detectors; it must read"),
        ('{"detectors": {}}', "it has no detectors"),
        ('{"detectors": {"A": 3}}', "detector A: it must be an object with nside, latitude"),
        ('{"detectors": {"A": {}, "A": {}}}', "'A' stands twice in one object"),
        (
            '{"detectors": {"A": {"nside": 4, "latitude": 1, "prefix": "a"}}}',
            "key longitude, thetamax, suffix is missing",
        ),
    ],
)
def test_bad_configurations_are_refused(write, text, message):
    with pytest.raises(InputError, match=message):
        read_exchange(write(text, "config.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nside": 8}, "hawc_N4_000_of_6.fits: its nside is 4, the configuration says 8"),
        ({"latitude": "north"}, "\"latitude\" must be a number, not 'north'"),
        ({"weights": "maybe"}, "\"weights\" must be true or false, not 'maybe'"),
        ({"prefix": 3}, '"prefix" must be text, not 3'),
        ({"prefix": "maps/none_"}, "there is no file maps/none_000_of_6.fits; correct the prefix"),
        (
            {"weights": True},
            r"it has 1 columns: weights need the sums of their squares.*W2MAPS, or set \"weights\" to false",
        ),
        ({"prefix": "maps/none.fits", "multifits": True}, "there is no file maps/none.fits"),
        ({"thetamax": 120}, "must be degrees within 90, 360 and 0 to 90"),
    ],
)
def test_bad_options_are_refused(bins, tmp_path, change, message):
    entry = json.loads(bins.read_text())["detectors"]["HAWC"] | change
    with pytest.raises(InputError, match=message):
        read_exchange(config(tmp_path, {"HAWC": entry}))


def test_no_configuration_is_refused(tmp_path):
    with pytest.raises(InputError, match="none.json: cannot be read"):
        read_exchange(tmp_path / "none.json")


def test_two_columns_are_not_enough_for_weights(tmp_path):
    for k in range(BINS):
        table(tmp_path / f"a_{k:03d}.fits", [numbers(s)[k] for s in range(2)])
    entry = PLACE | {"prefix": "a_", "suffix": ".fits", "weights": True}
    with pytest.raises(InputError, match="a_000.fits: it has 2 columns: weights need the sums of their squares"):
        read_exchange(config(tmp_path, {"A": entry}))


def test_numbers_of_bins_must_agree(bins, tmp_path):
    with pytest.raises(InputError, match="detector HAWC: it has 6 time bins, not 360"):
        read_exchange(bins, timesteps=360)
    for k in range(5):
        table(tmp_path / f"ic_{k:03d}.fits", numbers()[k])
    both = json.loads(bins.read_text())["detectors"]
    both["IceCube"] = PLACE | {"latitude": -90, "longitude": 270, "prefix": "ic_", "suffix": ".fits"}
    with pytest.raises(InputError, match=r"the detectors differ in the number of time bins \(HAWC 6, IceCube 5\)"):
        read_exchange(config(tmp_path, both))
    (tmp_path / "maps" / "hawc_N4_003_of_6.fits").unlink()
    with pytest.raises(InputError, match="of bins 000 to 005 the file maps/hawc_N4_003_of_6.fits is missing"):
        read_exchange(bins)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:6000])


def _unzip_half(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:300])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "a damaged FITS table"),
        (lambda p: p.write_bytes(b"SIMPLE  =" + b" " * 4000), "a damaged FITS table .a header has no end"),
        (_unzip_half, "cannot be read"),
        (lambda p: p.write_text("hello"), "not a FITS file"),
        (
            lambda p: fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones(192))]).writeto(p, overwrite=True),
            "is no table",
        ),
        (lambda p: table(p, np.ones(48)), "its nside is 2, the configuration says 4"),
        (lambda p: table(p, [np.ones(192)] * 2, [("INDXSCHM", "EXPLICIT")]), "no full HEALPix map"),
        (lambda p: table(p, np.where(np.arange(192) == 5, -1, 1.0)), r"1 of 1152 .* is -1 at \(2, 5\)"),
        (lambda p: table(p, np.where(np.arange(192) == 5, healpy.UNSEEN, 1.0)), r"HEALPix UNSEEN at \(2, 5\)"),
        (lambda p: table(p, np.where(np.arange(192) == 5, np.nan, 1.0)), r"is nan at \(2, 5\)"),
        (lambda p: table(p, np.ones(192), primary={"TIMEBIN": 4}), "its header says TIMEBIN = 4, by its place it is 2"),
        (lambda p: table(p, np.ones(192), primary={"NBINS": 360}), "its header says NBINS = 360, by its place it is 6"),
    ],
)
def test_damaged_files_are_named(bins, tmp_path, damage, message):
    damage(tmp_path / "maps" / "hawc_N4_002_of_6.fits")
    with pytest.raises(InputError, match=message) as caught:
        read_exchange(bins)
    assert "\n" not in str(caught.value)
    assert "hawc_N4_002" in str(caught.value) or "config.json: HAWC" in str(caught.value)


@pytest.mark.parametrize(
    ("hdus", "message"),
    [
        ([], "the image LMAPS is missing; a multimap has an image LMAPS"),
        ([("LMAPS", (6, 192))], "the image WMAPS is missing; weights need the sums of their squares"),
        ([("LMAPS", (6, 192)), ("WMAPS", (6, 192))], "the image W2MAPS is missing"),
        ([("LMAPS", (192,)), ("WMAPS", (6, 192)), ("W2MAPS", (6, 192))], r"LMAPS has shape \(192,\), not"),
        (
            [("LMAPS", (6, 192)), ("WMAPS", (5, 192)), ("W2MAPS", (6, 192))],
            "LMAPS, WMAPS, W2MAPS have different shapes",
        ),
        ([("LMAPS", (192, 6)), ("WMAPS", (6, 192)), ("W2MAPS", (6, 192))], "6 values are no full HEALPix map"),
    ],
)
def test_bad_multimaps_are_named(tmp_path, hdus, message):
    images = [fits.ImageHDU(np.ones(shape), name=name) for name, shape in hdus]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "m.fits")
    entry = PLACE | {"prefix": "m.fits", "multifits": True, "weights": True}
    with pytest.raises(InputError, match=message):
        read_exchange(config(tmp_path, {"A": entry}))
    for content in (b"hello", gzip.compress(b"SIMPLE  =" + bytes(range(256)) * 20)[:200], b""):
        (tmp_path / "m.fits").write_bytes(content)
        with pytest.raises(InputError, match="m.fits: not a readable FITS file"):
            read_exchange(config(tmp_path, {"A": entry}))


# Writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{}, {"compress": True}, {"multifits": True}])
def test_what_is_written_is_read_again(tmp_path, options, weighted):
    more = (numbers(1), numbers(2)) if weighted else (None, None)
    one = LocalMaps(*HAWC, numbers(), *more)
    two = LocalMaps("Telescope Array", 0.6, -1.9, 0.9, numbers(3))
    path = write_exchange(tmp_path, "sim", [one, two], **options)
    assert path == tmp_path / "sim.json"
    for before, after in zip((one, two), read_exchange(path), strict=True):
        for name in ("counts", "sum_weights", "sum_squares"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert after.name == before.name
        np.testing.assert_allclose(
            [after.latitude, after.longitude, after.zenith_max],
            [before.latitude, before.longitude, before.zenith_max],
            rtol=1e-15,
        )
    assert not list(tmp_path.glob(".*"))
    if not options:
        own = healpy.read_map(tmp_path / "sim_HAWC_003.fits", dtype=np.float64)
        np.testing.assert_array_equal(own, numbers()[3])
        assert (tmp_path / "sim_Telescope_Array_000.fits").is_file()


def result(**changes) -> ExchangeResult:
    rng = np.random.default_rng(8)
    maps = {name: rng.uniform(0, 2, PIXELS) for name in ("sigma", "significance", "data", "background", "expected")}
    fields = maps | {
        "relative_intensity": np.where(np.arange(PIXELS) == 7, np.nan, rng.normal(0, 1e-3, PIXELS)),
        "acceptance": {"HAWC": rng.uniform(0, 1, PIXELS), "IceCube": rng.uniform(0, 1, PIXELS)},
        "rates": {"HAWC": np.array([1234567.0, 0.000123456789, 12.0]), "IceCube": np.ones(3)},
        "log_likelihoods": (1.0, 123456.789),
    }
    return ExchangeResult(**(fields | changes))


def test_results_have_the_names_and_columns_of_multi_llh(tmp_path):
    """Names by its format strings: the joined detectors end in an underscore, hence two in a row."""
    one = result()
    written = write_result(tmp_path, one, iteration=7)
    assert {p.name for p in written} == {p.name for p in tmp_path.iterdir()}
    assert {p.name for p in written} == {
        "CR_HAWC_IceCube__4_3_iteration07.fits.gz",
        "RAW_HAWC_IceCube__4_3_iteration07.fits.gz",
        "exposure_HAWC_4_3_iteration07.fits.gz",
        "exposure_IceCube_4_3_iteration07.fits.gz",
        "norm_HAWC_4_3_iteration07.dat",
        "norm_IceCube_4_3_iteration07.dat",
        "llhratio_HAWC_IceCube__4_3_iteration07.dat",
    }
    with fits.open(written[0]) as hdus:
        assert hdus[1].columns.names == ["relint", "sigma", "lima"]
        assert hdus[1].header["COORDSYS"] == hdus[1].header["COORDS"] == "C"
        assert hdus[1].header["ORDERING"] == "RING"
    sky = healpy.read_map(written[0], field=None, dtype=np.float64)
    unseen = np.arange(PIXELS) == 7
    np.testing.assert_array_equal(sky[0] == healpy.UNSEEN, unseen)
    np.testing.assert_array_equal(sky[0][~unseen], one.relative_intensity[~unseen])
    np.testing.assert_array_equal(sky[1:], [one.sigma, one.significance])
    raw = healpy.read_map(written[1], field=None, dtype=np.float64)
    np.testing.assert_array_equal(raw, [one.data, one.background, one.expected])
    local = healpy.read_map(tmp_path / "exposure_IceCube_4_3_iteration07.fits.gz", dtype=np.float64)
    np.testing.assert_array_equal(local, one.acceptance["IceCube"])
    assert (tmp_path / "norm_HAWC_4_3_iteration07.dat").read_text() == "1.23457e+06\n0.000123457\n12\n"
    assert (tmp_path / "llhratio_HAWC_IceCube__4_3_iteration07.dat").read_text() == "1\n123457\n"


def test_a_converged_result_ends_in_max(tmp_path):
    names = {p.name for p in write_result(tmp_path, result(), converged=True)}
    assert {"CR_HAWC_IceCube__4_3_max.fits.gz", "RAW_HAWC_IceCube__4_3_max.fits.gz"} < names
    assert "norm_HAWC_4_3_iteration01.dat" in names


def test_unfitting_results_are_refused(tmp_path):
    with pytest.raises(InputError, match="all must be HEALPix maps of one resolution"):
        write_result(tmp_path, result(sigma=np.ones(48)))
    with pytest.raises(InputError, match="all must be HEALPix maps"):
        write_result(
            tmp_path,
            result(
                **{
                    n: np.ones(10)
                    for n in ("relative_intensity", "sigma", "significance", "data", "background", "expected")
                }
            ),
        )
    with pytest.raises(InputError, match="each detector needs its acceptance and its rates"):
        write_result(tmp_path, result(rates={"HAWC": np.ones(3)}))
    with pytest.raises(InputError, match="each detector needs its acceptance and its rates"):
        write_result(tmp_path, result(rates={"HAWC": np.ones(3), "IceCube": np.ones(4)}))
    with pytest.raises(InputError, match=r"acceptance of HAWC has shape \(10,\), which is no HEALPix map"):
        write_result(tmp_path, result(acceptance={"HAWC": np.ones(10), "IceCube": np.ones(192)}))
    with pytest.raises(InputError, match="no such folder; make it first"):
        write_result(tmp_path / "none", result())
    with pytest.raises(InputError, match="no such folder; make it first"):
        write_exchange(tmp_path / "none", "a", [LocalMaps(*HAWC, numbers())])
    assert not list(tmp_path.iterdir())


def test_a_failed_map_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(healpy, "write_map", fail)
    with pytest.raises(InputError, match="a.fits: cannot be written"):
        write_map(tmp_path / "a.fits", [np.ones(12)], ["x"])
    assert not list(tmp_path.iterdir())


# Arrays -------------------------------------------------------------------------------------------------------


def _npy(path, values):
    with open(path, "wb") as handle:
        np.save(handle, values)


def _hdf5(path, values):
    with h5py.File(path, "w") as file:
        file["maps/local"] = values
        file["time"] = np.arange(len(values))


def _classic(path, values):
    with netcdf_file(path, "w") as file:
        for name, size in zip(("time", "pixel"), values.shape, strict=True):
            file.createDimension(name, size)
        file.createVariable("local", "d", ("time", "pixel"))[:] = values


@pytest.mark.parametrize("write_array", [_npy, _hdf5, _classic])
def test_plain_arrays_are_read(tmp_path, write_array):
    """Told apart by their first bytes, whatever the name."""
    path = tmp_path / "maps.dat"
    write_array(path, numbers())
    maps = read_array(path, *HAWC[1:], "HAWC")
    np.testing.assert_array_equal(maps.counts, numbers())
    assert maps.counts.dtype.isnative
    assert (maps.name, maps.latitude, maps.source) == ("HAWC", HAWC[1], "maps.dat")
    integers = numbers().astype(np.int32)
    write_array(path, integers)
    np.testing.assert_array_equal(read_array(path, *HAWC[1:], "HAWC").counts, integers)


def test_array_is_found_by_shape_or_name(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["low"], file["group/high"], file["edges"] = numbers(0), numbers(1), np.arange(7.0)
    with pytest.raises(InputError, match=r"2 arrays of shape .* say which with dataset=, .*edges \(7,\), group/high"):
        read_array(path, *HAWC[1:], "HAWC")
    np.testing.assert_array_equal(read_array(path, *HAWC[1:], "HAWC", "group/high").counts, numbers(1))
    np.testing.assert_array_equal(read_array(path, *HAWC[1:], "HAWC", dataset="/low").counts, numbers(0))
    with pytest.raises(InputError, match=r"there is no array 'mid'; the arrays are edges \(7,\)"):
        read_array(path, *HAWC[1:], "HAWC", "mid")
    with h5py.File(path, "w") as file:
        file["turned"] = numbers().T[:, :5]
    with pytest.raises(InputError, match=r"no array of shape .*turned \(192, 5\)"):
        read_array(path, *HAWC[1:], "HAWC")


def test_other_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    with open(path, "wb") as handle:
        np.save(handle, np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="a.npy: cannot be read .*allow_pickle"):
        read_array(path, *HAWC[1:], "HAWC")
    _npy(path, np.full((6, 192), "x"))
    with pytest.raises(InputError, match="holds no real numbers"):
        read_array(path, *HAWC[1:], "HAWC")
    _npy(path, -numbers())
    with pytest.raises(InputError, match="a.npy: counts of HAWC: .* are negative"):
        read_array(path, *HAWC[1:], "HAWC")
    path.write_text("hello")
    with pytest.raises(InputError, match="neither .npy nor HDF5 nor NetCDF"):
        read_array(path, *HAWC[1:], "HAWC")
    with pytest.raises(InputError, match="none.npy: cannot be read"):
        read_array(tmp_path / "none.npy", *HAWC[1:], "HAWC")


# As an input among others -------------------------------------------------------------------------------------


def same(one: Counts, other: Counts) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("n_sky", "n_time", "n_local", "n_half"))


def test_configuration_is_an_input_like_any_other(bins, tmp_path):
    expected = to_counts(read_exchange(bins))
    assert same(read_counts(bins), expected)
    assert same(read_counts([bins], bin_reference="start"), expected)
    centred = read_counts(bins, bin_reference="center")
    assert same(centred, to_counts(read_exchange(bins), bin_reference="center"))
    assert not same(centred, expected)
    assert read_counts(bins, cube=True).cube is not None
    assert read_counts(bins, grid=RingGrid(10, 6)).grid == RingGrid(10, 6)
    narrow = read_counts(bins, zenith_max=np.radians(30))
    assert np.degrees(narrow.sites[0].zenith_max) == pytest.approx(30)
    assert 0 < narrow.num_events < expected.num_events
    assert same(read_counts(bins, zenith_max="site"), expected)
    assert same(read_counts(bins, zenith_max=np.radians(80)), expected)
    saved = expected.save(tmp_path / "a.nc")
    with pytest.raises(InputError, match="the same events are already counted"):
        read_counts([bins, saved])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "yearly"}, "--epochs cannot be applied to local maps: bin an event list instead"),
        ({"energy_edges": (1.0, 2.0)}, "--energy-edges cannot be applied to local maps"),
        ({"orbital_index": 2.7}, "--remove-orbital cannot be applied to local maps"),
        ({"time_frame": "solar"}, "local maps are in sidereal time, not solar"),
        ({"grid": RingGrid(18, 36)}, "its 6 time bins need as many right-ascension bins, not 36: give --grid 6x18"),
        ({"site": "hawc"}, "local maps bring the place of their observatories: leave out --site"),
    ],
)
def test_options_that_cannot_act_on_local_maps_are_refused(bins, options, message):
    with pytest.raises(InputError, match=message):
        read_counts(bins, **options)


def test_bin_reference_needs_local_maps(write):
    with pytest.raises(InputError, match="--bin-reference is for local maps, which none of the inputs are"):
        read_counts(write("mjd,ra,dec\n57000.5,1,2\n"), "hawc", bin_reference="center")


def test_command_line_bins_local_maps(bins, tmp_path):
    from diffcr.inference import load_counts
    from diffcr.inference.cli import app
    from typer.testing import CliRunner

    target = tmp_path / "c.nc"
    command = ["bin", str(bins), "--bin-reference", "center", "--cube", "-o", str(target)]
    outcome = CliRunner().invoke(app, command, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "config.json: HAWC at latitude 19, longitude -97, zenith to 57 degrees; 6 local maps" in outcome.stderr
    assert "nside 4, sky of a time bin at its center" in outcome.stderr
    assert " by zenith of " in outcome.stderr
    counts = load_counts(target)
    assert same(counts, to_counts(read_exchange(bins), bin_reference="center"))
    assert counts.cube is not None
