"""fit.json, the pictures and the words on the terminal say what the fit found, and nothing it did not find."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
from diffcr.inference import (
    BinningOptions,
    Counts,
    FitResult,
    Simulation,
    blind,
    combine,
    fit,
    report,
    simulate_events,
)
from diffcr.inference.binning import bin_chunks

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site as find_site

GRID = RingGrid(18, 36)
DIPOLE = (0.05, 0.15, 0.0)


def simulated(site: str, seed: int, spread: float = 0.0) -> Counts:
    simulation = Simulation(find_site(site), 2e5, DIPOLE, weight_spread=spread)
    return bin_chunks(simulate_events(simulation, seed), simulation.site, BinningOptions(grid=GRID))


@pytest.fixture(scope="module")
def result() -> FitResult:
    """HAWC, 2e5 events, a dipole of 0.158 towards 4.8 h."""
    return fit(simulated("hawc", 1))


@pytest.fixture(scope="module")
def blinded(result) -> FitResult:
    return fit(blind(result.counts, "secret"))


@pytest.fixture(scope="module")
def pair() -> FitResult:
    """Two observatories, one with weights."""
    return fit(combine([simulated("hawc", 2), simulated("icecube", 3, spread=0.3)]))


@pytest.fixture(scope="module")
def known(result) -> FitResult:
    site = result.counts.sites[0]
    return fit(result.counts, exposure={site.name: np.asarray(acceptance(site, GRID, profile="triangle"))})


@pytest.fixture(scope="module")
def lost(result) -> FitResult:
    """A fit that has not reached a maximum: no covariance, no numbers where there are none."""
    return dataclasses.replace(
        result,
        covariance=np.diag([1.0, -1.0]),
        positive=False,
        remaining_gain=math.nan,
        condition=math.inf,
        livetime_inflation=math.inf,
    )


def numbers(content) -> list:
    """All numbers in a nest of dicts and lists."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [x for each in content for x in numbers(each)]
    return [content] if isinstance(content, float) else []


# fit.json -------------------------------------------------------------------------------------------------


def test_summary_holds_the_result_in_degrees(result):
    summary = report.fit_summary(result)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    dipole = summary["dipole"]
    assert dipole["delta_0h"] == result.dipole.delta[0]
    assert dipole["delta_6h"] == result.dipole.delta[1]
    np.testing.assert_array_equal(dipole["covariance"], result.dipole.covariance)
    assert dipole["right_ascension_deg"] == pytest.approx(math.degrees(result.dipole.right_ascension))
    # sigma / A in radians for a significant dipole
    error = math.degrees(dipole["amplitude_error"] / dipole["amplitude"])
    assert dipole["right_ascension_error_deg"] == pytest.approx(error, rel=0.1)
    assert dipole["amplitude"] < dipole["upper_limit_95"] < dipole["upper_limit_99"]
    # One-sided 95 % of a normal distribution far from zero: 1.645 sigma.
    margin = (dipole["upper_limit_95"] - dipole["amplitude"]) / dipole["amplitude_error"]
    assert margin == pytest.approx(1.645, abs=0.1)
    assert "delta_N" not in dipole
    observatory = summary["observatories"][0]
    assert observatory["latitude_deg"] == pytest.approx(19.0)
    assert observatory["longitude_deg"] == pytest.approx(-97.3)
    assert observatory["zenith_max_deg"] == pytest.approx(57)
    assert observatory["num_events"] == summary["num_events"] == result.counts.num_events.sum()
    assert summary["mean_epoch"] == pytest.approx(2016.5, abs=0.01)
    assert (summary["grid"], summary["exposure"], summary["blinded"]) == ([18, 36], "fitted", False)
    # The truth, given in J2000.
    pull = result.dipole.delta - np.array(DIPOLE[:2])
    assert pull @ np.linalg.solve(dipole["covariance"], pull) < 16
    values = dict(zip(summary["multipoles"]["m"], summary["multipoles"]["value"], strict=True))
    assert values[1] == pytest.approx(math.sqrt(4 * math.pi / 3) * dipole["delta_0h"])
    assert values[-1] == pytest.approx(math.sqrt(4 * math.pi / 3) * dipole["delta_6h"])


def test_known_exposure_adds_the_third_component(known):
    dipole = report.fit_summary(known)["dipole"]
    assert np.shape(dipole["covariance"]) == (2, 2)
    assert np.shape(dipole["covariance_3d"]) == (3, 3)
    assert dipole["delta_N_error"] == pytest.approx(math.sqrt(dipole["covariance_3d"][2][2]))
    assert abs(dipole["delta_N"]) < 4 * dipole["delta_N_error"]
    lines = report.describe(report.fit_summary(known))
    assert any(line.startswith("delta_N          ") for line in lines)


def test_blinded_summary_tells_no_phase(result, blinded):
    open_, hidden = report.fit_summary(result), report.fit_summary(blinded)
    for name in ("delta_0h", "delta_6h", "covariance", "right_ascension_deg"):
        assert hidden["dipole"][name] is None
    assert hidden["multipoles"]["value"] is None
    assert hidden["multipoles"]["covariance"] is None
    assert hidden["rayleigh"]["phase_deg"] is None
    # Neither the true components nor those of the rotated counts stand anywhere.
    secrets = [*result.dipole.delta, *blinded.dipole.delta, *result.multipoles, *blinded.multipoles]
    for secret in secrets:
        assert not any(np.isclose(value, secret, rtol=1e-6) for value in numbers(hidden))
    for name in ("amplitude", "amplitude_error", "upper_limit_99", "right_ascension_error_deg"):
        assert hidden["dipole"][name] == pytest.approx(open_["dipole"][name], rel=0.02)
    text = "\n".join(report.describe(hidden))
    assert text.count("hidden") == 3
    assert f"{open_['dipole']['right_ascension_deg']:.1f}" not in text


def test_a_fit_without_maximum_has_no_errors_and_stays_json(lost):
    assert not report.has_errors(lost)
    summary = report.fit_summary(lost)
    json.dumps(summary, allow_nan=False)
    assert summary["converged"] is False
    for name in ("amplitude_error", "upper_limit_95", "upper_limit_99", "right_ascension_error_deg"):
        assert summary["dipole"][name] is None
    assert summary["remaining_gain"] is summary["condition"] is summary["livetime_inflation"] is None
    assert np.isfinite(summary["dipole"]["amplitude"])
    text = "\n".join(report.describe(summary))
    assert "NO: this is not a maximum" in text
    assert "unknown" in text
    assert "nan" not in text


def test_nan_in_the_covariance_is_no_error_either(result):
    broken = dataclasses.replace(result, covariance=result.covariance * np.nan)
    assert not report.has_errors(broken)
    assert report.has_errors(result)
    summary = report.fit_summary(broken)
    json.dumps(summary, allow_nan=False)
    assert summary["dipole"]["covariance"] == [[None, None], [None, None]]
    assert report.describe(summary)


def test_counts_without_epoch_are_reported_in_the_frame_of_date(result):
    counts = result.counts
    summary = report.fit_summary(fit(counts.replace(mean_epoch=counts.mean_epoch * np.nan)))
    assert summary["equinox"] == "date"
    assert summary["mean_epoch"] is None
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_json_appears_complete_or_not_at_all(tmp_path, monkeypatch, error):
    path = report.write_json(tmp_path / "fit.json", {"a": [1.5, None, "ä"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1.5, None, "ä"]}
    with pytest.raises(ValueError, match="Out of range float"):
        report.write_json(path, {"a": math.nan})

    def fail(*args):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    wanted = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        report.write_json(path, {"b": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["fit.json"]
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1.5, None, "ä"]}


# Words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (3.2e-5, "-12.00 +- 3.20 x 1e-5"),
        (1.3e-2, "-12.00 +- 1.30 x 1e-2"),
        (0.4, "-12.00 +- 40.00 x 1e-2"),
        (2.0, "-12.00 +- 2.00"),
    ],
)
def test_errors_have_one_or_two_digits_before_the_point(result, error, wanted):
    """The components are in units of a power of ten; here delta_0h is -12 of them."""
    unit = {3.2e-5: 1e-5, 1.3e-2: 1e-2, 0.4: 1e-2, 2.0: 1.0}[error]
    summary = report.fit_summary(result)
    dipole = summary["dipole"] | {
        "delta_0h": -12 * unit,
        "covariance": [[error**2, 0], [0, error**2]],
        "amplitude_error": error,
    }
    line = report.describe(summary | {"dipole": dipole})[1]
    assert line == f"delta_0h         {wanted}"


def test_words_name_each_number_with_its_own_error(result):
    """delta_0h has the error of the first diagonal entry, delta_6h of the second."""
    summary = report.fit_summary(result)
    dipole = summary["dipole"] | {"covariance": [[1e-6, 0], [0, 9e-6]], "amplitude_error": 2e-3}
    lines = report.describe(summary | {"dipole": dipole, "livetime_inflation": 1.25, "converged": True})
    assert lines[0] == f"events           {summary['num_events']} (HAWC)"
    assert lines[1].endswith("+- 1.00 x 1e-3")
    assert lines[2].endswith("+- 3.00 x 1e-3")
    assert "(J2000)" in lines[4]
    assert "for 2 degrees of freedom" in lines[5]
    assert lines[6].startswith("livetime         uneven, 0 dead time bins: errors 1.25 times those of a constant")
    assert lines[7].startswith("converged        yes")


# What the pictures show -------------------------------------------------------------------------------------


def test_background_is_rate_times_acceptance_seen_from_every_time(result):
    """Event by event: what local cell (r, h) accepts in time bin tau comes from right ascension tau - h."""
    (background,) = report.backgrounds(result)
    rate, local = result.rates[0], result.acceptances[0]
    n = GRID.n_ra
    wanted = np.zeros(GRID.shape)
    for tau in range(n):
        for h in range(n):
            wanted[:, (tau - h) % n] += rate[tau] * local[:, h]
    np.testing.assert_allclose(
        background / background.sum(), wanted / wanted.sum(), atol=1e-12 * wanted.max() / wanted.sum()
    )
    # With the fitted sky on it, it holds the events.
    seen = background * (1 + report.contrast_of_date(result))
    assert seen.sum() == pytest.approx(result.counts.sum_weights)


def test_fitted_contrast_is_the_dipole_of_date(result):
    """The average of delta . n, n = (cos dec cos ra, cos dec sin ra), over each cell, integrated by hand."""
    contrast = report.contrast_of_date(result)
    norm = math.sqrt(4 * math.pi / 3)
    delta = {m: v / norm for m, v in zip(result.order, result.multipoles_of_date, strict=True)}
    edges = GRID.declination_edges
    # The integrals of cos^2 and of cos over a ring; cos(ra) over a bin loses sin(x)/x of its half-width x.
    across = np.diff(edges / 2 + np.sin(2 * edges) / 4) / np.diff(np.sin(edges))
    across = across[:, None] * math.sin(GRID.step / 2) / (GRID.step / 2)
    wanted = across * (delta[1] * np.cos(GRID.right_ascension) + delta[-1] * np.sin(GRID.right_ascension))
    np.testing.assert_allclose(contrast, wanted, atol=1e-10)


def test_projection_shows_the_dipole_times_mean_cosine(result):
    """Around the fitted background the excess is <cos dec> delta cos(ra - phase), with Poisson errors."""
    ratio, error = report.projection(result)
    harmonic = 2 * np.mean(ratio * np.exp(1j * GRID.right_ascension))
    per_ring = result.counts.n_sky.sum((0, 1, 2, 4))
    mean_cos = per_ring @ np.cos(GRID.declination) / per_ring.sum()
    wanted = mean_cos * complex(*result.dipole.delta)
    assert abs(harmonic - wanted) < 0.15 * abs(wanted)
    counts = result.counts.n_sky.sum((0, 1, 2, 3))
    np.testing.assert_allclose(error, np.sqrt(counts) / (counts / (1 + ratio)), rtol=1e-9)


def test_projection_of_weighted_counts_has_the_error_of_the_squares(pair):
    ratio, error = report.projection(pair)
    squares = pair.counts.w2["n_sky"].sum((0, 1, 2, 3))
    weights = pair.counts.n_sky.sum((0, 1, 2, 3))
    np.testing.assert_allclose(error, np.sqrt(squares) / (weights / (1 + ratio)), rtol=1e-9)
    assert (squares > 1.01 * weights).all()


def test_pictures_are_complete_png_files(pair, tmp_path):
    paths = report.write_pictures(pair, tmp_path)
    several = {"acceptance": ["acceptance_HAWC", "acceptance_IceCube"], "rate": ["rate_HAWC", "rate_IceCube"]}
    names = [each for name in report.PICTURES for each in several.get(name, [name])]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n")
        assert data.endswith(b"IEND\xaeB`\x82")


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws without writing, and returns the arguments of the sky maps, of the ellipse and what was saved."""

    def call(result: FitResult):
        maps, ellipses, names = [], [], []
        sky_map, ellipse = report.plots.sky_map, report.plots.dipole_ellipse
        monkeypatch.setattr(report.plots, "sky_map", lambda *a, **k: maps.append(k) or sky_map(*a, **k))
        monkeypatch.setattr(report.plots, "dipole_ellipse", lambda *a, **k: ellipses.append(k) or ellipse(*a, **k))
        monkeypatch.setattr(report.plots, "save", lambda figure, path: names.append(path.stem) or path)
        report.write_pictures(result, tmp_path)
        return maps, ellipses, names

    return call


def test_blinded_pictures_show_no_known_sky(drawn, blinded):
    """The Galactic plane on a rotated sky would be wrong, and comparing it with the map would tell the angle; so
    would a rate beside an open one, and a printed phase would be quoted."""
    maps, ellipses, names = drawn(blinded)
    assert [m["galactic_plane"] for m in maps] == [False, False]
    assert {m["frame_label"] for m in maps} == {"right ascension blinded"}
    assert not ellipses
    assert names == ["acceptance", "relative_intensity", "counts"]


def test_open_pictures_name_their_frame(drawn, result):
    maps, ellipses, _ = drawn(result)
    assert [m["galactic_plane"] for m in maps] == [True, True]
    assert {m["frame_label"] for m in maps} == {"equatorial, of date (2016.5)"}
    assert ellipses[0]["delta"].tolist() == result.dipole.delta[:2].tolist()
    assert "J2000" in ellipses[0]["title"]


def test_control_frames_have_no_galaxy(drawn, result):
    maps, _, _ = drawn(fit(result.counts.replace(time_frame="solar")))
    assert [m["galactic_plane"] for m in maps] == [False, False]
    assert {m["frame_label"] for m in maps} == {"solar"}


def test_without_errors_there_is_no_ellipse(drawn, lost):
    assert drawn(lost)[2] == [name for name in report.PICTURES if name not in ("dipole", "panel")]
