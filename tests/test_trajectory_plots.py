"""Pictures of particles: axes say what they show and in which unit, curves are where the numbers are."""

import matplotlib
import numpy as np
import pytest
from diffcr.inference import trajectory_plots as tp
from diffcr.inference.plots import save
from matplotlib.figure import Figure

from diffcr.errors import InputError

TIME = np.linspace(0, 14, 200)
MU = np.linspace(-0.95, 0.95, 20)


def helix(charge):
    return np.stack([np.sin(TIME), charge * (np.cos(TIME) - 1), 0.5 * TIME], axis=-1)


def bouncing():
    z = 0.6 * np.sin(TIME)
    path = np.stack([0.02 * np.cos(20 * TIME), 0.02 * np.sin(20 * TIME), z], axis=-1)
    return {"P": path}, {"P": 0.5 * np.cos(TIME)}, {"P": 1 + z**2}


def running(**verdict):
    value = np.linspace(1, 2, 30)
    return {"value": value, "low": value - 0.1, "high": value + 0.2} | verdict


def figures() -> dict[str, Figure]:
    """One of each."""
    ratio = np.linspace(-3, 3, 61)
    peak = 1e-5 * np.exp(-((ratio - 1) ** 2) / 0.02)
    lines = np.stack([np.stack([ratio, 0 * ratio + x], axis=-1) for x in (-0.1, 0.1)])
    verdict = {"slope": 0.31, "slope_error": 0.04, "verdict": "not asymptotic"}
    return {
        "gyration": tp.gyration({"+": helix(1), "-": helix(-1)}),
        "mirror": tp.mirror(*bouncing(), lines, title="Mirror"),
        "resonance": tp.resonance(ratio, {"Circular": {"measured": peak, "expected": (ratio, peak)}}, time="$t=3$"),
        "scattering": tp.scattering(MU, {"Paths": (1e-4 * (1 - MU**2), 1e-5 + 0 * MU)}, {"QLT": (MU, 1e-4 + 0 * MU)}),
        "running": tp.running_coefficients(np.arange(1, 31), {r"$\kappa_\parallel$": running(**verdict)}),
    }


@pytest.fixture(scope="module")
def drawn():
    before = dict(matplotlib.rcParams)
    found = figures()
    assert dict(matplotlib.rcParams) == before
    return found


def labels(figure):
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]


def test_axes_say_what_they_show_with_units(drawn):
    assert labels(drawn["gyration"]) == [("$x$ [$r_L$]", "$y$ [$r_L$]"), ("$z$ [$r_L$]", "$y$ [$r_L$]")]
    assert labels(drawn["mirror"])[0][1] == "$x$ [$L$]" and labels(drawn["mirror"])[1][0] == "$z$ [$L$]"
    assert labels(drawn["resonance"]) == [
        (r"$k\, v_\parallel / \Omega$", r"$\langle(\Delta\mu)^2\rangle$ [$10^{-5}$] at $t=3$")
    ]
    assert labels(drawn["scattering"])[0][1] == r"$D_{\mu\mu}$ [$10^{-5}$ $\Omega$]"
    assert labels(drawn["running"]) == [(r"$\Omega T$", "Diffusion coefficient [$r_L c / 3$]")]


def test_curves_are_where_the_numbers_are(drawn):
    front, side = drawn["gyration"].axes
    np.testing.assert_allclose(front.lines[0].get_xydata(), helix(1)[:, :2])
    np.testing.assert_allclose(side.lines[0].get_xydata(), helix(1)[:, [2, 1]])
    (axes,) = drawn["resonance"].axes
    dots = next(line for line in axes.lines if line.get_label() == "Circular").get_xydata()
    np.testing.assert_allclose(dots[np.argmax(dots[:, 1])], [1.0, 1.0])
    (axes,) = drawn["running"].axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.linspace(1, 2, 30))
    (axes,) = drawn["scattering"].axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 10.0)


def test_the_adiabatic_curve_is_that_of_the_invariant(drawn):
    """(1 - mu^2) / B constant, from mu = 0.5 at B = 1."""
    _, below = drawn["mirror"].axes
    curve = next(line for line in below.lines if line.get_label().startswith("$(1"))
    z, mu = curve.get_xydata().T

    np.testing.assert_allclose(mu**2, np.maximum(1 - 0.75 * (1 + z**2), 0), atol=1e-12)


def test_verdicts_are_in_the_legend(drawn):
    (legend,) = drawn["running"].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert any("not asymptotic" in text and "+0.31" in text for text in texts)
    (legend,) = tp.running_coefficients(np.arange(1, 31), {"K": running()}).legends
    assert legend.get_texts()[0].get_text() == "K"


def test_pictures_are_written(drawn, tmp_path):
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_shapes_that_do_not_fit_are_refused():
    paths, _, strengths = bouncing()
    lines = np.zeros((1, 2, 2))
    with pytest.raises(InputError, match="the path of A must have the shape"):
        tp.gyration({"A": np.zeros((4, 2))})
    with pytest.raises(InputError, match="needs the pitch angle and the field along P"):
        tp.mirror(paths, {}, strengths, lines)
    with pytest.raises(InputError, match="as many values as its path"):
        tp.mirror(paths, {"P": np.zeros(3)}, strengths, lines)
    with pytest.raises(InputError, match="A must have the shape"):
        tp.resonance(np.arange(3.0), {"A": {"measured": np.zeros(2)}})
    with pytest.raises(InputError, match="A must have the shape"):
        tp.scattering(MU, {"A": (np.zeros(2), np.zeros(2))}, {})
    with pytest.raises(InputError, match="low of K must have the shape"):
        tp.running_coefficients(np.arange(1.0, 31), {"K": running(low=np.zeros(2))})
