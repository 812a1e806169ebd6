"""Simulated skies by the thousand: fits as of data, blocks that depend on nothing but their number, files."""

import os
import subprocess
import sys

import numpy as np
import pytest
from diffcr.inference.calibration import dipole_toys
from diffcr.inference.fit import DIPOLE_NORM, fit
from diffcr.inference.toy_detectors import coarsen, plan_of_counts, plan_of_sites
from diffcr.inference.toy_files import Block, block_path, load_block, load_plan, save_block, save_plan
from diffcr.inference.toy_plan import ToyPlan, plan_of_arrays
from diffcr.inference.toys import run_block, run_job, toys
from diffcr.inference.workers import Workers
from helpers import as_counts, asimov, dipole_sky, drawn
from scipy import stats

from diffcr.counts import MarginalCounts, draw_many
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site

GRID = RingGrid(9, 12)
HAWC, AUGER = site("hawc"), site("auger")
LOCAL = {s.name: np.asarray(acceptance(s, GRID, subdivide=8)) for s in (HAWC, AUGER)}
RATE = np.asarray(rate(GRID, 2e4, harmonics=[(1, 0.1, 1.0), (2, 0.05, 2.0)]))
PLAN = ToyPlan(GRID, ("HAWC",), RATE[None], LOCAL["HAWC"][None], dipole=(0.03, -0.02), toys=70, seed=5, block=30)
NULL = PLAN.replace(dipole=(0.0, 0.0))


def two_of(**options) -> ToyPlan:
    """HAWC and Auger, with different rates."""
    rates = np.array([RATE, 0.7 * RATE[::-1]])
    return ToyPlan(GRID, ("HAWC", "Auger"), rates, np.array(list(LOCAL.values())), dipole=(0.03, -0.02), **options)


def counts_of_toy(plan, sites, toy, years=None):
    """`Counts` of the first toys of block 0, from the same random numbers."""
    parts = []
    for k in range(len(plan.names)):
        key = (int(plan.dipole != (0.0, 0.0)), k, 0)
        rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=key))
        spread = float(plan.weight_spreads[k])
        d = draw_many(rng, plan.rates[k], plan.acceptances[k], plan.sky(k), toy + 1, spread)
        half = np.zeros((2, *GRID.shape))
        half[0, 0] = d.time[toy]
        marginals = MarginalCounts(d.sky[toy], d.time[toy], d.local[toy], half)
        squares = None
        if spread > 0:
            half2, sky2 = np.zeros_like(half), np.zeros(GRID.shape)
            half2[0, 0], sky2[0] = d.square_time[toy], d.square_time[toy]
            squares = MarginalCounts(sky2, d.square_time[toy], d.square_local[toy], half2)
        year = np.nan if years is None else years[k]
        parts.append(as_counts(sites[k], GRID, marginals, squares, int(d.events[toy]), year))
    from diffcr.inference.data import combine

    return parts[0] if len(parts) == 1 else combine(parts)


def assert_same_fit(block, toy, result):
    assert result.converged == block.converged[toy]
    np.testing.assert_allclose(block.estimates[toy], result.multipoles_of_date[[1, 0]] / DIPOLE_NORM, atol=1e-8)
    np.testing.assert_allclose(block.test_statistics[toy], result.test_statistic, rtol=1e-6, atol=1e-6)
    if result.equinox == "date":
        c = result.dipole.covariance
        np.testing.assert_allclose(block.covariances[toy], [c[0, 0], c[0, 1], c[1, 1]], rtol=1e-6, atol=1e-10)


# What is fitted ---------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_toy_is_fitted_as_data_are():
    block = run_block(PLAN, 0)
    for toy in (0, 29):
        assert_same_fit(block, toy, fit(counts_of_toy(PLAN, [HAWC], toy)))


def test_toys_with_weights_are_fitted_as_data_are():
    plan = PLAN.replace(weight_spreads=np.array([0.5]))
    assert_same_fit(run_block(plan, 0), 3, fit(counts_of_toy(plan, [HAWC], 3)))


def test_toys_of_two_observatories_with_the_asked_rates_are_fitted_as_data_are():
    bins = 4
    plan = two_of(toys=5, groups=np.array([bins, bins]), even_rates=True)
    assert_same_fit(run_block(plan, 0), 4, fit(counts_of_toy(plan, [HAWC, AUGER], 4), rate_bins=bins))


def test_observatories_of_other_epochs_see_a_sky_that_has_turned():
    """Precession moves RA by 46 arcseconds a year at the equator: 0.6 degrees between data of 2000 and of 2045, which
    the plan takes over from the counts; the sky that each draws from has turned as far."""
    years = [2000.0, 2045.0]
    first = two_of(toys=3)
    counts = counts_of_toy(first, [HAWC, AUGER], 0, years)
    plan = plan_of_counts(fit(counts), GRID, (0.03, -0.02), toys=3)
    np.testing.assert_allclose(np.degrees(plan.rotations[1] - plan.rotations[0]), 45 * 46.1 / 3600, rtol=0.01)
    turned = plan.sky(0)
    c, s = np.cos(plan.rotations[0]), np.sin(plan.rotations[0])
    np.testing.assert_allclose(turned, dipole_sky(GRID, (0.03 * c + 0.02 * s, 0.03 * s - 0.02 * c)), atol=1e-12)
    block, toy = run_block(plan, 0), 2
    result = fit(counts_of_toy(plan, [HAWC, AUGER], toy, years))
    np.testing.assert_allclose(block.test_statistics[toy], result.test_statistic, rtol=1e-6)
    # The common frame is at the mean epoch of the events, which differs a little between toys.
    found, expected = block.estimates[toy], result.multipoles_of_date[[1, 0]] / DIPOLE_NORM
    np.testing.assert_allclose(np.hypot(*found), np.hypot(*expected), rtol=1e-7)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    # Fitted in frames that turn the other way, the toy is another one.
    other = run_block(plan.replace(rotations=-plan.rotations), 0)
    assert abs(other.test_statistics[toy] / result.test_statistic - 1) > 1e-5


def test_the_true_sky_points_to_the_excess():
    np.testing.assert_allclose(PLAN.sky(0), dipole_sky(GRID, (0.03, -0.02)), atol=1e-12)
    assert (NULL.sky(0) == 1).all()


def test_toys_agree_with_those_of_the_calibration():
    """Other random numbers and another way to draw: the same distributions (Kolmogorov-Smirnov, 1 in 1000 each)."""
    number = 400
    ours = toys(PLAN.replace(toys=number, block=number))
    other = dipole_toys(GRID, LOCAL["HAWC"], RATE, PLAN.dipole, number, seed=9)
    for k in range(2):
        assert stats.ks_2samp(ours.estimates[:, k], other.estimates[:, k]).pvalue > 1e-3
    assert stats.ks_2samp(ours.test_statistics, other.test_statistics).pvalue > 1e-3
    np.testing.assert_allclose(ours.covariances[:, 0].mean(), other.covariances[:, 0, 0].mean(), rtol=0.02)
    assert ours.converged.all()
    assert ours.fitted.interval_coverage(0.68) == pytest.approx(0.68, abs=0.10)


# What toys depend on ----------------------------------------------------------------------------------------


def test_a_block_is_the_same_whatever_the_number_of_toys_and_the_batches(monkeypatch):
    whole, short = run_block(PLAN, 1), run_block(PLAN.replace(toys=37), 1)
    for name in Block._fields[:4]:
        np.testing.assert_array_equal(getattr(short, name), getattr(whole, name)[:7])
    monkeypatch.setattr(sys.modules[run_block.__module__], "_CELLS", 108 * 5)
    other = run_block(PLAN, 1)
    np.testing.assert_allclose(other.estimates, whole.estimates, atol=1e-12)
    np.testing.assert_allclose(other.test_statistics, whole.test_statistics, rtol=1e-9)


def test_blocks_seeds_and_skies_share_no_random_numbers():
    """Dipoles 3 sigma apart in the truth, taken off: estimates from the same numbers would nearly agree."""
    blocks = [run_block(plan, k) for plan, k in ((PLAN, 0), (PLAN, 1), (PLAN.replace(seed=6), 0), (NULL, 0))]
    truths = np.array([PLAN.dipole] * 3 + [NULL.dipole])
    off = [block.estimates - truth for block, truth in zip(blocks, truths, strict=True)]
    for k in range(4):
        for j in range(k):
            assert abs(np.corrcoef(off[k].ravel(), off[j].ravel())[0, 1]) < 0.45


def test_no_seed_block_sky_or_configuration_runs_into_another():
    """Seeds beyond 32 bits among them: written as 32-bit words, 5 * 2^32 ends as the block 5 would."""
    plans = [two_of(seed=seed, toys=70, block=10) for seed in (0, 1, 5, 2**32, 2**32 + 1, 5 * 2**32, 2**63)]
    plans += [plan.replace(dipole=(0.0, 0.0)) for plan in plans]
    first = [plan.random(number, k).integers(2**63) for plan in plans for number in range(7) for k in range(2)]
    assert len(set(first)) == len(plans) * 14
    assert PLAN.random(1, 0).integers(2**63) == PLAN.replace(toys=1000).random(1, 0).integers(2**63)


@pytest.mark.slow
def test_two_devices_give_the_same_toys(tmp_path):
    program = (
        "import sys, jax, numpy as np\n"
        "from pathlib import Path\n"
        "jax.config.update('jax_enable_x64', True)\n"
        "from diffcr.inference.toy_files import load_plan, save_block\n"
        "from diffcr.inference.toys import run_block\n"
        "assert len(jax.local_devices()) == 2\n"
        "folder = Path(sys.argv[1])\n"
        "plan = load_plan(folder, 'dipole', sys.argv[2], 70)\n"
        "save_block(folder, plan, 2, run_block(plan, 2))\n"
    )
    (tmp_path / "blocks").mkdir()
    save_plan(tmp_path, PLAN)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-c", program, str(tmp_path), PLAN.checksum]
    subprocess.run(command, check=True, env=os.environ | {"XLA_FLAGS": flags}, timeout=300)
    there, here = load_block(tmp_path, PLAN, 2), run_block(PLAN, 2)
    np.testing.assert_allclose(there.estimates, here.estimates, atol=1e-12)
    np.testing.assert_allclose(there.test_statistics, here.test_statistics, rtol=1e-9)


def test_there_are_no_further_blocks():
    assert [PLAN.size(k) for k in range(PLAN.blocks)] == [30, 30, 10]
    with pytest.raises(InputError, match="blocks 0 to 2, not 3"):
        run_block(PLAN, 3)


# Files --------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_drawn_again_and_more_toys_go_on(tmp_path):
    told = []
    short = toys(PLAN.replace(toys=40), folder=tmp_path, progress=lambda *x: told.append(x[:2]))
    assert told == [(30, 40), (40, 40)]
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "blocks").iterdir()}
    assert set(stamps) == {"dipole_plan.npz", "dipole_00000.npz", "dipole_00001.npz"}
    told.clear()
    longer = toys(PLAN, folder=tmp_path, progress=lambda *x: told.append(x[:2]))
    assert told == [(60, 70), (70, 70)]
    assert (tmp_path / "blocks" / "dipole_00000.npz").stat().st_mtime_ns == stamps["dipole_00000.npz"]
    memory = toys(PLAN)
    for name in ("estimates", "covariances", "test_statistics", "converged"):
        np.testing.assert_array_equal(getattr(longer, name), getattr(memory, name))
        np.testing.assert_array_equal(getattr(short, name), getattr(memory, name)[:40])
    told.clear()
    # All there, and more than enough: nothing is drawn.
    again = toys(PLAN.replace(toys=65), folder=tmp_path, progress=lambda *x: told.append(x))
    assert told == []
    np.testing.assert_array_equal(again.estimates, memory.estimates[:65])


def test_a_block_that_cannot_be_read_is_drawn_again_and_told(tmp_path):
    whole = toys(PLAN, folder=tmp_path)
    path = block_path(tmp_path, PLAN, 1)
    path.write_bytes(path.read_bytes()[:-200])
    changed = block_path(tmp_path, PLAN, 0)
    other = run_block(PLAN, 0)
    save_block(tmp_path, PLAN, 0, other)
    with np.load(changed) as file:
        content = dict(file)
    content["estimates"][0, 0] += 1
    np.savez(changed, **content)
    again = toys(PLAN, folder=tmp_path)
    np.testing.assert_array_equal(again.estimates, whole.estimates)
    assert len(again.notes) == 2
    assert "dipole_00000.npz: cannot be read (its checksum is another one); its toys are drawn again" in again.notes[0]
    assert "dipole_00001.npz: cannot be read" in again.notes[1]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 6}, "seed"),
        ({"dipole": (0.0, 0.1)}, "dipole"),
        ({"rates": 2 * RATE[None]}, "detectors"),
        ({"block": 20}, "block"),
    ],
)
def test_toys_of_another_plan_are_refused(tmp_path, change, what):
    toys(PLAN.replace(toys=10), folder=tmp_path)
    with pytest.raises(InputError, match=rf"is of toys with other {what}; repeat the command .* or choose another -o"):
        toys(PLAN.replace(**change), folder=tmp_path)
    # Blocks tell it too, should the plan be gone.
    (tmp_path / "blocks" / "dipole_plan.npz").unlink()
    with pytest.raises(InputError, match=f"00000.npz: is of toys with other {what}"):
        toys(PLAN.replace(**change), folder=tmp_path)


def test_toys_of_other_code_are_refused(tmp_path, monkeypatch):
    toys(PLAN.replace(toys=10), folder=tmp_path)
    monkeypatch.setattr("diffcr.inference.toy_plan.code_version", lambda: "diffcr 0 (changed)")
    with pytest.raises(InputError, match="is of toys with other software; repeat the command"):
        toys(PLAN.replace(toys=10), folder=tmp_path)


def test_a_plan_without_blocks_of_its_own_is_replaced(tmp_path):
    """As where a command was killed before its first block; and where two wedged each other: the one whose blocks are
    there goes on."""
    other = PLAN.replace(seed=6)
    (tmp_path / "blocks").mkdir()
    save_plan(tmp_path, other)
    whole = toys(PLAN, folder=tmp_path)
    plan = tmp_path / "blocks" / "dipole_plan.npz"
    for content in (None, b"", plan.read_bytes()[:200]):
        if content is None:
            plan.unlink()
        else:
            plan.write_bytes(content)
        again = toys(PLAN, folder=tmp_path)
        assert again.notes == ()
        np.testing.assert_array_equal(again.estimates, whole.estimates)
    # The plan of one, the blocks of the other.
    plan.unlink()
    for path in (tmp_path / "blocks").iterdir():
        path.rename(tmp_path / path.name)
    save_plan(tmp_path, other)
    for path in tmp_path.glob("*.npz"):
        path.rename(tmp_path / "blocks" / path.name)
    again = toys(PLAN, folder=tmp_path)
    np.testing.assert_array_equal(again.estimates, whole.estimates)
    with pytest.raises(InputError, match="dipole_plan.npz: is of toys with other seed"):
        toys(other, folder=tmp_path)


def test_a_block_that_another_command_left_is_drawn_again_by_the_one_whose_plan_is_there(tmp_path):
    other = PLAN.replace(seed=6)
    whole = toys(PLAN, folder=tmp_path)
    save_block(tmp_path, other, 1, run_block(other, 1))
    again = toys(PLAN, folder=tmp_path)
    np.testing.assert_array_equal(again.estimates, whole.estimates)
    assert [note.split("blocks/")[1] for note in again.notes] == [
        "dipole_00001.npz: is of toys with other seed; its toys are drawn again"
    ]


def test_a_command_whose_plan_was_replaced_stops_before_it_writes(tmp_path, monkeypatch):
    """The other command begins after the first has written its plan, and before its first block."""
    other, module = PLAN.replace(seed=6), sys.modules[run_block.__module__]
    drawn = run_block

    def overtaken(plan, number):
        if plan.seed == PLAN.seed:
            save_plan(tmp_path, other)
        return drawn(plan, number)

    monkeypatch.setattr(module, "run_block", overtaken)
    with pytest.raises(InputError, match="dipole_plan.npz: was changed by another run; choose another -o"):
        toys(PLAN, folder=tmp_path)
    assert {path.name for path in (tmp_path / "blocks").iterdir()} == {"dipole_plan.npz"}
    assert len(toys(other, folder=tmp_path).converged) == 70


def test_of_plans_that_are_written_at_once_one_is_kept(tmp_path, monkeypatch):
    """The other appears between the look and the writing."""
    (tmp_path / "blocks").mkdir()
    other = PLAN.replace(seed=6)
    module = sys.modules[save_plan.__module__]
    look = module._require_blocks_of

    def late(folder, plan, label):
        look(folder, plan, label)
        monkeypatch.setattr(module, "_require_blocks_of", look)
        save_plan(folder, other)

    monkeypatch.setattr(module, "_require_blocks_of", late)
    with pytest.raises(InputError, match="dipole_plan.npz: is of toys with other seed"):
        save_plan(tmp_path, PLAN)
    assert load_plan(tmp_path, "dipole", other.checksum, 70).seed == 6
    assert len(list((tmp_path / "blocks").iterdir())) == 1


COMMAND = (
    "import sys, numpy as np, jax\n"
    "jax.config.update('jax_enable_x64', True)\n"
    "from pathlib import Path\n"
    "from diffcr.grid import RingGrid\n"
    "from diffcr.errors import InputError\n"
    "from diffcr.inference.toy_plan import ToyPlan\n"
    "from diffcr.inference.toys import run_block, toys\n"
    "grid = RingGrid(4, 8)\n"
    "even = np.full((1, *grid.shape), 1 / 32)\n"
    "plan = ToyPlan(grid, ('X',), np.full((1, 8), 500.0), even, toys=20, seed=int(sys.argv[2]), block=2)\n"
    "run_block(plan, 0)\n"
    "print('ready', flush=True)\n"
    "sys.stdin.readline()\n"
    "try:\n"
    "    toys(plan, folder=Path(sys.argv[1]))\n"
    "    print('done')\n"
    "except InputError as error:\n"
    "    print('refused', error)\n"
)


def test_of_commands_that_begin_at_the_same_time_one_goes_on(tmp_path):
    """Three seeds into one folder, in processes that wait for each other; then the folder goes on for the winner."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(tmp_path), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2, 3)
    ]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0] for process in running]
    assert sum(text == "done\n" for text in told) == 1, told
    assert sum("other seed" in text or "was changed by another run" in text for text in told) == 2, told


def test_plans_and_blocks_survive_their_files(tmp_path):
    (tmp_path / "blocks").mkdir()
    plan = two_of(toys=7, seed=3, weight_spreads=np.array([0.0, 0.3]), rotations=np.array([0.0, 0.01]), even_rates=True)
    save_plan(tmp_path, plan)
    back = load_plan(tmp_path, "dipole", plan.checksum, 7)
    assert back.label == plan.label
    assert back.toys == 7
    assert plan_of_arrays(plan.label, plan.arrays(), 7).checksum == plan.checksum
    rng = np.random.default_rng(0)
    block = Block(rng.normal(size=(7, 2)), rng.normal(size=(7, 3)), rng.normal(size=7), rng.random(7) < 0.5, 1.5)
    save_block(tmp_path, plan, 0, block)
    found = load_block(tmp_path, plan, 0)
    for one, other in zip(block, found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert load_block(tmp_path, plan.replace(toys=8), 0) is None
    with pytest.raises(InputError, match="dipole_plan.npz: was changed by another run"):
        load_plan(tmp_path, "dipole", "0" * 64, 7)
    with pytest.raises(InputError, match="isotropic_plan.npz: cannot be read"):
        load_plan(tmp_path, "isotropic", plan.checksum, 7)


def test_a_job_does_nothing_where_another_worker_was_faster(tmp_path):
    toys(PLAN.replace(toys=10), folder=tmp_path)
    before = block_path(tmp_path, PLAN, 0).stat().st_mtime_ns
    job = {"folder": str(tmp_path), "kind": "dipole", "plan": PLAN.checksum, "toys": 10, "number": 0}
    assert run_job(job)["number"] == 0
    assert block_path(tmp_path, PLAN, 0).stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "blocks").write_text("a file")
    with pytest.raises(InputError, match="blocks: cannot be made .* choose another -o"):
        toys(PLAN, folder=tmp_path)


def test_workers_need_a_folder():
    with pytest.raises(InputError, match="toys of several workers need a folder"):
        toys(PLAN, Workers(number=2))


# Plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"toys": 0}, "toys must be a whole number from 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"block": 0}, "block must be a whole number"),
        ({"dipole": (0.8, 0.7)}, "a length below 1"),
        ({"rates": RATE[None, :-1]}, r"rates of toys must be finite and of shape \(1, 12\)"),
        ({"rates": -RATE[None]}, "must not be negative"),
        ({"acceptances": 2 * LOCAL["HAWC"][None]}, "each acceptance of toys must sum to 1"),
        ({"groups": np.array([5])}, "must divide the 12 time bins"),
    ],
)
def test_plans_that_cannot_be_drawn_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        PLAN.replace(**change)


def test_a_coarse_detector_is_that_of_the_same_events():
    """Counts of each fine cell moved to the coarse grid one by one: for an even rate the local map is exact."""
    fine, coarse = RingGrid(8, 24), RingGrid(4, 8)
    local = np.random.default_rng(1).dirichlet(np.ones(8 * 24)).reshape(8, 24)
    even = np.full(24, 2.0)
    expected, times = np.zeros(coarse.shape), np.zeros(8)
    for tau in range(24):
        for h in range(24):
            time, ra = tau // 3, ((tau - h) % 24) // 3
            expected[:, (time - ra) % 8] += local[:, h].reshape(4, 2).sum(1) * even[tau]
            times[time] += even[tau] * local[:, h].sum()
    found_rate, found = coarsen(even, local, fine, coarse)
    np.testing.assert_allclose(found, expected / even.sum(), atol=1e-14)
    np.testing.assert_allclose(found_rate, times)
    with pytest.raises(InputError, match="does not divide that of the counts"):
        coarsen(even, local, fine, RingGrid(4, 16))


def test_plans_of_sites_have_the_events_asked_for():
    plan = plan_of_sites([HAWC, AUGER], [1e4, 3e4], GRID, (0.1, 0.0), toys=20, power=2.0, weight_spread=0.2)
    assert plan.names == ("HAWC", "Auger")
    np.testing.assert_allclose(plan.rates.sum(1), [1e4, 3e4])
    np.testing.assert_allclose(plan.groups, 12)
    np.testing.assert_allclose(plan.weight_spreads, 0.2)
    assert not plan.even_rates
    assert plan_of_sites([HAWC], [3e4], GRID, rate_bins=4).even_rates
    with pytest.raises(InputError, match="number of events of toys must be positive, not -1"):
        plan_of_sites([HAWC], [-1.0], GRID)
    with pytest.raises(InputError, match="too few events"):
        plan_of_sites([HAWC], [12.0], GRID)
    with pytest.raises(InputError, match="named twice"):
        plan_of_sites([HAWC, HAWC], [1e4, 1e4], GRID)


def test_isotropic_toys_of_counts_have_their_marginals_and_others_the_fitted_sky():
    """Counts equal to their expectation: the fit finds the truth, rate and acceptance it was made from; the best
    isotropic detector has the rate and the local map of the counts as they are."""
    counts = asimov(HAWC, GRID, LOCAL["HAWC"], 100 * RATE, dipole_sky(GRID, (0.03, -0.02)), 2015.0)
    result = fit(counts)
    plan = plan_of_counts(result, GRID, "fitted")
    np.testing.assert_allclose(plan.dipole, (0.03, -0.02), atol=1e-6)
    np.testing.assert_allclose(plan.rates[0] / plan.rates[0].sum(), RATE / RATE.sum(), atol=1e-6)
    np.testing.assert_allclose(plan.acceptances[0], LOCAL["HAWC"], atol=1e-7)
    null = plan_of_counts(result, GRID)
    np.testing.assert_allclose(null.rates[0], counts.n_time[0, 0, 0], rtol=1e-6)
    assert np.abs(null.rates[0] / plan.rates[0] - 1).max() > 1e-3
    assert null.isotropic


def test_weighted_counts_get_weights_of_their_spread():
    counts = drawn(HAWC, GRID, LOCAL["HAWC"], RATE, np.ones(GRID.shape), 4, weight_spread=0.6)
    plan = plan_of_counts(fit(counts), GRID)
    np.testing.assert_allclose(plan.weight_spreads, 0.6, rtol=0.05)
    np.testing.assert_allclose(plan.rates.sum(), counts.num_events.sum())


def test_fits_that_toys_do_not_repeat_are_refused():
    counts = asimov(HAWC, GRID, LOCAL["HAWC"], RATE, np.ones(GRID.shape))
    known = fit(counts, exposure={"HAWC": LOCAL["HAWC"]})
    with pytest.raises(InputError, match="toys are of the dipole with a free acceptance"):
        plan_of_counts(known)
    result = fit(counts)
    with pytest.raises(InputError, match="two numbers or fitted, not 'best'"):
        plan_of_counts(result, GRID, "best")
    with pytest.raises(InputError, match="does not divide the 12 time bins"):
        plan_of_counts(result, GRID, rate_bins=5)
    with pytest.raises(InputError, match="must divide the 4 time bins, not 12"):
        plan_of_counts(result, RingGrid(9, 4), rate_bins=12)
    from diffcr.inference.blinding import blind

    with pytest.raises(InputError, match="the counts are blinded"):
        plan_of_counts(fit(blind(counts, "key")), GRID, "fitted")


@pytest.mark.slow
def test_the_test_statistic_of_an_auger_like_null_is_chi_squared():
    plan = plan_of_sites([AUGER], [3e4], toys=5000, seed=2)
    found = toys(plan)
    assert found.converged.all()
    assert found.fitted.chi2_p_value() > 1e-3
    np.testing.assert_allclose(found.fitted.pulls.std(axis=0), 1, atol=4 / np.sqrt(2 * 5000))
