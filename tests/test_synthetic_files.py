"""Synthetic event files: the distributions that are promised, whatever the format and the number of files."""

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from diffcr.inference import read_counts
from diffcr.inference.synthetic_files import FORMATS, write_synthetic_files

from diffcr.clock import local_time
from diffcr.errors import InputError
from diffcr.site import site as find_site
from diffcr.sky import horizon, precess, unit_vector

EVENTS = 200_000


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A year of HAWC with a large dipole that points nowhere in particular."""
    folder = tmp_path_factory.mktemp("synthetic")
    (path,) = write_synthetic_files(folder, 1, EVENTS, 5, dipole=(0.3, -0.2, 0.25), days_each=366.2422)
    return pd.read_parquet(path)


def unit(events):
    ra, dec = np.radians(events["ra"]), np.radians(events["dec"])
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def test_columns_have_the_number_the_range_and_the_order_that_are_promised(events):
    assert list(events) == ["time_unix", "ra", "dec", "energy"]
    assert len(events) == EVENTS
    days = events["time_unix"] / 86400 - 10957.5
    assert days.min() >= 5844.5 and days.max() <= 5844.5 + 366.2422
    assert np.all(np.diff(days) > 0)
    assert events["ra"].between(0, 360).all()
    # Gaps between chunks would show as a rate that is not even: 100 bins, 2000 events each.
    counts, _ = np.histogram(days, 100, (5844.5, 5844.5 + 366.2422))
    assert np.sum((counts - EVENTS / 100) ** 2) / (EVENTS / 100) < 99 + 5 * np.sqrt(2 * 99)


def test_energies_follow_the_power_law(events):
    """ln E of E^-2.7 above 1 is exponential with mean 1/1.7."""
    logarithm = np.log(events["energy"])
    assert logarithm.min() >= 0
    assert logarithm.mean() == pytest.approx(1 / 1.7, abs=5 / 1.7 / np.sqrt(EVENTS))


def test_dipole_is_the_one_asked_for_and_the_excess_is_towards_it(events):
    """Over whole sidereal days the exposure w is even in right ascension. With g = 1 / (1 + d_N z) the mean of g x is
    d_x <w g x^2>, and that of g^2 (x^2 + y^2) is <w g (x^2 + y^2)>, twice <w g x^2>: no exposure has to be known."""
    x, y, z = unit(events)
    spread = 5 * np.sqrt(2 / np.mean(x**2 + y**2) / EVENTS)
    weight = 1 / (1 + 0.25 * z)
    for component, expected in ((x, 0.3), (y, -0.2)):
        found = 2 * np.sum(weight * component) / np.sum(weight**2 * (x**2 + y**2))
        assert found == pytest.approx(expected, abs=spread)


def test_detector_accepts_as_the_cosine_up_to_its_cut(tmp_path):
    """Without a dipole sin^2 of the zenith angle is even up to the cut, and azimuths are, by the package's horizon."""
    (path,) = write_synthetic_files(tmp_path, 1, 20_000, 6, site="auger", days_each=30.0)
    events, site = pd.read_parquet(path), find_site("auger")
    days = events["time_unix"].to_numpy() / 86400 - 10957.5
    vector = np.asarray(precess(unit_vector(*np.radians(events[["ra", "dec"]].to_numpy()).T), days))
    declination, right_ascension = np.arcsin(vector[:, 2]), np.arctan2(vector[:, 1], vector[:, 0])
    hour_angle = np.asarray(local_time(days, site.longitude)) - right_ascension
    zenith, azimuth = (np.asarray(x) for x in horizon(hour_angle, declination, site.latitude))
    assert zenith.max() <= site.zenith_max + 1e-6
    even = np.sin(zenith) ** 2 / np.sin(site.zenith_max) ** 2
    for values, mean, spread in (
        (even, 0.5, np.sqrt(1 / 12)),
        (np.cos(azimuth), 0, 0.7071),
        (np.sin(azimuth), 0, 0.7071),
    ):
        assert values.mean() == pytest.approx(mean, abs=5 * spread / np.sqrt(len(values)))


def test_file_depends_on_its_number_and_the_seed_alone(tmp_path):
    few = write_synthetic_files(tmp_path / "few", 2, 100, 1)
    more = write_synthetic_files(tmp_path / "more", 3, 100, 1)
    other = write_synthetic_files(tmp_path / "other", 1, 100, 2)
    assert [path.name for path in more] == ["events_00000.parquet", "events_00001.parquet", "events_00002.parquet"]
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in more[:2]]
    assert more[0].read_bytes() != other[0].read_bytes()
    times = [pd.read_parquet(path)["time_unix"] for path in more]
    assert all(one.max() <= next_.min() for one, next_ in zip(times, times[1:], strict=False))


@pytest.mark.parametrize("format", FORMATS)
def test_formats_hold_the_same_events_and_are_read_without_options(tmp_path, format):
    (path,) = write_synthetic_files(tmp_path / format, 1, 500, 3, format)
    (reference,) = write_synthetic_files(tmp_path / "reference", 1, 500, 3, "parquet")
    if format == "hdf5":
        with h5py.File(path) as file:
            found = {name: file[name][:] for name in file}
    elif format == "fits":
        with fits.open(path) as file:
            found = {name: np.array(file[1].data[name], float) for name in file[1].columns.names}
    else:
        found = pd.read_csv(path) if format == "csv" else pd.read_parquet(path)
    for name, values in pd.read_parquet(reference).items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6 if format == "csv" else 0)
    assert read_counts(path, "hawc").num_events.sum() == 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "root"}, "unknown format 'root' of event files: choose one of parquet, hdf5, fits, csv"),
        ({"number": 0}, "numbers of files and of events in each must be at least 1, not 0, 10"),
        ({"events_each": 0}, "must be at least 1, not 1, 0"),
        ({"dipole": (1.0, 1.0, 0.0)}, "the dipole must be three numbers with a length of at most 1"),
        ({"dipole": (0.1, 0.0)}, "the dipole must be three numbers"),
        ({"dipole": (np.nan, 0.0, 0.0)}, "the dipole must be three numbers"),
        ({"site": "hawk"}, "unknown site"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        write_synthetic_files(**({"folder": tmp_path, "number": 1, "events_each": 10} | change))
