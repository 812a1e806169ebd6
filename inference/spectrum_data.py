r"""Measured angular power spectra with all that a fit of theory to them needs: noise, modes, covariance, windows.

What the error of a measured C_l is an error of decides whether the scatter of random skies is in it already. With N_l
the noise power, nu the number of multipoles that were averaged, and C_l the power,

$$ \sigma^2 = \frac{2}{\nu} (C_l + N_l)^2 \text{ (total)}, \qquad
   \sigma^2 = \frac{2}{\nu} (N_l^2 + 2 N_l C_l) \text{ (sky)}, \qquad
   \sigma^2 = \frac{2}{\nu} N_l^2 \text{ (isotropic)}: $$

of an estimate of the mean over all skies of that power; of the power of this one sky; and of noise where there is no
signal. Whatever was given, a `MeasuredPower` holds the second, and the likelihood adds the scatter of the
model at hand.

Errors say how many multipoles there are only if C_l is the power that they were evaluated for. Total errors of a
fiducial spectrum with the measured C_l would give nu that scatters with the sky: with those, give the modes and no
errors. Isotropic errors have no C_l in them and are safe.
"""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float

from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .spectrum_errors import completed, errors_of_bins, vector

MEANINGS = {
    "sky": "of the power of this one sky: noise, without the scatter of random skies",
    "total": "of the mean over random skies: noise and the scatter of skies of the power as measured",
    "isotropic": "of noise alone, as if there were no signal",
    "mean": "of a mean over many skies, such as simulated ones: nothing is added",
}
"""What errors can be errors of."""


class MeasuredPower(eqx.Module):
    """A measured power spectrum, noise subtracted, in bins of degrees.

    Attributes:
        low, high: First and last l of each bin.
        power: C_l of each bin; dimensionless, like those of `diffcr.harmonics.power_spectrum`.
        noise: N_l of each bin, which was subtracted; zero for a mean over skies.
        modes: nu, the number of multipoles averaged: 2 l + 1 on a full sky, may be fractional.
        variance: Of the measurement of this sky's power (`mean`: of the mean), shape (bin,).
        correlation: Of the errors, shape (bin, bin), ones on the diagonal.
        window: Mean of the estimate is window @ C_l, shape (bin, degree), l = 1 .. l_max.
        meaning: What the errors that were given are errors of, a key of `MEANINGS`.
        lost_orders: Whether the multipoles m = 0 are not measured (acceptance fitted), and C_l was corrected for that
            as if the sky were statistically isotropic.
    """

    low: tuple[int, ...] = eqx.field(static=True)
    high: tuple[int, ...] = eqx.field(static=True)
    power: Float[np.ndarray, " bin"]
    noise: Float[np.ndarray, " bin"]
    modes: Float[np.ndarray, " bin"]
    variance: Float[np.ndarray, " bin"]
    correlation: Float[np.ndarray, "bin bin"]
    window: Float[np.ndarray, "bin degree"]
    meaning: str = eqx.field(static=True)
    lost_orders: bool = eqx.field(static=True, default=False)

    @property
    def l_max(self) -> int:
        """Highest degree that the windows reach."""
        return self.window.shape[1]

    @property
    def total(self) -> Float[AnyArray, " bin"]:
        """Signal and noise together, what was measured; not positive only by over-subtraction."""
        return self.power + self.noise

    @property
    def error(self) -> Float[np.ndarray, " bin"]:
        """Standard error of this sky's power in each bin."""
        return np.sqrt(self.variance)

    @property
    def sample_error(self) -> Float[np.ndarray, " bin"]:
        """Scatter of random skies of the power as measured; zero for a mean over skies."""
        if self.meaning == "mean":
            return np.zeros(len(self.low))
        return np.maximum(self.power, 0) * np.sqrt(2 / self.modes)

    @property
    def correlated(self) -> bool:
        """Whether any two bins are."""
        return bool(np.any(np.abs(self.correlation - np.eye(len(self.low))) > 1e-9))

    def label(self, place: int | np.integer) -> str:
        """A bin in words: its degree, or first-last."""
        low, high = self.low[place], self.high[place]
        return f"{low}" if low == high else f"{low}-{high}"

    def only(self, places: Sequence[int] | np.ndarray) -> "MeasuredPower":
        """Some of the bins; the others are integrated out, with nothing known of them."""
        at = np.asarray(places, int)
        return MeasuredPower(
            tuple(self.low[k] for k in at),
            tuple(self.high[k] for k in at),
            *(getattr(self, name)[at] for name in ("power", "noise", "modes", "variance")),
            self.correlation[np.ix_(at, at)],
            self.window[at],
            self.meaning,
            self.lost_orders,
        )

    def trimmed(self) -> "MeasuredPower":
        """The same without degrees beyond the highest that any window sees."""
        last = int(np.max(np.flatnonzero(np.any(self.window != 0, axis=0)))) + 1
        return eqx.tree_at(lambda s: s.window, self, self.window[:, :last])


def spectrum(
    low: Sequence | np.ndarray,
    high: Sequence | np.ndarray,
    power: Sequence | np.ndarray,
    error: Sequence | np.ndarray | None = None,
    covariance: np.ndarray | None = None,
    noise: Sequence | np.ndarray | None = None,
    modes: Sequence | np.ndarray | None = None,
    meaning: str = "sky",
    sky_fraction: float | None = None,
    window: np.ndarray | None = None,
    lost_orders: bool = False,
    where: str = "the spectrum",
) -> MeasuredPower:
    """Check a measured spectrum and complete it: of noise, modes and error, two give the third.

    Where all three are given the errors must be those of noise and modes within 10 %.

    Args:
        low, high: First and last l of each bin, rising without overlap.
        power: C_l, noise subtracted.
        error: Standard errors. Left out where there is a covariance; both must agree within 5 %. By default those of
            noise and modes.
        covariance: Of the errors, shape (bin, bin).
        noise: N_l that was subtracted; by default the one that errors and modes stand for.
        modes: Multipoles averaged in each bin; by default what noise and errors stand for, at most the sum of 2 l + 1,
            or without noise `sky_fraction` times that sum.
        meaning: Of the errors, a key of `MEANINGS`.
        sky_fraction: Share of the sky that was seen, above 0, at most 1; given, it sets the modes.
        window: Mean of the estimate as window @ C_l; default the mean over each bin weighted with 2 l + 1.
        lost_orders: See `MeasuredPower`.
        where: The file, for messages.

    Raises:
        InputError: If anything is missing, not finite, out of range or at odds with the rest.
    """
    low, high = _bins(low, high, where)
    power = vector(power, len(low), "C_l", where)
    if meaning not in MEANINGS:
        raise InputError(f"{where}: errors are {', '.join(MEANINGS)}, not {meaning!r}; choose --errors of these")
    if sky_fraction is not None and not 0 < sky_fraction <= 1:
        raise InputError(f"{where}: the sky fraction must be above 0 and at most 1, not {sky_fraction:g}")
    if noise is not None:
        noise = vector(noise, len(low), "noise", where)
        if noise.min() < 0:
            raise InputError(f"{where}: the noise of l = {low[np.argmin(noise)]} is negative; give N_l of 0 or more")
    if window is None:
        window = mean_window(low, high)
    all_modes = np.array([np.sum(2.0 * np.arange(a, b + 1) + 1) for a, b in zip(low, high, strict=True)])
    if modes is not None:
        modes = vector(modes, len(low), "modes", where)
        if modes.min() <= 0:
            raise InputError(f"{where}: modes of l = {low[np.argmin(modes)]} must be above 0, such as 2 l + 1")
    elif sky_fraction is not None or noise is None or meaning == "mean":
        modes = all_modes * (1.0 if sky_fraction is None else sky_fraction)
    known = noise is not None and modes is not None and meaning != "mean"
    error, correlation = errors_of_bins(error, covariance, len(low), where, known)
    if meaning == "mean":
        noise, variance = np.zeros(len(low)), error**2
    else:
        noise, modes = completed(low, power, error, noise, modes, all_modes, meaning, where)
        signal = np.maximum(power, 0)
        variance = 2 * (noise**2 + 2 * noise * signal) / modes
        bad = np.flatnonzero(~(signal + noise > 0))
        if bad.size:
            raise InputError(
                f"{where}: C_l of l = {low[bad[0]]} is not above 0 and without noise; give its noise, or leave it out"
            )
    return MeasuredPower(
        tuple(int(l) for l in low),
        tuple(int(l) for l in high),
        power,
        noise,
        modes,
        variance,
        correlation,
        window,
        meaning,
        lost_orders,
    )


def mean_window(
    low: Sequence | np.ndarray, high: Sequence | np.ndarray, orders: int = 1
) -> Float[np.ndarray, "bin degree"]:
    """Means over bins of l weighted with 2 l + orders, as a matrix over l = 1 .. the highest."""
    l = np.arange(1, int(np.max(high)) + 1)
    inside = (l >= np.asarray(low)[:, None]) & (l <= np.asarray(high)[:, None])
    weight = inside * (2.0 * l + orders)
    return weight / weight.sum(axis=1, keepdims=True)


def joined(spectra: Sequence[MeasuredPower]) -> MeasuredPower:
    """Spectra of different degrees as one, their errors independent.

    Raises:
        InputError: If two hold the same degree, which they would share the scatter of, or differ in kind.
    """
    first = spectra[0]
    if len(spectra) == 1:
        return first
    for one in spectra[1:]:
        if (one.meaning == "mean") != (first.meaning == "mean"):
            raise InputError("means over simulated skies and spectra of one sky cannot be joined; fit one at a time")
        if one.lost_orders != first.lost_orders:
            raise InputError("spectra with and without the multipoles m = 0 cannot be joined; fit one at a time")
    degrees = np.concatenate([np.arange(a, b + 1) for s in spectra for a, b in zip(s.low, s.high, strict=True)])
    values, times = np.unique(degrees, return_counts=True)
    if times.max() > 1:
        raise InputError(
            f"l = {values[np.argmax(times)]} is in two of the spectra: they see one sky and are not independent; leave "
            "one out, or cut with --lmin and --lmax"
        )
    order = np.argsort(np.concatenate([s.low for s in spectra]))
    size = max(s.l_max for s in spectra)
    stacked = lambda name: np.concatenate([getattr(s, name) for s in spectra])[order]
    window = np.concatenate([np.pad(s.window, ((0, 0), (0, size - s.l_max))) for s in spectra])[order]
    correlation = np.zeros((len(order), len(order)))
    start = 0
    for s in spectra:
        stop = start + len(s.low)
        correlation[start:stop, start:stop] = s.correlation
        start = stop
    return MeasuredPower(
        tuple(np.concatenate([s.low for s in spectra])[order].tolist()),
        tuple(np.concatenate([s.high for s in spectra])[order].tolist()),
        *(stacked(name) for name in ("power", "noise", "modes", "variance")),
        correlation[np.ix_(order, order)],
        window,
        first.meaning,
        first.lost_orders,
    )


def _bins(low, high, where: str) -> tuple[np.ndarray, np.ndarray]:
    edges = []
    for name, values in (("first", low), ("last", high)):
        values = np.asarray(values, float)
        if values.ndim != 1 or len(values) < 1:
            raise InputError(f"{where}: holds no degree; give at least two rows with columns l,C_l,error")
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 1) & (values == np.round(values))))
        if bad.size:
            raise InputError(
                f"{where}: the {name} degree of row {bad[0] + 1}, {values[bad[0]]:g}, is no whole number of at least "
                "1; l = 0 has no place in a power spectrum of relative intensities"
            )
        edges.append(values.astype(int))
    low, high = edges
    if len(low) != len(high) or np.any(low > high) or np.any(high[:-1] >= low[1:]):
        raise InputError(f"{where}: degrees must rise without overlap, one row each; sort them, and leave out doubles")
    if high[-1] < 2:
        raise InputError(
            f"{where}: the highest degree is {high[-1]}; a spectrum of small scales reaches at least l = 2"
        )
    if high[-1] > MOST_DEGREES:
        raise InputError(f"{where}: reaches l = {high[-1]}; cut it with --lmax {MOST_DEGREES} or less")
    return low, high


MOST_DEGREES = 100
"""Beyond this a cascade to the highest degree takes too long to fit."""
