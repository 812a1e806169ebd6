"""Skies at Earth behind a magnetic field: paths of every direction followed to what is outside, and what they say."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.boundary import Distribution, Exits, map_boundary
from diffcr.directions import healpix_directions
from diffcr.errors import InputError

from .lens_places import Place
from .lens_spectra import angular_power, changes

_BLOCKS = 48
"""Parts in which the sky is followed, for the progress bar."""

_PATHS_OUTSIDE = 16
"""Mean number of paths in a pixel outside, from which magnifications are counted."""

Progress = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a sky is followed.

    Attributes:
        place: The field.
        nside: Of the sky at Earth.
        oversample: Paths along each side of a pixel, a power of two; a pixel is the mean of its paths.
        l_max: Highest degree of spectra.
        step: Longest step, in the place's unit of length, or None for one that suits the rigidity.
        max_duration: Longest path, in that unit, or None for 50 diameters.
        spectral_index: Gamma outside; wanted with an electric field.
        step_check: Whether to follow everything again with half the step.
    """

    place: Place
    nside: int
    oversample: int
    l_max: int
    step: float | None = None
    max_duration: float | None = None
    spectral_index: float | None = None
    step_check: bool = False

    def __post_init__(self):
        for name, value in (("--nside", self.nside), ("--oversample", self.oversample)):
            if value < 1 or value & (value - 1) or value > 1024:
                raise InputError(f"{name} must be a power of two from 1 to 1024, such as 32 or 2, not {value}")
        if not 1 <= self.l_max <= 3 * self.nside - 1:
            raise InputError(f"--lmax must be from 1 to 3 nside - 1 = {3 * self.nside - 1}, not {self.l_max}")
        for name, value in (("--step", self.step), ("--max-duration", self.max_duration)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be finite and above 0, not {value:g}: a length in {self.place.unit}")
        if self.place.electric is not None and self.spectral_index is None:
            raise InputError(
                "--electric changes rigidities: give the index of the spectrum outside, such as --gamma 2.7"
            )
        if self.place.electric is None and self.spectral_index is not None:
            raise InputError("--gamma has no effect without --electric; leave it out")

    @property
    def fine(self) -> int:
        """nside of the paths."""
        return self.nside * self.oversample

    @property
    def nside_outside(self) -> int:
        """nside of the pixels outside in which paths are counted."""
        return max(self.fine // math.isqrt(_PATHS_OUTSIDE), 1)

    def blocks(self, rigidities: int) -> int:
        """Parts of work in all."""
        return rigidities * (_BLOCKS if self.fine > 1 else 12) * (2 if self.step_check else 1)


@dataclasses.dataclass(frozen=True)
class Seen:
    """The sky of one rigidity.

    Attributes:
        rigidity: In the place's unit.
        exits: Paths, RING order at nside * oversample, lengths in pc.
        sky: I - 1 of the pixels at Earth; NaN where no path has a value.
        escaped: Share of the paths of each pixel that reached the edge.
        outside: I - 1 that the same pixels would have without a field.
        without_value: Paths that reached the edge where the sky outside has no value.
        lowest: Smallest intensity of a path.
        power: C_l of `sky`, shape (l_max + 1,).
        power_outside: C_l of `outside`.
        magnification: Solid angle at Earth over that outside, for pixels outside.
        step: Longest step [pc].
        check: What half the step changes, or None.
    """

    rigidity: float
    exits: Exits
    sky: np.ndarray
    escaped: np.ndarray
    outside: np.ndarray
    without_value: int
    lowest: float
    power: np.ndarray
    power_outside: np.ndarray
    magnification: np.ndarray
    step: float
    check: dict[str, Any] | None = None

    @property
    def deflection(self) -> np.ndarray:
        """Of each path that left [deg]; NaN for others."""
        return np.where(np.asarray(self.exits.escaped), np.degrees(np.asarray(self.exits.deflection)), np.nan)


def look(setup: Setup, rigidity: float, distribution: Distribution, progress: Progress | None = None) -> Seen:
    """Follow the sky of one rigidity back through the field to a distribution outside.

    Args:
        setup: How.
        rigidity: In the unit of the setup's place.
        distribution: g(place, direction), as of `map_boundary`.
        progress: Called after every part of the work.

    Raises:
        InputError: As of `map_boundary`.
    """
    step = setup.place.step(rigidity, setup.step)
    seen = _look(setup, rigidity, distribution, step, progress)
    if not setup.step_check:
        return seen
    half = _look(setup, rigidity, distribution, step / 2, progress)
    return dataclasses.replace(seen, check=changes((seen.exits, half.exits), (seen.power, half.power)))


def _look(setup: Setup, rigidity: float, distribution: Distribution, step: float, progress: Progress | None) -> Seen:
    import healpy

    directions = healpix_directions(setup.fine)
    intensity, exits = _follow(setup, rigidity, distribution, step, directions, progress)
    escaped = np.asarray(exits.escaped)
    outside = np.asarray(distribution(np.zeros_like(directions), directions), float)
    magnified = np.bincount(
        healpy.vec2pix(setup.nside_outside, *np.asarray(exits.direction)[:, escaped]),
        minlength=12 * setup.nside_outside**2,
    )
    sky, bare = (_pixels(setup, values) - 1 for values in (intensity, outside))
    return Seen(
        rigidity=rigidity,
        exits=exits,
        sky=sky,
        escaped=_pixels(setup, escaped.astype(float)),
        outside=bare,
        without_value=int(np.sum(escaped & ~np.isfinite(intensity))),
        lowest=float(np.min(intensity, initial=np.inf, where=np.isfinite(intensity))),
        power=angular_power(sky, setup.l_max),
        power_outside=angular_power(bare, setup.l_max),
        magnification=magnified * (len(magnified) / directions.shape[1]),
        step=step,
    )


def _follow(setup, rigidity, distribution, step, directions, progress) -> tuple[np.ndarray, Exits]:
    place, parts, found = setup.place, [], []
    longest = None if setup.max_duration is None else setup.max_duration * place.length
    for block in np.split(directions, setup.blocks(1) // (2 if setup.step_check else 1), axis=1):
        one = map_boundary(
            distribution,
            place.field,
            place.larmor_radius(rigidity),
            region=place.region,
            step=place.steps(step),
            directions=block,
            electric=place.electric,
            spectral_index=setup.spectral_index,
            max_duration=longest,
            keep_trapped=True,
        )
        parts.append(np.asarray(one.intensity))
        found.append(one.exits)
        if progress is not None:
            progress()
    return np.concatenate(parts), jax.tree.map(lambda *v: jnp.concatenate(v, axis=-1), *found)


def _pixels(setup: Setup, values: np.ndarray) -> np.ndarray:
    """Means over the paths of each pixel that have a value, NaN where none has."""
    import healpy

    row = healpy.nest2ring(setup.nside, healpy.ring2nest(setup.fine, np.arange(values.size)) // setup.oversample**2)
    known = np.isfinite(values)
    number = np.bincount(row, known, minlength=12 * setup.nside**2)
    total = np.bincount(row, np.where(known, values, 0.0), minlength=12 * setup.nside**2)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
