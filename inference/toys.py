"""Toys: simulated skies drawn and fitted by the thousand, in blocks that are finished, kept and continued one by one.

Of each sky only the estimate, its covariance, the test statistic and whether the fit converged are kept. Block k has
its own random numbers: results depend neither on workers nor on where a run was cut.
"""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float

from diffcr.counts import DrawnMarginals, draw_many
from diffcr.errors import FitError, InputError, require_float64

from .calibration import Toys
from .files import awaited
from .fit import DIPOLE_NORM, GAIN_TOLERANCE
from .likelihood import Marginals
from .multipoles import RingModes, free_multipoles, make_block, maximise, ring_modes
from .toy_files import FOLDER, Block, load_block, load_plan, require_plan, save_block, save_plan
from .toy_plan import ToyPlan
from .weights import sandwich_of
from .workers import Workers, run_jobs

Progress = Callable[[int, int, float], None]

_CELLS = 32_768
"""Cells of all skies that are fitted at once on a CPU: what fits into its caches."""


@dataclasses.dataclass(frozen=True, eq=False)
class ToyResult:
    """Dipole fits of all skies of a plan, in their order.

    Attributes:
        plan: What was drawn.
        estimates: Fitted (delta_0h, delta_6h) in the equator of date, shape (toy, 2).
        covariances: Variance of delta_0h, covariance, variance of delta_6h, shape (toy, 3).
        test_statistics: 2 ln(L / L_isotropic), shape (toy,).
        converged: Whether the fit is at a maximum, shape (toy,).
        seconds: Sum of the wall times of the blocks, in whatever process they ran.
        notes: What was found on the way, in sentences: files that could not be read.
    """

    plan: ToyPlan
    estimates: Float[np.ndarray, "toy 2"]
    covariances: Float[np.ndarray, "toy 3"]
    test_statistics: Float[np.ndarray, " toy"]
    converged: Bool[np.ndarray, " toy"]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def fitted(self) -> Toys:
        """The skies whose fit converged, for pulls and coverage."""
        good = self.converged
        matrices = self.covariances[good][:, [0, 1, 1, 2]].reshape(-1, 2, 2)
        truth = np.array(self.plan.dipole)
        return Toys(truth, self.estimates[good], matrices, self.test_statistics[good], good[good])


def toys(
    plan: ToyPlan, workers: Workers = Workers(), folder: Path | None = None, progress: Progress | None = None
) -> ToyResult:
    """Draw and fit all skies of a plan.

    Args:
        plan: What to draw, and how often.
        workers: Where; in this process by default.
        folder: Existing folder of the results, in which blocks are kept in `FOLDER`; blocks that are there are not
            drawn again, and more toys prolong them. None keeps them in memory, for this process alone.
        progress: Called with toys done, toys in all and seconds, after each block.

    Raises:
        InputError: If the folder holds toys of another plan of the same kind, or cannot be written; or there are
            workers and no folder.
        FitError: If workers keep dying.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.toys")
    clock, notes = time.monotonic(), []

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, plan.toys, time.monotonic() - clock)

    if folder is None:
        if not workers.here:
            raise InputError("toys of several workers need a folder that all of them see; give one")
        blocks = []
        for number in range(plan.blocks):
            blocks.append(run_block(plan, number))
            tell(sum(len(b.converged) for b in blocks))
        return _joined(plan, blocks, notes)
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder / FOLDER}: cannot be made ({error.strerror}); choose another -o") from error
    save_plan(folder, plan)
    found = [load_block(folder, plan, number) for number in range(plan.blocks)]
    notes = [each for each in found if isinstance(each, str)]
    missing = [number for number, each in enumerate(found) if not isinstance(each, Block)]
    done = [plan.toys - sum(plan.size(number) for number in missing)]

    def arrived(place: int, _) -> None:
        done[0] += plan.size(missing[place])
        tell(done[0])

    where = str(folder.resolve())
    jobs = [
        {"folder": where, "kind": plan.kind, "plan": plan.checksum, "toys": plan.toys, "number": number}
        for number in missing
    ]
    run_jobs(run_job, jobs, workers, arrived, folder)
    for number in missing:
        found[number] = _patiently(folder, plan, number)
    return _joined(plan, found, notes)


def run_job(job: dict) -> dict:
    """One block of a plan on disk, in a worker; returns its number and seconds. Done by another already, it is left."""
    folder = Path(job["folder"])
    plan = load_plan(folder, job["kind"], job["plan"], job["toys"])
    block = load_block(folder, plan, job["number"])
    if not isinstance(block, Block):
        block = run_block(plan, job["number"])
        # Another command may have put its plan in place of one that had no blocks yet: one of the two goes on.
        require_plan(folder, plan)
        save_block(folder, plan, job["number"], block)
    return {"number": job["number"], "seconds": block.seconds}


def run_block(plan: ToyPlan, number: int) -> Block:
    """Draw and fit the skies of one block, spread over the local devices.

    Raises:
        InputError: If the plan has no such block.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.toys")
    if not 0 <= number < plan.blocks:
        raise InputError(f"the plan has blocks 0 to {plan.blocks - 1}, not {number}")
    begun, size, batch = time.monotonic(), plan.size(number), _batch(plan)
    streams = [plan.random(number, k) for k in range(len(plan.names))]
    skies = [plan.sky(k) for k in range(len(plan.names))]
    rings = tuple(int(r) for r in np.flatnonzero(plan.acceptances.sum(axis=(0, 2)) > 0))
    modes = _modes(plan, rings)
    pending, out = deque(), []
    for first in range(0, size, batch):
        drawn = [
            draw_many(rng, *each, number=min(batch, size - first), weight_spread=float(spread))
            for rng, spread, *each in zip(
                streams, plan.weight_spreads, plan.rates, plan.acceptances, skies, strict=True
            )
        ]
        arrays, squares = marginals_of(plan, drawn, rings)
        given = _spread([_filled(x, batch) for x in arrays]), _spread([_filled(x, batch) for x in squares])
        # Computed while the next ones are drawn.
        pending.append(_fit_many(*given, modes, rings, tuple(int(g) for g in plan.groups)))
        if len(pending) > 2:
            out.append([np.asarray(x) for x in pending.popleft()])
    out += [[np.asarray(x) for x in each] for each in pending]
    return Block(*(np.concatenate(x)[:size] for x in zip(*out, strict=True)), time.monotonic() - begun)


def marginals_of(
    plan: ToyPlan, drawn: list[DrawnMarginals], rings: tuple[int, ...]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the fit needs of drawn skies, formed on the host in 64-bit floats.

    Weights are scaled by sum w / sum w^2, so that tolerances know what an event is worth.

    Args:
        plan: What was drawn.
        drawn: Of each configuration.
        rings: Kept rings.

    Returns:
        The arrays of `Marginals` and, for weighted events, the squares (time, local), each of shape (toy,
        configuration, ..).
    """
    sky = np.stack([d.sky[:, rings, :] for d in drawn], axis=1)
    local = np.stack([d.local[:, rings, :] for d in drawn], axis=1)
    time_ = np.stack([d.time for d in drawn], axis=1)
    squares = []
    if plan.weighted:
        # Unit weights are their own squares.
        square_time = np.stack([d.time if d.square_time is None else d.square_time for d in drawn], axis=1)
        square_local = np.stack([d.local if d.square_local is None else d.square_local for d in drawn], axis=1)
        scale = (time_.sum(-1) / np.maximum(square_time.sum(-1), 1e-300))[..., None]
        sky, local, time_ = sky * scale[..., None], local * scale[..., None], time_ * scale
        squares = [square_time * scale**2, square_local[:, :, rings, :] * scale[..., None] ** 2]
    rate = time_ / np.maximum(time_.sum(-1, keepdims=True), 1e-300)
    if plan.even_rates:
        for k, groups in enumerate(plan.groups):
            width = plan.grid.n_ra // groups
            rate[:, k] = np.repeat(rate[:, k].reshape(-1, groups, width).mean(axis=2), width, axis=1)
    background = np.fft.irfft(np.fft.rfft(rate)[:, :, None] * np.conj(np.fft.rfft(local)), n=plan.grid.n_ra)
    largest = background.max(axis=(2, 3), keepdims=True)
    background = np.where(background > 1e-13 * largest, background, 0.0)
    return [sky, time_, local, rate, background, sky - background], squares


def _modes(plan: ToyPlan, rings: tuple[int, ...]) -> RingModes:
    """The dipole's basis in the frame of each configuration, stacked."""
    each = [ring_modes(plan.grid, rings, *free_multipoles(1), rotation=float(turn)) for turn in plan.rotations]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


@functools.partial(jax.jit, static_argnames=("rings", "groups"))
def _fit_many(arrays, squares, modes, rings, groups):
    """Estimates, covariances, test statistics and convergence of skies side by side."""

    def one(arrays, squares):
        own = tuple(jax.tree.map(lambda x, k=k: x[k], modes) for k in range(len(groups)))
        data = [Marginals(*(x[k] for x in arrays), rings=rings) for k in range(len(groups))]
        blocks = tuple(make_block(d, m, g) for d, m, g in zip(data, own, groups, strict=True))
        prior = jnp.zeros(2)
        best = maximise(blocks, prior)
        statistic, covariance = 2 * best.gain, jnp.linalg.inv(best.information)
        if squares:
            pairs = tuple((squares[0][k], squares[1][k]) for k in range(len(groups)))
            covariance, scale = sandwich_of(best, own, blocks, (), pairs, prior)
            statistic = statistic * scale
        good = best.positive & (best.decrement >= 0) & (best.decrement < GAIN_TOLERANCE)
        # (1, -1) is delta_6h and comes first.
        c = covariance / DIPOLE_NORM**2
        return best.coefficients[::-1] / DIPOLE_NORM, jnp.stack([c[1, 1], c[0, 1], c[0, 0]]), statistic, good

    return jax.vmap(one)(arrays, squares)


def _batch(plan: ToyPlan) -> int:
    """Skies fitted at once: a matter of the plan alone, and a multiple of the local devices."""
    cells = plan.grid.n_ring * plan.grid.n_ra * len(plan.names)
    on_cpu = jax.default_backend() == "cpu"
    wanted = int(np.clip(2 ** np.floor(np.log2(_CELLS * (1 if on_cpu else 256) / cells)), 4, plan.block))
    devices = len(jax.local_devices())
    return -(-wanted // devices) * devices


def _filled(values: np.ndarray, batch: int) -> np.ndarray:
    """Repeat the last sky up to a whole batch, so that every batch is computed by the same program."""
    missing = batch - len(values)
    return values if missing == 0 else np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])


def _spread(arrays: list[np.ndarray]) -> list:
    """Skies laid evenly over the local devices."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return arrays
    return jax.device_put(arrays, NamedSharding(Mesh(np.array(devices), ("toy",)), PartitionSpec("toy")))


def _patiently(folder: Path, plan: ToyPlan, number: int) -> Block:
    """A block that a worker has just written."""

    def load() -> Block | None:
        block = load_block(folder, plan, number)
        if not isinstance(block, Block):
            require_plan(folder, plan)
            return None
        return block

    block = awaited(load)
    if block is None:
        raise FitError(f"{folder / FOLDER}: block {number} was finished, but is not there; run the command again")
    return block


def _joined(plan: ToyPlan, blocks: list[Block], notes: list[str]) -> ToyResult:
    *arrays, seconds = zip(*blocks, strict=True)
    return ToyResult(plan, *(np.concatenate(x) for x in arrays), seconds=sum(seconds), notes=tuple(notes))
