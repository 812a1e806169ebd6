"""NUTS in segments: chains side by side, every finished segment on disk, continued bit for bit after any end.

A segment is a fixed number of steps of all chains in one compiled call. Its draws and the complete state of the
sampler at its end (positions, adaptation, random keys) go into one npz file that appears under its name only
when complete. Continuing loads the last one and goes on; nothing in a run depends on where it was cut.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import util
from numpyro.infer.hmc import hmc

import diffcr
from diffcr.errors import InputError

from .archives import read_archive
from .devices import Shares, warn_of_threads
from .files import atomic
from .hosts import first_only, first_tells, is_first
from .prior import Coordinates

STATISTICS = ("diverging", "num_steps", "accept_prob", "energy", "potential_energy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and how to sample.

    Attributes:
        chains: Chains, side by side on one device or spread over several.
        warmup: Steps of adaptation per chain, not kept.
        draws: Kept steps per chain.
        segment: Steps between two saves.
        seed: Of the random numbers.
        target_accept: Mean acceptance the step size is adapted to.
        max_tree_depth: A trajectory has at most 2^this - 1 steps.

    Raises:
        InputError: If a number is out of range.
    """

    chains: int = 4
    warmup: int = 500
    draws: int = 500
    segment: int = 100
    seed: int = 0
    target_accept: float = 0.8
    max_tree_depth: int = 10

    def __post_init__(self):
        for name, least in (("chains", 1), ("warmup", 20), ("draws", 4), ("segment", 1), ("max_tree_depth", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if not 0 < self.target_accept < 1:
            raise InputError(f"target_accept must lie between 0 and 1, not {self.target_accept}")

    def remaining(self, done: list[int]) -> list[int]:
        """Lengths of the segments still to run after those of the given lengths; none holds warm-up and draws."""
        steps, parts = sum(done), []
        for end in (self.warmup, self.warmup + self.draws):
            while steps < end:
                parts.append(min(self.segment, end - steps))
                steps += parts[-1]
        return parts


class Draws(NamedTuple):
    """What came out.

    Attributes:
        positions: Coordinates of each site, arrays (chain, draw, ..).
        statistics: Per draw, arrays (chain, draw): those of `STATISTICS`, and "flipped" where there is such a move.
        seconds: Wall time of the kept draws, in whatever process they ran, compilation left out.
        seconds_total: Wall time of this process's sampling, warm-up and compilation included.
    """

    positions: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    seconds: float
    seconds_total: float


class Kernel:
    """One model's NUTS transition, with the move to the mirror image where the model has one.

    Args:
        model: A numpyro model.
        plan: Its warm-up, acceptance and depth.
        flip: Sign of each mirrored site, an array per site name; the others stay. None for no such move.
        dense: Sites that share a dense mass matrix; each other coordinate has its own scale.
    """

    def __init__(self, model, plan: Plan, flip: dict[str, Any] | None = None, dense: tuple[str, ...] = ()):
        self.model, self.plan, self.flip, self.dense = model, plan, flip or {}, dense
        self._init, self._sample = hmc(potential_fn_gen=self._potential_of, algo="NUTS")

    def _potential_of(self, *args, **kwargs):
        return functools.partial(util.potential_energy, self.model, args, kwargs)

    def start(self, key, args: tuple, kwargs: dict, at: dict[str, Any] | None = None):
        """A chain's first state: prior draws; in whitened coordinates a broad normal about the maximum.

        Sites for which `at` has a value start there.
        """
        prior, spread, kernel, flip = jax.random.split(key, 4)
        trace = handlers.trace(handlers.seed(self.model, prior)).get_trace(*args, **kwargs)
        sites = {k: v for k, v in trace.items() if v["type"] == "sample" and not v["is_observed"]}
        natural = {k: v["value"] for k, v in sites.items()} | (at or {})
        z = util.unconstrain_fn(self.model, args, kwargs, natural)
        for place, (k, site) in enumerate(sites.items()):
            if isinstance(site["fn"].support, Coordinates) and k not in (at or {}):
                z[k] = 1.5 * jax.random.normal(jax.random.fold_in(spread, place), jnp.shape(z[k]))
        fine = jnp.isfinite(self._potential_of(*args, **kwargs)(z))
        # Far out the sky may be negative somewhere; the maximum never is.
        z = {k: jnp.where(fine | (not isinstance(sites[k]["fn"].support, Coordinates)), v, 0.0) for k, v in z.items()}
        dense = [tuple(s for s in self.dense if s in z)] if self.dense else False
        state = self._init(
            z,
            self.plan.warmup,
            target_accept_prob=self.plan.target_accept,
            max_tree_depth=self.plan.max_tree_depth,
            dense_mass=dense,
            model_args=args,
            model_kwargs=kwargs,
            rng_key=kernel,
        )
        return state, flip

    def step(self, carry, args: tuple, kwargs: dict):
        """One transition; returns the carry and (coordinates, statistics)."""
        state, key = carry
        state = self._sample(state, model_args=args, model_kwargs=kwargs)
        statistics = {k: getattr(state, k) for k in STATISTICS}
        if self.flip:
            key, own = jax.random.split(key)
            state, statistics["flipped"] = self._mirror(state, own, args, kwargs)
        return (state, key), (state.z, statistics)

    def _mirror(self, state, key, args, kwargs):
        """Metropolis step to the mirror image: an involution of unit Jacobian of the parameters themselves."""
        here = util.constrain_fn(self.model, args, kwargs, state.z)
        there = {k: v * self.flip[k] if k in self.flip else v for k, v in here.items()}
        density = lambda x: util.log_density(self.model, args, kwargs, x)[0]
        # Not while the mass matrix is learned: it would be that of both images together, far too wide for each.
        warm = state.i >= self.plan.warmup
        accept = warm & (jnp.log(jax.random.uniform(key)) < density(there) - density(here))
        z = util.unconstrain_fn(self.model, args, kwargs, there)
        energy, gradient = jax.value_and_grad(self._potential_of(*args, **kwargs))(z)
        moved = state._replace(z=z, z_grad=gradient, potential_energy=energy)
        return jax.tree.map(lambda a, b: jnp.where(accept, a, b), moved, state), accept


def sample_segments(
    kernel: Kernel,
    args: tuple,
    kwargs: dict,
    folder: Path | None = None,
    header: dict | None = None,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    at: dict[str, Any] | None = None,
    devices: list | None = None,
) -> Draws | None:
    """Run the plan of a kernel, saving every segment.

    Chains are laid over the devices. A device computes its chains as it would alone, with rounding of its own:
    on other numbers of devices the draws agree to rounding until NUTS, which is chaotic, makes them other draws of
    the same posterior. On one number of devices they are the same bit for bit.

    Args:
        kernel: The transition.
        args, kwargs: Of the model: the data.
        folder: Where segments go; None keeps them in memory.
        header: What identifies the run beyond the plan: model, priors, checksum of the data. JSON.
        resume: Continue what is in the folder; otherwise it must hold no segments.
        progress: Called after each segment with steps done, steps in all, and the seconds of this process.
        at: Values at which sites start, one for each chain; the others start as `Kernel.start` has it.
        devices: Of JAX; by default all local ones. With those of other processes every process calls this, with the
            same plan; data and segments are those of the first.

    Returns:
        The draws; None in all processes but the first.

    Raises:
        InputError: If the folder holds another run, or one when not resuming.
    """
    plan, clock = kernel.plan, time.monotonic()
    warn_of_threads()
    shares = Shares(plan.chains, devices, "chain")
    keys = jax.random.split(jax.random.PRNGKey(plan.seed), plan.chains)
    start = jax.vmap(lambda key, at, a, k: kernel.start(key, a, k, at), (0, 0, None, None))
    template = jax.eval_shape(start, keys, at, args, kwargs)
    label = _label(plan, header or {})
    done, carry = _found(folder, label, template, resume, shares)
    args, kwargs = shares.whole((args, kwargs))
    if carry is None:
        carry = jax.jit(shares.map(start, shared=2))(*shares.split((keys, at)), args, kwargs)
    else:
        carry = shares.split(carry)

    @functools.partial(jax.jit, static_argnames="length", donate_argnums=0)
    def run(carry, args, kwargs, length):
        def all_chains(carry, args, kwargs):
            step = lambda c, _: jax.vmap(lambda own: kernel.step(own, args, kwargs))(c)
            return jax.lax.scan(step, carry, length=length)

        return shares.map(all_chains, shared=2, results=(0, 1))(carry, args, kwargs)

    first, compiled, steps = is_first(), {}, plan.warmup + plan.draws
    before = sum(len(part["s.diverging"]) for part in done)
    for length in plan.remaining([len(part["s.diverging"]) for part in done]):
        if length not in compiled:
            compiled[length] = run.lower(carry, args, kwargs, length=length).compile()
        begun = time.monotonic()
        carry, drawn = jax.block_until_ready(compiled[length](carry, args, kwargs))
        took = time.monotonic() - begun
        positions, statistics = shares.gather(drawn, axis=1)
        kept = {f"z.{k}": v for k, v in positions.items()} if before >= plan.warmup else {}
        kept |= {f"s.{k}": v for k, v in statistics.items()}
        kept["seconds"] = np.array(took)
        state = None if folder is None else shares.gather(carry)
        if folder is not None and first:
            _save(folder, len(done), label, kept, state)
        done.append(kept)
        before += length
        if progress is not None and first:
            progress(before, steps, time.monotonic() - clock)
    return _joined(plan, done, time.monotonic() - clock) if first else None


def _joined(plan: Plan, done: list[dict], seconds: float) -> Draws:
    """Draws of all segments."""
    drawn = [part for part in done if any(k.startswith("z.") for k in part)]

    def joined(name):
        return np.moveaxis(np.concatenate([part[name] for part in drawn])[: plan.draws], 0, 1)

    names = drawn[0]
    return Draws(
        positions={k[2:]: joined(k) for k in names if k.startswith("z.")},
        statistics={k[2:]: joined(k) for k in names if k.startswith("s.")},
        seconds=float(sum(part["seconds"] for part in drawn)),
        seconds_total=seconds,
    )


def natural(kernel: Kernel, positions: dict[str, np.ndarray], args: tuple, kwargs: dict) -> dict[str, np.ndarray]:
    """Parameters and deterministic quantities of the draws, arrays (chain, draw, ..)."""
    one = lambda z: util.constrain_fn(kernel.model, args, kwargs, z, return_deterministic=True)
    # One by one: batches of small matrices are what a processor's pool of threads can hang on (see `devices`).
    fill = jax.jit(lambda z: jax.lax.map(lambda chain: jax.lax.map(one, chain), z))
    return {k: np.asarray(v) for k, v in fill({k: jnp.asarray(v) for k, v in positions.items()}).items()}


def _found(folder: Path | None, label: str, template, resume: bool, shares: Shares) -> tuple[list[dict], Any]:
    """Finished segments and the state at the end of the last, the same in every process."""
    if folder is None:
        return [], None
    if not shares.several_hosts:
        return _load(folder, label, template, resume)
    from jax.experimental.multihost_utils import broadcast_one_to_all

    done, carry = first_only(lambda: _load(folder, label, template, resume), ([], None))
    lengths = first_tells(lambda: [len(part["s.diverging"]) for part in done])
    if not is_first():
        done = [{"s.diverging": np.zeros(length)} for length in lengths]
    if not lengths:
        return [], None
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    return done, broadcast_one_to_all(blank if carry is None else carry)


def _label(plan: Plan, header: dict) -> str:
    """One line that says what run a segment is of. A longer run continues a shorter one."""
    own = {k: v for k, v in dataclasses.asdict(plan).items() if k != "draws"}
    return json.dumps({"software": f"diffcr {diffcr.__version__}", **own, **header}, sort_keys=True)


def _path(folder: Path, number: int) -> Path:
    return folder / f"segment_{number:05d}.npz"


def _save(folder: Path, number: int, label: str, kept: dict, carry) -> None:
    leaves = {f"c.{k:03d}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(carry))}
    text = np.frombuffer(label.encode(), np.uint8)
    with atomic(_path(folder, number)) as part, part.open("wb") as file:
        np.savez(file, label=text, **kept, **leaves)


def _load(folder: Path, label: str, template, resume: bool) -> tuple[list[dict], Any]:
    """Finished segments in their order, and the state at the end of the last."""
    found = []
    while _path(folder, len(found)).exists():
        found.append(_path(folder, len(found)))
    if found and not resume:
        raise InputError(f"{folder}: holds a run already; continue it with --resume, or choose another -o")
    done, carry = [], None
    for path in found:
        try:
            segment = read_archive(path)
        except InputError as error:
            raise InputError(f"{error}; delete it and all later ones, then resume") from error
        if segment is None:
            raise InputError(f"{path}: is gone; delete all later ones, then resume")
        found_label, content = segment
        _require_same(path, found_label, json.loads(label))
        leaves = [content.pop(k) for k in sorted(content) if k.startswith("c.")]
        done.append(content)
    if found:
        shapes, structure = jax.tree.flatten(template)
        if [x.shape for x in shapes] != [x.shape for x in leaves]:
            raise InputError(f"{found[-1]}: is of another model or data; choose another -o")
        carry = jax.tree.unflatten(structure, [jnp.asarray(x) for x in leaves])
    return done, carry


def _require_same(path: Path, old: dict, new: dict) -> None:
    differing = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if differing:
        raise InputError(
            f"{path}: is of a run with other {', '.join(differing)}; resume with the settings it was started with, "
            "or choose another -o"
        )


def checksum(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays by name, to tell data apart."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
