"""Pictures of small-scale theory: axes say what they show and in which unit, curves are where the numbers are."""

import matplotlib
import numpy as np
import pytest
from diffcr.inference import small_scale_plots as sp
from diffcr.inference.plots import save
from matplotlib.figure import Figure

from diffcr.errors import InputError

L = np.arange(1.0, 8)
CASCADE = 18e-6 / ((2 * L + 1) * (L + 1) * (L + 2))
ODD = np.where(L % 2 == 1, 2e-7 / L**2, 0.0)
DEPTH = np.geomspace(0.1, 3, 12)
MU = np.linspace(-1, 1, 21)
TIME = np.linspace(0, 2, 9)
NUT, RATIO = np.geomspace(1, 100, 7), np.linspace(0.05, 0.95, 5)


def band(median):
    return median, 0.8 * median, 1.3 * median


def fit(**options):
    data = CASCADE * np.array([2.5, 1.1, 0.9, 1.0, -0.2, 1.2, 0.8])
    curves = {"Cascade": band(CASCADE), "Profile": band(ODD)}
    return sp.power_fit(L, data, 0.3 * CASCADE, curves, **options)


def figures() -> dict[str, Figure]:
    """One of each."""
    power = np.exp(-np.outer(DEPTH, L))
    error = np.linspace(-0.9, 5, 35).reshape(5, 7)
    decay = {l: np.exp(-l * TIME) for l in (1, 2)}
    return {
        "fit": fit(noise=1e-9 + 0 * L, fitted=L > 1, title="Fit"),
        "cascade": sp.cascade_evolution(
            DEPTH, {"BGK": power, "Diffusion": power**2}, {"BGK": 1 + 0 * DEPTH}, degrees=(1, 2, 7)
        ),
        "profiles": sp.pitch_angle_profiles(MU, {"A": MU, "B": MU**3}, {"A": np.array([1, 0, 0.1]), "B": 0.1**L}),
        "relaxation": sp.relaxation(MU, np.outer(np.exp(-TIME[:3]), MU), TIME[:3], TIME, decay, {1: decay[1]}),
        "validity": sp.diffusion_validity(NUT, RATIO, error, -0.1 * error, {"Near": (2.0, 0.3), "Far": (60.0, 0.1)}),
    }


@pytest.fixture(scope="module")
def drawn():
    before = dict(matplotlib.rcParams)
    found = figures()
    assert dict(matplotlib.rcParams) == before
    return found


def texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def labels(figure):
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes if axes.get_visible()]


def test_axes_say_what_they_show(drawn):
    assert labels(drawn["fit"]) == [
        ("", r"$C_\ell$ of the relative intensity"),
        (r"Degree $\ell$", "(Data $-$ median) over\npredicted scatter"),
    ]
    assert labels(drawn["cascade"])[0] == (r"Depth $\nu T$", r"$C_\ell / C_1(0)$")
    assert labels(drawn["cascade"])[2] == (r"Depth $\nu T$", r"$S = \sum (2\ell+1)\, C_\ell\, /\, 3 C_1(0)$")
    assert labels(drawn["profiles"]) == [
        (r"$\hat n \cdot \hat B = -\mu$", r"$\delta I$ over its value along $\mathbf{B}$"),
        (r"Degree $\ell$", r"$C_\ell / C_1$"),
    ]
    assert labels(drawn["relaxation"]) == [
        (r"Pitch-angle cosine $\mu$", r"$f(\mu)$"),
        (r"$\nu t$", r"$|f_\ell(t) / f_\ell(0)|$"),
    ]
    assert labels(drawn["validity"])[:2] == [(r"$\nu t$", r"$r / ct$"), (r"$\nu t$", "")]
    assert [axes.get_title() for axes in drawn["validity"].axes[:2]] == [
        f"Diffusion: relative error of the {what}" for what in ("density", "dipole")
    ]


def test_models_and_data_are_where_the_numbers_are(drawn):
    above, below = drawn["fit"].axes
    lines = {line.get_label(): line.get_xydata() for line in above.lines}
    np.testing.assert_allclose(lines["Cascade"], np.stack([L, CASCADE], axis=1))
    # In units of half the band, 0.25 of the median.
    np.testing.assert_allclose(below.lines[0].get_ydata(), [6, 0.4, -0.4, 0, -4.8, 0.8, -0.8], atol=1e-12)
    points = {container.get_label(): container[0].get_xydata() for container in above.containers}
    # A model without power at even degrees is marks at the odd ones: a line would seem to fit what lies between.
    assert "Profile" not in lines
    np.testing.assert_allclose(points["Profile"], np.stack([L, ODD], axis=1)[::2])
    np.testing.assert_allclose(points["Data"][:, 0], [2, 3, 4, 6, 7])
    np.testing.assert_allclose(points["Data"][0, 1], 1.1 * CASCADE[1])
    np.testing.assert_allclose(points["Data, not fitted"], [[1, 2.5 * CASCADE[0]]])
    # The negative one is a limit two errors above it.
    limits = [container for container in above.containers if container.get_label().startswith("_")]
    assert len(limits) == 1
    np.testing.assert_allclose(limits[0][0].get_xydata(), [[5, 0.4 * CASCADE[4]]])
    assert above.get_yscale() == "log"
    low, high = below.get_ylim()
    assert low == -high and high > 5


def test_the_legend_names_models_data_noise_and_bands(drawn):
    assert set(texts(drawn["fit"])) == {"Cascade", "Profile", "Data", "Data, not fitted", "Noise", "68 % predictive"}
    assert "95 % predictive" in texts(fit(band="95 %", label="IceCube"))
    assert "IceCube" in texts(fit(band="95 %", label="IceCube"))


def test_bins_are_bars_and_many_degrees_a_logarithmic_axis():
    l = np.array([1.0, 2.5, 8.0, 30.0])
    power = 1e-6 / l**2
    edges = (np.array([1, 2, 6, 21]), np.array([1, 3, 10, 40]))
    above, below = sp.power_fit(l, power, 0.1 * power, {"A": band(power)}, edges=edges).axes
    assert below.get_xscale() == "log" and below.get_xlim()[1] > 40
    across = above.containers[0][2][0].get_segments()
    np.testing.assert_allclose([(each[0][0], each[1][0]) for each in across], [(1, 1), (2, 3), (6, 10), (21, 40)])
    linear = fit().axes[1]
    assert linear.get_xscale() == "linear"


def test_a_single_degree_and_no_model_are_drawn():
    one = np.array([2.0])
    assert len(sp.power_fit(one, 1e-7 * one, 1e-8 * one, {"A": band(1e-7 * one)}).axes) == 2
    assert texts(sp.power_fit(L, CASCADE, 0.1 * CASCADE, {})) == ["Data"]


def test_the_cascade_has_a_panel_for_each_model_and_one_for_the_whole_sky(drawn):
    first, second, whole, spare = drawn["cascade"].axes
    assert (first.get_title(), second.get_title(), spare.get_visible()) == ("BGK", "Diffusion", False)
    np.testing.assert_allclose(first.lines[1].get_xydata(), np.stack([DEPTH, np.exp(-2 * DEPTH)], axis=1))
    np.testing.assert_allclose(second.lines[2].get_ydata(), np.exp(-14 * DEPTH))
    np.testing.assert_allclose(whole.lines[0].get_ydata(), 1)
    assert texts(drawn["cascade"]) == [r"$\ell = 1$", r"$\ell = 2$", r"$\ell = 7$", "$S$, BGK"]
    alone = sp.cascade_evolution(DEPTH, {"BGK": np.exp(-np.outer(DEPTH, L))}, degrees=(1, 3))
    assert len(alone.axes) == 1


def test_profiles_leave_out_degrees_without_power(drawn):
    left, right = drawn["profiles"].axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), MU**3)
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[1, 1], [3, 0.1]])
    assert texts(drawn["profiles"]) == ["A", "B"]


def test_relaxation_draws_what_was_expected(drawn):
    left, right = drawn["relaxation"].axes
    np.testing.assert_allclose(left.lines[2].get_ydata(), np.exp(-TIME[2]) * MU)
    np.testing.assert_allclose(right.lines[0].get_ydata(), np.exp(-TIME))
    assert right.lines[1].get_linestyle() == "--"
    assert "Expected" in texts(drawn["relaxation"])
    plain = sp.relaxation(MU, np.outer(np.exp(-TIME[:3]), MU), TIME[:3], TIME, {1: np.exp(-TIME)})
    assert "Expected" not in texts(plain)


def test_the_map_of_validity_has_the_axes_and_marks(drawn):
    density, dipole, bar = drawn["validity"].axes
    for axes in (density, dipole):
        assert axes.get_xscale() == "log" and axes.get_ylim() == (0, 1)
        assert [text.get_text() for text in axes.texts if text.get_text() in ("Near", "Far")] == ["Near", "Far"]
        far = next(text for text in axes.texts if text.get_text() == "Far")
        assert far.get_ha() == "right"
    assert "+10 %" in [text.get_text() for text in bar.get_yticklabels()]


def test_pictures_are_written(drawn, tmp_path):
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sp.power_fit(L[:, None], L, L, {}), r"must have the shape \(point,\), not \(7, 1\)"),
        (lambda: sp.power_fit(L, L[1:], L, {}), "C_l must have the shape"),
        (lambda: sp.power_fit(L, L, 0 * L, {}), "errors of C_l must be finite and above zero, not 0"),
        (lambda: sp.power_fit(L, L, L, {"A": (L, L)}), r"curve of A must be \(median, low, high\), not 2 arrays"),
        (lambda: sp.power_fit(L, L, L, {"A": (L, L[1:], L)}), "the low of A must have the shape"),
        (lambda: fit(noise=np.zeros(2)), "the noise must have the shape"),
        (lambda: fit(fitted=np.ones(2, bool)), "mask of fitted points must have the shape"),
        (lambda: fit(edges=(L, L[1:])), "edges of bins must have the shape"),
        (lambda: sp.cascade_evolution(DEPTH, {"A": np.ones((3, 4))}), r"C_l of A must have the shape \(12, l_max\)"),
        (lambda: sp.cascade_evolution(DEPTH, {"A": np.ones((12, 4))}), "reach from l = 1 to 4: draw none of"),
        (
            lambda: sp.cascade_evolution(DEPTH, {"A": np.ones((12, 4))}, {"A": L}, degrees=(1,)),
            "the power left of A must have the shape",
        ),
        (lambda: sp.pitch_angle_profiles(MU, {"A": MU[1:]}, {"A": L}), "the profile of A must have the shape"),
        (lambda: sp.pitch_angle_profiles(MU, {"A": MU}, {"B": L}), "needs C_l / C_1 of A as well"),
        (lambda: sp.relaxation(MU, np.ones((2, 3)), TIME[:2], TIME, {}), "profiles of a relaxation must have"),
        (lambda: sp.relaxation(MU, np.ones((1, 21)), TIME[:1], TIME, {1: L}), "the multipole of l = 1 must have"),
        (
            lambda: sp.relaxation(MU, np.ones((1, 21)), TIME[:1], TIME, {1: TIME}, {1: L}),
            "the expected multipole of l = 1 must have",
        ),
        (lambda: sp.diffusion_validity(NUT, RATIO, np.ones((7, 5)), np.ones((5, 7))), "error of the density must have"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
