"""NUTS in segments: the right posterior, the same whatever cut it, and nothing but its own run continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from diffcr.inference.arviz_import import arviz as az
from diffcr.inference.likelihood import conditional_log_likelihood, form_marginals
from diffcr.inference.prior import SkyNormal
from diffcr.inference.sampler import STATISTICS, Kernel, Plan, checksum, natural, sample_segments
from diffcr.inference.specification import Specification
from helpers import dipole_sky, drawn
from jax.experimental.compilation_cache import compilation_cache
from scipy import stats

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

DATA = (jnp.array([0.9, -1.4]),)
PLAN = Plan(chains=2, warmup=20, draws=20, segment=10, seed=3)
FLIP = {"w": jnp.array(-1.0)}


def toy(data):
    """A funnel in whitened coordinates beside a pair of hills, the right one the higher: as small as a model gets."""
    scale = jnp.exp(numpyro.sample("log_scale", dist.Normal(0.0, 1.0)))
    x = numpyro.sample("x", SkyNormal(0.0, scale * jnp.ones(2), 4 * jnp.eye(2), 4 * data))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.factor("data", -2 * jnp.sum((x - data) ** 2) - 6 * (w**2 - 1.5) ** 2 + 0.3 * w)
    numpyro.deterministic("twice", 2 * x)


def run(folder=None, plan=PLAN, header=None, resume=False, progress=None, kernel=None, args=DATA):
    return sample_segments(kernel or Kernel(toy, plan, FLIP), args, {}, folder, header, resume, progress)


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Every run compiles its own steps; keep what the compiler made, for the runs of this file and their processes."""
    folder = tmp_path_factory.mktemp("compiled")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    compilation_cache.reset_cache()
    for name, value in settings.items():
        jax.config.update(name, value)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: its folder and its draws."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def same_draws(one, other):
    assert one.positions.keys() == other.positions.keys()
    assert one.statistics.keys() == other.statistics.keys()
    for mine, yours in ((one.positions, other.positions), (one.statistics, other.statistics)):
        for name in mine:
            np.testing.assert_array_equal(mine[name], yours[name], err_msg=name)


def contents(path):
    """All that a segment holds but its wall time."""
    with np.load(path, allow_pickle=False) as file:
        return {k: file[k] for k in file.files if k != "seconds"}


def same_files(one, other):
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in other.iterdir()) == [f"segment_{k:05d}.npz" for k in range(len(names))]
    for name in names:
        mine, yours = contents(one / name), contents(other / name)
        assert mine.keys() == yours.keys()
        for key in mine:
            assert mine[key].dtype == yours[key].dtype
            np.testing.assert_array_equal(mine[key], yours[key], err_msg=f"{name} {key}")


# Segments ----------------------------------------------------------------------------------------------


def test_draws_have_their_axes_and_chains_their_own_numbers(whole):
    folder, draws = whole
    assert {k: v.shape for k, v in draws.positions.items()} == {
        "log_scale": (2, 20),
        "x": (2, 20, 2),
        "w": (2, 20),
    }
    assert {k: v.shape for k, v in draws.statistics.items()} == {k: (2, 20) for k in (*STATISTICS, "flipped")}
    assert not np.any(draws.positions["x"][0] == draws.positions["x"][1])
    assert draws.seconds_total >= draws.seconds > 0
    assert [p.name for p in sorted(folder.iterdir())] == [f"segment_{k:05d}.npz" for k in range(4)]


def test_keeping_in_memory_or_on_disk_makes_no_difference(whole):
    same_draws(run(), whole[1])


def test_another_seed_makes_other_draws(whole):
    other = run(plan=Plan(chains=2, warmup=20, draws=20, segment=10, seed=4))
    assert not np.any(other.positions["x"] == whole[1].positions["x"])


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
def test_a_run_cut_after_any_segment_goes_on_bit_for_bit(whole, tmp_path, kept):
    """In the warm-up, at its end, among the draws, and when nothing was left to do; the files are the same too."""
    for number in range(kept):
        shutil.copy(whole[0] / f"segment_{number:05d}.npz", tmp_path)
    steps = []
    same_draws(run(tmp_path, resume=True, progress=lambda done, total, _: steps.append((done, total))), whole[1])
    same_files(tmp_path, whole[0])
    assert steps == [(10 * (k + 1), 40) for k in range(kept, 4)]


def test_where_a_run_is_cut_is_of_no_consequence(whole):
    """Segments of 20 steps in place of 10."""
    same_draws(run(plan=Plan(chains=2, warmup=20, draws=20, segment=20, seed=3)), whole[1])


@pytest.mark.parametrize("first", [10, 15])
def test_more_draws_continue_a_shorter_run(whole, tmp_path, first):
    """Also one whose last segment was cut short: 15 draws are one segment of 10 and one of 5."""
    run(tmp_path, plan=Plan(chains=2, warmup=20, draws=first, segment=10, seed=3))
    same_draws(run(tmp_path, resume=True), whole[1])


def test_fewer_draws_than_there_are_are_the_first_of_them(whole, tmp_path):
    for path in whole[0].iterdir():
        shutil.copy(path, tmp_path)
    draws = run(tmp_path, plan=Plan(chains=2, warmup=20, draws=10, segment=10, seed=3), resume=True)
    np.testing.assert_array_equal(draws.positions["x"], whole[1].positions["x"][:, :10])


def test_a_process_that_is_killed_goes_on_bit_for_bit(whole, compiled, tmp_path):
    """SIGKILL after the second segment; the remains of a third, half written, are no obstacle."""
    folder = tmp_path / "run"
    folder.mkdir()
    program = (
        "import jax, pathlib, sys, time\n"
        "jax.config.update('jax_enable_x64', True)\n"
        "import test_sampler\n"
        "test_sampler.run(pathlib.Path(sys.argv[1]), progress=lambda done, *_: time.sleep(600 * (done >= 20)))\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    child = subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "segment_00001.npz").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert sorted(p.name for p in folder.iterdir()) == ["segment_00000.npz", "segment_00001.npz"]
    torn = next(folder.glob(f".segment_00002.npz.*.{child.pid}.part"), folder / ".none")
    torn.write_bytes(b"PK\x03\x04 and no more")
    same_draws(run(folder, resume=True), whole[1])
    torn.unlink()
    same_files(folder, whole[0])


def test_nothing_half_written_is_left_when_writing_fails(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"segment_00000\.npz: cannot be written \(no space left on device\); choose"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


# What is not this run ----------------------------------------------------------------------------------


@pytest.fixture
def folder(whole, tmp_path):
    for path in whole[0].iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def refused(folder, match, **options):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(InputError, match=match) as caught:
        run(folder, **{"resume": True, **options})
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_run_that_is_there_is_not_written_over(folder):
    refused(folder, r"holds a run already; continue it with --resume, or choose another -o", resume=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"chains": 3}, "chains"),
        ({"warmup": 30}, "warmup"),
        ({"segment": 5}, "segment"),
        ({"target_accept": 0.9, "max_tree_depth": 5}, "max_tree_depth, target_accept"),
    ],
)
def test_another_plan_is_named(folder, change, named):
    plan = Plan(**{"chains": 2, "warmup": 20, "draws": 20, "segment": 10, "seed": 3, **change})
    refused(folder, rf"segment_00000\.npz: is of a run with other {named}; resume with the settings it was", plan=plan)


def test_another_model_or_other_data_are_named(folder):
    refused(folder, r"segment_00000\.npz: is of a run with other data, model; resume", header={"model": 1, "data": 2})
    for path in folder.iterdir():
        relabel(path, {"software": "diffcr 0.0.0"})
    refused(folder, r"segment_00000\.npz: is of a run with other software; resume")


def relabel(path, change):
    with np.load(path) as file:
        content = {k: file[k] for k in file.files}
    label = json.loads(bytes(content.pop("label")).decode()) | change
    with path.open("wb") as file:
        np.savez(file, label=np.frombuffer(json.dumps(label).encode(), np.uint8), **content)


def test_a_state_of_another_shape_is_refused_even_under_the_right_label(folder):
    def wider(data):
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([7]).to_event(1))

    refused(folder, r"segment_00003\.npz: is of another model or data; choose another -o", kernel=Kernel(wider, PLAN))


def harm(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a segment")
    elif how == "cut in half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "a byte of the data changed":
        place = content.index(b"s.energy.npy") + 200
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    elif how == "another archive":
        with path.open("wb") as file:
            np.savez(file, x=np.arange(3))
    else:
        with path.open("wb") as file:
            np.savez(file, label=np.frombuffer(b"{", np.uint8))


@pytest.mark.parametrize(
    "how", ["empty", "text", "cut in half", "a byte of the data changed", "another archive", "another label"]
)
def test_a_segment_that_was_harmed_is_refused_in_one_line_that_names_it(folder, how):
    harm(folder / "segment_00001.npz", how)
    refused(folder, r"segment_00001\.npz: .*delete it and all later ones, then resume")


def test_what_a_message_advises_works(whole, folder):
    """Delete the harmed segment and all later ones, then resume."""
    for number in (1, 2, 3):
        (folder / f"segment_{number:05d}.npz").unlink()
    same_draws(run(folder, resume=True), whole[1])


# The posterior -----------------------------------------------------------------------------------------


def agrees(draws, mean, deviation, factor=4.0):
    """Mean and standard deviation of draws (chain, draw) within four Monte-Carlo errors."""
    assert az.rhat(draws) < 1.03
    assert abs(draws.mean() - mean) < factor * deviation / np.sqrt(az.ess(draws, method="mean"))
    assert abs(draws.std() - deviation) < factor * deviation / np.sqrt(2 * az.ess(draws, method="sd"))


def test_whitened_coordinates_and_mirrored_hills_have_the_posterior_of_quadrature():
    """E and standard deviation of ln scale and x, and the odds of the two hills, from one-dimensional integrals."""
    kernel = Kernel(toy, Plan(chains=4, warmup=300, draws=600, segment=300), FLIP)
    found = run(kernel=kernel)
    values = natural(kernel, found.positions, DATA, {})
    np.testing.assert_array_equal(values["twice"], 2 * values["x"])
    s = np.linspace(-6, 6, 4001)
    data, variance = np.asarray(DATA[0]), np.exp(2 * s)
    weight = stats.norm.pdf(s) * np.prod([stats.norm.pdf(d, 0, np.sqrt(variance + 0.25)) for d in data], axis=0)
    weight /= weight.sum()
    mean = weight @ s
    agrees(values["log_scale"], mean, np.sqrt(weight @ (s - mean) ** 2))
    for k in range(2):
        shrink = variance / (variance + 0.25)
        mean = weight @ (shrink * data[k])
        agrees(values["x"][..., k], mean, np.sqrt(weight @ (shrink * 0.25 + (shrink * data[k] - mean) ** 2)))
    w = np.linspace(-4, 4, 4001)
    density = np.exp(-(w**2) / 2 - 6 * (w**2 - 1.5) ** 2 + 0.3 * w)
    right = density[w > 0].sum() / density.sum()
    assert right > 0.6
    agrees((values["w"] > 0).astype(float), right, np.sqrt(right * (1 - right)), factor=5.0)
    # Without the move a chain seldom crosses; with it two thirds of the proposals are taken: 2 min(p, 1 - p).
    assert found.statistics["flipped"].mean() == pytest.approx(2 * (1 - right), abs=0.06)


GRID = RingGrid(18, 36)
WIDTH = 0.02
"""Of the prior of the dipole: about that of the likelihood, so that a wrong prior shows."""


@pytest.fixture(scope="module")
def counts():
    """1e5 events, 36 rates of some 2800 events each."""
    local = np.asarray(acceptance(site("HAWC"), GRID, power=2.0, azimuth_terms=[(1, 0.2, 0.7)]))
    rate = 1e5 / 36 * (1 + 0.3 * np.cos(GRID.sidereal_time))
    return drawn(site("HAWC"), GRID, local, rate, dipole_sky(GRID, (0.03, -0.02)), seed=2)


@pytest.fixture(scope="module")
def sampled(counts):
    """Draws of the package's dipole model, by name."""
    spec = Specification("dipole", priors={"scale": WIDTH})
    sky = spec.likelihood(counts, nodes=18)
    kernel = Kernel(spec.function, Plan(chains=4, warmup=300, draws=600, segment=300), spec.mirror(sky), spec.dense)
    draws = sample_segments(kernel, (sky,), spec.arguments(sky))
    assert not draws.statistics["diverging"].any()
    return natural(kernel, draws.positions, (sky,), {}), sky


def full_cells(counts):
    """ln of the conditional likelihood of every cell, of a dipole (0 h, 6 h) and relative rates, and the latter's
    start: from `inference.likelihood` and skies written out, none of the sampler's coordinates."""
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0])
    unit = [jnp.asarray(dipole_sky(GRID, d) - 1)[jnp.array(data.rings)] for d in ((1.0, 0.0), (0.0, 1.0))]

    def value(vector, p):
        return conditional_log_likelihood(1 + vector[0] * unit[0] + vector[1] * unit[1], p, data)

    return value, data


@pytest.mark.slow
def test_posterior_of_the_dipole_is_that_of_a_dense_sum(counts, sampled):
    """On a grid of dipoles, the rates integrated at each by Laplace's method with a dense Hessian by automatic
    differentiation: a part in 2800 of each term is neglected."""
    value, data = full_cells(counts)

    def cost(u, vector):
        p = data.rate * jnp.exp(u)
        share = p / jnp.sum(p)
        # Uniform on the relative rates, times the Jacobian of their logarithms; the scale is held at one.
        held = 0.5 * data.total * (jnp.sum(p) - 1) ** 2
        return held - value(vector, share) - jnp.sum(jnp.log(share))

    @jax.jit
    def log_marginal(vectors):
        def one(vector):
            def step(u, _):
                return u - jnp.linalg.solve(jax.hessian(cost)(u, vector), jax.grad(cost)(u, vector)), None

            u = jax.lax.scan(step, jnp.zeros(36), length=5)[0]
            return -cost(u, vector) - 0.5 * jnp.linalg.slogdet(jax.hessian(cost)(u, vector))[1]

        return jax.lax.map(one, vectors)

    values, _ = sampled
    x, y = values["delta_0h"], values["delta_6h"]
    axes = [v.mean() + 5.5 * v.std() * np.linspace(-1, 1, 15) for v in (x, y)]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=-1)
    density = np.asarray(log_marginal(jnp.asarray(points))) - np.sum(points**2, axis=1) / (2 * WIDTH**2)
    weight = np.exp(density - density.max()).reshape(15, 15)
    weight /= weight.sum()
    assert weight[[0, -1]].sum() + weight[:, [0, -1]].sum() < 1e-5
    for draws, axis, own in ((x, axes[0], weight.sum(axis=1)), (y, axes[1], weight.sum(axis=0))):
        mean = own @ axis
        agrees(draws, mean, np.sqrt(own @ (axis - mean) ** 2))
    # Where the prior matters: without it the deviation would be larger by a sixth.
    assert 0.4 < x.std() / WIDTH < 0.9
    agrees(values["delta_N"], 0.0, WIDTH)
    np.testing.assert_allclose(values["amplitude"], np.hypot(x, y))


@pytest.mark.slow
def test_plain_numpyro_on_an_unwhitened_copy_has_the_same_posterior(counts, sampled):
    """A Dirichlet distribution for the relative rates, the full cells, numpyro's own coordinates and adaptation."""
    value, data = full_cells(counts)

    def copy():
        vector = numpyro.sample("vector", dist.Normal(0.0, WIDTH).expand([2]).to_event(1))
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(36)))
        numpyro.factor("counts", value(vector, p))

    start = {"vector": jnp.zeros(2), "p": data.rate}
    from numpyro.infer import MCMC, NUTS, init_to_value

    kernel = NUTS(copy, init_strategy=init_to_value(values=start), target_accept_prob=0.9)
    mcmc = MCMC(kernel, num_warmup=600, num_samples=800, num_chains=2, chain_method="vectorized", progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0))
    theirs = mcmc.get_samples(group_by_chain=True)
    values, _ = sampled
    u = values["log_rate"][:, :, 0]
    p = np.asarray(data.rate) * np.exp(u)
    p = p / p.sum(axis=-1, keepdims=True)
    pairs = [(values[name], np.asarray(theirs["vector"][..., k])) for k, name in enumerate(("delta_0h", "delta_6h"))]
    pairs += [(p[..., g], np.asarray(theirs["p"][..., g])) for g in (0, 9, 20)]
    for ours, plain in pairs:
        assert az.rhat(plain) < 1.05
        for method, spread in (("mean", 1.0), ("sd", 0.5)):
            error = np.sqrt(
                spread * (ours.var() / az.ess(ours, method=method) + plain.var() / az.ess(plain, method=method))
            )
            measure = np.mean if method == "mean" else np.std
            assert abs(measure(ours) - measure(plain)) < 4 * error


@pytest.mark.slow
def test_rates_integrated_or_sampled_make_the_same_posterior(counts, sampled):
    spec = Specification("dipole", rates="laplace", priors={"scale": WIDTH})
    values, sky = sampled
    kernel = Kernel(spec.function, Plan(chains=4, warmup=250, draws=500, segment=250))
    laplace = natural(kernel, sample_segments(kernel, (sky,), {}).positions, (sky,), {})
    for name in ("delta_0h", "delta_6h"):
        exact = values[name]
        error = exact.std() / np.sqrt(min(az.ess(exact), az.ess(laplace[name])) / 2)
        assert abs(laplace[name].mean() - exact.mean()) < 4 * error
        assert abs(laplace[name].std() - exact.std()) < 4 * error


# Several devices ---------------------------------------------------------------------------------------

DEVICES = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
import pathlib
import test_sampler
assert len(jax.local_devices()) == 2
draws = test_sampler.run(pathlib.Path(sys.argv[2]), resume=True)
np.savez(sys.argv[1], **draws.positions)
"""


@pytest.mark.parametrize("kept", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_two_devices_make_the_draws_of_one(whole, tmp_path, kept):
    """Two forced devices of this host, one chain on each; and a run begun on one goes on on two."""
    folder, out = tmp_path / "run", tmp_path / "draws.npz"
    folder.mkdir()
    for number in range(kept):
        shutil.copy(whole[0] / f"segment_{number:05d}.npz", folder)
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    program = [sys.executable, "-c", DEVICES, str(out), str(folder)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as file:
        for name, values in whole[1].positions.items():
            np.testing.assert_allclose(file[name], values, atol=1e-10, rtol=0)


# Starts and plans --------------------------------------------------------------------------------------


def test_chains_start_wide_apart_but_never_where_the_density_is_zero():
    """Where the density is zero but for |x| < 1e-3 of the coordinates' unit, chains start in the middle."""

    def model(radius):
        x = numpyro.sample("x", SkyNormal(0.0, 1.0, jnp.eye(2), jnp.zeros(2)))
        numpyro.factor("wall", jnp.where(jnp.sum(x**2) < radius**2, 0.0, -jnp.inf))

    kernel = Kernel(model, Plan(chains=4))
    start = jax.jit(jax.vmap(lambda key, radius: kernel.start(key, (radius,), {})[0].z["x"], (0, None)))
    keys = jax.random.split(jax.random.PRNGKey(1), 1000)
    wide = np.asarray(start(keys, 1e3))
    np.testing.assert_allclose(wide.std(axis=0), 1.5, rtol=0.1)
    np.testing.assert_array_equal(np.asarray(start(keys, 1e-3)), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chains": 0}, "chains must be a whole number of at least 1, not 0"),
        ({"warmup": 19}, "warmup must be a whole number of at least 20, not 19"),
        ({"draws": 3}, "draws must be a whole number of at least 4, not 3"),
        ({"segment": 0}, "segment must be a whole number of at least 1, not 0"),
        ({"max_tree_depth": 0}, "max_tree_depth must be a whole number of at least 1, not 0"),
        ({"chains": True}, "chains must be a whole number of at least 1, not True"),
        ({"target_accept": 0.0}, "target_accept must lie between 0 and 1, not 0.0"),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1, not 1.0"),
        ({"target_accept": float("nan")}, "target_accept must lie between 0 and 1, not nan"),
    ],
)
def test_an_impossible_plan_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Plan(**change)


def test_segments_hold_warm_up_or_draws_and_no_more_than_asked():
    assert Plan(warmup=250, draws=100, segment=100).remaining([]) == [100, 100, 50, 100]
    assert Plan(warmup=20, draws=7, segment=100).remaining([]) == [20, 7]


def test_checksum_tells_arrays_and_their_names_apart():
    a, b = np.arange(4.0), np.arange(4.0) + 1
    assert checksum({"a": a, "b": b}) == checksum({"b": b, "a": a})
    assert len({checksum({"a": a, "b": b}), checksum({"a": b, "b": a}), checksum({"a": a, "c": b})}) == 3
    assert checksum({"a": a[::2]}) == checksum({"a": np.array([0.0, 2.0])})
