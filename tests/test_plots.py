"""Pictures: what lies where on them, in which colours, and that a file is whole or absent."""

import sys

import erfa
import matplotlib
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from diffcr.inference import plots
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from scipy.optimize import brentq

from diffcr.errors import InputError
from diffcr.grid import RingGrid

GRID = RingGrid(36, 72)
AUGER = float(np.radians(-35.2))


def pixels(figure: Figure) -> np.ndarray:
    """The rendered picture (height, width, 3), row 0 at the bottom as in display coordinates."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(float)


def centre_of(figure: Figure, colour) -> np.ndarray:
    """Mean (x, y) in the first axes, in units of its box, of the pixels of one colour."""
    distance = np.abs(pixels(figure) - 255 * np.asarray(colour[:3])).sum(axis=-1)
    box = figure.axes[0].get_window_extent()
    rows, columns = np.nonzero(distance < 8)
    inside = (columns > box.x0) & (columns < box.x1) & (rows > box.y0) & (rows < box.y1)
    point = np.array([columns[inside].mean(), rows[inside].mean()]) + 0.5
    return (point - [box.x0, box.y0]) / [box.width, box.height]


def mollweide(ra_deg: float, dec_deg: float) -> np.ndarray:
    """Textbook projection in units of the box, RA 180 in the middle, RA increasing to the left."""
    latitude = np.radians(dec_deg)
    theta = brentq(lambda t: 2 * t + np.sin(2 * t) - np.pi * np.sin(latitude), -np.pi / 2, np.pi / 2)
    x = -np.radians(ra_deg - 180) / np.pi * np.cos(theta)
    return np.array([0.5 + x / 2, 0.5 + np.sin(theta) / 2])


def only(ring: int, column: int, grid: RingGrid = GRID) -> np.ndarray:
    values = np.zeros(grid.shape)
    values[ring, column] = 1.0
    return values


@pytest.mark.parametrize(("ra", "dec"), [(92.5, 32.5), (272.5, 32.5), (12.5, -47.5), (182.5, 57.5)])
def test_sky_cell_appears_where_the_textbook_projection_puts_it(ra, dec):
    """Right ascension 90 is right of 270: it increases to the left, and North is up."""
    values = only(int((dec + 90) // 5), int(ra // 5))

    figure = plots.sky_map(values, GRID.declination_edges, galactic_plane=False)

    yellow = colormaps["viridis"](1.0)
    np.testing.assert_allclose(centre_of(figure, yellow), mollweide(ra, dec), atol=0.006)


@pytest.mark.parametrize(("ra", "dec"), [(90, 30), (270, -45), (-10, 0), (359, 60)])
def test_marker_lies_where_the_textbook_projection_puts_it(ra, dec):
    figure = plots.sky_map(
        np.zeros(GRID.shape), GRID.declination_edges, galactic_plane=False, markers=[(ra, dec, "Spot")]
    )
    figure.canvas.draw()

    axes = figure.axes[0]
    (marker,) = axes.lines
    at = axes.transAxes.inverted().transform(axes.transData.transform(marker.get_xydata()))[0]

    np.testing.assert_allclose(at, mollweide(ra % 360, dec), atol=3e-4)
    assert "Spot" in [text.get_text() for text in axes.texts]


def test_graticule_labels_stand_at_their_directions():
    figure = plots.sky_map(np.zeros(GRID.shape), GRID.declination_edges, galactic_plane=False)
    axes = figure.axes[0]
    placed = {text.get_text(): text.xy for text in axes.texts}

    assert placed["360°"][0] < placed["300°"][0] < placed["180°"][0] < placed["60°"][0] < placed["0°"][0]
    np.testing.assert_allclose(placed["60°"], (np.radians(120), 0))
    assert placed["−30°"][1] == pytest.approx(-np.pi / 6)
    assert placed["+60°"][1] == pytest.approx(np.pi / 3)
    assert "equatorial, of date" in axes.get_xlabel()


def test_galactic_plane_has_zero_latitude_and_does_not_cross_the_map():
    figure = plots.sky_map(np.zeros(GRID.shape), GRID.declination_edges)
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}

    x, y = lines["Galactic plane"].T
    drawn = np.isfinite(y)
    assert drawn.sum() > 1400
    latitude = SkyCoord(np.pi - x[drawn], y[drawn], unit="rad").galactic.b.deg
    np.testing.assert_allclose(latitude, 0, atol=1e-6)
    assert np.max(np.abs(np.diff(x))[drawn[1:]]) < 0.1
    centre = SkyCoord(0 * u.deg, 0 * u.deg, frame="galactic").icrs
    np.testing.assert_allclose(lines["Galactic centre"][0], [np.pi - centre.ra.rad, centre.dec.rad], atol=1e-7)


def test_unexposed_sky_is_light_grey_and_zero_is_not():
    values = np.zeros(GRID.shape)
    values[GRID.declination > 0] = np.nan
    figure = plots.sky_map(values, GRID.declination_edges, diverging=True, galactic_plane=False)
    picture, box = pixels(figure), figure.axes[0].get_window_extent()

    def colour(ra, dec):
        x, y = mollweide(ra, dec) * [box.width, box.height] + [box.x0, box.y0]
        return picture[int(y), int(x)]

    np.testing.assert_allclose(colour(150, 45), 217, atol=1)
    assert colour(150, -45).min() > 240


def test_diverging_limits_are_symmetric_and_the_scale_is_in_the_label():
    values = np.linspace(-1e-3, 4e-3, GRID.n_ring * GRID.n_ra).reshape(GRID.shape)

    figure = plots.sky_map(values, GRID.declination_edges, colorbar_label="Excess", diverging=True)

    mesh = figure.axes[0].collections[0]
    assert mesh.get_clim() == pytest.approx((-4, 4))
    np.testing.assert_allclose(mesh.get_array().reshape(GRID.shape), values * 1e3)
    assert figure.axes[1].get_xlabel() == "Excess [$10^{-3}$]"
    assert mesh.get_rasterized()


def test_power_of_ten_goes_with_the_unit():
    values = np.full(GRID.shape, 2e5)
    values[0, 0] = 3e5
    figure = plots.sky_map(values, GRID.declination_edges, colorbar_label="Events [sr]")
    assert figure.axes[1].get_xlabel() == "Events [$10^{5}$ sr]"
    assert figure.axes[0].collections[0].get_clim() == pytest.approx((2, 3))


@pytest.mark.parametrize(
    ("limits", "extend"),
    [
        (None, "neither"),
        ((-0.5, 2.0), "neither"),
        ((-0.5, 0.5), "max"),
        ((0.2, 2.0), "min"),
        ((0.2, 0.5), "both"),
    ],
)
def test_colour_bar_says_where_colours_saturate(limits, extend):
    values = np.zeros(GRID.shape)
    values[3, 4] = 1.0
    figure = plots.sky_map(values, GRID.declination_edges, limits=limits)
    assert figure.axes[0].collections[0].colorbar.extend == extend


@pytest.mark.parametrize("diverging", [False, True])
@pytest.mark.parametrize("value", [np.nan, 0.0, 7.0])
def test_constant_and_empty_maps_are_drawn_without_warnings(value, diverging):
    values = np.full(GRID.shape, value)
    figure = plots.sky_map(values, GRID.declination_edges, diverging=diverging)
    low, high = figure.axes[0].collections[0].get_clim()
    figure.canvas.draw()
    assert low < high


def test_wrong_edges_and_limits_are_refused():
    values = np.zeros(GRID.shape)
    with pytest.raises(InputError, match="36 rings needs 37 increasing declination edges, not 36"):
        plots.sky_map(values, GRID.declination)
    with pytest.raises(InputError, match="37 increasing"):
        plots.local_map(values, GRID.declination_edges[::-1].copy(), AUGER, 1.0)
    with pytest.raises(InputError, match=r"must increase, not \(1, 1\)"):
        plots.sky_map(values, GRID.declination_edges, limits=(1.0, 1.0))


@pytest.mark.parametrize("latitude", [AUGER, 0.33])
@pytest.mark.parametrize(("dec", "hour_angle"), [(-2.5, -45), (-2.5, 45), (17.5, 0), (-47.5, 30), (12.5, -20)])
def test_local_cell_appears_where_erfa_sees_it(latitude, dec, hour_angle):
    """North up, East to the left; erfa.hd2ae: hour angle westwards, azimuth from North through East."""
    fine = RingGrid(36, 144)
    column = int(hour_angle / 2.5) % fine.n_ra
    zenith_max = np.radians(80)
    azimuth, elevation = erfa.hd2ae(np.radians(hour_angle), np.radians(dec), latitude)

    figure = plots.local_map(
        only(int((dec + 90) // 5), column, fine), fine.declination_edges, float(latitude), float(zenith_max)
    )

    radius = (np.pi / 2 - elevation) / zenith_max / 2
    expected = np.array([0.5 - radius * np.sin(azimuth), 0.5 + radius * np.cos(azimuth)])
    np.testing.assert_allclose(centre_of(figure, colormaps["viridis"](1.0)), expected, atol=0.01)


def test_local_map_is_a_density_that_integrates_to_the_sum_over_the_field_of_view():
    grid = RingGrid(90, 180)
    altitude = erfa.hd2ae(grid.hour_angle, grid.declination[:, None], AUGER)[1]
    values = np.where(altitude > 0.3, np.sin(altitude), 0.0) * grid.solid_angle[:, None]

    figure = plots.local_map(values, grid.declination_edges, AUGER, float(np.radians(85)))

    axes = figure.axes[0]
    density = np.asarray(axes.collections[0].get_array()).reshape(-1, 1440)
    zenith = (np.arange(density.shape[0]) + 0.5) * np.radians(85) / density.shape[0]
    area = np.sin(zenith)[:, None] * np.radians(85) / density.shape[0] * 2 * np.pi / 1440
    assert np.sum(density * area) == pytest.approx(values.sum(), rel=2e-3)
    np.testing.assert_allclose(density[:40], np.cos(zenith)[:40, None] * np.ones(1440), rtol=0.03)
    assert axes.get_rmax() == pytest.approx(85)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["N", "E", "S", "W"]


def test_local_map_near_the_pole_keeps_counts_and_loses_slivers():
    """One event in the polar ring is shared along the ring: it must not outshine the whole map."""
    grid = RingGrid(90, 180)
    values = only(0, 17, grid)
    figure = plots.local_map(values, grid.declination_edges, AUGER, 1.4)
    shared = np.asarray(figure.axes[0].collections[0].get_array()).max()
    assert shared == pytest.approx(1 / grid.solid_angle[0] / 57, rel=1e-9)


def steps(figure: Figure, label: str) -> np.ndarray:
    return next(patch for patch in figure.axes[0].patches if patch.get_label() == label).get_data().values


def test_rate_is_relative_to_the_mean_of_live_bins():
    counts = np.array([100.0, 300.0, 999.0, 200.0, 150.0, 250.0])
    dead = np.array([False, False, True, False, False, False])

    figure = plots.rate(counts, "antisidereal", fitted=np.full(6, 220.0), dead=dead)

    np.testing.assert_allclose(steps(figure, "Counts"), [-0.5, 0.5, np.nan, 0, -0.25, 0.25])
    upper = steps(figure, r"$\pm 1\sigma$")
    np.testing.assert_allclose(upper[[0, 1]], [-0.5 + 10 / 200, 0.5 + np.sqrt(300) / 200])
    fit = next(line for line in figure.axes[0].lines if line.get_label() == "Fitted rate (sky removed)")
    np.testing.assert_allclose(fit.get_xydata()[[0, 1, 3]], [[2, 0.1], [6, 0.1], [14, 0.1]])
    (shade,) = [patch for patch in figure.axes[0].patches if patch.get_label() == "No livetime"]
    assert (shade.get_x(), shade.get_width()) == (8, 4)
    assert figure.axes[0].get_xlabel() == "Local antisidereal time [h]"


def test_rate_averages_fine_bins_over_their_live_ones():
    counts = np.array([10.0, 20.0, 30.0, 0.0, 0.0, 0.0, 15.0, 5.0])
    dead = np.array([False, False, False, True, True, True, False, False])

    figure = plots.rate(counts, dead=dead, variance=2 * counts, max_bins=4)

    mean = 80 / 5
    np.testing.assert_allclose(steps(figure, "Counts"), np.array([15, 30, np.nan, 10]) / mean - 1)
    np.testing.assert_allclose(
        steps(figure, r"$\pm 1\sigma$"),
        np.array([15 + np.sqrt(60) / 2, 30 + np.sqrt(60), np.nan, 10 + np.sqrt(40) / 2]) / mean - 1,
    )


@pytest.mark.parametrize("dead", [None, np.ones(24, bool)])
def test_rate_without_counts_is_drawn_without_warnings(dead):
    figure = plots.rate(np.zeros(24), dead=dead)
    figure.canvas.draw()


def test_unknown_time_frame_is_refused():
    with pytest.raises(InputError, match="unknown time frame 'lunar'; choose one of sidereal, solar"):
        plots.rate(np.ones(24), "lunar")


def test_projection_runs_leftwards_and_states_amplitude_and_phase():
    """tan(alpha) = b / a: (-0.03, 0.04) is 0.05 at 126.87 degrees, not at 143 or 307."""
    centres = np.arange(15.0, 360, 30)
    excess = np.full(12, 0.01)
    excess[3] = np.nan

    figure = plots.right_ascension_projection(centres, excess, np.full(12, 0.005), harmonic=(-0.03, 0.04))

    axes = figure.axes[0]
    assert axes.get_xlim() == (360, 0)
    assert axes.get_xlabel() == "Right ascension [deg]"
    assert axes.get_ylabel() == "Data / background − 1 [$10^{-2}$]"
    label = r"$A = 5.00 \times 10^{-2}$, $\alpha = 127^\circ$"
    curve = next(line for line in axes.lines if line.get_label() == label).get_xydata()
    assert curve[np.argmax(curve[:, 1])] == pytest.approx([127, 5], rel=1e-4)
    points = axes.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, np.stack([np.delete(centres, 3), np.full(11, 1.0)], axis=1))


def test_projection_errors_lie_along_and_across_the_harmonic():
    """At phase 0 the amplitude has the error of a, the phase that of b over the amplitude: 22.9 degrees."""
    covariance = np.diag([1e-4, 4e-4])
    figure = plots.right_ascension_projection(
        np.array([90.0]), np.array([0.0]), np.array([0.01]), (0.05, 0.0), covariance
    )
    axes = figure.axes[0]
    label = r"$A = (5.00 \pm 1.00) \times 10^{-2}$, $\alpha = 0^\circ \pm 23^\circ$"
    assert label in axes.get_legend_handles_labels()[1]
    band = axes.collections[-1].get_paths()[0].vertices
    at_90 = band[np.isclose(band[:, 0], 90)][:, 1]
    assert (at_90.min(), at_90.max()) == pytest.approx((-2, 2))


def test_projection_without_data_is_drawn_without_warnings():
    nothing = np.full(12, np.nan)
    figure = plots.right_ascension_projection(np.arange(15.0, 360, 30), nothing, nothing)
    figure.canvas.draw()


def test_ellipses_hold_68_and_95_percent():
    delta, covariance = np.array([3e-3, -1e-3]), np.array([[4e-6, 1.5e-6], [1.5e-6, 1e-6]])
    other = ("East–West", (2e-3, 1e-3), (5e-4, 2e-4))

    figure = plots.dipole_ellipse(delta, covariance, [other])

    axes = figure.axes[0]
    outlines = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 361]
    for level, outline in zip((0.95, 0.68), outlines, strict=True):
        away = outline * 1e-3 - delta
        chi2 = np.einsum("pi,ij,pj->p", away, np.linalg.inv(covariance), away)
        np.testing.assert_allclose(chi2, stats.chi2.ppf(level, 2), rtol=1e-9)
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["Isotropy", "95 %", "68 %", "This fit", "East–West"]
    assert axes.get_xlabel() == r"$\delta_{0\mathrm{h}}$ [$10^{-3}$]"
    assert axes.get_ylabel() == r"$\delta_{6\mathrm{h}}$ [$10^{-3}$]"
    figure.canvas.draw()
    scale = axes.transData.transform([[0, 0], [1, 1]])
    np.testing.assert_allclose(*(scale[1] - scale[0]), rtol=1e-3)
    inside = axes.transAxes.inverted().transform(axes.transData.transform(np.concatenate([[[0, 0]], *outlines])))
    assert inside.min() > 0
    assert inside.max() < 1


def test_singular_covariance_is_refused():
    with pytest.raises(InputError, match="covariance of the dipole must be positive definite"):
        plots.dipole_ellipse((0.0, 0.0), np.array([[1.0, 1.0], [1.0, 1.0]]) * 1e-6)


def test_demo_panel_holds_the_four_pictures():
    figure = plots.demo_panel(
        sky={"values": np.zeros(GRID.shape), "declination_edges": GRID.declination_edges, "title": "Sky"},
        projection={
            "right_ascension_deg": np.arange(15.0, 360, 30),
            "excess": np.zeros(12),
            "error": np.ones(12),
        },
        rate={"time_counts": np.full(24, 9), "time_frame": "solar"},
        dipole={"delta": (0.01, 0.02), "covariance": np.eye(2) * 1e-6, "title": "Dipole"},
    )
    titles = {axes.get_title() for axes in figure.axes} - {""}
    assert titles == {"(a) Sky", "(b)", "(c)", "(d) Dipole"}
    figure.canvas.draw()


def test_pictures_leave_no_trace_in_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with matplotlib.rc_context({"font.size": 23}):
        before = dict(matplotlib.rcParams)
        figure = plots.rate(np.ones(24))
        assert dict(matplotlib.rcParams) == before
        assert figure.axes[0].xaxis.label.get_fontsize() == 11


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".PNG"])
def test_saved_picture_names_the_software_and_not_the_time(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in ("first", "second")]
    for path in paths:
        assert plots.save(plots.rate(np.full(24, 100.0)), path) == path
    content = [path.read_bytes() for path in paths]

    assert content[0] == content[1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name for path in paths]
    if suffix == ".pdf":
        assert content[0].startswith(b"%PDF")
        assert b"CreationDate" not in content[0]
        assert b"/Creator (diffcr " in content[0]
    else:
        with Image.open(paths[0]) as image:
            assert image.text["Software"].startswith("diffcr ")
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
            assert image.size == (750, 480)


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "sky.png"
    path.write_bytes(b"old")
    figure = plots.rate(np.ones(24))

    def half(target, **_):
        target.write_bytes(b"half a pict")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(InputError, match="cannot be written .disk full.; choose another"):
        plots.save(figure, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["sky.png"]


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"written as \.png or \.pdf, not as 'sky\.jpg'"):
        plots.save(plots.rate(np.ones(24)), tmp_path / "sky.jpg")
