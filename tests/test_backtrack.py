"""Runs of backtracked skies: one file each, the same whatever cut them; what they say; what they cost."""

import dataclasses
import errno
import json
import math
import shutil

import healpy
import jax
import numpy as np
import pytest
import xarray as xr
from diffcr.inference import backtrack_cost
from diffcr.inference.backtrack import FOLDERS, Result, Run, settings, trace
from diffcr.inference.backtrack_cost import estimate, free_memory, peak_memory, require_memory
from diffcr.inference.backtrack_report import describe, describe_estimate, duration, summary, write_backtracking
from diffcr.inference.backtrack_summary import (
    Asymptotic,
    analyse,
    cascade_curve,
    gradient_of,
    name_of,
    plateau_degrees,
)
from diffcr.inference.backtrack_tables import dataset, read_power, skies

from diffcr.backtracking import Setup, Spectra, displacements, spectra_of
from diffcr.errors import InputError
from diffcr.spectrum import BendOver, PowerLaw

NARROW = BendOver(smallest=0.5, largest=4.0)
SETUP = Setup(larmor_radius=0.4, spectrum=NARROW, size=6, omega_t=4.0, omega_step=0.2, samples=2, nside=2, seed=5)
RUN = Run(SETUP, realisations=3, step_check=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: its folder and what it gave."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, trace(RUN, folder)


def contents(path):
    with np.load(path, allow_pickle=False) as file:
        return {k: file[k] for k in file.files if k != "seconds"}


def same_spectra(one, other):
    assert len(one) == len(other)
    for mine, yours in zip(one, other, strict=True):
        for field in dataclasses.fields(Spectra):
            np.testing.assert_array_equal(getattr(mine, field.name), getattr(yours, field.name))


# Files --------------------------------------------------------------------------------------------------


def test_every_realisation_has_a_file_and_only_the_first_its_maps(whole):
    folder, result = whole
    assert [p.name for p in sorted((folder / "realisations").iterdir())] == [f"0000{k}.npz" for k in range(3)]
    assert [p.name for p in sorted((folder / "half_step").iterdir())] == ["00000.npz", "00001.npz"]
    kept = [k for k in range(3) if "position" in contents(folder / "realisations" / f"0000{k}.npz")]
    assert kept == list(result.maps) == [0]
    assert "position" not in contents(folder / "half_step" / "00000.npz")
    assert len(result.spectra) == 3 and len(result.half_step) == 2 and len(result.seconds) == 3


def test_a_realisation_is_what_its_set_up_and_number_say(whole):
    """Not the place in the run: number 2 traced by itself."""
    moved = displacements(SETUP, 2)
    same_spectra([whole[1].spectra[2]], [spectra_of(moved, 2)])
    np.testing.assert_array_equal(whole[1].maps[0], displacements(SETUP, 0).position)


@pytest.mark.parametrize("lost", ["realisations/00001.npz", "realisations/00002.npz", "half_step/00000.npz"])
def test_a_run_cut_anywhere_goes_on_bit_for_bit(whole, tmp_path, lost):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / lost).unlink()
    steps = []
    result = trace(RUN, tmp_path, resume=True, progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(5, 5)]
    same_spectra(result.spectra + result.half_step, whole[1].spectra + whole[1].half_step)
    mine, yours = contents(tmp_path / lost), contents(whole[0] / lost)
    assert mine.keys() == yours.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], yours[name])


def test_memory_or_disk_makes_no_difference(whole):
    small = Run(SETUP, realisations=2)
    same_spectra(trace(small).spectra, whole[1].spectra[:2])


def test_more_realisations_prolong_a_run_and_fewer_take_the_first(whole, tmp_path):
    trace(Run(SETUP, realisations=2), tmp_path)
    same_spectra(trace(RUN, tmp_path, resume=True).spectra, whole[1].spectra)
    done = []
    fewer = trace(Run(SETUP, realisations=2), tmp_path, resume=True, progress=lambda *each: done.append(each))
    same_spectra(fewer.spectra, whole[1].spectra[:2])
    assert not done


def test_maps_that_were_not_kept_are_traced_again(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    result = trace(dataclasses.replace(RUN, keep_maps="all"), tmp_path, resume=True)
    assert sorted(result.maps) == [0, 1, 2]
    assert "position" in contents(tmp_path / "realisations" / "00001.npz")
    assert not trace(dataclasses.replace(RUN, keep_maps="none"), tmp_path, resume=True).maps


def test_a_folder_with_a_run_is_not_overwritten(whole):
    with pytest.raises(InputError, match=r"realisations: holds a run already; continue it with --resume"):
        trace(RUN, whole[0])


CHANGES = {
    "sigma2": 0.9,
    "larmor_radius": -0.4,
    "spectrum": BendOver(smallest=0.5, largest=5.0),
    "representation": "plane",
    "size": 7,
    "omega_t": 4.2,
    "omega_step": 0.1,
    "samples": 4,
    "precision": "float64",
    "seed": 6,
    "geometry": "slab",
    "helicity": 0.5,
    "slab_fraction": 0.3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_other_run_is_continued(whole, name):
    """Each setting there is, by name."""
    other = Run(dataclasses.replace(SETUP, **{name: CHANGES[name]}), 3, 2)
    with pytest.raises(InputError, match=rf"is of a run with other .*{name}.*; resume with the settings"):
        trace(other, whole[0], resume=True)


def test_every_setting_is_among_those():
    assert {f.name for f in dataclasses.fields(Setup)} == {*CHANGES, "nside"}
    assert settings(SETUP)["spectrum"]["kind"] == "BendOver"
    kinds = {
        json.dumps(settings(dataclasses.replace(SETUP, spectrum=each))["spectrum"])
        for each in (NARROW, PowerLaw(smallest=0.5, largest=4.0))
    }
    assert len(kinds) == 2


def test_other_degrees_or_pixels_are_not_continued(whole):
    for other in (dataclasses.replace(RUN, l_max=4), Run(dataclasses.replace(SETUP, nside=4), 3, 2)):
        with pytest.raises(InputError, match="is of a run with other l_max"):
            trace(other, whole[0], resume=True)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive"])
def test_a_broken_file_is_one_line(whole, tmp_path, damage):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "realisations" / "00001.npz"
    path.write_bytes(damage or path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"00001\.npz: cannot be read .*; delete it, then continue with --resume"):
        trace(RUN, tmp_path, resume=True)


def test_a_full_disk_is_one_line_and_leaves_what_was_finished(tmp_path, monkeypatch):
    write, written = np.savez, []

    def full(file, **arrays):
        if written:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        write(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"00001\.npz: cannot be written .*free some space"):
        trace(RUN, tmp_path)
    assert [p.name for p in (tmp_path / "realisations").iterdir()] == ["00000.npz"]


@pytest.mark.parametrize(("omega_t", "omega_step", "samples"), [(4.0, 0.2, 2), (1.0, 0.3, 3), (7.0, 0.11, 5)])
def test_the_check_has_exactly_half_the_step(omega_t, omega_step, samples):
    """Also where the step asked for does not divide the time."""
    run = Run(dataclasses.replace(SETUP, omega_t=omega_t, omega_step=omega_step, samples=samples), 3, 2)
    assert run.half_step.steps == 2 * run.setup.steps
    assert settings(run.half_step) | {"omega_step": 0} == settings(run.setup) | {"omega_step": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"realisations": 1}, "realisations must be a whole number of at least 2"),
        ({"realisations": True}, "realisations must be"),
        ({"step_check": 1}, "a step check takes 2 to 3"),
        ({"step_check": 4}, "a step check takes 2 to 3"),
        ({"l_max": 6}, "l_max must be .* from 2 to 3 nside - 1 = 5"),
        ({"keep_maps": "some"}, "keep_maps must be first, all or none"),
    ],
)
def test_a_run_out_of_range_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Run(**({"setup": SETUP, "realisations": 3} | arguments))


# What it says -------------------------------------------------------------------------------------------


def invented(number=40, scale=1.0, growth=0.0, scatter=0.2, seed=1, nside=16, samples=4):
    """A result of known spectra: C_l^zz = 10 l^-3 + 0.01, C_l^xx = C_l^yy a tenth of that, K_zz = 1, K_xx = 0.1."""
    rng = np.random.default_rng(seed)
    setup = Setup(larmor_radius=0.4, spectrum=NARROW, omega_t=40.0, samples=samples, nside=nside)
    l_max = 3 * nside - 1
    degree = np.arange(l_max + 1.0)
    base = 10 * np.maximum(degree, 1) ** -3.0 + 0.01
    spectra = []
    for _ in range(number):
        noise = 1 + scatter * rng.normal(size=(samples, l_max + 1, 3)) / np.sqrt(2 * degree + 1)[:, None]
        power = scale * base[:, None] * noise * np.array([0.1, 0.1, 1.0])
        tensor = np.diag([0.1, 0.1, 1.0]) * (1 + 0.5 * scatter * rng.normal(size=(3, 1)))
        rise = 1 + growth * np.arange(1, samples + 1)[:, None, None] / samples
        spectra.append(
            Spectra(
                setup.times,
                power[..., None] * np.eye(3),
                2 * setup.times[:, None, None] * np.diag([0.1, 0.1, 1.0]) * rise,
                -tensor * rise,
                np.zeros((samples, 3)),
                rng.normal(size=(samples, 3, 9)),
            )
        )
    return setup, spectra


def result_of(number=40, half=None, **options):
    setup, spectra = invented(number, **options)
    return Result(Run(setup, number, 0 if half is None else len(half)), spectra, half or [], {}, [1.0] * number)


def test_means_and_errors_are_those_of_the_realisations():
    result = result_of()
    parallel, across = analyse(result).orientations
    own = np.stack([each.power[..., 2, 2] for each in result.spectra])
    np.testing.assert_allclose(parallel.power.value, own.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(parallel.power.error, own.std(axis=0, ddof=1) / math.sqrt(40), rtol=1e-9)
    own = np.stack([(each.power[..., 0, 0] + each.power[..., 1, 1]) / 2 for each in result.spectra])
    np.testing.assert_allclose(across.power.value, own.mean(axis=0), rtol=1e-12)


def test_plateau_noise_and_ratios_are_found_where_they_are_known():
    """The plateau is 0.01 and what is left of the signal at l = 24 to 32; noise 4 pi / 3072 * 2 T K."""
    analysis = analyse(result_of())
    parallel, across = analysis.orientations
    assert analysis.degrees == (24, 32)
    left = np.arange(24.0, 33)
    left = 10 * np.sum((2 * left + 1) * left**-3) / np.sum(2 * left + 1)
    assert parallel.plateau.value[-1] == pytest.approx(0.01 + left, rel=0.02)
    assert across.plateau.value[-1] == pytest.approx(0.1 * (0.01 + left), rel=0.02)
    assert parallel.noise.value[-1] == pytest.approx(4 * np.pi / 3072 * 2 * 16.0, rel=0.1)
    assert parallel.dipole_to_quadrupole.value[-1] == pytest.approx(8, rel=0.1)
    np.testing.assert_allclose(parallel.shape.value[-1, :3], [(2 / l) ** 3 for l in (3, 4, 5)], rtol=0.15)
    # 10.01 over 4 pi (K d)^2.
    assert parallel.dipole_excess.value[-1] == pytest.approx(10.01 / (4 * np.pi), rel=0.15)
    assert across.dipole_excess.value[-1] == pytest.approx(1.001 / (4 * np.pi * 0.01), rel=0.2)


def test_an_oblique_gradient_mixes_both_by_its_squares():
    """C_l^xz vanishes here: C_l(30 degrees) = 3/4 C_l^zz + 1/4 C_l^xx."""
    result = result_of()
    slanted, parallel = analyse(result, (30.0, 0.0)).orientations
    across = np.mean([each.power[..., 0, 0] for each in result.spectra], axis=0)
    np.testing.assert_allclose(slanted.power.value, 0.75 * parallel.power.value + 0.25 * across, rtol=1e-9)
    assert [slanted.name, parallel.name] == ["30deg", "parallel"]


def test_angles_have_their_names_and_gradients():
    assert [name_of(a) for a in (0, 90, 180, 22.5)] == ["parallel", "perpendicular", "antiparallel", "22.5deg"]
    assert gradient_of(0) == "parallel" and gradient_of(90) == "perpendicular"
    np.testing.assert_allclose(gradient_of(120.0), [math.sqrt(3) / 2, 0, -0.5])
    for angle in (-1.0, 181.0, math.nan):
        with pytest.raises(InputError, match="lies between 0 and 180 degrees"):
            gradient_of(angle)


@pytest.mark.parametrize("nside", [1, 2, 4, 64])
def test_the_plateau_lies_within_the_degrees(nside):
    for l_max in {3 * nside - 1, 2}:
        first, last = plateau_degrees(nside, l_max)
        assert 1 <= first <= last <= l_max


def test_the_cascade_has_its_published_ratios():
    """C_l / C_1 = 18 / ((2l+1)(l+1)(l+2)): 0.3 at l = 2, 0.128571 at l = 3, 0.038961 at l = 5."""
    curve = cascade_curve(5)
    assert np.isnan(curve[0])
    np.testing.assert_allclose(curve[[1, 3, 5]], [1 / 0.3, 0.128571428571 / 0.3, 0.038961038961 / 0.3], rtol=1e-9)


def scaled(spectra, factor):
    return [dataclasses.replace(each, power=factor * each.power) for each in spectra]


def test_a_step_check_passes_within_its_tolerance_and_names_what_is_beyond():
    _, spectra = invented(8)
    for factor in (1.0, 1.03):
        check = analyse(result_of(8, scaled(spectra, factor))).step_check
        assert check.passed and check.realisations == 8
    check = analyse(result_of(8, scaled(spectra, 1.25))).step_check
    assert not check.passed
    assert "<C_1> parallel at Omega T = 10 is 0.8 +- " in check.problems[0]
    assert analyse(result_of(8)).step_check is None


def test_chance_is_no_failed_step_check():
    """Realisations that have nothing in common differ by their scatter alone: at most a few of 40 may fail, at 1 %."""
    failed = [
        not analyse(result_of(6, invented(6, seed=100 + k)[1], scatter=0.3, seed=k), (0.0,)).step_check.passed
        for k in range(40)
    ]
    assert sum(failed) <= 4


def test_a_coefficient_is_asymptotic_when_it_stands_still():
    assert analyse(result_of()).parallel.reached is True
    grown = analyse(result_of(growth=1.0)).parallel
    # From 1.5 at half the time to 2.
    assert grown.change == pytest.approx(1 / 3, abs=1e-9) and grown.reached is False
    assert analyse(result_of(samples=1)).parallel.reached is None
    assert Asymptotic(1.0, 0.1, 1.0, 0.1, 0.02, 0.2).reached is None
    assert Asymptotic(1.0, 0.1, 1.0, 0.1, 0.02, 0.01).reached is True


def test_few_realisations_or_pixels_make_no_fit_and_no_fault():
    assert analyse(result_of(4)).orientations[0].cascade is None
    assert analyse(result_of(20)).orientations[0].cascade is not None
    tiny = analyse(result_of(4, nside=1))
    assert tiny.orientations[0].shape is None
    json.dumps(summary(tiny), allow_nan=False)


# What is written ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Almost no turbulence: paths are helices. Written, with pictures, and read again."""
    setup = Setup(
        sigma2=1e-6, larmor_radius=0.4, spectrum=NARROW, size=6, omega_t=2.0, omega_step=0.1, samples=2, nside=4
    )
    folder = tmp_path_factory.mktemp("straight")
    analysis = analyse(trace(Run(setup, 3, 2, keep_maps="all")), (0.0, 90.0, 60.0))
    content = write_backtracking(analysis, folder, pictures=False, cost={"devices": "1 x cpu"})
    return analysis, folder, content


@pytest.fixture(scope="module")
def finished_table(tmp_path_factory):
    setup = Setup(representation="plane", size=8, omega_t=4.0, samples=1, nside=4, spectrum=BendOver(smallest=0.1))
    folder = tmp_path_factory.mktemp("table")
    analysis = analyse(trace(Run(setup, 3, 0)), (0.0,))
    write_backtracking(analysis, folder, pictures=False)
    return analysis, folder / "power_parallel.csv"


def test_maps_have_the_field_at_the_pole_and_the_excess_up_the_gradient(straight):
    """Along B_0 = z particles go straight: what comes from n was at T n_z, so delta I = T n_z, T = 0.8 L_c."""
    n = np.stack(healpy.pix2vec(4, np.arange(192)))
    for column, time in ((0, 0.4), (1, 0.8)):
        sky = healpy.read_map(straight[1] / "sky_parallel.fits", field=column)
        np.testing.assert_allclose(sky, time * n[2], atol=4e-3)
        # Across, the gyration of a positive charge: x = r_L (n_x sin(Omega t) - n_y (1 - cos(Omega t))).
        s, c = np.sin(time / 0.4), np.cos(time / 0.4)
        sideways = 0.4 * (n[0] * s - n[1] * (1 - c))
        sky = healpy.read_map(straight[1] / "sky_perpendicular.fits", field=column)
        np.testing.assert_allclose(sky, sideways, atol=4e-3)
        sky = healpy.read_map(straight[1] / "sky_60deg.fits", field=column)
        np.testing.assert_allclose(sky, 0.5 * time * n[2] + np.sqrt(0.75) * sideways, atol=6e-3)


def test_the_table_of_power_holds_the_signal_above_the_plateau_and_is_read_back(finished_table):
    analysis, path = finished_table
    rows = [line.split(",") for line in path.read_text().splitlines() if not line.startswith("#")]
    assert rows[0] == ["l", "C_l", "error", "C_l_raw"]
    value = np.array(rows[1:], float)
    row = analysis.orientations[0]

    first, last = analysis.degrees
    np.testing.assert_array_equal(value[:, 0], np.arange(1, first))
    np.testing.assert_allclose(value[:, 3], row.power.value[-1, 1:first], rtol=1e-6)
    raw = np.asarray(analysis.ensemble.power)[:, -1, :, 2, 2].mean(axis=0)
    l = np.arange(first, last + 1)
    level = np.sum((2 * l + 1) * raw[l]) / np.sum(2 * l + 1)
    np.testing.assert_allclose(value[:, 1], raw[1:first] - level, rtol=1e-6, atol=1e-12)
    found = read_power(str(path))
    np.testing.assert_allclose(found["shape"], value[:, 1] / value[1, 1], rtol=1e-6)


def test_maps_say_what_they_are(straight):
    from astropy.io import fits

    header = fits.getheader(straight[1] / "sky_60deg.fits", 1)
    assert header["COORDSYS"] == "B0" and "z along B_0" in header.comments["COORDSYS"]
    assert header["TTYPE2"] == "DELTA_I_OMEGA_T_2" and header["GRADANG"] == 60.0 and header["ORDERING"] == "RING"
    assert header["SIGMA2"] == 1e-6 and header["RLARMOR"] == 0.4 and header["OMEGADT"] == pytest.approx(0.1)


def test_the_dataset_gives_back_what_was_traced(straight):
    analysis, folder, _ = straight
    with xr.open_dataset(folder / "backtrack.nc") as read:
        xr.testing.assert_identical(read.load(), dataset(analysis))
        assert read.sizes == {
            **{"realisation": 3, "time": 2, "degree": 12, "i": 3, "j": 3, "coefficient": 144, "gradient": 3},
            **{"ratio_degree": 3, "kept_degree": 12, "checked": 2, "mapped": 3, "pixel": 192},
        }
        np.testing.assert_array_equal(read.power[2], analysis.result.spectra[2].power)
        np.testing.assert_array_equal(read.displacement[1], analysis.result.maps[1])
        np.testing.assert_allclose(read.omega_t, [1.0, 2.0])
        assert (
            read.attrs["sigma2"] == 1e-6
            and read.attrs["spectrum_smallest"] == 0.5
            and "L_c" in read.attrs["conventions"]
        )
        assert all(read[name].attrs.get("units") for name in read.data_vars)
        # The dipole of a straight path: C_1 = 4 pi T^2 / 9.
        assert read.mean_power.sel(gradient="parallel", degree=1)[-1] == pytest.approx(4 * np.pi * 0.64 / 9, rel=1e-2)


def test_the_summary_is_json_with_everything_in_it(straight):
    _, folder, content = straight
    read = json.loads((folder / "backtrack.json").read_text())
    assert read == json.loads(json.dumps(content, allow_nan=False))
    assert set(read["orientations"]) == {"parallel", "perpendicular", "60deg"}
    row = read["orientations"]["parallel"]
    assert row["power"][0] == pytest.approx(4 * np.pi * 0.64 / 9, rel=1e-2) and len(row["power"]) == 11
    assert row["dipole_over_standard_diffusion"]["value"] == pytest.approx(1, abs=2e-2)
    # K_zz = T / 3: free streaming, far from its limit.
    assert read["diffusion"]["kappa_parallel"]["value"] == pytest.approx(0.8 / 3, rel=1e-2)
    assert read["diffusion"]["kappa_parallel"]["asymptotic"] is False
    assert any("kappa parallel is not asymptotic" in note for note in read["notes"])
    assert any("3 realisations are rough" in note for note in read["notes"])
    assert read["settings"]["steps"] == 20 and read["cost"]["particle_steps"] == 3 * 192 * 20
    assert read["step_check"]["passed"] is True
    text = "\n".join(describe(content))
    assert (
        "kappa_par" in text
        and "not asymptotic" in text
        and "with half the step 2 realisations would show a change" in text
    )


def test_maps_are_written_only_where_they_were_kept(whole):
    analysis = analyse(whole[1])
    assert set(skies(analysis, 0)) == {"parallel", "perpendicular"}
    assert skies(analysis, 1) == {}


def test_a_full_disk_leaves_no_results(straight, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(healpy, "write_map", full)
    with pytest.raises(InputError, match=r"sky_parallel\.fits: cannot be written"):
        write_backtracking(straight[0], tmp_path, pictures=False)
    assert not list(tmp_path.iterdir())


# Measured spectra ---------------------------------------------------------------------------------------


def test_a_measured_spectrum_is_read_over_its_quadrupole(write):
    path = write("# made up\nell, C_l, error\n1, 8e-8, 1e-9\n2, 2e-8, 2e-9\n3, 1e-8, 4e-9\n", "cl.csv")
    found = read_power(str(path))
    np.testing.assert_allclose(found["degree"], [1, 2, 3])
    np.testing.assert_allclose(found["shape"], [4, 1, 0.5])
    np.testing.assert_allclose(found["error"], [0.05, 0.1, 0.2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l,C_l\n2,1\n", "has no column error; write the header l,C_l,error"),
        ("l,C_l,error\n2,1,x\n", "row 1 has no number in the column error"),
        ("l,C_l,error\n1,1,1\n", "one row of l = 2"),
        ("l,C_l,error\n2,-1,1\n", "C_l above 0"),
        ("l,C_l,error\n2,1,-1\n", "errors not below 0"),
        ("", "cannot be read"),
    ],
)
def test_an_unfit_spectrum_is_refused(write, text, message):
    with pytest.raises(InputError, match=message):
        read_power(str(write(text, "cl.csv")))


# Cost ---------------------------------------------------------------------------------------------------


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    """By counting: 12 * 4096^2 pixels of which nothing is ever made."""
    huge = Run(dataclasses.replace(SETUP, nside=4096, samples=10))
    assert peak_memory(huge) > 12 * 4096**2 * 10 * 3 * 8
    monkeypatch.setattr(backtrack_cost, "free_memory", lambda: 10**9)
    with pytest.raises(InputError, match=r"needs \d\S* GB of memory, but 1 GB are free: lower --nside \(4096\)"):
        require_memory(huge)
    require_memory(RUN)
    monkeypatch.setattr(backtrack_cost, "free_memory", lambda: None)
    require_memory(huge)


def test_the_remedy_is_the_one_that_helps(monkeypatch):
    monkeypatch.setattr(backtrack_cost, "free_memory", lambda: 4 * 10**9)
    grid = Run(dataclasses.replace(SETUP, representation="grid", size=1024))
    with pytest.raises(InputError, match=r"lower --size, or take --field ladder"):
        require_memory(grid)
    maps = Run(dataclasses.replace(SETUP, nside=128, samples=10), 1000, keep_maps="all")
    with pytest.raises(InputError, match=r"--keep-maps first"):
        require_memory(maps)


def test_free_memory_is_some_of_this_machine():
    import os

    assert 1e6 < free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_time_of_a_run_is_that_of_its_parts(monkeypatch):
    """1000 steps of 192 pixels at 1e5 a second are 1.92 s; spectra 0.05 s of each of 10 samples."""
    setup = Setup(larmor_radius=0.4, spectrum=NARROW, size=6, omega_step=0.1, nside=4)
    monkeypatch.setattr(backtrack_cost, "_measured_rate", lambda *_: 1e5)
    monkeypatch.setattr(backtrack_cost, "_spectra_seconds", lambda *_: 0.05)
    monkeypatch.setattr(backtrack_cost, "_timed", lambda _: 0.1)
    found = estimate(Run(setup, 20, 4))
    assert found.seconds_realisation == pytest.approx(0.1 + 1.92 + 0.5)
    assert found.seconds_total == pytest.approx(20 * 2.52 + 4 * (2.52 + 1.92))
    assert found.particle_steps == 192 * 1000 * (20 + 2 * 4)
    words = {"realisations": 20, "step_check": 4, "pixels": 192, "steps": 1000, "waves": 18, "devices": "1 x cpu"}
    text = "\n".join(describe_estimate(found, {**words, "representation": "ladder"}))
    assert "5.38e+06 of particles: 20 realisations x 192 pixels x 1000 steps, 4 of them again" in text
    assert "total            68.2 s" in text


def test_a_slice_is_timed(monkeypatch):
    monkeypatch.setattr(backtrack_cost, "_SLICE_SECONDS", 0.01)
    found = estimate(RUN, jax.local_devices()[:1])
    assert found.steps_per_second > 0 and found.seconds_total >= 3 * found.seconds_realisation > 0


def test_the_disk_that_a_run_takes_is_foreseen(straight, whole):
    """Of spectra and maps; the summary and compression are left aside."""
    run = dataclasses.replace(whole[1].run, keep_maps="all")
    files = sum(p.stat().st_size for name in FOLDERS for p in (whole[0] / name).iterdir())
    assert files < 1e6 and backtrack_cost._map_bytes(run) == 3 * 2 * 3 * 48 * 4


def test_durations_have_their_units():
    assert [duration(s) for s in (3.21, 600, 36000, 864000)] == ["3.21 s", "10 min", "10 h", "10 days"]
