"""`diffcr lens` as users run it: what is written, what the numbers must be, and what is refused in one line."""

import json
import re

import healpy
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from diffcr.inference.cli_lens import chosen_place, parse_rigidities
from diffcr.inference.lens import Setup, look
from diffcr.inference.lens_outside import chosen_outside, dipole_outside
from diffcr.inference.lens_places import Turned, galaxy_place, heliosphere_place
from diffcr.inference.lens_spectra import angular_power
from diffcr.inference.sky_files import read_sky

from diffcr.boundary import find_exits
from diffcr.directions import healpix_directions
from diffcr.errors import InputError
from diffcr.galactic_field import GalacticField
from diffcr.sky import icrs_to_galactic, unit_vector
from diffcr.turbulence import Uniform
from diffcr.units import AU, EV, KPC, LARMOR_RADIUS

FAST = ("--nside", "4", "--step", "20")


def test_skies_behind_the_heliosphere_are_written(run, tmp_path):
    code, out, err = run(
        *("lens", "heliosphere", "--rigidity", "30,10", *FAST, "--step-check", "--oversample", "2", "-o", tmp_path)
    )
    assert code == 0, err
    names = {p.name for p in tmp_path.iterdir()}
    pictures = {"skies.png", "deflections.png", "power.png"}
    assert names == {"sky_10TV.fits", "sky_30TV.fits", "lens.nc", "lens.json", *pictures}
    for name in pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "lens.json").read_text())
    assert content["software"].startswith("diffcr ") and content["settings"]["region_AU"] == 600
    # Without another choice the field points to the centre of the ribbon.
    assert content["settings"]["field_l_deg"] == pytest.approx(210.5)
    assert content["settings"]["field_b_deg"] == pytest.approx(-57.1)
    low, high = content["skies"]
    assert (low["rigidity_TV"], high["rigidity_TV"]) == (10, 30)
    # Deflections fall as the inverse of the rigidity.
    assert 2 < low["deflection_rms_deg"] / high["deflection_rms_deg"] < 4
    for row in (low, high):
        # C_1 of a dipole d is 4 pi d^2 / 9.
        assert row["power_outside"][1] == pytest.approx(4 * np.pi / 9 * 1e-6, rel=0.01)
        assert row["trapped"] == 0 and 0 < row["step_check"]["direction_change_rms_deg"] < 5
        check, power = row["step_check"], np.array(row["power"])
        weight, half = 2 * np.arange(2, 9) + 1, np.array(check["power_half_step"])
        change = np.sqrt(np.sum(weight * (power - half)[2:] ** 2) / np.sum(weight * half[2:] ** 2))
        assert check["power_change_rms_from_l_2"] == pytest.approx(change)
        assert check["power_change_rms"] < 0.05
    assert "half the step" in out and "did not leave" not in err

    with xr.open_dataset(tmp_path / "lens.nc") as tables:
        assert tables["direction_outside"].dims == ("rigidity", "path", "xyz")
        sky = healpix_directions(8)
        angle = np.degrees(np.arccos(np.clip(np.sum(sky.T * tables["direction_outside"].values[0], axis=1), -1, 1)))
        np.testing.assert_allclose(tables["deflection"].values[0], angle, atol=1e-4)
        assert np.all(tables["path_length"].values >= 600 * (1 - 1e-9))
        np.testing.assert_allclose(np.linalg.norm(tables["position_outside"].values, axis=-1), 600, rtol=1e-9)
        mapped = tables["sky"].values
    with fits.open(tmp_path / "sky_10TV.fits") as hdus:
        assert hdus[1].header["COORDSYS"] == "C" and hdus[1].header["RIGIDITY"] == 10
    read = read_sky(tmp_path / "sky_10TV.fits")
    assert read.notes == ()
    np.testing.assert_allclose(read.relative_intensity, mapped[0])


def test_trapped_paths_are_told_and_leave_their_pixels_unseen(run, tmp_path):
    code, out, err = run(
        *("lens", "heliosphere", "--rigidity", "3", *FAST, "--max-duration", "700", "--no-plots", "-o", tmp_path)
    )
    assert code == 0
    row = json.loads((tmp_path / "lens.json").read_text())["skies"][0]
    unseen = np.isnan(read_sky(tmp_path / "sky_3TV.fits").relative_intensity)
    assert 0 < row["trapped"] == unseen.sum()
    assert f"{row['trapped']} of 192 paths did not leave" in err and "raise --max-duration" in err
    assert f"{row['trapped']} trapped" in out
    assert not list(tmp_path.glob("*.png"))


def test_a_map_outside_the_galaxy_is_that_of_the_same_dipole(run, tmp_path):
    """A Galactic map of a dipole, written to a file and interpolated, against the dipole itself; both frames."""
    icrs = np.asarray(unit_vector(np.radians(100.0), np.radians(-30.0)))
    galactic = np.asarray(icrs_to_galactic(icrs))
    made = tmp_path / "in.fits"
    healpy.write_map(made, 0.05 * galactic @ healpix_directions(32), coord="G", column_names=["relative_intensity"])
    options = ("--rigidity", "40", "--nside", "4", "--step", "0.5", "--no-plots")
    assert run("lens", "galaxy", *options, "--sky", made, "-o", tmp_path / "map")[0] == 0
    assert run("lens", "galaxy", *options, "--dipole", "0.05,100,-30", "-o", tmp_path / "dipole")[0] == 0
    skies = [healpy.read_map(tmp_path / name / "sky_40EV.fits") for name in ("map", "dipole")]
    np.testing.assert_allclose(skies[0], skies[1], atol=5e-4)
    assert np.ptp(skies[1]) > 0.05
    with fits.open(tmp_path / "map" / "sky_40EV.fits") as hdus:
        assert hdus[1].header["COORDSYS"] == "G"
        without = hdus[1].data["WITHOUT_FIELD"].ravel()
    np.testing.assert_allclose(without, 0.05 * galactic @ healpix_directions(4), atol=5e-4)


BAD = {
    "field": (("galxy", "--rigidity", "1"), "there is no field 'galxy'; did you mean 'galaxy'"),
    "zero rigidity": (("heliosphere", "--rigidity", "0,1"), "--rigidity takes different rigidities above 0 in TV"),
    "word": (("heliosphere", "--rigidity", "ten"), "--rigidity takes numbers"),
    "no sky": (("galaxy", "--rigidity", "9"), "give --dipole A,RA,DEC or --sky"),
    "no direction": (("galaxy", "--rigidity", "9", "--dipole", "0.1"), "write 0.1,RA,DEC"),
    "dipole": (("heliosphere", "--rigidity", "9", "--dipole", "1,2"), "--dipole takes an amplitude below 1"),
    "two skies": (("galaxy", "--rigidity", "9", "--dipole", "0.1,1,1", "--sky", "a"), "leave one out"),
    "map": (("galaxy", "--rigidity", "9", "--sky", "nowhere.fits"), "nowhere.fits: .*FITS"),
    "wind": (("heliosphere", "--rigidity", "9", "--wind", "praker"), "did you mean 'parker'"),
    "frame": (("heliosphere", "--rigidity", "9", "--frame", "galatic"), "did you mean 'galactic'"),
    "tilt": (("heliosphere", "--rigidity", "9", "--tilt", "9"), "goes with --wind sectored"),
    "not the galaxy's": (("galaxy", "--rigidity", "9", "--strength", "2"), "--strength is of the heliosphere"),
    "index": (("heliosphere", "--rigidity", "9", "--electric"), "such as --gamma 2.7"),
    "no electric": (("heliosphere", "--rigidity", "9", "--gamma", "2.7"), "--gamma has no effect without --electric"),
    "nside": (("heliosphere", "--rigidity", "9", "--nside", "12"), "power of two"),
    "lmax": (("heliosphere", "--rigidity", "9", "--lmax", "99", "--nside", "4"), "--lmax must be from 1 to .* 11"),
    "step": (("heliosphere", "--rigidity", "9", "--step", "0"), "--step must be finite and above 0.*AU"),
    "long step": (("heliosphere", "--rigidity", "0.1", "--step", "300"), "use a step of at most"),
    "region": (("heliosphere", "--rigidity", "9", "--region", "100"), "hold the heliopause"),
    "small galaxy": (("galaxy", "--rigidity", "9", "--region", "5"), "hold the Sun"),
    "strength": (("heliosphere", "--rigidity", "9", "--strength", "0"), "--strength must be finite and above 0"),
    "direction": (("heliosphere", "--rigidity", "9", "--field-lb", "9"), "--field-lb takes Galactic longitude"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, case):
    arguments, message = BAD[case]
    code, _, err = run("lens", *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert err.startswith("diffcr: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.rglob("*.*"))


def test_rigidities_are_sorted_and_different():
    assert parse_rigidities("10,1,3", "TV") == [1.0, 3.0, 10.0]
    for text in ("1,1", "-1", "inf", "nan"):
        with pytest.raises(InputError, match="different rigidities above 0 in EV"):
            parse_rigidities(text, "EV")


# Physics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rigidity", [2.0, 30.0])
def test_a_stationary_dipole_passes_through_a_uniform_field_unchanged(rigidity):
    """Along the field alone, and across it with its density gradient, whatever the paths turn."""
    import dataclasses

    place = heliosphere_place("C")
    place = dataclasses.replace(place, field=Uniform(place.outside))
    setup = Setup(place, 4, 1, 8, step=3.0 if rigidity < 10 else 20.0)
    along = place.outside / np.linalg.norm(place.outside)
    for dipole in (1e-3 * along, np.array([3e-4, -2e-4, 5e-4])):
        seen = look(setup, rigidity, dipole_outside(dipole, place, place.larmor_radius(rigidity)))
        np.testing.assert_allclose(seen.outside, dipole @ healpix_directions(4), rtol=1e-12, atol=1e-16)
        # At 2 TV those straight across the field circle within the region: they gain less than its radius on a path
        # of 50 diameters.
        left = seen.escaped == 1
        across = np.abs(along @ healpix_directions(4))
        np.testing.assert_array_equal(left, (across > 0.01) | (rigidity > 10))
        np.testing.assert_allclose(seen.sky[left], seen.outside[left], atol=5e-6)
        assert np.sqrt(np.nanmean(seen.deflection**2)) > 10


def test_the_galaxy_along_equatorial_axes_is_the_same_galaxy():
    place = galaxy_place("C")
    assert isinstance(place.field, Turned)
    sky = healpix_directions(1)
    exits = [
        find_exits(field, LARMOR_RADIUS * 20 * EV, n, region=region, step=0.2 * KPC)
        for field, n, region in (
            (place.field, sky, place.region),
            (GalacticField(), np.asarray(icrs_to_galactic(sky.T)).T, galaxy_place("G").region),
        )
    ]
    turned = np.asarray(icrs_to_galactic(exits[0].direction.T)).T
    np.testing.assert_allclose(turned, exits[1].direction, atol=1e-10)
    assert np.max(exits[0].deflection) > 0.1


def test_frames_show_one_sky_of_the_heliosphere():
    """The same direction has the same intensity, whichever axes it is told in."""
    own = {"strength": 4.0, "field_lb": "200,-50", "wind": "sectored"}
    seen = {}
    for frame in ("equatorial", "galactic"):
        place = chosen_place("heliosphere", frame, 300.0, 15.0, own)
        distribution, outside, notes = chosen_outside(place, "1e-3,60,-20", None)
        found = look(Setup(place, 1, 1, 1, step=5.0), 20.0, distribution(20.0))
        seen[frame] = found, place, outside, notes
    first, second = (row[2] for row in seen.values())
    np.testing.assert_allclose(first["dipole_icrs"], second["dipole_icrs"], atol=1e-15)
    assert "density gradient" in seen["galactic"][3][0]
    for found, place, _, _ in seen.values():
        step = place.steps(5.0 * AU)
        away = np.asarray(step(jnp.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])))
        assert away[0] < 0.2 * AU and away[1] == pytest.approx(5 * AU)
        assert found.exits.num_trapped == 0


def test_steps_are_short_where_the_larmor_radius_or_the_sheet_asks_for_it():
    plain, sectored = heliosphere_place("C"), heliosphere_place("C", wind="sectored")
    assert plain.step(10.0, None) == pytest.approx(2 * AU)
    assert plain.step(0.1, None) == pytest.approx(0.03 * LARMOR_RADIUS * 0.1 / 3)
    assert sectored.step(10.0, None) < 1 * AU
    assert plain.step(10.0, 7.0) == pytest.approx(7 * AU)


def test_magnification_is_one_on_average_and_pixels_average_their_paths():
    place = heliosphere_place("C")
    along = 0.1 * place.outside / np.linalg.norm(place.outside)
    distribution = dipole_outside(along, place, place.larmor_radius(20.0))
    coarse, fine = (look(Setup(place, n, m, 4, step=20.0), 20.0, distribution) for n, m in ((2, 4), (8, 1)))
    assert coarse.magnification.mean() == pytest.approx(1)
    np.testing.assert_allclose(coarse.sky, healpy.ud_grade(fine.sky, 2), atol=1e-12)
    np.testing.assert_allclose(fine.power, angular_power(fine.sky, 4))
    assert np.all(np.isnan(angular_power(np.full(12, np.nan), 2)))


def test_an_electric_field_changes_intensities_by_the_momentum():
    """A uniform intensity outside is seen as (p_out / p)^-(2 + Gamma)."""
    place = heliosphere_place("C", electric=True)
    seen = look(Setup(place, 1, 1, 1, step=10.0, spectral_index=2.7), 1.0, lambda x, n: 1 + 0 * n[0])
    np.testing.assert_allclose(seen.sky, seen.exits.momentum**-4.7 - 1, rtol=1e-9)
    assert 1e-5 < np.ptp(seen.sky) < 1e-2
