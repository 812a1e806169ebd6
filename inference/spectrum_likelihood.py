r"""Probability of a measured power spectrum given theory: normal, exact chi-squared, Hamimeche & Lewis.

Theory has two parts. The power C of a *random* sky is a mean over skies, about which this sky's nu multipoles scatter;
the power A of an *aligned* sky, such as a profile about the local field, is that of a fixed pattern and does not. Noise
scatters in both. With S = C + N, nu times the measured power with its noise, over S, is non-central chi-squared with nu
degrees of freedom and non-centrality nu A / S: central where nothing is aligned, and sample variance is counted once.

Every likelihood here is a density for each bin, times one for how their normal scores X_b are correlated:

$$ \ln p = \sum_b \ln p_b + \ln \mathcal N(X; 0, R) - \ln \mathcal N(X; 0, 1). $$

For a random sky and $X = \pm \sqrt{\nu (x - \ln x - 1)}$, x the measured over the expected power, that is the
likelihood of Hamimeche & Lewis, exact where bins are independent; for X = (measured - expected) / error it is the
normal one. A bin that over-subtraction left without positive power is normal, with the variance of the model.

The density of one bin given all others, which leave-one-out needs, is that of X_b given the others. It is exact for
independent bins and in the normal likelihood. X of Hamimeche & Lewis is only nearly normal: with a few multipoles and
correlations of 0.3 to 0.6 the integral over C_b is not 1 but off by 0.1 to 0.3 in ln, much the same for all models, so
differences of elpd of some tenths for such a bin may be of the normalisation.

References:
    Hamimeche & Lewis (2008), Phys. Rev. D 77, 103013; Patnaik (1949), Biometrika 36, 202.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .spectrum_data import MeasuredPower

KINDS = {
    "normal": "normal errors of the measured covariance; the scatter of random skies is added to its diagonal",
    "chi2": "exact: non-central chi-squared of the multipoles of each bin, bins independent",
    "hamimeche-lewis": "chi-squared of the multipoles of each bin, bins correlated by Hamimeche & Lewis (2008); normal "
    "for a bin without positive power",
}
"""Names of the likelihoods."""

_TINY = 1e-12
"""Share of the measured power below which expected power without noise is not distinguished."""


def choose_kind(spectrum: MeasuredPower, kind: str = "auto") -> tuple[str, str]:
    """The likelihood to use and why.

    By default the one that is right for few multipoles: chi2; Hamimeche & Lewis with correlated bins, or where
    over-subtraction left no positive power in some, which are then normal. Means over skies are normal.

    Raises:
        InputError: If the asked one is unknown or cannot be computed.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"the likelihood must be auto, {', '.join(KINDS)}, not {kind!r}")
    bad = np.flatnonzero(~(spectrum.total > 0))
    if kind in ("chi2", "hamimeche-lewis"):
        if spectrum.meaning == "mean":
            raise InputError(f"a mean over skies is not {kind}-distributed: use --likelihood normal or auto")
        if kind == "chi2" and bad.size:
            raise InputError(
                f"measured power with noise is not above 0 at l = {spectrum.label(bad[0])}, which no sum of squares "
                "is: use --likelihood hamimeche-lewis or auto"
            )
        if kind == "chi2" and spectrum.correlated:
            raise InputError("bins are correlated, which chi2 leaves out: use --likelihood hamimeche-lewis or auto")
        return kind, "as asked"
    if kind == "normal":
        return kind, "as asked"
    if spectrum.meaning == "mean":
        return "normal", "errors are of a mean over skies"
    if bad.size:
        return "hamimeche-lewis", f"power with noise is not above 0 at l = {spectrum.label(bad[0])}, which is normal"
    if spectrum.correlated:
        return "hamimeche-lewis", "few multipoles are not normal, and bins are correlated"
    return "chi2", "few multipoles are not normal"


def log_likelihood(
    spectrum: MeasuredPower,
    kind: str,
    random: Float[AnyArray, " bin"],
    aligned: Float[AnyArray, " bin"] | None = None,
    keep: Float[AnyArray, " bin"] | None = None,
) -> Float[Array, ""]:
    """ln of the density of the measured C_l.

    Args:
        spectrum: The data.
        kind: Of `KINDS`.
        random: C of each bin expected of random skies, not negative.
        aligned: Power A of each bin of the pattern that does not scatter, not negative; None for none.
        keep: 1 for bins that count, 0 for bins that are integrated out; default all.
    """
    score, log_marginal = _marginals(spectrum, kind, random, aligned)
    keep = jnp.ones(len(spectrum.low)) if keep is None else keep
    value = jnp.sum(keep * log_marginal)
    if not spectrum.correlated:
        return value
    own = jnp.eye(len(spectrum.low))
    correlation = jnp.where(own, 1.0, spectrum.correlation * keep[:, None] * keep)
    root = jnp.linalg.cholesky(correlation)
    score = score * keep
    white = solve_triangular(root, score, lower=True)
    return value - jnp.sum(jnp.log(jnp.diag(root))) - 0.5 * (white @ white - score @ score)


def conditional(
    spectrum: MeasuredPower, kind: str, random: Float[AnyArray, " bin"], aligned: Float[AnyArray, " bin"] | None = None
) -> Float[Array, " bin"]:
    """ln of the density of each bin's C_l given all other bins, and theory; arguments as for `log_likelihood`.

    For correlated bins of few multipoles by Hamimeche & Lewis it is normalised to 0.1 to 0.3 in ln only.

    References:
        Sundararajan & Keerthi (2001), Neural Comput. 13, 1103; Vehtari et al. (2016), J. Mach. Learn. Res. 17, 103.
    """
    score, log_marginal = _marginals(spectrum, kind, random, aligned)
    if not spectrum.correlated:
        return log_marginal
    off, square = residuals(spectrum, score)
    return log_marginal + 0.5 * score**2 - 0.5 * off**2 - 0.5 * jnp.log(square)


def residuals(
    spectrum: MeasuredPower, score: Float[AnyArray, "*draw bin"]
) -> tuple[Float[Array, "*draw bin"], Float[Array, " bin"]]:
    """Each score less its mean given the others, in units of its scatter then, and the variance of that scatter."""
    precision = np.linalg.inv(spectrum.correlation)
    diagonal = np.diag(precision)
    return jnp.asarray(score @ precision / np.sqrt(diagonal)), jnp.asarray(1 / diagonal)


def scores(
    spectrum: MeasuredPower, kind: str, random: Float[AnyArray, " bin"], aligned: Float[AnyArray, " bin"] | None = None
) -> Float[Array, " bin"]:
    """Normal scores X of the measured C_l: nearly N(0, 1) each, correlated like the errors."""
    return _marginals(spectrum, kind, random, aligned)[0]


def variance(
    spectrum: MeasuredPower, kind: str, random: Float[AnyArray, " bin"], aligned: Float[AnyArray, " bin"] | None = None
) -> Float[Array, " bin"]:
    """Variance of each bin's C_l under theory, sample variance of its random part included."""
    if spectrum.meaning == "mean":
        return jnp.asarray(spectrum.variance)
    if kind == "normal":
        return jnp.asarray(spectrum.variance + 2 * random**2 / spectrum.modes)
    scale = _scale(spectrum, random)
    return 2 * scale * (scale + (0.0 if aligned is None else 2 * aligned)) / spectrum.modes


def _scale(spectrum: MeasuredPower, random):
    """S = C + N, kept above zero where a model has no power in a spectrum without noise."""
    return jnp.maximum(random + spectrum.noise, _TINY * jnp.abs(spectrum.total))


def _marginals(spectrum: MeasuredPower, kind: str, random, aligned) -> tuple[Array, Array]:
    """Normal score and ln density of each bin."""
    if kind == "normal":
        return _normal_marginals(spectrum, variance(spectrum, kind, random, aligned), random, aligned)
    if kind == "chi2":
        return _chi2_marginals(spectrum, spectrum.total, random, aligned)
    positive = spectrum.total > 0
    chi2 = _chi2_marginals(spectrum, jnp.where(positive, spectrum.total, spectrum.noise), random, aligned)
    normal = _normal_marginals(spectrum, variance(spectrum, kind, random, aligned), random, aligned)
    score, log_density = (jnp.where(positive, *pair) for pair in zip(chi2, normal, strict=True))
    return score, log_density


def _normal_marginals(spectrum: MeasuredPower, square, random, aligned) -> tuple[Array, Array]:
    score = (spectrum.power - random - (0.0 if aligned is None else aligned)) / jnp.sqrt(square)
    return score, -0.5 * (score**2 + jnp.log(2 * np.pi * square))


def _chi2_marginals(spectrum: MeasuredPower, total, random, aligned) -> tuple[Array, Array]:
    scale, modes = _scale(spectrum, random), spectrum.modes
    size = modes * total / scale
    if aligned is None:
        half = 0.5 * modes
        log_density = half * jnp.log(half / scale) - gammaln(half) + (half - 1) * jnp.log(total) - 0.5 * size
        return signed_root(size / modes, modes), log_density
    centre = modes * aligned / scale
    log_density = log_chi2(size, modes, centre) + jnp.log(modes / scale)
    # The score of the gamma distribution of like mean and variance (Patnaik); of all there is where A = 0.
    like = (modes + centre) ** 2 / (modes + 2 * centre)
    return signed_root(size / (modes + centre), like), log_density


def signed_root(ratio: Float[AnyArray, "*bin"], modes: Float[AnyArray, "*bin"]) -> Float[Array, "*bin"]:
    """X = +- sqrt(nu (x - ln x - 1)) of the measured over the expected power x, smooth at x = 1."""
    off = jnp.log(ratio)
    # x - ln x - 1 = off^2 / 2 (1 + off / 3 + ..): the square root without its sign's corner.
    near = jnp.abs(off) < 0.03
    safe = jnp.where(near, 1.0, off)
    far = jnp.sqrt(2 * (jnp.exp(safe) - safe - 1)) * jnp.sign(safe)
    series = off * jnp.sqrt(1 + off / 3 * (1 + off / 4 * (1 + off / 5 * (1 + off / 6))))
    return jnp.sqrt(modes / 2) * jnp.where(near, series, far)


def log_chi2(
    x: Float[AnyArray, "*bin"], degrees: Float[AnyArray, "*bin"], centre: Float[AnyArray, "*bin"]
) -> Float[Array, "*bin"]:
    """ln of the density of non-central chi-squared at x > 0, for any real number of degrees of freedom above 0.

    Args:
        x: The sum of squares.
        degrees: Degrees of freedom nu.
        centre: Non-centrality; 0 gives chi-squared itself, and the derivative there is right.
    """
    half = 0.5 * degrees
    base = (half - 1) * jnp.log(x) - half * np.log(2) - gammaln(half)
    return base - 0.5 * (x + centre) + log_bessel_series(centre * x / 4, half - 1)


_RAISED = 24
"""Orders by which the uniform expansion is moved from the wanted one: its error is then below 1e-8."""


def log_bessel_series(y: Float[AnyArray, "*bin"], order: Float[AnyArray, "*bin"]) -> Float[Array, "*bin"]:
    r"""ln of $_0F_1(; \nu + 1; y) = \Gamma(\nu + 1)\, y^{-\nu / 2} I_\nu(2 \sqrt y)$ for y >= 0, nu > -1, to 1e-8.

    Debye's uniform expansion at a high order, brought down by the recurrence, whose terms are all positive.

    References:
        Olver (1974), Asymptotics and Special Functions, chapter 10.7; Abramowitz & Stegun 9.7.7 and 9.3.9.
    """
    top = _debye(y, order + _RAISED)
    ratio = jnp.exp(top - _debye(y, order + _RAISED + 1))

    def lower(below, k):
        total, ratio = below
        ratio = 1 + y / ((order + k + 1) * (order + k + 2) * ratio)
        return (total + jnp.log(ratio), ratio), None

    return jax.lax.scan(lower, (top, ratio), jnp.arange(_RAISED - 1.0, -1.0, -1.0))[0][0]


def _debye(y, n):
    root = jnp.sqrt(1 + 4 * y / n**2)
    p = 1 / root
    q = p**2
    u1 = p * (3 - 5 * q) / 24
    u2 = q * (81 - 462 * q + 385 * q**2) / 1152
    u3 = p * q * (30375 - 369603 * q + 765765 * q**2 - 425425 * q**3) / 414720
    u4 = q**2 * (4465125 - 94121676 * q + 349922430 * q**2 - 446185740 * q**3 + 185910725 * q**4) / 39813120
    sums = 1 + u1 / n + u2 / n**2 + u3 / n**3 + u4 / n**4
    leading = n * root - n * jnp.log((1 + root) * n / 2) + gammaln(n + 1)
    return leading - 0.5 * jnp.log(2 * np.pi * n * root) + jnp.log(sums)
