"""A few nodes per ring in place of every cell: the same sums over events, to the accuracy that was asked for."""

import dataclasses
import functools

import numpy as np
import pytest
from diffcr.inference.compact import LOST, compact, fewest_nodes
from diffcr.inference.likelihood import form_marginals
from diffcr.inference.multipoles import free_multipoles, make_block, ring_modes

from diffcr.grid import RingGrid

GRID = RingGrid(6, 720)
CELLS = GRID.n_ring * GRID.n_ra


@functools.cache
def block_of(l_max, events, seed):
    """Counts of no pattern at all: each event falls anywhere, in its own right ascension, hour angle and time."""
    rng = np.random.default_rng(seed)
    sky, local = (rng.multinomial(events, np.full(CELLS, 1 / CELLS)) for _ in "ab")
    time = rng.multinomial(events, np.full(GRID.n_ra, 1 / GRID.n_ra))
    data = form_marginals(sky.reshape(GRID.shape), time, local.reshape(GRID.shape))
    return make_block(data, ring_modes(GRID, data.rings, *free_multipoles(l_max)), GRID.n_ra)


def compacted(block, nodes):
    return compact(block, nodes, GRID.right_ascension, GRID.hour_angle)


def remainder(x):
    return x - np.log1p(x)


def polynomial(cosine, sine, angle):
    """sum over m = 1 .. of c_m cos(m angle) + s_m sin(m angle), ring by ring, written out: shape (ring, angle)."""
    return sum(
        np.outer(c, np.cos(m * angle)) + np.outer(s, np.sin(m * angle))
        for m, (c, s) in enumerate(zip(cosine, sine, strict=True), start=1)
    )


def random_modes(block, contrast, seed, top=None):
    """A sky and its Fourier modes, with the largest |x| at any angle of any ring `contrast`; `top` keeps one |m|."""
    theta = np.random.default_rng(seed).standard_normal(len(block.linear))
    if top is not None:
        theta[np.abs(free_multipoles(top)[1]) != top] = 0.0
    cosine, sine = (np.asarray(x) for x in block.modes.sky_modes(theta))
    scale = contrast / np.abs(polynomial(cosine, sine, np.linspace(0, 2 * np.pi, 721))).max()
    return scale * theta, scale * cosine, scale * sine


@pytest.mark.parametrize("l_max", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("events", [300, 1_000_000])
@pytest.mark.parametrize("contrast", [1e-3, 0.3])
def test_sums_at_the_nodes_are_the_sums_over_all_cells(l_max, events, contrast):
    """sum n (x - ln(1 + x)) over cells, in NumPy, of sparse and of many events: on the sky, where cells are centred
    half a step from zero, and on the local map, where they are centred on it."""
    block = block_of(l_max, events, l_max)
    nodes = fewest_nodes(GRID.n_ra, l_max, events, contrast)
    assert nodes < GRID.n_ra
    small = compacted(block, nodes)
    theta, cosine, sine = random_modes(block, contrast, seed=l_max)
    at_nodes = np.asarray(small.modes.sky(theta))
    pairs = ((block.data.sky, small.data.sky, GRID.right_ascension), (block.data.local, small.data.local, None))
    for counts, weights, angle in pairs:
        local = angle is None
        cells = polynomial(cosine, sine, GRID.hour_angle if local else angle)
        seen = np.asarray(cosine.T @ small.modes.local_cosine + sine.T @ small.modes.local_sine) if local else at_nodes
        exact = np.sum(np.asarray(counts) * remainder(cells))
        assert np.sum(np.asarray(weights) * remainder(seen)) == pytest.approx(exact, abs=LOST, rel=1e-12)


@pytest.mark.parametrize(("l_max", "nodes"), [(1, 9), (1, 18), (2, 18), (3, 36), (4, 36), (1, 8)])
def test_powers_up_to_the_promised_one_are_exact_and_the_next_is_not(l_max, nodes):
    """So that the order at which the loss begins is neither one less nor one more than the bound takes it to be."""
    block = block_of(l_max, 40, seed=1)
    small = compacted(block, nodes)
    theta, cosine, sine = random_modes(block, 1.0, seed=2, top=l_max)
    cells, at_nodes = polynomial(cosine, sine, GRID.right_ascension), np.asarray(small.modes.sky(theta))
    most = (nodes - 1) // 2 // l_max
    counts, weights = np.asarray(block.data.sky), np.asarray(small.data.sky)
    for power in range(most + 1):
        np.testing.assert_allclose(np.sum(weights * at_nodes**power), np.sum(counts * cells**power), atol=1e-11)
    assert abs(np.sum(weights * at_nodes ** (most + 1)) - np.sum(counts * cells ** (most + 1))) > 1e-6


def worst_loss(nodes, l_max, contrast, rng):
    """Largest loss per event over events in one cell anywhere, the dearest arrangement, and over shapes of the sky."""
    half, place = (nodes - 1) // 2, np.arange(nodes) * 2 * np.pi / nodes
    m, worst = np.arange(1, half + 1), 0.0
    for trial in range(30):
        amplitude = np.eye(l_max)[-1] if trial % 2 else rng.standard_normal(l_max)
        phase = rng.uniform(0, 2 * np.pi, l_max)
        cosine, sine = (amplitude * f(phase) for f in (np.cos, np.sin))
        x = functools.partial(lambda c, s, angle: polynomial(c, s, angle)[0], cosine[:, None], sine[:, None])
        scale = contrast / np.abs(x(np.linspace(0, 2 * np.pi, 361))).max()
        cell = rng.integers(144) * np.pi / 72
        weight = (1 + 2 * np.cos(m * (place[:, None] - cell)).sum(axis=1)) / nodes
        loss = weight @ remainder(scale * x(place)) - remainder(scale * x(np.array([cell])))[0]
        worst = max(worst, abs(loss))
    return worst


@pytest.mark.parametrize("l_max", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("events", [1e4, 1e6, 1e8])
def test_the_bound_is_kept_at_the_largest_contrast_it_allows_and_is_not_idle(l_max, events):
    """Measured: the dearest arrangement of events loses an eighth of `LOST` where the formula says all of it."""
    rng = np.random.default_rng(l_max)
    tried = 0
    for n in (72, 720):
        for nodes in (d for d in range(8 * l_max + 1, n) if n % d == 0):
            power = (nodes - 1) // 2 // l_max
            contrast = (LOST * (power + 1) / events) ** (1 / (power + 1))
            if contrast > 0.9 or fewest_nodes(n, l_max, events, 0.999 * contrast) != nodes:
                continue
            assert fewest_nodes(n, l_max, events, 1.001 * contrast) > nodes
            loss = events * worst_loss(nodes, l_max, 0.999 * contrast, rng)
            assert loss < LOST
            tried += 1
            if contrast < 0.03:
                # Were one power fewer exact, the loss would be higher by 1/contrast.
                assert loss > 0.01 * LOST
    assert tried


@pytest.mark.parametrize(
    ("n", "l_max", "events", "contrast"),
    [
        (72, 1, 1e6, 1.0),  # the series does not converge
        (72, 1, 1e6, np.nan),
        (71, 1, 1e2, 1e-9),  # a prime has no divisors
        (36, 6, 1e2, 1e-9),  # more degrees than the divisors resolve
        (72, 4, 1e12, 0.5),
    ],
)
def test_every_cell_stays_where_fewer_do_not_suffice(n, l_max, events, contrast):
    assert fewest_nodes(n, l_max, events, contrast) == n


def test_all_cells_are_the_block_itself():
    block = block_of(1, 100, seed=3)
    assert compacted(block, GRID.n_ra) is block


def test_a_node_is_exposed_where_a_cell_beside_it_is():
    """Where the sky must be positive. Exposed: right ascensions from 90 to 180 degrees of one ring."""
    block = block_of(1, 20_000, seed=4)
    exposed = np.zeros(block.data.background.shape)
    exposed[2, 180:360] = 1.0
    block = dataclasses.replace(block, data=dataclasses.replace(block.data, background=exposed))
    seen = np.asarray(compacted(block, 12).data.background)
    assert not np.any(np.delete(seen, 2, axis=0))
    np.testing.assert_array_equal(np.flatnonzero(seen[2]) * 30, [90, 120, 150, 180])
