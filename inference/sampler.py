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
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro import handlers
from numpyro.infer import util
from numpyro.infer.hmc import hmc

import diffcr
from diffcr.errors import InputError

from .files import atomic
from .prior import Coordinates

STATISTICS = ("diverging", "num_steps", "accept_prob", "energy", "potential_energy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and how to sample.

    Attributes:
        chains: Chains, side by side on one device or spread evenly over all.
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
) -> Draws:
    """Run the plan of a kernel, saving every segment.

    Args:
        kernel: The transition.
        args, kwargs: Of the model: the data.
        folder: Where segments go; None keeps them in memory.
        header: What identifies the run beyond the plan: model, priors, checksum of the data. JSON.
        resume: Continue what is in the folder; otherwise it must hold no segments.
        progress: Called after each segment with steps done, steps in all, and the seconds of this process.
        at: Values at which sites start, one for each chain; the others start as `Kernel.start` has it.

    Raises:
        InputError: If the folder holds another run, or one when not resuming.
    """
    plan = kernel.plan
    keys = jax.random.split(jax.random.PRNGKey(plan.seed), plan.chains)
    start = jax.jit(jax.vmap(lambda key, at, a, k: kernel.start(key, a, k, at), (0, 0, None, None)))
    template = jax.eval_shape(start, keys, at, args, kwargs)
    label = _label(plan, header or {})
    done: list[dict] = []
    carry = None
    if folder is not None:
        done, carry = _load(folder, label, template, resume)
    if carry is None:
        carry = start(keys, at, args, kwargs)
    carry = _spread(carry, plan.chains)

    @functools.partial(jax.jit, static_argnames="length", donate_argnums=0)
    def run(carry, args, kwargs, length):
        def all_chains(c, _):
            return jax.vmap(lambda own: kernel.step(own, args, kwargs))(c)

        return jax.lax.scan(all_chains, carry, length=length)

    parts, clock = plan.remaining([len(part["s.diverging"]) for part in done]), time.monotonic()
    compiled, steps = {}, plan.warmup + plan.draws
    for length in parts:
        if length not in compiled:
            compiled[length] = run.lower(carry, args, kwargs, length=length).compile()
        begun = time.monotonic()
        carry, (positions, statistics) = jax.block_until_ready(compiled[length](carry, args, kwargs))
        took = time.monotonic() - begun
        before = sum(len(part["s.diverging"]) for part in done)
        kept = {f"z.{k}": np.asarray(v) for k, v in positions.items()} if before >= plan.warmup else {}
        kept |= {f"s.{k}": np.asarray(v) for k, v in statistics.items()}
        kept["seconds"] = np.array(took)
        if folder is not None:
            _save(folder, len(done), label, kept, carry)
        done.append(kept)
        if progress is not None:
            progress(before + length, steps, time.monotonic() - clock)
    drawn = [part for part in done if any(k.startswith("z.") for k in part)]

    def joined(name):
        return np.moveaxis(np.concatenate([part[name] for part in drawn])[: plan.draws], 0, 1)

    names = drawn[0]
    return Draws(
        positions={k[2:]: joined(k) for k in names if k.startswith("z.")},
        statistics={k[2:]: joined(k) for k in names if k.startswith("s.")},
        seconds=float(sum(part["seconds"] for part in drawn)),
        seconds_total=time.monotonic() - clock,
    )


def natural(kernel: Kernel, positions: dict[str, np.ndarray], args: tuple, kwargs: dict) -> dict[str, np.ndarray]:
    """Parameters and deterministic quantities of the draws, arrays (chain, draw, ..)."""
    one = lambda z: util.constrain_fn(kernel.model, args, kwargs, z, return_deterministic=True)
    fill = jax.jit(lambda z: jax.lax.map(jax.vmap(one), z))
    return {k: np.asarray(v) for k, v in fill({k: jnp.asarray(v) for k, v in positions.items()}).items()}


def _spread(carry, chains: int):
    """Chains laid over the local devices where these divide them evenly."""
    devices = jax.local_devices()
    if len(devices) == 1 or chains % len(devices):
        return carry
    return jax.device_put(carry, NamedSharding(Mesh(np.array(devices), ("chain",)), PartitionSpec("chain")))


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
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                content = {k: file[k] for k in file.files}
            found_label = json.loads(bytes(content.pop("label")).decode())
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it and all later ones, then resume") from error
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
