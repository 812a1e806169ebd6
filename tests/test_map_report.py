"""What map.json and the pictures hold, from one map; hidden where the data are blinded."""

import dataclasses
import json

import numpy as np
import pytest
from diffcr.inference.discs import disc_map, multipoles_removed
from diffcr.inference.map_products import frame_of, healpix_map, map_dipole, spots
from diffcr.inference.map_report import Analysis, contrast_shown, describe_map, map_summary, write_map_pictures
from diffcr.inference.maps import iterative_map, sky_map
from diffcr.inference.post_trial import PostTrial
from helpers import dipole_sky, drawn
from scipy import stats

from diffcr.grid import RingGrid
from diffcr.site import Site

HAWC = Site("HAWC", np.radians(19.0), 0.0, np.radians(57.0))
GRID = RingGrid(18, 36)
TRIAL = PostTrial(6.0, np.random.default_rng(0).standard_normal((100, 30)).max(1))


def counts_of(year=2015.0, blind=False):
    dec, hour = GRID.declination[:, None], GRID.hour_angle
    cosine = np.sin(HAWC.latitude) * np.sin(dec) + np.cos(HAWC.latitude) * np.cos(dec) * np.cos(hour)
    local = np.where(cosine > np.cos(HAWC.zenith_max), cosine, 0) * np.cos(dec)
    rate = np.full(36, 1e6 / 36)
    rate[3:5] = 0
    counts = drawn(HAWC, GRID, local / local.sum(), rate, dipole_sky(GRID, (0.02, 0.02)), 1, epoch_year=year)
    return dataclasses.replace(counts, history={"blind": "fingerprint"}) if blind else counts


def analysis_of(counts, discs=True, removed=0, method=sky_map, trial=None):
    sky = method(counts)
    null = multipoles_removed(sky, removed) if removed else None
    shown = disc_map(sky, np.radians(25), null) if discs else None
    error = sky.error if shown is None else shown.error
    first = Analysis(sky, healpix_map(sky, 4, shown), shown, null, removed, [])
    contrast = contrast_shown(first)
    significance = contrast / error if shown is None else shown.significance
    found = spots(significance, contrast, error, GRID, frame_of(counts), np.radians(25), 3.0)
    return dataclasses.replace(first, spots=found, hottest=trial, coldest=trial)


def test_the_summary_says_what_was_done():
    counts = counts_of()
    analysis = analysis_of(counts, trial=TRIAL)
    content = map_summary(analysis, 1.5)
    json.dumps(content, allow_nan=False)
    assert content["num_events"] == counts.num_events.sum() and content["observatories"] == ["HAWC"]
    assert content["converged"] is True and content["cpu_seconds"] == 1.5 and content["smoothing_deg"] == 25
    assert content["configurations"][0]["dead_bins"] == 2
    assert content["equinox"] == "J2000" and content["mean_epoch"] == 2015.0 and content["blinded"] is False
    assert content["test_statistic"] == 2 * content["log_likelihood_over_isotropy"]
    log10_p = stats.chi2.logsf(content["test_statistic"], content["degrees_of_freedom"]) / np.log(10)
    assert content["log10_p"] == pytest.approx(log10_p, rel=1e-6)
    # HAWC to 57 degrees sees declinations -38 to 76: (sin 76 + sin 38) / 2 of the sky, to half a ring.
    assert content["sky_fraction"] == pytest.approx((np.sin(np.radians(76)) + np.sin(np.radians(38))) / 2, abs=0.05)
    dipole = content["dipole"]
    assert dipole["amplitude"] == pytest.approx(np.hypot(dipole["delta_0h"], dipole["delta_6h"]), rel=1e-9)
    # Of date it is at 45 degrees; 15 years of precession are 0.19 degrees.
    assert dipole["right_ascension_deg"] == pytest.approx(45 - 0.19, abs=3 * dipole["right_ascension_error_deg"])
    of_date = map_dipole(analysis.sky)[0]
    moved = dipole["right_ascension_deg"] - np.degrees(np.arctan2(of_date[1], of_date[0]))
    assert moved == pytest.approx(-0.192, abs=0.005)


def test_excesses_and_deficits_are_told_with_their_chances():
    content = map_summary(analysis_of(counts_of(), trial=TRIAL), 0.0)
    hottest, coldest = content["hottest"], content["coldest"]
    assert hottest["significance"] > 3 and coldest["significance"] < -3
    assert all(s["significance"] > 0 for s in content["excesses"])
    assert all(s["significance"] < 0 for s in content["deficits"])
    assert hottest["significance"] == max(s["significance"] for s in content["excesses"])
    # The dipole points to 45 degrees.
    assert abs(hottest["right_ascension_deg"] - 45) < 40
    trial = hottest["post_trial"]
    assert trial["isotropic_skies"] == 100 and trial["as_strong"] == 0
    assert len(trial["tail_number_exponent"]) == 2 and trial["log10_p_from"].startswith("tail")
    assert trial["significance_sigma_one_sided"] < 6
    assert map_summary(analysis_of(counts_of()), 0.0)["hottest"]["post_trial"] is None


def test_unsmoothed_maps_have_no_discs():
    content = map_summary(analysis_of(counts_of(np.nan), discs=False), 0.0)
    assert content["smoothing_deg"] is None and content["li_ma"] is None and content["equinox"] == "date"
    assert content["mean_epoch"] is None and content["significance"].startswith(
        "signed root of the likelihood ratio of each cell"
    )


def test_an_iterative_map_does_not_claim_convergence():
    analysis = analysis_of(counts_of(), method=iterative_map)
    content = map_summary(analysis, 0.0)
    assert content["converged"] is None and content["remaining_gain"] is None and content["iterations"] == 20
    assert any("not asked (20 iterations)" in line for line in describe_map(content))


def test_removed_multipoles_are_divided_out_of_an_unsmoothed_map():
    analysis = analysis_of(counts_of(), discs=False, removed=1)
    assert map_summary(analysis, 0.0)["removed_lmax"] == 1
    shown = contrast_shown(analysis)
    np.testing.assert_allclose((1 + shown) * analysis.null.intensity, 1 + analysis.sky.contrast)
    weight = np.where(np.isfinite(shown), analysis.sky.background, 0)
    wave = np.cos(GRID.declination)[:, None] * np.cos(GRID.right_ascension - np.pi / 4)
    size = lambda x: np.sum(weight * wave * np.nan_to_num(x)) / np.sum(weight * wave**2)
    assert abs(size(shown)) < 0.2 * abs(size(analysis.sky.contrast))


def test_blinded_results_hide_phases_and_right_ascensions():
    content = map_summary(analysis_of(counts_of(blind=True)), 0.0)
    dipole = content["dipole"]
    assert content["blinded"] is True
    assert all(dipole[k] is None for k in ("delta_0h", "delta_6h", "covariance", "right_ascension_deg"))
    assert dipole["amplitude"] > 0
    for spot in (content["hottest"], content["coldest"], *content["excesses"], *content["deficits"]):
        assert spot["right_ascension_deg"] is None and spot["declination_deg"] is not None
    text = "\n".join(describe_map(content))
    assert "right ascension hidden" in text and "at RA hidden" in text


def test_the_lines_tell_the_result():
    content = map_summary(analysis_of(counts_of(), trial=TRIAL), 0.0)
    lines = describe_map(content)
    labels = [line[:17].strip() for line in lines]
    assert labels == ["events", "map", "converged", "against isotropy", "dipole", "discs", "hottest", "coldest"]
    assert f"{content['dipole']['right_ascension_deg']:.1f} +- " in lines[4] and "(J2000)" in lines[4]
    assert f"{content['hottest']['significance']:+.2f} sigma at RA" in lines[6] and "post-trial" in lines[6]


@pytest.mark.parametrize("blind", [False, True])
def test_pictures_are_drawn(tmp_path, blind):
    analysis = analysis_of(counts_of(blind=blind), discs=not blind)
    paths = write_map_pictures(analysis, tmp_path)
    assert [p.name for p in paths] == ["relative_intensity.png", "error.png", "significance.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
