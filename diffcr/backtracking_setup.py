"""What decides a backtracking experiment: turbulence, particles, steps and sky; and its cost before it runs."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .errors import InputError
from .spectrum import BendOver, Spectrum
from .trajectory import require_step
from .turbulence import PlaneWaves
from .turbulence_grid import _num_levels, grid_memory

KEPT = 16
"""Highest degree of the multipoles, with their phases, that `Spectra` keep."""

_SIZES = {"ladder": 80, "plane": 300, "grid": 64}


def _number(value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"a number of a backtracking set-up is {value!r}: give one real number") from None


def _whole(value):
    return int(value) if isinstance(value, np.integer) else value


class Setup(eqx.Module):
    """One numerical experiment: the turbulence, the particles, and how they are followed.

    Attributes:
        sigma2: <dB^2> / B_0^2, all three components of dB together. 0 leaves the regular field alone.
        larmor_radius: In B_0, in the unit of the spectrum's lengths, with the sign of the charge.
        spectrum: One of `diffcr.spectrum`.
        representation: "ladder", "plane" (waves) or "grid".
        size: Directions of the ladder, number of plane waves, or cells along a grid; by default 80, 300 or 64.
        omega_t: Omega T, the time traced back in units of 1 / Omega = |larmor_radius|.
        omega_step: Omega dt, the largest step.
        samples: Number of times kept, at equal intervals, the last of which is T.
        nside: Of the HEALPix sky; directions are pixel centres in RING order.
        precision: "float32" or "float64", of paths.
        seed: Of all random numbers; realisation i has the key fold_in(key(seed), i).
        geometry: "isotropic", "slab", "2d" or "composite", with B_0 as axis. Grids are isotropic.
        helicity: sigma from -1 to 1, as in `turbulence.draw_plane_waves`.
        slab_fraction: Share of the slab in the power of a composite.

    Raises:
        InputError: If a value is out of range, or the step too long for the waves or the gyration.
    """

    sigma2: float = eqx.field(static=True, converter=_number, default=1.0)
    larmor_radius: float = eqx.field(static=True, converter=_number, default=0.1)
    spectrum: Spectrum = eqx.field(default_factory=BendOver)
    representation: str = eqx.field(static=True, default="ladder")
    size: int | None = eqx.field(static=True, converter=_whole, default=None)
    omega_t: float = eqx.field(static=True, converter=_number, default=100.0)
    omega_step: float = eqx.field(static=True, converter=_number, default=0.1)
    samples: int = eqx.field(static=True, converter=_whole, default=10)
    nside: int = eqx.field(static=True, converter=_whole, default=64)
    precision: str = eqx.field(static=True, default="float32")
    seed: int = eqx.field(static=True, converter=_whole, default=0)
    geometry: str = eqx.field(static=True, default="isotropic")
    helicity: float = eqx.field(static=True, converter=_number, default=0.0)
    slab_fraction: float = eqx.field(static=True, converter=_number, default=0.2)

    def __check_init__(self):
        _require_setup(self)

    @property
    def number(self) -> int:
        """`size`, or the default of the representation."""
        return _SIZES[self.representation] if self.size is None else self.size

    @property
    def pixels(self) -> int:
        """Number of pixels, 12 nside^2."""
        return 12 * self.nside**2

    @property
    def duration(self) -> float:
        """T, in the unit of the spectrum's lengths."""
        return self.omega_t * abs(self.larmor_radius)

    @property
    def steps(self) -> int:
        """Steps of a path: the fewest that are equal, at most `omega_step` long, and a whole number per sample."""
        return self.samples * math.ceil(math.ceil(self.omega_t / self.omega_step - 1e-9) / self.samples)

    @property
    def times(self) -> Float[np.ndarray, " sample"]:
        """Times kept, in the unit of the spectrum's lengths."""
        return self.duration * np.arange(1, self.samples + 1) / self.samples


class Cost(eqx.Module):
    """What a run takes, known before anything is computed.

    Attributes:
        steps: Steps of particles, of all realisations.
        waves: Waves summed at each step, or table entries looked up.
        memory: Peak of one realisation [byte], without the program itself.
        kept: `Spectra` of all realisations [byte].
    """

    steps: int
    waves: int
    memory: int
    kept: int


def cost(setup: Setup, realisations: int, l_max: int | None = None) -> Cost:
    """Work and memory of a number of realisations, by counting.

    Raises:
        InputError: If the degree does not suit the pixels, or the number is not a whole one of at least 1.
    """
    if isinstance(realisations, bool) or not isinstance(realisations, int | np.integer) or realisations < 1:
        raise InputError(f"the number of realisations must be a whole number of at least 1, not {realisations!r}")
    l_max = require_l_max(l_max, setup.nside)
    width = 8 if setup.precision == "float64" else 4
    ratio = float(setup.spectrum.largest / setup.spectrum.smallest)
    waves, field = setup.number, 0
    if setup.representation == "ladder":
        waves *= max(1, math.ceil(math.log2(ratio) - 1e-9))
    if setup.representation == "grid":
        levels = _num_levels(setup.number, None, ratio)
        # Trilinear: the component along an axis has 3 nodes along it and 2 along the others.
        waves, field = 36 * levels, grid_memory(setup.number, levels, dtype=setup.precision).drawing
    numbers = setup.samples * setup.pixels
    # Positions and directions as chunks and joined; then positions in 64 bits, with two sets of multipoles of a map.
    memory = field + 2 * 6 * width * (numbers + setup.pixels) + 3 * 8 * numbers + 2 * 8 * (l_max + 1) ** 2
    each = 9 * (l_max + 1) + 21 + 3 * (min(l_max, KEPT) + 1) ** 2
    return Cost(realisations * setup.pixels * setup.steps, waves, memory, 8 * realisations * setup.samples * each)


# Checks -------------------------------------------------------------------------------------------------------


def require_l_max(l_max: int | None, nside: int) -> int:
    """Highest degree of a HEALPix map; 3 nside - 1 where none is given.

    Raises:
        InputError: If it is not a whole number from 2 to 3 nside - 1.
    """
    if l_max is None:
        return 3 * nside - 1
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or not 2 <= l_max <= 3 * nside - 1:
        raise InputError(
            f"l_max must be a whole number from 2 to 3 nside - 1 = {3 * nside - 1}, not {l_max!r}: "
            "lower it or raise nside"
        )
    return int(l_max)


def _require_setup(setup: Setup) -> None:
    for name in ("samples", "nside", "size"):
        value = getattr(setup, name)
        if name == "size" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} of a backtracking set-up must be a whole number of at least 1, not {value!r}")
    if setup.nside & (setup.nside - 1):
        raise InputError(f"nside of a backtracking set-up must be a power of two, not {setup.nside}")
    if isinstance(setup.seed, bool) or not isinstance(setup.seed, int) or not 0 <= setup.seed < 2**32:
        raise InputError(f"seed of a backtracking set-up must be a whole number from 0 to 2^32 - 1, not {setup.seed!r}")
    for name, known in (
        ("representation", tuple(_SIZES)),
        ("precision", ("float32", "float64")),
        ("geometry", ("isotropic", "slab", "2d", "composite")),
    ):
        if getattr(setup, name) not in known:
            raise InputError(
                f"{name} of a backtracking set-up must be one of {', '.join(known)}, not {getattr(setup, name)!r}"
            )
    if not (math.isfinite(setup.sigma2) and setup.sigma2 >= 0):
        raise InputError(f"sigma2 = <dB^2> / B_0^2 must be finite and not negative, not {setup.sigma2:g}")
    if setup.representation == "grid" and (setup.geometry != "isotropic" or setup.number < 16):
        raise InputError("a grid needs at least 16 cells and isotropic geometry: use ladder or plane for others")
    for name in ("omega_t", "omega_step"):
        value = getattr(setup, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, not {value:g}: it is in units of 1 / Omega")
    if not (math.isfinite(setup.larmor_radius) and setup.larmor_radius != 0):
        raise InputError(f"larmor_radius must be finite and not zero, not {setup.larmor_radius:g}")
    wave = float(setup.spectrum.smallest) if setup.sigma2 else math.inf
    field = PlaneWaves(jnp.zeros((3, 0)), jnp.zeros((3, 0)), jnp.zeros(0), wave)
    require_step(field, setup.larmor_radius, setup.duration, abs(setup.larmor_radius) * setup.omega_t / setup.steps)
    angle = setup.omega_t / setup.steps * math.sqrt(1 + setup.sigma2)
    if angle > 1:
        raise InputError(
            f"a step of Omega dt = {setup.omega_t / setup.steps:.3g} turns particles by {angle:.3g} rad in turbulence "
            f"of sigma2 = {setup.sigma2:g}: use omega_step of at most {1 / math.sqrt(1 + setup.sigma2):.3g}"
        )
