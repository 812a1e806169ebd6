"""What a physical model predicts: the dipole against energy, its band over priors and random supernovae, and how
often that agrees with published dipoles."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffcr.errors import InputError, require_float64
from diffcr.model import invalid

from .dipole_likelihood import DipoleData, dipole_data, first_harmonics, log_rice_cdf
from .source_model import SourceModel, Values, prior_draws

LEVELS = (0.68, 0.95)
"""Probabilities of the bands."""

_FEWEST = 8
"""Points into which a step with a flip is divided, at least."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Dipoles of one model at its own numbers.

    Attributes:
        model: The model.
        energy: Energies per particle [TeV], (energy,).
        dipole: Observed (delta_0h, delta_6h, delta_N), J2000, (energy, 3).
        plasma: The same without the observer's motion and without what is extragalactic, (energy, 3).
        source_share: Density of the discrete sources over that of the smooth background, at rigidity = energy / Z of
            the first element; NaN without both, (energy,).
        extragalactic: Part of the flux that is extragalactic, (energy,).
        notes: What lies outside the domain of diffusion, a line each.
        flips: Energies [TeV] at which the plasma dipole along the field changes sign, to 1e-6; two within one
            step of `energy` are not seen.
    """

    model: SourceModel
    energy: Float[np.ndarray, " energy"]
    dipole: Float[np.ndarray, "energy 3"]
    plasma: Float[np.ndarray, "energy 3"]
    source_share: Float[np.ndarray, " energy"]
    extragalactic: Float[np.ndarray, " energy"]
    notes: tuple[str, ...] = ()
    flips: tuple[float, ...] = ()

    @property
    def amplitude(self) -> np.ndarray:
        """Equatorial amplitude hypot(delta_0h, delta_6h), (energy,)."""
        return np.hypot(self.dipole[:, 0], self.dipole[:, 1])

    @property
    def right_ascension(self) -> np.ndarray:
        """Phase [rad], 0 to 2 pi, (energy,)."""
        return np.arctan2(self.dipole[:, 1], self.dipole[:, 0]) % (2 * np.pi)


@dataclasses.dataclass(frozen=True)
class Band:
    """Dipoles of many draws: of the priors, of random supernovae, or of both.

    Attributes:
        model: The model.
        energy: Energies per particle [TeV], (energy,).
        dipole: Observed dipoles, (draw, energy, 3).
        values: The numbers of each draw, by name.
        kind: What was drawn: "priors", "supernovae" or "priors and supernovae".
        invalid: Part of the draws whose dipole is above 0.3, (energy,).
        comparison: Agreement with published dipoles, see `Agreement`; None without points.
    """

    model: SourceModel
    energy: Float[np.ndarray, " energy"]
    dipole: Float[np.ndarray, "draw energy 3"]
    values: dict[str, np.ndarray]
    kind: str
    invalid: Float[np.ndarray, " energy"]
    comparison: "Agreement | None" = None

    @property
    def amplitude(self) -> np.ndarray:
        """Equatorial amplitudes, (draw, energy)."""
        return np.hypot(self.dipole[..., 0], self.dipole[..., 1])

    @property
    def right_ascension(self) -> np.ndarray:
        """Phases [rad], 0 to 2 pi, (draw, energy)."""
        return np.arctan2(self.dipole[..., 1], self.dipole[..., 0]) % (2 * np.pi)

    def amplitude_band(self, probability: float) -> Float[np.ndarray, "2 energy"]:
        """Lower and upper edge of the central band of the amplitude."""
        return np.quantile(self.amplitude, [(1 - probability) / 2, (1 + probability) / 2], axis=0)

    def phase_band(self, probability: float) -> Float[np.ndarray, "2 energy"]:
        """Start and end [rad] of the shortest arc that holds this part of the phases; end - start is its length."""
        return np.stack([shortest_arc(phases, probability) for phases in self.right_ascension.T], axis=1)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How the draws compare with published dipoles.

    Attributes:
        rows: Points compared with (those for the fit).
        chi2: Of each draw, with the systematic errors in quadrature, (draw,).
        threshold: The 99 % quantile of chi2 for two degrees of freedom per measured row.
        fits: Part of the draws whose chi2 is below it.
        log_mean_likelihood: ln of the likelihood averaged over the draws, relative to perfect agreement (chi2 = 0).
        effective: Draws that this average effectively rests on.
        tail: Per point, part of the draws with an amplitude at or above the measured one, (row,).
        amplitude_systematic, phase_systematic: Added to each point: relative, and in degrees.
    """

    rows: int
    chi2: Float[np.ndarray, " draw"]
    threshold: float
    fits: float
    log_mean_likelihood: float
    effective: float
    tail: Float[np.ndarray, " row"]
    amplitude_systematic: float
    phase_systematic: float


def predict(model: SourceModel, energy: Sequence[float] | np.ndarray, seed: int = 0) -> Prediction:
    """Dipole against energy at the model's own numbers; with random supernovae, one realisation of them.

    Args:
        model: The model.
        energy: Energies per particle [TeV], increasing or not.
        seed: Of the random supernovae.

    Raises:
        InputError: If an energy is not above zero, or a result is not finite.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.predict")
    energy = _energies(energy)
    parameters = model.parameters(ensemble=model.draw_ensemble(jax.random.PRNGKey(seed)))
    forward = model.grainy
    dipole = np.asarray(_dipole(forward, parameters, energy))
    _require_finite(model, energy, dipole)
    plain = dataclasses.replace(parameters, transition_energy=jnp.asarray(math.inf, float))
    plasma = np.asarray(_dipole(forward, plain, energy)) - np.asarray(forward.motion_dipole(parameters))
    along = lambda e: (_dipole(forward, plain, e) - forward.motion_dipole(plain)) @ _unit(model.values["field"])
    first = forward.composition.charges[0]
    density = _density(forward, parameters, energy / first)
    share = np.exp(np.asarray(density.log_sources) - np.asarray(density.log_background))
    both = np.isfinite(density.log_sources) & np.isfinite(density.log_background)
    return Prediction(
        model=model,
        energy=energy,
        dipole=dipole,
        plasma=plasma,
        source_share=np.where(both, share, np.nan),
        extragalactic=np.asarray(forward.extragalactic_fraction(parameters, energy)),
        notes=tuple(invalid(forward, parameters, energy, dipole)),
        flips=tuple(_flips(along, energy)),
    )


# Compiled once per kind of model, not once per call.
_dipole = eqx.filter_jit(lambda forward, parameters, energy: forward.dipole(parameters, jnp.asarray(energy)))
_dipoles = eqx.filter_jit(
    lambda forward, batch, energy: jax.vmap(lambda parameters: forward.dipole(parameters, energy))(batch)
)
_density = eqx.filter_jit(
    lambda forward, parameters, rigidity: jax.vmap(lambda each: forward.density(parameters, each))(rigidity)
)


def predict_band(
    model: SourceModel,
    energy: Sequence[float] | np.ndarray,
    draws: int,
    seed: int = 0,
    vary: bool = True,
    table: Any = None,
    amplitude_systematic: float = 0.1,
    phase_systematic: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> Band:
    """Dipole against energy over draws of the priors and of random supernovae.

    Args:
        model: The model, with priors, an ensemble, or both.
        energy: Energies per particle [TeV].
        draws: How many.
        seed: Of everything random.
        vary: Draw the numbers from their priors; False keeps them at their values.
        table: Published dipoles (a `DipoleTable`) to compare with: its rows for the fit within the range of energies.
        amplitude_systematic: Relative systematic error of every published amplitude in that comparison.
        phase_systematic: Systematic error of every published phase [deg].
        progress: Called with draws done and in all.

    Raises:
        InputError: If nothing in the model varies, or a result is not finite.
    """
    require_float64("inference.predict_band")
    energy = _energies(energy)
    vary = vary and bool(model.priors)
    if not vary and model.ensemble is None:
        raise InputError(
            f"the model {model.name} has no priors and no ensemble: there is nothing to draw; add [priors]"
        )
    if draws < 2:
        raise InputError(f"a band needs at least 2 draws, not {draws}")
    numbers, supernovae = jax.random.split(jax.random.PRNGKey(seed))
    values = prior_draws(model, numbers, draws) if vary else {}
    keys = jax.random.split(supernovae, draws)
    if table is not None:
        table = table.take((table.energy > 0.999 * energy.min()) & (table.energy < 1.001 * energy.max()))
    data = None if table is None or not np.any(table.use == "fit") else dipole_data(table)
    places = np.zeros(0) if data is None else np.asarray(data.energy)
    everywhere = np.concatenate([energy, places])
    dipole = _draw_dipoles(model, jnp.asarray(everywhere), values, keys, progress)
    _require_finite(model, everywhere, dipole.reshape(-1, 3))
    seen, at_points = dipole[:, : energy.size], dipole[:, energy.size :]
    return Band(
        model=model,
        energy=energy,
        dipole=seen,
        values={k: np.asarray(v) for k, v in values.items()},
        kind=" and ".join([*(["priors"] if vary else []), *(["supernovae"] if model.ensemble is not None else [])]),
        invalid=np.mean(np.linalg.norm(seen, axis=-1) > 0.3, axis=0),
        comparison=None if data is None else _agreement(model, data, at_points, amplitude_systematic, phase_systematic),
    )


def _draw_dipoles(model: SourceModel, energy: Array, values: Values, keys: Array, progress) -> np.ndarray:
    """(draw, energy, 3): many draws at a time where sources are few, one after the other where they are many."""

    def one(own: Values, key: Array) -> Array:
        return model.grainy.dipole(model.parameters(own, model.draw_ensemble(key, own)), energy)

    many = model.ensemble is not None
    run, numbers = jax.jit(one), jax.jit(jax.vmap(lambda own: model.parameters(own)))
    size, out = 1 if many else 64, []
    for start in range(0, len(keys), size):
        part = {k: v[start : start + size] for k, v in values.items()}
        if many:
            out.append(np.asarray(run({k: v[0] for k, v in part.items()}, keys[start]))[None])
        else:
            # A full batch each time: another shape would be compiled anew.
            full = jax.tree.map(functools.partial(_filled, size), part)
            out.append(np.asarray(_dipoles(model.forward, numbers(full), energy))[: len(keys) - start])
        if progress is not None:
            progress(min(start + size, len(keys)), len(keys))
    return np.concatenate(out)


def _filled(size: int, batch: Array) -> Array:
    return jnp.concatenate([batch, jnp.repeat(batch[-1:], size - len(batch), axis=0)])


def _agreement(
    model: SourceModel, data: DipoleData, dipole: np.ndarray, amplitude_systematic: float, phase_systematic: float
) -> Agreement:
    """Chi2 of every draw against the published dipoles, each through its window and definition."""
    from scipy.stats import chi2 as chi2_law

    values, reaches = jax.jit(
        jax.vmap(functools.partial(_compare, model, data, amplitude_systematic, phase_systematic))
    )(jnp.asarray(dipole))
    chi2, rows = np.asarray(values), int(data.energy.shape[0])
    # A limit that is met adds next to nothing to chi2, and so no degree of freedom.
    degrees = int(2 * np.sum(~np.asarray(data.is_limit))) or rows
    lowest = chi2.min()
    weights = np.exp(-0.5 * (chi2 - lowest))
    return Agreement(
        rows=rows,
        chi2=chi2,
        threshold=float(chi2_law.ppf(0.99, degrees)),
        fits=float(np.mean(chi2 < chi2_law.ppf(0.99, degrees))),
        log_mean_likelihood=float(np.log(weights.mean()) - 0.5 * lowest),
        effective=float(weights.sum() ** 2 / np.sum(weights**2)),
        tail=np.asarray(reaches).mean(axis=0),
        amplitude_systematic=amplitude_systematic,
        phase_systematic=phase_systematic,
    )


def _compare(
    model: SourceModel, data: DipoleData, amplitude_systematic: float, phase_systematic: float, dipole: Array
) -> tuple[Array, Array]:
    """Chi2 of one draw, and whether its amplitude reaches the published one, per row."""
    mean = first_harmonics(data, model.forward.sky(model.parameters(), dipole, 3))
    along = jnp.where(data.is_limit[:, None], 0.0, data.value)
    across = jnp.stack([-along[:, 1], along[:, 0]], axis=-1)
    covariance = data.covariance
    for width, axis in ((amplitude_systematic, along), (np.radians(phase_systematic), across)):
        covariance = covariance + width**2 * axis[:, :, None] * axis[:, None, :]
    residual = data.value - mean
    squares = jnp.einsum("ri,rij,rj->r", residual, jnp.linalg.inv(covariance), residual)
    sigma = jnp.sqrt(data.covariance[:, 0, 0])
    below = log_rice_cdf(jnp.where(data.is_limit, data.limit, 1.0), mean, sigma)
    chi2 = jnp.sum(jnp.where(data.is_limit, -2 * below, squares))
    published = jnp.where(data.is_limit, data.limit, jnp.hypot(*data.value.T))
    return chi2, jnp.hypot(*mean.T) >= published


def shortest_arc(phases: Float[np.ndarray, " draw"], probability: float) -> tuple[float, float]:
    """Start and end [rad] of the shortest arc that holds the given part of the angles; the start is in [0, 2 pi)."""
    ordered = np.sort(np.asarray(phases) % (2 * np.pi))
    n = ordered.size
    inside = min(n, max(1, math.ceil(probability * n)))
    ends = np.concatenate([ordered, ordered + 2 * np.pi])[inside - 1 : inside - 1 + n]
    first = int(np.argmin(ends - ordered))
    return float(ordered[first]), float(ends[first])


def _flips(along: Callable[[np.ndarray], Array], energy: np.ndarray) -> list[float]:
    """Where a function of the energy changes sign: each step of the grid that does is divided until it is 1e-6 wide."""
    # Always as many points, so that nothing is compiled anew.
    grid = np.sort(energy)
    if grid.size < _FEWEST:
        grid = np.concatenate([grid, np.full(_FEWEST - grid.size, grid[-1])])
    points = grid.size
    brackets = _turning(grid, np.asarray(along(grid)))
    out = []
    for low, high in brackets:
        while high > low * (1 + 1e-6):
            inner = np.geomspace(low, high, points)
            found = _turning(inner, np.asarray(along(inner)))
            if not found:
                break
            low, high = found[0]
        out.append(math.sqrt(low * high))
    return out


def _turning(energy: np.ndarray, along: np.ndarray) -> list[tuple[float, float]]:
    places = np.flatnonzero((along[:-1] > 0) != (along[1:] > 0))
    return [(float(energy[k]), float(energy[k + 1])) for k in places]


def _unit(vector) -> np.ndarray:
    return np.asarray(vector, float) / np.linalg.norm(vector)


def _energies(energy) -> np.ndarray:
    values = np.atleast_1d(np.asarray(energy, float))
    if values.ndim != 1 or not values.size or not (np.all(np.isfinite(values)) and np.all(values > 0)):
        raise InputError(f"energies must be finite and above 0 TeV, not {np.asarray(energy).tolist()}")
    return values


def _require_finite(model: SourceModel, energy: np.ndarray, dipole: np.ndarray) -> None:
    bad = ~np.all(np.isfinite(dipole), axis=-1)
    if bad.any():
        place = int(np.argmax(bad))
        raise InputError(
            f"the model {model.name} gives no finite dipole at {energy[place % energy.size]:g} TeV: its numbers are "
            "out of any physical range, or it has neither a background nor a source that reaches the Sun"
        )
