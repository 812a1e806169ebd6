"""Paths of charged particles in magnetic fields: dx/dt = n, dn/dt = n x B(x) / r_L.

Units have c = 1: time is path length, in the unit of positions (pc, AU, a coherence length). The field has a
unit of its own, and `larmor_radius` is the Larmor radius in a field of one such unit, with the sign of the charge:
`units.LARMOR_RADIUS * rigidity` for pc, TV and muG. Omega = 1 / |larmor_radius| is the gyrofrequency in a unit field.
A positive charge turns left-handed about B: with B along +z, n goes from x towards -y.

n is the direction of *motion*; a particle arrives from -n. Particles lie along the last axis.

Trajectories in turbulence are chaotic: the distance between neighbours grows e-fold in about 2.2 / Omega for
turbulence as strong as the regular field. Beyond Omega T of about 10 a derivative along a path is larger than any
quantity that it is the derivative of, and says nothing on averages; `integrate` warns. Differentiate transport
coefficients instead: `diffcr.transport_emulator` is a smooth emulator of them, and `diffcr.common_random` takes
differences of averages with common random numbers, with their errors.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Axes
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Real

from .directions import healpix_directions as healpix_directions
from .directions import isotropic_directions as isotropic_directions
from .errors import InputError, is_known
from .pusher import Method, boris_step
from .turbulence import Field, smallest_wavelength

CHAOTIC = 10.0
"""Omega T beyond which derivatives along a path lose their meaning in strong turbulence."""

_LARGEST_ANGLE = 1.0
"""Largest angle of gyration per step, in rad, in a field of one unit."""


class ChaosWarning(UserWarning):
    """A derivative is taken along paths longer than ten inverse gyrofrequencies."""


class Paths(eqx.Module):
    """Keep the path of each particle, thinned.

    Attributes:
        every: Steps between two kept points.
    """

    every: int = eqx.field(static=True)


class Means(eqx.Module):
    """Keep averages over particles, and no path.

    Attributes:
        function: f(time, (x0, n0), (x, n)) -> pytree of arrays [..., particle]. The same function object each time;
            a new one is compiled anew.
        every: Steps between two averages.
    """

    function: Callable = eqx.field(static=True)
    every: int = eqx.field(static=True)


class Trajectory(eqx.Module):
    """Where particles ended, and what was kept on the way.

    Attributes:
        position: Last positions, shape (3, particle).
        direction: Last unit directions of motion, shape (3, particle).
        observed: None; of `Paths` the positions and directions, each (sample, 3, particle); of `Means` what the
            function gave, averaged over particles, each (sample, ...).
        times: Path lengths at the samples, shape (sample,). The first sample is the start for `Paths`.
        step: Length of a step; the one asked for, or less by what makes a whole number of steps.
        steps: Number of steps.
    """

    position: Float[Array, "3 particle"]
    direction: Float[Array, "3 particle"]
    observed: PyTree
    times: Float[Array, " sample"]
    step: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)


# Whole paths --------------------------------------------------------------------------------------------


def integrate(
    field: Field,
    position: Real[ArrayLike, "3 _"],
    direction: Real[ArrayLike, "3 particle"],
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
    *,
    observe: Paths | Means | None = None,
    chunk: int | None = None,
    devices=None,
    method: str = "boris-tan",
) -> Trajectory:
    """Follow particles for a given path length, with steps of equal length.

    The step must resolve the gyration (step / |larmor_radius| of at most 1; 0.1 is enough for angular power spectra)
    and be no longer than the smallest wave. Runs in the dtype of `direction`: 32 bits are enough for averages.

    Particles go through in chunks that fit a processor's cache, and chunks over the devices; neither changes the
    result. Reverse-mode derivatives keep about the square root of the number of steps and recompute the rest; they
    and forward-mode ones exist with respect to the field's numbers, positions, directions and Larmor radius.
    Beyond Omega T = 10 they lose their meaning (see the top of this module), and a `ChaosWarning` says so; Omega is
    that of a field of one unit, so the unit of a field should be its typical strength.

    Args:
        field: B(x): any callable pytree from (3, particle) to (3, particle), written with jax.numpy.
        position: Starting points, shape (3, particle) or (3, 1) for all.
        direction: Unit vectors of motion, shape (3, particle).
        larmor_radius: In a field of one unit, with the sign of the charge; in the unit of positions.
        duration: Path length T > 0.
        step: Largest step; shortened to make whole numbers of steps, and of samples.
        observe: `Paths`, `Means`, or None for the end only.
        chunk: Particles followed together; by default 512 on a CPU, 65536 elsewhere.
        devices: Devices to share the chunks; by default all local ones of the default kind, and inside a trace none.
        method: Of rotation: "boris-tan", "boris" or "rodrigues".

    Raises:
        InputError: If duration or step is not positive, the step too long, a direction not a unit vector, or the
            field unfit for the positions.
    """
    _require_choices(field, method, devices)
    position, direction = _require_start(position, direction)
    every, samples, length = _require_steps(field, larmor_radius, duration, step, observe)
    position, direction, larmor_radius, field = _watch(
        duration, (position, direction, jnp.asarray(larmor_radius, direction.dtype), field)
    )
    leaves = jax.tree.leaves((field, position, direction, larmor_radius, jnp.zeros(()) + 0))
    traced = not all(is_known(leaf) for leaf in leaves)
    devices = _devices(devices, traced)
    chunk = _chunk(chunk, direction.shape[1], len(devices))
    arrays, rest = _split(field)
    arguments = (arrays, position, direction, larmor_radius)
    plan = _Plan(rest, observe, every, samples, length, chunk, method, devices)
    # A function inside a trace is compiled with that of the caller, and cannot have options of its own.
    end, observed = _compiled(() if traced else _accelerated(devices))(plan, *arguments)
    first = 0 if isinstance(observe, Paths) else 1
    times = length * every * np.arange(first, samples + 1)
    if observe is None:
        times = times[-1:]
    return Trajectory(*end, observed, jnp.asarray(times, float), length, every * samples)


def backtrack_antiparticle(
    field: Field,
    position: Real[ArrayLike, "3 _"],
    sky_direction: Real[ArrayLike, "3 particle"],
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
    **options: Any,
) -> Trajectory:
    """Where particles that now arrive from given sky directions were a time `duration` ago.

    The particle moves along -sky_direction now. Its *antiparticle*, sent out along +sky_direction, goes back along the
    same path; the particle itself sent back would not.

    Args:
        field: B(x).
        position: Where the particles arrive, shape (3, particle) or (3, 1).
        sky_direction: Unit vectors towards where they come from, shape (3, particle).
        larmor_radius: Of the *particle*, with the sign of its charge.
        duration: How long ago, T > 0.
        step: As of `integrate`.
        **options: As of `integrate`. What `observe` sees is the antiparticle.

    Returns:
        `position` is r(-T) and `direction` the particle's own direction of motion there and then.

    Raises:
        InputError: As of `integrate`.
    """
    back = integrate(field, position, sky_direction, -jnp.asarray(larmor_radius), duration, step, **options)
    return eqx.tree_at(lambda t: t.direction, back, -back.direction)


def on_devices(field: Field, devices=None) -> Field:
    """The same field with its arrays on every device, for many calls of `integrate` with these devices.

    Otherwise each call hands them over again, which for a large grid takes as long as some tens of steps.

    Args:
        field: B(x).
        devices: Of JAX; by default all local ones.

    Raises:
        InputError: If the devices are no list of devices, or the field cannot be used.
    """
    _require_choices(field, "boris-tan", devices)
    devices = _devices(devices, False)
    arrays, rest = _split(field)
    return _join(arrays if len(devices) == 1 else _everywhere(arrays, devices), rest)


# Checks -------------------------------------------------------------------------------------------------


def _require_choices(field, method, devices) -> None:
    methods = get_args(Method)
    if method not in methods:
        raise InputError(f"method of rotation must be one of {', '.join(methods)}, not {method!r}")
    if devices is not None and (isinstance(devices, int | str) or not len(devices)):
        raise InputError(f"devices must be a list of JAX devices, such as jax.devices(), not {devices!r}")
    if isinstance(field, eqx.Module):
        return
    remedy = "write it with jax.numpy, from positions (3, particle) to an array of that shape"
    if not callable(field):
        raise InputError(f"a field must be a function, not {type(field).__name__}: {remedy}")
    try:
        shape = getattr(jax.eval_shape(field, jax.ShapeDtypeStruct((3, 7), jnp.zeros(()).dtype)), "shape", "a list")
    except jax.errors.JAXTypeError:
        raise InputError(f"the field cannot be traced by JAX: {remedy}") from None
    if shape != (3, 7):
        raise InputError(f"the field gives {shape} for positions of the shape (3, 7): {remedy}")


def _require_start(position, direction) -> tuple[Array, Array]:
    shape = np.shape(direction)
    if len(shape) != 2 or shape[0] != 3 or shape[1] < 1:
        raise InputError(f"directions have the shape (3, particle), not {shape}: put the particles last")
    if np.shape(position) not in (shape, (3, 1)):
        raise InputError(f"positions have the shape {shape} of the directions or (3, 1), not {np.shape(position)}")
    # In NumPy, which no trace turns into something without a value.
    for name, value in (("positions", position), ("directions", direction)):
        if is_known(value) and not np.all(np.isfinite(np.asarray(value))):
            raise InputError(f"{name} must be finite: leave out particles whose start is unknown")
    if is_known(direction):
        off = float(np.max(np.abs(np.linalg.norm(np.asarray(direction, float), axis=0) - 1)))
        if off > 1e-3:
            raise InputError(f"directions must be unit vectors: one differs by {off:.3g} from length 1; normalise them")
    direction = jnp.asarray(direction)
    if not jnp.issubdtype(direction.dtype, jnp.floating):
        direction = direction.astype(float)
    return jnp.broadcast_to(jnp.asarray(position, direction.dtype), direction.shape), direction


def require_step(field: Field, larmor_radius: Real[ArrayLike, ""], duration: float, step: float) -> None:
    """Check the path length and the step of a run before anything is computed.

    Raises:
        InputError: If one of them is not positive and finite, if the step is longer than the smallest wave of the
            field, or than the Larmor radius in a field of one unit.
    """
    for name, value in (("duration T", duration), ("step", step)):
        if not (isinstance(value, int | float | np.number) and math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, not {value!r}: give a path length in the unit of x")
    wave = smallest_wavelength(field)
    if min(step, duration) > wave * (1 + 1e-9):
        raise InputError(
            f"step {step:g} is longer than the smallest wave, lambda_min = {wave:g}: "
            f"use a step of at most {wave:g}, or turbulence without waves below {step:g}"
        )
    if is_known(larmor_radius):
        radius = abs(float(larmor_radius))
        if not (math.isfinite(radius) and radius > 0):
            raise InputError(f"larmor_radius must be finite and not zero, not {larmor_radius!r}")
        if min(step, duration) / radius > _LARGEST_ANGLE * (1 + 1e-9):
            raise InputError(
                f"step {step:g} turns a particle by {step / radius:.3g} rad in a field of one unit (Larmor radius "
                f"{radius:g}): use a step of at most {_LARGEST_ANGLE * radius:g}; a tenth of it is accurate"
            )


def _require_steps(field, larmor_radius, duration, step, observe) -> tuple[int, int, float]:
    """Steps between samples, number of samples, and length of a step."""
    require_step(field, larmor_radius, duration, step)
    steps = max(1, math.ceil(duration / step - 1e-9))
    if observe is None:
        every = _block(steps)
    else:
        every = observe.every
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise InputError(f"every must be a whole number of steps of at least 1, not {every!r}")
        every = min(int(every), steps)
    samples = math.ceil(steps / every)
    return every, samples, float(duration) / (every * samples)


def _block(steps: int) -> int:
    """A number of steps near the square root of all, which divides them where one is near."""
    root = math.isqrt(steps)
    near = [n for n in range(max(1, root // 2), 2 * root + 1) if steps % n == 0]
    return min(near, key=lambda n: abs(n - root), default=root)


# Derivatives --------------------------------------------------------------------------------------------


def _watch(duration: float, values):
    """Pass values on; where derivatives are taken through them beyond Omega T = 10, warn."""

    @jax.custom_jvp
    def watched(values):
        return values

    @watched.defjvp
    def _(primals, tangents):
        larmor_radius = primals[0][2]
        if is_known(larmor_radius):
            _warn_chaos(duration / np.abs(np.asarray(larmor_radius)))
        else:
            jax.debug.callback(_warn_chaos, duration / jnp.abs(larmor_radius))
        return primals[0], tangents[0]

    arrays, rest = eqx.partition(values, eqx.is_inexact_array)
    return eqx.combine(watched(arrays), rest)


def _warn_chaos(turns) -> None:
    if np.max(turns) > CHAOTIC * (1 + 1e-6):
        warnings.warn(
            f"derivative along paths of Omega T = {float(np.max(turns)):.3g}: in turbulence they are chaotic beyond "
            f"{CHAOTIC:g} and it says nothing on averages; use transport coefficients, differences with common "
            "random numbers, or an emulator",
            ChaosWarning,
            stacklevel=2,
        )


# Chunks and devices -------------------------------------------------------------------------------------


class _Plan(eqx.Module):
    """What decides shapes and branches of a run; hashable."""

    rest: Any = eqx.field(static=True)
    observe: Paths | Means | None = eqx.field(static=True)
    every: int = eqx.field(static=True)
    samples: int = eqx.field(static=True)
    step: float = eqx.field(static=True)
    chunk: int = eqx.field(static=True)
    method: Method = eqx.field(static=True)
    devices: tuple = eqx.field(static=True)


def _split(field):
    """Arrays of a field, and the rest of it as something that can be hashed."""
    leaves, tree = jax.tree.flatten(field)
    is_array = tuple(eqx.is_array(leaf) for leaf in leaves)
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    others = tuple(leaf for leaf, array in zip(leaves, is_array, strict=True) if not array)
    return arrays, (tree, is_array, others)


def _join(arrays, rest):
    tree, is_array, others = rest
    arrays, others = iter(arrays), iter(others)
    return jax.tree.unflatten(tree, [next(arrays) if array else next(others) for array in is_array])


def _devices(devices, traced: bool) -> tuple:
    if devices is not None:
        return tuple(devices)
    return (None,) if traced else tuple(jax.local_devices())


def _everywhere(arrays, devices: tuple):
    """Copies on all devices; those that are there already are not copied again."""
    return jax.device_put(arrays, NamedSharding(Mesh(np.array(devices), ("chunk",)), Axes()))


def _chunk(chunk: int | None, particles: int, devices: int) -> int:
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int | np.integer) or chunk < 1):
        raise InputError(f"chunk must be a whole number of particles of at least 1, not {chunk!r}")
    chunk = int(chunk) if chunk else (512 if jax.default_backend() == "cpu" else 65536)
    return min(chunk, math.ceil(particles / devices))


def _accelerated(devices) -> tuple:
    """Compiler options: full vector width on a CPU, a third faster where it has 512 bits. None on other devices."""
    platform = getattr(devices[0], "platform", jax.default_backend())
    return (("xla_cpu_prefer_vector_width", 512),) if platform == "cpu" else ()


@functools.cache
def _compiled(options: tuple):
    return jax.jit(_follow_all, static_argnums=0, compiler_options=dict(options))


def _follow_all(plan: _Plan, arrays, position, direction, larmor_radius):
    number, devices = direction.shape[1], len(plan.devices)
    chunks = math.ceil(number / (plan.chunk * devices)) * devices
    # Left over places are filled with copies of the last particle, which no average counts.
    order = np.minimum(np.arange(chunks * plan.chunk), number - 1).reshape(chunks, plan.chunk)
    counted = np.arange(chunks * plan.chunk).reshape(chunks, plan.chunk) < number
    start = [jnp.moveaxis(v[:, order], 1, 0) for v in (position, direction)]

    def share(arrays, larmor_radius, *chunked):
        follow = lambda inputs: _follow(plan, _join(arrays, plan.rest), larmor_radius, *inputs)
        return jax.lax.map(follow, chunked)

    if devices > 1:
        mesh = Mesh(np.array(plan.devices), ("chunk",))
        specs = (Axes(), Axes(), Axes("chunk"), Axes("chunk"), Axes("chunk"))
        share = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=Axes("chunk"), check_vma=False)
    (position, direction), observed = share(arrays, larmor_radius, *start, jnp.asarray(counted))
    together = lambda v: jnp.moveaxis(v, 0, -2).reshape(*v.shape[1:-1], -1)[..., :number]
    if isinstance(plan.observe, Paths):
        observed = tuple(together(v) for v in observed)
        observed = tuple(
            jnp.concatenate([first[None], kept])
            for first, kept in zip((together(v) for v in start), observed, strict=True)
        )
    elif isinstance(plan.observe, Means):
        observed = jax.tree.map(lambda total: jnp.sum(total, axis=0) / number, observed)
    return (together(position), together(direction)), observed


def _follow(plan: _Plan, field, larmor_radius, position, direction, counted):
    """One chunk through all samples."""
    start = position, direction
    step = jnp.asarray(plan.step, direction.dtype)

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("field"))
    def one_step(state):
        return boris_step(field, *state, larmor_radius, step, plan.method)

    @jax.checkpoint
    def block(state):
        return jax.lax.fori_loop(0, plan.every, lambda _, state: one_step(state), state)

    def sample(state, index):
        state = block(state)
        if isinstance(plan.observe, Paths):
            return state, state
        if isinstance(plan.observe, Means):
            values = plan.observe.function((index + 1) * plan.every * step, start, state)
            return state, jax.tree.map(lambda v: jnp.sum(jnp.where(counted, v, 0), axis=-1), values)
        return state, None

    return jax.lax.scan(sample, start, jnp.arange(plan.samples))
