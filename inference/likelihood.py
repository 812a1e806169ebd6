r"""The likelihood of the counts given sky, rate and acceptance, from three marginals of the data.

The expected counts of time bin tau and local cell i = (ring r, hour angle h) are

$$ \mu_{\tau i} = N_\tau A_i I_{\tau i}, \qquad I_{\tau i} = I[r, (\tau - h) \bmod n], $$

and the Poisson log-likelihood needs the data only through the equatorial map n_a, the rate n_tau and the
local map n_i (Ahlers et al. 2016, ApJ 823, 10, for the model; the marginals follow because ln mu is a sum).
Functions named `*_difference` return ln L minus its value at the best isotropic fit. They are formed from
residuals and second-order remainders, so that a part in 1e4 of 1e11 events survives 32-bit floats.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Float

from diffcr.errors import InputError
from diffcr.grid import correlate, rate_seen
from diffcr.typing import AnyArray


class Marginals(eqx.Module):
    """The three marginals of one detector configuration, on the rings it sees, and what isotropy predicts.

    Only rings with events are kept: a ring without events carries no information once the acceptance is
    free. All arrays are formed on the host in 64-bit floats, the residual too, before any cast.

    Attributes:
        sky: Counts (or sums of weights) n_a per equatorial cell, shape (ring, ra).
        time: Counts n_tau per time bin, shape (time,).
        local: Counts n_i per local cell, shape (ring, hour_angle).
        rate: Best isotropic rate, fractions of the total that sum to 1, shape (time,).
        background: Expected counts B_a per equatorial cell under isotropy, shape (ring, ra).
        residual: sky - background, shape (ring, ra).
        rings: Indices of the kept rings on the full grid.
    """

    sky: Float[AnyArray, "ring ra"]
    time: Float[AnyArray, " time"]
    local: Float[AnyArray, "ring ra"]
    rate: Float[AnyArray, " time"]
    background: Float[AnyArray, "ring ra"]
    residual: Float[AnyArray, "ring ra"]
    rings: tuple[int, ...] = eqx.field(static=True)

    @property
    def total(self) -> Float[AnyArray, ""]:
        """Number of events, or sum of weights."""
        return jnp.sum(self.time)


def form_marginals(
    n_sky: AnyArray,
    n_time: AnyArray,
    n_local: AnyArray,
    rate_bins: int | None = None,
    exposed: np.ndarray | None = None,
    dtype=None,
) -> Marginals:
    """Select the exposed rings and form the isotropic expectation and the residuals, in 64-bit floats.

    Args:
        n_sky: Equatorial counts, shape (n_ring, n).
        n_time: Counts per time bin, shape (n,).
        n_local: Local counts, shape (n_ring, n).
        rate_bins: Number of equal groups of time bins within which the rate is constant; default n.
        exposed: Which rings to keep, boolean (n_ring,); default those with events.
        dtype: Float type of the result; default JAX's.

    Raises:
        InputError: If the marginals do not describe the same events, or there are none.
    """
    n_sky, n_time, n_local = (np.asarray(x, np.float64) for x in (n_sky, n_time, n_local))
    total = n_time.sum()
    if not total > 0:
        raise InputError("the counts hold no event: nothing can be fitted; look at the cuts and the time range")
    for name, values in (("n_sky", n_sky), ("n_local", n_local)):
        if not np.isclose(values.sum(), total, rtol=1e-9):
            raise InputError(
                f"{name} sums to {values.sum():.10g} and n_time to {total:.10g}: the marginals are not of the "
                "same events; bin the events again"
            )
    rings = np.flatnonzero(n_local.sum(axis=1) > 0 if exposed is None else exposed)
    sky, local = n_sky[rings], n_local[rings]
    rate = grouped_rate(n_time, rate_bins or len(n_time)) / total
    background = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(local, axis=1)), n=len(n_time), axis=1)
    background = np.where(background > 1e-13 * background.max(), background, 0.0)
    arrays = (sky, n_time, local, rate, background, sky - background)
    return Marginals(*(jnp.asarray(x, dtype) for x in arrays), rings=tuple(int(r) for r in rings))


def grouped_rate(n_time: AnyArray, rate_bins: int) -> np.ndarray:
    """Counts per time bin averaged over `rate_bins` equal groups of neighbouring bins, shape (n,)."""
    if rate_bins < 1 or len(n_time) % rate_bins:
        raise InputError(
            f"rate_bins = {rate_bins} does not divide the {len(n_time)} time bins of the counts; "
            f"choose a divisor of {len(n_time)}"
        )
    width = len(n_time) // rate_bins
    return np.repeat(n_time.reshape(rate_bins, width).mean(axis=1), width)


@jax.custom_jvp
def second_order(x: Float[AnyArray, "*shape"]) -> Float[AnyArray, "*shape"]:
    """x - log(1 + x) for x > -1, to full relative precision also where x is tiny.

    With s = x / (2 + x), log1p(x) = 2 artanh(s) and x - 2 s = x s, so the remainder is x s - 2 (s^3/3 + ...):
    nothing cancels. Beyond |x| = 0.1 the direct form is as good.
    """
    small = jnp.abs(x) < 0.1
    inner = jnp.where(small, x, 0.0)
    s = inner / (2 + inner)
    s2 = s * s
    series = 1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9 + s2 * (1 / 11 + s2 / 13))))
    return jnp.where(small, inner * s - 2 * s * s2 * series, x - jnp.log1p(x))


@second_order.defjvp
def _second_order_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return second_order(x), x / (1 + x) * dx


def joint_log_likelihood(
    relative_intensity: Float[AnyArray, "ring ra"],
    rate: Float[AnyArray, " time"],
    acceptance: Float[AnyArray, "ring ra"],
    data: Marginals,
) -> Float[AnyArray, ""]:
    """Poisson ln L of sky, rate and acceptance, without the ln n! of the data.

    Args:
        relative_intensity: I_a on the rings of `data`, shape (ring, ra); positive where exposed.
        rate: N_tau, expected counts per time bin for I = 1 and sum A = 1.
        acceptance: A_i, shape (ring, hour_angle).
        data: The marginals.

    Returns:
        sum n_a ln I_a + sum n_tau ln N_tau + sum n_i ln A_i - sum I N A. Needs 64-bit floats above 1e6 events.
    """
    expected = jnp.sum(acceptance * correlate(rate, relative_intensity))
    logs = (
        jnp.sum(xlogy(data.sky, relative_intensity))
        + jnp.sum(xlogy(data.time, rate))
        + jnp.sum(xlogy(data.local, acceptance))
    )
    return logs - expected


def conditional_log_likelihood(
    relative_intensity: Float[AnyArray, "ring ra"], rate: Float[AnyArray, " time"], data: Marginals
) -> Float[AnyArray, ""]:
    """ln L with the acceptance removed exactly: conditional on the local map n_i.

    sum n_a ln I_a + sum n_tau ln N_tau - sum n_i ln x_i with x_i = sum_tau N_tau I_{tau i}. It is the profile
    over A_i, the marginal for a prior 1/A_i and a product of multinomials at once; the scale of the rate
    drops out, and so does any factor f(declination) of the sky.
    """
    seen = correlate(rate, relative_intensity)
    logs = jnp.sum(xlogy(data.sky, relative_intensity)) + jnp.sum(xlogy(data.time, rate))
    return logs - jnp.sum(xlogy(data.local, seen))


def conditional_difference(
    contrast: Float[AnyArray, "ring ra"], rate_shift: Float[AnyArray, " time"], data: Marginals
) -> Float[AnyArray, ""]:
    """`conditional_log_likelihood` minus its value at the best isotropic fit, safe in 32-bit floats.

    Args:
        contrast: delta I = I - 1 on the rings of `data`, above -1 where exposed.
        rate_shift: rho with N_tau = rate_tau (1 + rho_tau), above -1.
        data: The marginals.
    """
    shift = data.rate * rate_shift
    seen_shift = correlate(shift, contrast)
    seen = jnp.sum(shift) + correlate(data.rate, contrast) + seen_shift
    return (
        jnp.sum(data.residual * contrast)
        - jnp.sum(data.sky * second_order(contrast))
        - jnp.sum(data.time * second_order(rate_shift))
        + jnp.sum(data.local * (second_order(seen) - seen_shift))
    )


def joint_difference(
    contrast: Float[AnyArray, "ring ra"],
    rate_shift: Float[AnyArray, " time"],
    acceptance_shift: Float[AnyArray, "ring ra"],
    data: Marginals,
) -> Float[AnyArray, ""]:
    """`joint_log_likelihood` minus its value at the best isotropic fit, safe in 32-bit floats.

    The isotropic fit is N_tau = data.rate * total, A_i = n_i / total; `rate_shift` and `acceptance_shift`
    are relative to it, `contrast` is I - 1.
    """
    shift = data.rate * rate_shift
    cross = (
        jnp.sum(data.local * (1 + acceptance_shift) * correlate(shift, contrast))
        + jnp.sum(data.local * acceptance_shift * correlate(data.rate, contrast))
        + jnp.sum(shift) * jnp.sum(data.local * acceptance_shift)
    )
    return (
        jnp.sum(data.residual * contrast)
        - jnp.sum(data.sky * second_order(contrast))
        - jnp.sum(data.time * second_order(rate_shift))
        - jnp.sum(data.local * second_order(acceptance_shift))
        - cross
    )


def known_exposure_difference(
    contrast: Float[AnyArray, "ring ra"],
    acceptance: Float[AnyArray, "ring ra"],
    data: Marginals,
    rate_bins: int | None = None,
) -> Float[AnyArray, ""]:
    """ln L conditional on the counts per time bin, for a *known* relative acceptance, minus isotropy's.

    sum n_a ln I_a - sum n_tau ln y_tau with y_tau = sum_i A_i I_{tau i} and sum A = 1: the mirror image of
    the conditional likelihood, with the rate removed exactly instead of the acceptance. Declination structure
    of the sky (m = 0) is measured, on the word of the one who gave the acceptance.

    Args:
        contrast: I - 1 on the rings of `data`, shape (ring, ra).
        acceptance: Known relative acceptance on the same rings, shape (ring, hour_angle), summing to 1.
        data: The marginals.
        rate_bins: Number of equal groups of time bins within which the rate is constant; default one per bin. With
            1 the rate is known to be constant in sidereal time.
    """
    n = data.time.shape[0]
    groups = rate_bins or n

    def grouped(values):
        return jnp.repeat(jnp.mean(values.reshape(groups, n // groups), axis=1), n // groups)

    time, seen = grouped(data.time), grouped(rate_seen(acceptance, contrast))
    exposed = correlate(time, acceptance)
    return (
        jnp.sum((data.sky - exposed) * contrast)
        - jnp.sum(data.sky * second_order(contrast))
        + jnp.sum(time * second_order(seen))
    )
