"""The shipped event lists against what is printed in them, and their names."""

import fnmatch
import tomllib
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from diffcr.inference.datasets import DATASETS, resolve_input
from diffcr.inference.events import EventReader
from event_files import read

from diffcr.errors import InputError


def test_the_large_list_is_read_as_printed():
    chunk, reader = read("dataset:auger-8eev")
    assert len(chunk.ra) == reader.num_read == 32187
    assert reader.num_bad == 0
    assert reader.columns == {
        "time": "UTC",
        "ra": "RA",
        "dec": "dec",
        "azimuth": "azimuth",
        "weight": "weight",
    }
    np.testing.assert_allclose(np.rad2deg([chunk.ra[0], chunk.dec[0], chunk.azimuth[0]]), [208.9, -11.8, 285.3])
    assert chunk.weight[0] == 1.004
    np.testing.assert_allclose(chunk.days[0], Time("2004-01-01T15:06:55").jd - 2451545, atol=1e-8)
    assert (chunk.zenith, chunk.energy) == (None, None)
    assert not reader.whole_days
    assert reader.dataset.site == "auger"
    assert reader.dataset.options["equinox"] == "date"
    small, _ = read("dataset:auger-8eev", chunk_size=1000)
    np.testing.assert_array_equal(small.ra, chunk.ra)
    np.testing.assert_array_equal(small.days, chunk.days)


def test_the_printed_azimuths_are_those_of_the_printed_positions():
    """Time, position and azimuth together: a wrong sign or zero of any of them is many degrees off."""
    chunk, _ = read("dataset:auger-8eev")
    sidereal = Time(chunk.days + 2451545.0, format="jd", scale="utc")
    longitude, latitude = np.deg2rad([-69.25, -35.21])
    # The mean sidereal time of UT1 = UTC is good to 15 arcseconds.
    gmst = np.deg2rad(280.46061837 + 360.98564736629 * (sidereal.jd - 2451545.0))
    hour_angle = gmst + longitude - chunk.ra
    north = np.sin(chunk.dec) * np.cos(latitude) - np.cos(chunk.dec) * np.sin(latitude) * np.cos(hour_angle)
    east = -np.cos(chunk.dec) * np.sin(hour_angle)
    off = np.angle(np.exp(1j * (np.arctan2(east, north) - chunk.azimuth)))
    assert np.rad2deg(np.median(np.abs(off))) < 0.25


def test_the_small_list_has_days_and_j2000_positions():
    """Its printed Galactic coordinates follow from its right ascensions and declinations in J2000."""
    chunk, reader = read("dataset:auger-52eev")
    assert len(chunk.ra) == 231
    assert reader.whole_days
    assert reader.columns["energy"] == "E"
    assert (chunk.energy[0], chunk.weight, chunk.azimuth) == (62.2, None, None)
    np.testing.assert_allclose(np.rad2deg([chunk.ra[0], chunk.dec[0], chunk.zenith[0]]), [267.2, -11.4, 47.7])
    np.testing.assert_allclose(chunk.days[0], Time("2004-05-04").jd - 2451545)
    longitude, latitude = np.loadtxt(reader.file, usecols=(6, 7)).T * u.deg
    galactic = SkyCoord(chunk.ra * u.rad, chunk.dec * u.rad).galactic
    separation = galactic.separation(SkyCoord(l=longitude, b=latitude, frame="galactic"))
    assert np.sqrt(np.mean(separation.deg**2)) < 0.07
    assert reader.dataset.options["equinox"] == "j2000"


def test_data_sets_are_resolved_by_name(tmp_path):
    path, dataset = resolve_input("dataset:auger-8eev")
    assert path.endswith("Arrival_directions_8EeV_Science_2017.dat")
    assert dataset is DATASETS["auger-8eev"]
    assert resolve_input(tmp_path) == (str(tmp_path), None)
    with pytest.raises(InputError, match=r"dataset:auger: .*use one of dataset:auger-8eev, dataset:auger-52eev"):
        resolve_input("dataset:auger")
    with pytest.raises(InputError, match="no data set of this name"):
        EventReader("dataset:icecube")


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_shipped_carries_its_licence_and_is_in_the_wheel(name):
    dataset = DATASETS[name]
    header = "".join(x for x in Path(dataset.path).read_text(encoding="utf-8").splitlines(True) if x.startswith("#"))
    assert "Pierre Auger Collaboration" in header
    assert "CC BY-SA 4.0" in header and dataset.licence.startswith("CC BY-SA 4.0")
    notes = Path(dataset.path).with_name("README.md").read_text(encoding="utf-8")
    assert f"dataset:{name}" in notes and dataset.file in notes
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["diffcr.inference.datasets"]
    assert any(fnmatch.fnmatch(dataset.file, pattern) for pattern in patterns)


def test_the_small_list_holds_the_published_numbers_of_events():
    """arXiv:1411.6111: 231 above 52 EeV, of which 155 above 58 EeV, to zenith angles of 80 degrees."""
    chunk, _ = read("dataset:auger-52eev")
    assert chunk.energy.min() >= 52
    assert np.sum(chunk.energy >= 58) == 155
    assert np.rad2deg(chunk.zenith.max()) <= 80
    assert np.rad2deg(chunk.dec.max()) < 44.8
