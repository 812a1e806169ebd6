"""Pictures of backtracked skies: styles tell orientations, colours times, and maps have their sides right."""

import healpy
import numpy as np
import pytest
from diffcr.inference import backtrack_plots as bp
from diffcr.inference.plots import save
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from diffcr.errors import InputError

DEGREE = np.arange(0, 25)
TIMES = np.array([10.0, 20.0, 40.0, 70.0, 100.0])


def curves(**changes):
    base = np.outer(TIMES / 100, 10.0 * np.maximum(DEGREE, 1) ** -3.0) + 1e-2
    rows = {
        name: {
            "power": scale * base,
            "error": 0.1 * scale * base,
            "noise": 0.02 * scale,
            "plateau": 0.01 * scale,
            "cascade": scale * np.maximum(DEGREE, 1) ** -3.0,
        }
        for name, scale in (("parallel", 1.0), ("perpendicular", 0.1))
    }
    for row in rows.values():
        row.update(changes)
    return rows


def texts(figure: Figure) -> list[str]:
    return [
        text.get_text()
        for legend in (*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend()))
        for text in legend.get_texts()
    ]


def inside(figure: Figure) -> None:
    """Everything written lies within the picture."""
    figure.canvas.draw()
    frame = figure.bbox
    renderer = figure.canvas.get_renderer()
    for each in (*figure.legends, *figure.texts, *figure.axes):
        if not each.get_visible():
            continue
        box = each.get_tightbbox(renderer)
        if box is not None and np.all(np.isfinite(box.extents)) and box.width > 0:
            assert frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2, each
            assert frame.y0 - 2 <= box.y0 and box.y1 <= frame.y1 + 2, each


def test_power_has_a_line_for_each_orientation_and_time():
    figure = bp.angular_power(DEGREE, TIMES, curves(), title="A title")
    axes = figure.axes[0]
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 24 and to_hex(line.get_color()) != "#000000"]
    solid, dotted = ([line for line in drawn if line.get_linestyle() == style] for style in ("-", ":"))
    assert len(solid) == len(dotted) == 5
    # The same colour for the same time, another for each time.
    assert [line.get_color() for line in solid] == [line.get_color() for line in dotted]
    assert len({to_hex(line.get_color()) for line in solid}) == 5
    np.testing.assert_allclose(solid[-1].get_ydata(), curves()["parallel"]["power"][-1, 1:])
    np.testing.assert_allclose(dotted[0].get_ydata(), curves()["perpendicular"]["power"][0, 1:])
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == r"Degree $\ell$" and "L_c^2" in axes.get_ylabel()
    assert {"Gradient parallel", "Gradient perpendicular", "Cascade through $C_2$ + plateau"} <= set(texts(figure))
    assert any("Plateau" in text for text in texts(figure)) and any("Noise" in text for text in texts(figure))
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["10", "20", "40", "70", "100"]
    inside(figure)


def test_what_is_not_known_is_not_drawn():
    figure = bp.angular_power(DEGREE, TIMES, curves(noise=None, plateau=None, cascade=None))
    assert texts(figure) == ["Gradient parallel", "Gradient perpendicular", "Standard error of the mean"]
    inside(bp.angular_power(DEGREE, TIMES, curves(cascade=np.full(25, np.nan))))


def test_power_below_zero_and_one_time_are_no_fault():
    rows = curves()
    rows["parallel"]["power"] = rows["parallel"]["power"] * np.where(DEGREE > 20, -1, 1)
    inside(bp.angular_power(DEGREE, TIMES, rows))
    one = {k: {**v, "power": v["power"][:1], "error": v["error"][:1]} for k, v in curves().items()}
    inside(bp.angular_power(DEGREE, TIMES[:1], one))


@pytest.mark.parametrize(("most", "shown"), [(6, [0, 1, 2, 4, 9, 19]), (1, [19]), (30, list(range(20)))])
def test_many_times_are_thinned_evenly_in_their_logarithm(most, shown):
    """5, 10, .. 100: about 5, 9.1, 16.6, 30, 55, 100."""
    found = bp.evenly_spread(5.0 * np.arange(1, 21), most)
    assert found[-1] == 19 and len(found) <= most
    if most == 6:
        np.testing.assert_allclose(5.0 * (np.array(found) + 1), [5, 10, 15, 30, 55, 100])
    else:
        assert found == shown


def test_shapes_that_do_not_fit_are_refused():
    rows = curves()
    with pytest.raises(InputError, match=r"<C_l> of parallel must have the shape \(5, 24\), not \(5, 25\)"):
        bp.angular_power(DEGREE[1:], TIMES, rows)
    shape = {"parallel": {"shape": np.ones(3), "error": np.ones(4)}}
    with pytest.raises(InputError, match="the errors of parallel must have"):
        bp.power_shape(np.arange(1, 4), shape)
    with pytest.raises(InputError, match="C_l / C_2 of the cascade"):
        bp.power_shape(np.arange(1, 4), {}, np.ones(4))
    with pytest.raises(InputError, match="the maps of parallel"):
        bp.sky_maps({"parallel": np.ones((2, 12))}, np.ones(3))
    with pytest.raises(InputError, match="the errors of K"):
        bp.running_diffusion(TIMES, {"K": (np.ones(5), np.ones(4))})


def shapes():
    degree = np.arange(1, 13)
    value = (2 / degree) ** 3.0
    return degree, {
        name: {"shape": value, "error": np.where(degree < 9, 0.1, 2.0) * value}
        for name in ("parallel", "perpendicular")
    }


def test_the_shape_stands_beside_cascade_and_data():
    degree, rows = shapes()
    data = {
        "degree": np.array([1, 2, 4, 30]),
        "shape": np.array([5, 1, 0.2, -1e-3]),
        "error": np.array([1, 0.1, 0.05, 2e-3]),
    }
    figure = bp.power_shape(degree, rows, (2 / degree) ** 2.0, data, title="A title")
    assert texts(figure) == [
        "Cascade, large depth",
        "Backtracked, gradient parallel",
        "Backtracked, gradient perpendicular",
        "Data",
    ]
    (axes,) = figure.axes
    assert axes.get_xlim()[1] > 30 and axes.get_ylabel() == r"$\langle C_\ell\rangle / \langle C_2\rangle$"
    inside(figure)


def test_without_data_the_shape_ends_where_errors_exceed_it():
    degree, rows = shapes()
    (axes,) = bp.power_shape(degree, rows, (2 / degree) ** 2.0).axes
    assert 8 < axes.get_xlim()[1] < 9.5


def hot_pixel(longitude, latitude, nside=8):
    sky = np.zeros((1, 12 * nside**2))
    sky[0, healpy.ang2pix(nside, longitude, latitude, lonlat=True)] = 1.0
    return sky


@pytest.mark.parametrize(("longitude", "latitude"), [(60, 30), (-100, -50), (10, 80)])
def test_maps_have_the_field_up_and_longitude_to_the_left(longitude, latitude):
    figure = bp.sky_maps({"parallel": hot_pixel(longitude, latitude)}, np.array([10.0]), {"parallel": 0.0})
    (mesh,) = (each for each in figure.axes[0].collections if isinstance(each, QuadMesh))
    values = np.asarray(mesh.get_array()).reshape(200, 400)
    rows, columns = np.nonzero(values == values.max())
    # Rows go up from -90 degrees, columns to the right from +180 degrees of longitude.
    assert -90 + 0.9 * (rows.mean() + 0.5) == pytest.approx(latitude, abs=8)
    width = 8 / np.cos(np.radians(latitude))
    assert 180 - 0.9 * (columns.mean() + 0.5) == pytest.approx(longitude, abs=max(width, 45 if latitude == 80 else 0))
    assert any(text.get_text() == "B$_0$" and text.xy[1] == np.pi / 2 for text in figure.axes[0].texts)


@pytest.mark.parametrize(("angle", "height"), [(0, 90), (90, 0), (60, 30), (180, -90)])
def test_a_cross_marks_the_gradient(angle, height):
    figure = bp.sky_maps({"a": hot_pixel(0, 0)}, np.array([10.0]), {"a": float(angle)})
    (cross,) = (line for line in figure.axes[0].get_lines() if line.get_marker() == "x")
    assert cross.get_xdata()[0] == 0 and np.degrees(cross.get_ydata()[0]) == pytest.approx(height, abs=0.1)


def test_maps_stand_in_a_row_per_time_and_a_column_per_orientation():
    rng = np.random.default_rng(0)
    maps = {name: rng.normal(size=(5, 192)) for name in ("parallel", "perpendicular")}
    figure = bp.sky_maps(maps, TIMES, title="A title")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 8 and titles[0].startswith("Gradient parallel") and titles[1].startswith("Gradient perp")
    assert titles[-1] == r"$\Omega T = 100$"
    inside(figure)
    inside(bp.sky_maps({"only": np.zeros((1, 12))}, TIMES[:1]))


def test_diffusion_runs_against_time():
    figure = bp.running_diffusion(TIMES, {"$K$": (np.sqrt(TIMES), 0.1 * TIMES), "$k$": (1 / TIMES, 2 / TIMES)})
    (axes,) = figure.axes
    assert axes.get_xlabel() == r"$\Omega T$" and "r_L c/3" in axes.get_ylabel() and texts(figure) == ["$K$", "$k$"]
    inside(figure)


def test_the_same_picture_has_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(bp.angular_power(DEGREE, TIMES, curves()), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
