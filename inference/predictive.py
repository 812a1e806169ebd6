r"""Simulated counts from draws of a model, to be laid beside the observed ones: posterior and prior predictive.

The mean of time bin tau and local cell i is mu = I N A. Given sky and rate, the acceptance that the likelihood was
freed from has the posterior A_i ~ Gamma(n_i, x_i), x_i = sum_tau N_tau I_{tau i}: Poisson counts n_i of mean A_i x_i
with the prior 1/A_i. Everything is on the counts' full grid, one FFT per ring; no cube of (time, cell) is formed.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float

from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .data import Counts
from .fit import _exposed, _frame_rotation, _in_effective_events
from .likelihood import grouped_rate
from .multipoles import ring_modes
from .sky_likelihood import SkyLikelihood


def observed(counts: Counts) -> dict[str, np.ndarray]:
    """The counts in the layout of `predictive`, without its leading axis.

    Returns:
        n_time (observatory, time), n_ra (observatory, ra), all rings together, in right ascension of date, and n_ring
        (observatory, ring). `observatory` runs over the configurations with events. Weighted counts are sums of
        weights times sum w / sum w^2 of all data: effective events, as scattered as a Poisson number.
    """
    counts = _in_effective_events(counts)
    places = counts.configurations()
    sky = np.stack([counts.n_sky[p] for p in places])
    return {"n_time": np.stack([counts.n_time[p] for p in places]), "n_ra": sky.sum(axis=1), "n_ring": sky.sum(axis=2)}


def predictive(
    counts: Counts,
    sky: SkyLikelihood,
    theta: Float[AnyArray, "draw *energy param"],
    log_rates: Float[AnyArray, "draw configuration group"] | None,
    seed: int,
    prior: bool = False,
) -> dict[str, np.ndarray]:
    """Counts drawn for each draw of the parameters.

    Each array is distributed as the model says, and those of one draw hold the same events in number; n_ra and n_ring
    are sums of one map, n_time is drawn beside it, without the correlation that single events would give. Weighted
    counts are predicted in effective events, see `observed`. A rate is constant within a group of time bins.

    Args:
        counts: What `sky` was made of.
        sky: The likelihood.
        theta: Multipoles of date, one sky (draw, param) or one per energy bin (draw, energy, param).
        log_rates: u = ln(N / N_isotropic) per group of time bins, relative to the isotropic rate; the overall scale
            does not matter. None, for models that integrate the rates, draws them about the most probable ones.
        seed: Of the random numbers.
        prior: The draws are of the prior. Then A_i = n_i / x_i, with sum_tau N_tau = 1: the prior 1/A_i has no draws,
            and the likelihood is conditional on the local map, whose expectation is then what was observed. What the
            prior says about time and right ascension is seen; n_ring tells nothing.

    Returns:
        n_time (draw, observatory, time), n_ra (draw, observatory, ra), n_ring (draw, observatory, ring);
        `observatory` is the configuration, in the order of `sky.names`.

    Raises:
        InputError: If counts, sky and draws do not fit together, or a drawn sky is negative where it is exposed.
    """
    theta, log_rates, counts = _checked(counts, sky, theta, log_rates)
    rng = np.random.default_rng(seed)
    if log_rates is None:
        log_rates = _rates_given_sky(sky, theta, rng)
    places, n = counts.configurations(), counts.grid.n_ra
    out = {"n_time": [], "n_ra": [], "n_ring": []}
    negative = np.zeros(len(theta), bool)
    for k, place in enumerate(places):
        view = _View(counts, sky, k, place)
        drawn = [np.zeros((len(theta), size)) for size in (n, n, counts.grid.n_ring)]
        for d in range(len(theta)):
            intensity = view.intensity(theta[d])
            if np.min(np.where(view.exposed, intensity, 1.0)) <= 0:
                negative[d] = True
                continue
            rate = view.rate * np.repeat(np.exp(log_rates[d, k]), n // log_rates.shape[2])
            drawn[0][d], drawn[1][d], drawn[2][d][view.rings] = _draw(rng, intensity, rate / rate.sum(), view, prior)
        for name, values in zip(out, drawn, strict=True):
            out[name].append(values)
    if negative.any():
        raise InputError(
            f"{int(negative.sum())} of {len(theta)} drawn skies are negative where they are exposed, the first is draw "
            f"{int(np.argmax(negative))}: the model gives them no probability; leave them out with positive_sky"
        )
    return {name: np.stack(values, axis=1) for name, values in out.items()}


def positive_sky(
    counts: Counts, sky: SkyLikelihood, theta: Float[AnyArray, "draw *energy param"]
) -> Bool[np.ndarray, " draw"]:
    """Whether each drawn sky is positive wherever it is exposed; posterior draws are, those of a wide prior may not be.

    Arguments and errors as of `predictive`.
    """
    theta, _, counts = _checked(counts, sky, theta, None)
    views = [_View(counts, sky, k, place) for k, place in enumerate(counts.configurations())]
    good = [all(np.min(np.where(v.exposed, v.intensity(t), 1.0)) > 0 for v in views) for t in theta]
    return np.array(good, bool)


def acceptance_moments(
    counts: Counts, sky: SkyLikelihood, theta: Float[AnyArray, "draw *energy param"]
) -> tuple[Float[np.ndarray, "observatory ring ra"], Float[np.ndarray, "observatory ring ra"]]:
    """Posterior mean and standard deviation of the relative acceptance of every local cell; the means sum to 1.

    Given sky and rate A_i ~ Gamma(n_i, x_i); over the draws the variance is that of the Gamma plus that of n_i / x_i.
    Rates are the most probable ones of each sky.

    Arguments and errors as of `predictive`.
    """
    theta, _, counts = _checked(counts, sky, theta, None)
    u = np.asarray(jax.jit(jax.vmap(sky.rate_mean))(theta))
    shape = (len(sky.names), *counts.grid.shape)
    mean, spread = np.zeros(shape), np.zeros(shape)
    for k, place in enumerate(counts.configurations()):
        view = _View(counts, sky, k, place)
        values = []
        for own, log_rates in zip(theta, u[:, k], strict=True):
            rate = view.rate * np.exp(np.repeat(log_rates, len(view.rate) // len(log_rates)))
            seen = _correlate(rate / rate.sum(), np.maximum(view.intensity(own), 0.0))
            accepted = np.where(view.local > 0, view.local / np.where(view.local > 0, seen, 1.0), 0.0)
            values.append(accepted / accepted.sum())
        average, scatter = np.mean(values, axis=0), np.var(values, axis=0)
        relative = 1 / np.maximum(view.local, 1.0)
        mean[k, view.rings] = average
        spread[k, view.rings] = np.sqrt(scatter + average**2 * relative)
    return mean, spread


class _View:
    """One configuration on the full grid: its data, its isotropic rate, and the sky as it sees it."""

    def __init__(self, counts: Counts, sky: SkyLikelihood, k: int, place: tuple):
        seen = _exposed(counts, place, None)
        self.rings = np.flatnonzero(seen)
        self.local = counts.n_local[place][self.rings]
        time = counts.n_time[place]
        self.rate = grouped_rate(time, sky.block.group_counts.shape[1]) / time.sum()
        background = _correlate(self.rate, self.local)
        self.exposed = background > 1e-13 * background.max()
        rings, turn = tuple(int(r) for r in self.rings), _frame_rotation(counts, place)
        modes = ring_modes(counts.grid, rings, np.array(sky.degree), np.array(sky.order), turn)
        self._cosine, self._sine, self._cosines, self._sines, _, _ = (np.asarray(x) for x in jax.tree.leaves(modes))
        self._energy = sky.energy[k]

    def intensity(self, theta) -> np.ndarray:
        """I of the exposed rings' cells, shape (ring, ra), for one draw, shape (param,) or (energy, param)."""
        own = theta if theta.ndim == 1 else theta[self._energy]
        cosine, sine = (np.tensordot(own, x, 1) for x in (self._cosine, self._sine))
        return 1 + cosine.T @ self._cosines + sine.T @ self._sines


def _correlate(rate: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """sum_tau rate[tau] ring[r, (tau - h) mod n], as `diffcr.grid.correlate`."""
    return np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(ring, axis=-1)), n=len(rate), axis=-1)


def _draw(rng, intensity, rate, view: _View, prior: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts per time bin, right ascension and exposed ring, for one sky, rate (sum 1) and drawn acceptance."""
    # Where nothing is exposed the intensity is of no consequence, and may be negative.
    intensity = np.maximum(intensity, 0.0)
    seen = _correlate(rate, intensity)
    events = view.local if prior else rng.gamma(view.local)
    acceptance = np.where(view.local > 0, events / np.where(view.local > 0, seen, 1.0), 0.0)
    expected = np.maximum(intensity * _correlate(rate, acceptance), 0.0)
    modes = np.sum(np.fft.rfft(acceptance, axis=1) * np.fft.rfft(intensity, axis=1), axis=0)
    per_time = np.maximum(rate * np.fft.irfft(modes, n=len(rate)), 0.0)
    drawn = rng.poisson(expected)
    time = rng.multinomial(drawn.sum(), per_time / per_time.sum())
    return time, drawn.sum(axis=0), drawn.sum(axis=1)


def _rates_given_sky(sky: SkyLikelihood, theta: np.ndarray, rng) -> np.ndarray:
    """Draws of u from its Gaussian approximation given each sky, shape (draw, configuration, group)."""
    noise = rng.standard_normal((len(theta), *sky.rate_centre.shape))
    return np.asarray(jax.jit(jax.vmap(lambda t, z: sky.rate_mean(t) + sky.rate_root(z)))(theta, noise))


def _checked(counts: Counts, sky: SkyLikelihood, theta, log_rates):
    """Draws as arrays whose shapes fit the likelihood, and the counts in effective events."""
    names = tuple(counts.label(p) for p in counts.configurations())
    if names != sky.names:
        raise InputError(
            f"the counts hold {', '.join(names)}, the likelihood {', '.join(sky.names)}: use the counts that the "
            "likelihood was made of"
        )
    theta = np.asarray(theta, float)
    allowed = ((len(sky.degree),), sky.centre.shape)
    if theta.ndim < 2 or theta.shape[1:] not in allowed:
        raise InputError(
            f"theta has shape {theta.shape}: give the draws first and then {allowed[0]}, or {allowed[1]} for one sky "
            "per energy bin"
        )
    if log_rates is not None:
        log_rates = np.asarray(log_rates, float)
        wanted = (len(theta), *sky.rate_centre.shape)
        if log_rates.shape != wanted:
            raise InputError(f"log_rates has shape {log_rates.shape}, theta and the likelihood need {wanted}")
    for name, values in (("theta", theta), ("log_rates", log_rates)):
        if values is not None and not np.all(np.isfinite(values)):
            raise InputError(f"{name} is not finite everywhere; leave such draws out")
    return theta, log_rates, _in_effective_events(counts)
