"""Pictures of predictions: sides are the right ones, circles are cut where nothing tears, nothing overlaps."""

import inspect
import itertools
import sys

import astropy.units as u
import matplotlib
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from diffcr.inference import predict_plots as pp
from diffcr.inference.plots import save
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from diffcr.errors import InputError

ENERGY = np.geomspace(1, 3e7, 40)
NAN = np.nan


def icrs(longitude, latitude) -> np.ndarray:
    """Unit vector in ICRS of Galactic coordinates [deg], by astropy."""
    return SkyCoord(longitude * u.deg, latitude * u.deg, frame="galactic").icrs.cartesian.xyz.value


IBEX = icrs(210.5, -57.1)
GALACTIC = {
    "Vela": (263.9, -3.3, 287, 11e3),
    "Vela Jr": (266.2, -1.2, 750, 3e3),
    "Monogem": (201.1, 8.3, 288, 86e3),
    "Geminga": (195.1, 4.3, 250, 342e3),
    "Cygnus Loop": (74.0, -8.5, 725, 20e3),
    "Loop I": (329.0, 17.5, 170, 200e3),
    "S147": (180.0, -1.7, 1470, 40e3),
}
REMNANTS = {name: icrs(*where[:2]) for name, where in GALACTIC.items()}


def positions() -> np.ndarray:
    l, b, d = np.array([each[:3] for each in GALACTIC.values()], float).T
    l, b = np.radians(l), np.radians(b)
    return d[:, None] * np.stack([np.cos(b) * np.cos(l), np.cos(b) * np.sin(l), np.sin(b)], axis=1)


def towards(phase_deg, amplitude=1e-3) -> np.ndarray:
    phase = np.radians(phase_deg)
    return amplitude * np.stack([np.cos(phase), np.sin(phase), 0 * phase], axis=-1)


def points(**changes) -> dict:
    """Five rows: two fitted, one drawn only, a limit without a phase, a limit with one."""
    return {
        "experiment": np.array(["North", "South", "North", "Air", "Air"]),
        "energy_TeV": np.array([10.0, 100.0, 300.0, 1e5, 1e6]),
        "amplitude": np.array([1e-3, 3e-4, 5e-4, 1e-2, 2e-2]),
        "amplitude_lo": np.array([9e-4, NAN, 4e-4, NAN, NAN]),
        "amplitude_hi": np.array([1.1e-3, NAN, 6e-4, NAN, NAN]),
        "phase_deg": np.array([40.0, 350.0, 260.0, NAN, 200.0]),
        "phase_err_deg": np.array([3.0, 10.0, NAN, NAN, 40.0]),
        "is_limit": np.array([False, False, False, True, True]),
        "use": np.array([True, True, False, True, True]),
        **changes,
    }


def bands(phase_deg, half_deg=20.0) -> dict:
    middle = np.radians(phase_deg)
    amplitude = np.stack([0.5e-3 + 0 * middle, 2e-3 + 0 * middle])
    return {
        level: (amplitude, np.stack([middle - width, middle + width]))
        for level, width in ((0.68, np.radians(half_deg)), (0.95, np.radians(2 * half_deg)))
    }


def covariances(n) -> np.ndarray:
    return np.tile(np.array([[4.0, 1.0], [1.0, 2.0]]) * 1e-9, (n, 1, 1))


def some(name: str) -> dict:
    """Arguments with which each picture has all of its parts."""
    phase = np.linspace(50, 230, ENERGY.size)
    return {
        "dipole_against_energy": lambda: {
            "energy": ENERGY,
            "dipole": towards(phase),
            "points": points(),
            "bands": bands(phase),
            "second": towards(phase + 20),
            "flips": [150.0],
            "title": "Title",
        },
        "source_sky": lambda: {
            "field": IBEX,
            "remnants": REMNANTS,
            "dipole_track": (np.geomspace(1, 1e3, 5), towards(np.linspace(40, 200, 5))),
            "title": "Title",
        },
        "source_map": lambda: {
            "position": positions(),
            "names": list(GALACTIC),
            "age": np.array([each[3] for each in GALACTIC.values()]),
            "field": np.array([-0.47, -0.28, -0.84]),
            "distance_range": np.linalg.norm(positions(), axis=1)[:, None] * np.array([0.9, 1.1]),
            "title": "Title",
        },
        "vector_plane": lambda: {
            "energy": np.array([10.0, 100.0, 1e3]),
            "delta": np.array([[9e-4, 7e-4], [1e-4, -1e-4], [-4e-4, -6e-4]]),
            "covariance": covariances(3),
            "names": ["North", "South", "North"],
            "track": (ENERGY[:10], towards(np.linspace(40, 60, 10))),
            "axis_deg": 48.5,
            "motion": np.array([-1e-5, -2.6e-4]),
            "title": "Title",
        },
        "grammage_curve": lambda: {
            "rigidity": np.geomspace(2, 2e3, 30),
            "ratio": np.geomspace(0.3, 0.02, 30),
            "points": (np.array([10.0, 100.0]), np.array([0.2, 0.08]), np.array([0.01, 0.005])),
            "band": np.geomspace(0.3, 0.02, 30) * np.array([[0.9], [1.1]]),
            "title": "Title",
        },
        "prior_fractions": lambda: {
            "values": np.exp(np.random.default_rng(0).normal(5, 2, 300)),
            "threshold": 30.0,
            "own": 70.0,
            "title": "Title",
        },
    }[name]()


PICTURES = (
    *("dipole_against_energy", "source_sky", "source_map"),
    *("vector_plane", "grammage_curve", "prior_fractions"),
)


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def tear(axes: Axes) -> float:
    """The largest vertical step of any line, in units of the axis."""
    steps = [np.abs(np.diff(each.get_ydata())) for each in axes.lines if len(each.get_ydata()) > 5]
    return max(np.nanmax(step) for step in steps)


def on_map(vector) -> tuple[float, float]:
    """Longitude and latitude on a map centred on RA 180 that increases to the left."""
    return np.pi - np.arctan2(vector[1], vector[0]) % (2 * np.pi), np.arcsin(vector[2])


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_stands_on_its_paper_and_leaves_no_trace_in_matplotlib(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with matplotlib.rc_context({"font.size": 23}):
        before = dict(matplotlib.rcParams)
        figure = getattr(pp, name)(**some(name))
        assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].yaxis.label.get_fontsize() == 11
    figure.canvas.draw()
    paper = figure.bbox
    written = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)]
    for text in [*written, *(each for found in figure.legends for each in found.get_texts())]:
        box = text.get_window_extent()
        if text.get_text() and text.get_visible():
            assert paper.x0 <= box.x0 and box.x1 <= paper.x1 and paper.y0 <= box.y0 and box.y1 <= paper.y1, text
    assert figure.axes[0].get_title() == "Title"
    assert figure.axes[0].get_ylabel()


def test_pyplot_is_not_imported():
    assert "pyplot" not in inspect.getsource(pp)


def test_pictures_are_saved(tmp_path):
    path = save(pp.grammage_curve(**some("grammage_curve")), tmp_path / "bc.pdf")
    assert path.read_bytes().startswith(b"%PDF")


# --- The dipole against energy


def test_amplitude_is_that_of_the_equatorial_components():
    dipole = np.tile([3e-4, 4e-4, 9.0], (ENERGY.size, 1))

    top, bottom = pp.dipole_against_energy(ENERGY, dipole).axes

    np.testing.assert_allclose(top.lines[0].get_ydata(), 5e-4)
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), np.degrees(np.arctan2(4, 3)))
    assert top.get_xscale() == top.get_yscale() == "log"
    assert top.get_xlim() == bottom.get_xlim()
    assert top.get_xlim()[0] < 1 and top.get_xlim()[1] > 3e7
    assert "[TeV]" in bottom.get_xlabel() and "[deg]" in bottom.get_ylabel()


@pytest.mark.parametrize("start", range(0, 360, 60))
def test_a_phase_that_turns_is_drawn_without_a_vertical_jump(start):
    """Half a turn from anywhere: cut nowhere, and all of it within the axis."""
    phase = np.linspace(start, start + 180, ENERGY.size)

    _, bottom = pp.dipole_against_energy(ENERGY, towards(phase)).axes

    assert tear(bottom) == pytest.approx(180 / (ENERGY.size - 1))
    low, high = bottom.get_ylim()
    assert high - low == 360
    (line,) = bottom.lines
    assert low <= line.get_ydata().min() and line.get_ydata().max() <= high
    np.testing.assert_allclose((line.get_ydata() - phase + 180) % 360, 180, atol=1e-9)


def test_a_phase_that_turns_twice_leaves_at_one_edge_and_enters_at_the_other():
    phase = np.linspace(0, 700, ENERGY.size)

    _, bottom = pp.dipole_against_energy(ENERGY, towards(phase), seam_deg=0).axes

    assert tear(bottom) == pytest.approx(700 / (ENERGY.size - 1))
    shown = np.concatenate([each.get_xydata() for each in bottom.lines])
    shown = shown[(shown[:, 1] > 0) & (shown[:, 1] < 360)]
    inside = (phase % 360 > 0)[1:]
    np.testing.assert_allclose(np.sort(shown[:, 0]), ENERGY[1:][inside])


def test_a_flip_by_180_degrees_is_a_break_and_not_a_line():
    phase = np.where(ENERGY < 150, 48.5, 228.5)

    _, bottom = pp.dipole_against_energy(ENERGY, towards(phase), flips=[150.0]).axes

    drawn = [each for each in bottom.lines if len(each.get_ydata()) > 2]
    assert len(drawn) == 2
    assert all(np.ptp(each.get_ydata()) < 1e-9 for each in drawn)
    marks = [each for each in bottom.lines if list(each.get_xdata()) == [150.0, 150.0]]
    assert len(marks) == 1


def test_energies_may_come_in_any_order():
    order = np.random.default_rng(0).permutation(ENERGY.size)
    phase = np.linspace(50, 230, ENERGY.size)

    mixed = pp.dipole_against_energy(ENERGY[order], towards(phase)[order])

    np.testing.assert_array_equal(mixed.axes[0].lines[0].get_xdata(), ENERGY)
    assert tear(mixed.axes[1]) < 5


@pytest.mark.parametrize("seam", [0, -60])
@pytest.mark.parametrize("middle", [10.0, 185.0, 290.0])
def test_an_arc_is_split_at_the_seam_and_covers_what_it_should(seam, middle):
    """Points on the circle are on the band exactly where they are within the half-width."""
    _, bottom = pp.dipole_against_energy(ENERGY, None, bands=bands(np.full(ENERGY.size, middle)), seam_deg=seam).axes

    faces = {round(each.get_facecolor()[0][3], 2): [] for each in bottom.collections}
    for each in bottom.collections:
        faces[round(each.get_facecolor()[0][3], 2)].append(each)
    for opacity, half in zip(sorted(faces, reverse=True), (20.0, 40.0), strict=True):
        for phase in np.arange(seam + 0.5, seam + 360, 7.0):
            away = abs((phase - middle + 180) % 360 - 180)
            covered = [c for c in faces[opacity] for p in c.get_paths() if p.contains_point((1e3, phase))]
            assert len(covered) == (away < half), (phase, half)


def test_a_band_that_jumps_reaches_to_half_of_the_way_on_both_sides():
    energy = np.array([1.0, 100.0, 1e4])
    _, bottom = pp.dipole_against_energy(energy, None, bands={0.68: bands(np.array([0.0, 0.0, 150.0]))[0.68]}).axes

    left, right = sorted((c.get_paths()[0].get_extents() for c in bottom.collections), key=lambda box: box.x0)
    assert (left.x0, left.x1, right.x0, right.x1) == pytest.approx((1, 1e3, 1e3, 1e4))
    assert (right.y0, right.y1) == pytest.approx((130, 170))


def test_points_are_on_both_panels_where_they_have_numbers():
    """A limit without a phase is on the upper panel alone; nothing else is lost."""
    top, bottom = pp.dipole_against_energy(ENERGY, towards(np.full(ENERGY.size, 40.0)), points(), seam_deg=-180).axes

    amplitudes = sorted(y for c in top.containers for y in np.atleast_1d(c.lines[0].get_ydata()))
    np.testing.assert_allclose(amplitudes, [3e-4, 5e-4, 1e-3, 1e-2, 2e-2])
    marked = [c.lines[0] for c in bottom.containers if c.lines[0].get_marker() not in ("", "None")]
    phases = sorted(y for line in marked for y in np.atleast_1d(line.get_ydata()))
    np.testing.assert_allclose(phases, [-160, -100, -10, 40])


def test_limits_are_arrows_down_from_the_limit():
    top, _ = pp.dipole_against_energy(ENERGY, towards(np.full(ENERGY.size, 40.0)), points()).axes

    (limits,) = [c for c in top.containers if c.lines[0].get_ydata()[0] == 1e-2]
    _, caps, (bars,) = limits.lines
    assert {each.get_marker() for each in caps} == {matplotlib.markers.CARETDOWNBASE}
    for (low, high), limit in zip([s[:, 1] for s in bars.get_segments()], (1e-2, 2e-2), strict=True):
        assert low < high == pytest.approx(limit)


def test_error_bars_end_where_they_are_told_and_go_on_beyond_the_seam():
    rows = points(phase_deg=np.array([40.0, 352.0, 260.0, NAN, NAN]))
    top, bottom = pp.dipole_against_energy(ENERGY, None, rows, seam_deg=0).axes

    def bar(axes, energy):
        found = [s for c in axes.containers for s in c.lines[2][0].get_segments() if s[0, 0] == energy]
        return [tuple(each[:, 1]) for each in found]

    assert bar(top, 10.0) == [pytest.approx((9e-4, 1.1e-3))]
    assert sorted(bar(bottom, 100.0)) == [pytest.approx((-18, 2)), pytest.approx((342, 362))]
    assert bar(bottom, 10.0) == [pytest.approx((37, 43))]


def test_what_is_not_fitted_is_hollow_and_an_experiment_has_one_look():
    _, bottom = pp.dipole_against_energy(ENERGY, None, points()).axes
    look = {
        (c.lines[0].get_xdata()[0]): (to_hex(c.lines[0].get_color()), to_hex(c.lines[0].get_markerfacecolor()))
        for c in bottom.containers
        if c.lines[0].get_marker() not in ("", "None")
    }

    assert look[10.0][0] == look[300.0][0] != look[100.0][0]
    assert look[300.0][1] == "#ffffff" != look[10.0][1]
    names = pp.dipole_against_energy(ENERGY, None, points(use=np.array(["fit", "fit", "plot", "fit", "fit"])))
    assert legend(names) == ["North", "South", "Air", "Hollow: not fitted", "Upper limit"]


def test_twenty_experiments_have_twenty_looks():
    n = 20
    rows = {
        **{key: np.full(n, 1e-3) for key in ("amplitude", "amplitude_lo", "amplitude_hi")},
        **{key: np.full(n, 40.0) for key in ("phase_deg", "phase_err_deg")},
        "energy_TeV": np.geomspace(1, 1e3, n),
        "experiment": np.array([f"E{i}" for i in range(n)]),
        "is_limit": np.zeros(n, bool),
        "use": np.ones(n, bool),
    }
    figure = pp.dipole_against_energy(ENERGY, None, rows)
    looks = {(to_hex(h.get_color()), h.get_marker()) for h in figure.legends[0].legend_handles}
    assert len(looks) == n


def test_legend_covers_no_axes_and_names_what_is_drawn():
    figure = pp.dipole_against_energy(**some("dipole_against_energy"))
    figure.canvas.draw()

    assert legend(figure)[:5] == [
        "Model",
        "Without Compton–Getting",
        "68 % of the draws",
        "95 % of the draws",
        "Phase flip at 150 TeV",
    ]
    box = figure.legends[0].get_window_extent()
    assert all(box.y1 <= axes.get_tightbbox().y0 + 1 for axes in figure.axes)


def test_a_dip_to_nothing_does_not_rule_the_axis():
    dipole = towards(np.full(ENERGY.size, 40.0))
    dipole[7] *= 1e-9
    low, high = pp.dipole_against_energy(ENERGY, dipole).axes[0].get_ylim()
    assert 1e-5 < low < 1e-3 < high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy": np.array([1.0, -1.0])}, "above 0 TeV"),
        ({"dipole": np.zeros((3, 3))}, r"must be \(40, 2\) or \(40, 3\)"),
        ({"bands": {0.68: (np.zeros((2, 3)), np.zeros((2, 3)))}}, "band of 0.68"),
        ({"points": {"experiment": ["A"]}}, "lack energy_TeV, amplitude"),
        ({"points": points(phase_deg=np.zeros(2))}, "phase_deg of the published dipoles has shape"),
        ({"points": points(energy_TeV=np.array([1.0, 0, 1, 1, 1]))}, "the first is row 1"),
        ({"points": points(amplitude_hi=np.full(5, 1e-4))}, "ends of the error bar"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        pp.dipole_against_energy(**{**some("dipole_against_energy"), **changes})


# --- The sky and the plane of the Galaxy


def stars(axes: Axes) -> list[np.ndarray]:
    return [each.get_xydata()[0] for each in axes.lines if each.get_marker() == "*"]


def test_a_star_at_ra_90_is_left_of_one_at_0_and_north_is_up():
    remnants = {"Six": towards(90, 1), "Zero": towards(1, 1), "North": np.array([-0.6, 0, 0.8])}
    figure = pp.source_sky(IBEX, remnants)
    figure.canvas.draw()
    axes = figure.axes[0]

    six, zero, north = axes.transData.transform(stars(axes))
    assert six[0] < zero[0]
    assert north[1] > six[1] + 10


def test_marks_lie_in_their_directions():
    axes = pp.source_sky(IBEX, REMNANTS).axes[0]

    for mark, vector in zip(stars(axes), REMNANTS.values(), strict=True):
        np.testing.assert_allclose(mark, on_map(vector), atol=1e-9)
    cross, dot = ([e.get_xydata()[0] for e in axes.lines if e.get_marker() == m] for m in "x.")
    np.testing.assert_allclose(cross, [on_map(IBEX)], atol=1e-9)
    np.testing.assert_allclose(dot, [on_map(-IBEX)], atol=1e-9)


@pytest.mark.parametrize(("name", "pole"), [("Magnetic equator", IBEX), ("Galactic plane", icrs(0, 90))])
def test_great_circles_are_at_right_angles_to_their_poles_and_do_not_cross_the_map(name, pole):
    (line,) = [each for each in pp.source_sky(IBEX, {}).axes[0].lines if each.get_label() == name]
    x, y = line.get_xydata().T
    ra = np.pi - x
    circle = np.stack([np.cos(y) * np.cos(ra), np.cos(y) * np.sin(ra), np.sin(y)])
    cosine = pole @ circle
    assert np.isfinite(cosine).sum() > 1400
    np.testing.assert_allclose(cosine[np.isfinite(cosine)], 0, atol=1e-8)
    assert np.max(np.abs(np.diff(x))[np.isfinite(y[1:])]) < 0.1
    assert line.get_linestyle() == ("--" if "equator" in name else "-")


def test_meridians_are_those_of_the_field_and_its_opposite():
    """RA of the IBEX field: 48.47 degrees, and 228.47."""
    figure = pp.source_sky(IBEX, REMNANTS)
    x = [e.get_xdata()[0] for e in figure.axes[0].lines if e.get_linestyle() == "-."]

    np.testing.assert_allclose(np.degrees(np.pi - np.array(x)), [48.469, 228.469], atol=1e-3)
    assert {"$\\alpha=48°$", "$\\alpha=228°$", "Magnetic equator", "Galactic plane"} <= set(legend(figure))
    none = pp.source_sky(IBEX, {}, phases=())
    assert not [e for e in none.axes[0].lines if e.get_linestyle() == "-."]
    assert "Supernova remnant" not in legend(none)


def test_vela_is_on_the_side_of_the_field_and_the_cygnus_loop_on_the_other():
    """B.n = +0.37 and -0.27; the shading and the colours of the marks say so."""
    figure = pp.source_sky(IBEX, REMNANTS)
    figure.canvas.draw()
    axes = figure.axes[0]
    colour = dict(zip(REMNANTS, [e.get_color() for e in axes.lines if e.get_marker() == "*"], strict=True))
    picture = np.asarray(figure.canvas.buffer_rgba())[::-1]

    warm, cold = colour["Vela"], colour["Cygnus Loop"]
    assert warm != cold
    assert colour == {
        name: warm if name in ("Vela", "Vela Jr", "Monogem", "Geminga", "S147") else cold for name in REMNANTS
    }
    for ra, dec, is_warm in ((20, -40, True), (100, -70, True), (200, 45, False), (280, 10, False)):
        x, y = axes.transData.transform(
            on_map(np.append(np.cos(np.radians(dec)) * towards(ra, 1)[:2], np.sin(np.radians(dec))))
        )
        red, _, blue = picture[int(y), int(x), :3].astype(int)
        assert (red > blue) == is_warm, (ra, dec)


def test_track_is_coloured_by_energy_and_not_drawn_across_the_map():
    energy = np.array([1.0, 10.0, 100.0, 1000.0])
    directions = towards(np.array([20.0, 5.0, 355.0, 340.0]))
    figure = pp.source_sky(IBEX, {}, dipole_track=(energy, directions))
    axes, bar = figure.axes

    (dots,) = [c for c in axes.collections if type(c).__name__ == "PathCollection"]
    np.testing.assert_allclose(dots.get_array(), energy)
    np.testing.assert_allclose(dots.get_offsets()[:, 0], np.pi - np.radians([20, 5, 355, 340]))
    (lines,) = [c for c in axes.collections if type(c).__name__ == "LineCollection"]
    assert len(lines.get_segments()) == 2
    assert "[TeV]" in bar.get_xlabel()


@pytest.mark.parametrize("name", ["source_sky", "source_map"])
def test_no_label_covers_another_or_a_mark(name):
    figure = getattr(pp, name)(**some(name))
    figure.canvas.draw()
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    labels = [t for t in axes.texts if t.get_text().split("\n")[0] in (*GALACTIC, "Sun")]
    boxes = [matplotlib.text.Text.get_window_extent(label, renderer) for label in labels]

    assert len(labels) == 7
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    marks = [e.get_xydata()[0] for e in axes.lines if e.get_marker() in "*o"]
    for box in boxes:
        assert not any(box.contains(*axes.transData.transform(mark)) for mark in marks)


def test_galactic_centre_is_to_the_right_and_longitude_runs_anticlockwise():
    """Cygnus (l = 74) above the Sun, Vela (l = 264) below, Geminga (l = 195) to the left."""
    figure = pp.source_map(**some("source_map"))
    axes = figure.axes[0]
    drawn = np.array([e.get_xydata()[0] for e in axes.lines if e.get_marker() == "o"][1:])

    np.testing.assert_allclose(drawn, np.delete(positions(), 6, axis=0)[:, :2])
    assert axes.get_aspect() == 1
    assert axes.get_xlim() == axes.get_ylim() == (-1000, 1000)
    assert "S147 (1470 pc)" in axes.get_xlabel() and "[pc]" in axes.get_ylabel()
    texts = [t.get_text() for t in axes.texts]
    assert "Vela\n11 kyr" in texts and not any("S147" in t for t in texts)


def test_magnetic_equator_crosses_the_galactic_plane_at_longitudes_120_and_300():
    l, b = np.radians(210.5), np.radians(-57.1)
    field = np.array([np.cos(b) * np.cos(l), np.cos(b) * np.sin(l), np.sin(b)])
    axes = pp.source_map(positions(), list(GALACTIC), field=field).axes[0]

    (line,) = [e for e in axes.lines if e.get_linestyle() == "--"]
    x, y = line.get_xydata()[[0, -1]].T
    np.testing.assert_allclose(sorted(np.degrees(np.arctan2(y, x)) % 360), [120.5, 300.5], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pp.source_sky(np.zeros(3), {}), "the field must be a direction"),
        (lambda: pp.source_sky(IBEX, {"Vela": np.array([NAN, 0, 0])}), "the direction of Vela"),
        (lambda: pp.source_sky(IBEX, {}, dipole_track=(np.ones(2), np.ones((3, 3)))), "directions of the dipole"),
        (lambda: pp.source_sky(IBEX, {}, dipole_track=(np.zeros(1), np.ones((1, 3)))), "above 0 TeV"),
        (lambda: pp.source_map(np.zeros((2, 3)), ["A"]), "the positions"),
        (lambda: pp.source_map(np.zeros((1, 3)), ["A"], age=np.ones(2)), "the ages"),
    ],
)
def test_bad_directions_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- Vectors, boron to carbon, prior volume


def test_vectors_have_equal_scales_and_0h_to_the_right():
    arguments = some("vector_plane")
    axes = pp.vector_plane(**arguments).axes[0]

    drawn = np.concatenate([c.get_offsets() for c in axes.collections if type(c).__name__ == "PathCollection"])
    np.testing.assert_allclose(drawn, arguments["delta"][[0, 2, 1]] * 1e3, rtol=1e-12)
    assert axes.get_aspect() == 1
    assert axes.get_xlim()[0] < axes.get_xlim()[1]
    assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))
    assert "10^{-3}" in axes.get_xlabel() and "0" in axes.get_xlabel() and "6" in axes.get_ylabel()


def test_regions_hold_68_per_cent():
    arguments = some("vector_plane")
    axes = pp.vector_plane(**arguments).axes[0]
    ellipses = [p for p in axes.patches if type(p).__name__ == "Ellipse"]
    draws = np.random.default_rng(1).multivariate_normal(arguments["delta"][0], covariances(1)[0], 20000) * 1e3

    assert len(ellipses) == 3
    path = ellipses[0].get_path().transformed(ellipses[0].get_patch_transform())
    assert path.contains_points(draws).mean() == pytest.approx(0.68, abs=0.012)


def test_line_of_the_field_starts_from_the_motion_of_the_observer():
    axes = pp.vector_plane(**some("vector_plane")).axes[0]
    (line,) = [e for e in axes.lines if str(e.get_label()).startswith("Field axis")]
    (x0, y0), (x1, y1) = line.get_xydata()

    assert np.degrees(np.arctan2(y1 - y0, x1 - x0)) == pytest.approx(48.5)
    motion = np.array([-1e-5, -2.6e-4]) * 1e3
    across = (motion[0] - x0) * (y1 - y0) - (motion[1] - y0) * (x1 - x0)
    assert across == pytest.approx(0, abs=1e-9)


def test_rows_without_numbers_are_left_out_of_the_plane():
    arguments = some("vector_plane")
    covariance = covariances(3)
    covariance[0] = NAN
    delta = arguments["delta"].copy()
    delta[1] = NAN
    axes = pp.vector_plane(**{**arguments, "delta": delta, "covariance": covariance}).axes[0]
    assert len([p for p in axes.patches if type(p).__name__ == "Ellipse"]) == 1
    assert np.all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": np.zeros((2, 2))}, "the dipoles"),
        ({"covariance": np.zeros((3, 2, 2))}, "positive definite"),
        ({"names": ["A"]}, "1 names of experiments for 3"),
        ({"energy": np.zeros(3)}, "above 0 TeV"),
    ],
)
def test_bad_vectors_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        pp.vector_plane(**{**some("vector_plane"), **changes})


def test_boron_to_carbon_is_on_logarithmic_axes_in_gv():
    axes = pp.grammage_curve(**some("grammage_curve")).axes[0]

    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == "Rigidity [GV]"
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"68 %", "Leaky box", "Measured"}
    with pytest.raises(InputError, match="the ratio must have the shape"):
        pp.grammage_curve(np.ones(3), np.ones(2))


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("below", [True, False])
def test_share_that_fits_is_what_is_shaded_and_what_is_written(below, scale):
    """4 of 20 below 5; the one on the threshold does not fit, the two that are not finite neither. Linear and log."""
    values = np.concatenate([[1.0, 2, 3, 4, 5], np.linspace(6, 18 * scale, 13)])
    values = np.concatenate([values if below else -values, [NAN, np.inf]])

    figure = pp.prior_fractions(values, 5.0 if below else -5.0, below)

    axes = figure.axes[0]
    every, good, _ = (patch.get_data().values for patch in axes.patches)
    assert every.sum() == pytest.approx(18 / 20)
    assert good.sum() == pytest.approx(4 / 20)
    assert "Fits: 20 ± 9 % of 20" in legend(figure)
    assert "2 of 20 draws not finite" in axes.get_xlabel()
    assert axes.get_xscale() == ("linear" if scale == 1 else "log" if below else "symlog")


def test_none_that_fit_are_not_called_zero_per_cent():
    assert "Fits: none of 50" in legend(pp.prior_fractions(np.full(50, 7.0), 3.0))
    assert "Fits: all of 50" in legend(pp.prior_fractions(np.full(50, 7.0), 9.0))
    with pytest.raises(InputError, match="none of 3 draws"):
        pp.prior_fractions(np.full(3, NAN), 3.0)
