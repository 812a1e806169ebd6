r"""Smooth, differentiable transport coefficients between simulated points.

Paths in turbulence are chaotic, so that derivatives along them say nothing on averages (`diffcr.trajectory`). Averages
are smooth in the parameters all the same: here a Gaussian process goes through simulated points of known errors,

$$ y(x) = h(x) \cdot \beta + g(x), \qquad
   \mathrm{cov}(g, g') = s^2 \exp\left[-\frac12 \sum_d (x_d - x'_d)^2 / l_d^2\right], $$

with polynomials h of unknown coefficients beta, and the s and l_d of largest likelihood. It is a function of JAX with
derivatives of all orders. The other way to such a derivative is `diffcr.common_random`.

References:
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, sections 2.7 and 5.4.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known, require_float64

# Emulator -----------------------------------------------------------------------------------------------------


class Prediction(eqx.Module):
    """What an emulator says at some points.

    Attributes:
        value: y there, any shape; NaN outside the design.
        error: Standard error, of the emulator alone; it grows in gaps of the design. NaN outside.
        inside: Whether the point lies within the convex hull of the design.
    """

    value: Float[Array, "*point"]
    error: Float[Array, "*point"]
    inside: Array


class Emulator(eqx.Module):
    """A smooth function through points with errors. Inputs are scaled to the design's range, -1 to 1, inside.

    Attributes:
        names: Of the inputs.
        centre: Of the design, shape (input,).
        half: Half widths of the design, shape (input,).
        design: Scaled inputs of the simulated points, shape (point, input).
        values: y there, shape (point,).
        errors: Their standard errors.
        lengths: l_d of the kernel, scaled, shape (input,).
        amplitude: s of the kernel, in the unit of y.
        degree: Of the polynomial.
        hull: a . x + b <= 0 inside the convex hull of the design, rows (a, b), shape (face, input + 1).
    """

    names: tuple[str, ...] = eqx.field(static=True)
    centre: Float[Array, " input"]
    half: Float[Array, " input"]
    design: Float[Array, "point input"]
    values: Float[Array, " point"]
    errors: Float[Array, " point"]
    lengths: Float[Array, " input"]
    amplitude: Float[Array, ""]
    degree: int = eqx.field(static=True)
    hull: Float[Array, "face term"]

    def __call__(self, **inputs: Real[ArrayLike, "*#point"]) -> Prediction:
        """Predict at points given by name; the inputs broadcast.

        Raises:
            InputError: If names differ from those of the emulator, or a point whose value is known lies outside of the
                design. In a trace such a point gives NaN.
        """
        if set(inputs) != set(self.names):
            raise InputError(f"an emulator of {', '.join(self.names)} was given {', '.join(inputs) or 'nothing'}")
        x = jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(inputs[name], float) for name in self.names)), axis=-1)
        x = (x - self.centre) / self.half
        inside = jnp.all(x @ self.hull[:, :-1].T + self.hull[:, -1] <= 1e-6, axis=-1)
        if is_known(inside) and not np.all(inside):
            self._refuse(np.asarray(x), np.asarray(inside))
        return self._predict(x, inside)

    def _predict(self, x, inside) -> Prediction:
        factor, basis, small, weights, beta = _solve(self)
        cross = _kernel(x, self.design, self.lengths, self.amplitude)
        powers = _powers(x, self.degree)
        value = powers @ beta + cross @ weights
        solved = jax.scipy.linalg.cho_solve((factor, True), jnp.moveaxis(cross, -1, 0).reshape(len(self.values), -1))
        solved = jnp.moveaxis(solved.reshape(-1, *cross.shape[:-1]), 0, -1)
        rest = powers - cross @ basis
        gained = jax.scipy.linalg.cho_solve((small, True), rest.reshape(-1, rest.shape[-1]).T).T.reshape(rest.shape)
        variance = self.amplitude**2 - jnp.sum(cross * solved, axis=-1) + jnp.sum(rest * gained, axis=-1)
        error = jnp.sqrt(jnp.maximum(variance, 1e-300))
        return Prediction(jnp.where(inside, value, jnp.nan), jnp.where(inside, error, jnp.nan), inside)

    def _refuse(self, x: np.ndarray, inside: np.ndarray) -> None:
        worst = x.reshape(-1, x.shape[-1])[np.argmin(inside)] * np.asarray(self.half) + np.asarray(self.centre)
        low, high = (np.asarray(self.centre + sign * self.half) for sign in (-1, 1))
        ranges = ", ".join(f"{n} {a:.4g} to {b:.4g}" for n, a, b in zip(self.names, low, high, strict=True))
        point = ", ".join(f"{n} = {v:.4g}" for n, v in zip(self.names, worst, strict=True))
        raise InputError(
            f"the emulator does not extrapolate to {point}: its design spans {ranges}, and within them only what lies "
            "between its points; simulate points there"
        )


def fit_emulator(
    inputs: dict[str, Real[ArrayLike, " point"]],
    values: Real[ArrayLike, " point"],
    errors: Real[ArrayLike, " point"],
    degree: int = 1,
) -> Emulator:
    """Emulator of simulated values, such as ln kappa_par over ln(r_L / L_c) and ln sigma^2.

    Args:
        inputs: By name, the inputs of the simulated points, each (point,); logarithms of what spans decades.
        values: y there.
        errors: Standard errors of y, positive: of ln kappa they are error / kappa.
        degree: Of the polynomial, 0 to 2.

    Raises:
        InputError: If shapes differ, a number is not finite, an error not positive, the points are too few for the
            polynomial, or they lie in a plane.
        RuntimeError: With 32-bit floats.
    """
    require_float64("an emulator")
    names, x, y, error = _require_points(inputs, values, errors, degree)
    centre, half = (x.max(axis=0) + x.min(axis=0)) / 2, (x.max(axis=0) - x.min(axis=0)) / 2
    if np.any(half == 0):
        raise InputError(f"{names[int(np.argmin(half))]} is the same at all points of the design: leave it out")
    design = (x - centre) / half
    fixed = [jnp.asarray(v) for v in (centre, half, design, y, error)]
    hull = jnp.asarray(_hull(design))

    start = Emulator(names, *fixed, jnp.ones(len(names)), jnp.asarray(float(np.std(y))), int(degree), hull)
    return _best(start)


def leave_one_out(emulator: Emulator) -> Float[np.ndarray, " point"]:
    """Each simulated value less its prediction from all the others, over the error of the two together.

    Standard normal where errors and emulator are right: look at the mean square, and at the largest. The lengths of the
    kernel are kept.
    """
    inverse = _projected_inverse(emulator)
    # Dubrule (1983), Math. Geol. 15, 687.
    return np.asarray(inverse @ emulator.values / jnp.sqrt(jnp.diagonal(inverse)))


class TransportEmulator(eqx.Module):
    """Diffusion coefficients over c and L_c as smooth functions of named parameters.

    Attributes:
        parallel: Of ln(kappa_par / L_c).
        perpendicular: Of ln(kappa_perp / L_c).
        antisymmetric: Of kappa_A / r_L, which keeps its sign.
    """

    parallel: Emulator
    perpendicular: Emulator
    antisymmetric: Emulator

    def __call__(
        self, larmor_radius: Real[ArrayLike, "*#point"], sigma2: Real[ArrayLike, "*#point"]
    ) -> tuple[Float[Array, "*point"], Float[Array, "*point"], Float[Array, "*point"]]:
        """kappa_par, kappa_perp and kappa_A over c, in L_c, for `transport.diffusion_tensor`.

        Args:
            larmor_radius: r_L / L_c in the regular field, positive.
            sigma2: dB^2 / B_0^2.

        Raises:
            InputError: As of `Emulator`.
        """
        point = {"ln_larmor_radius": jnp.log(larmor_radius), "ln_sigma2": jnp.log(sigma2)}
        parallel, perpendicular = jnp.exp(self.parallel(**point).value), jnp.exp(self.perpendicular(**point).value)
        return parallel, perpendicular, self.antisymmetric(**point).value * larmor_radius


def fit_transport(
    larmor_radius: Real[ArrayLike, " point"],
    sigma2: Real[ArrayLike, " point"],
    kappa: Real[ArrayLike, "point 3"],
    errors: Real[ArrayLike, "point 3"],
    degree: int = 1,
) -> TransportEmulator:
    """Emulators of all three coefficients from simulated ones.

    Args:
        larmor_radius: r_L / L_c in the regular field, positive.
        sigma2: dB^2 / B_0^2, positive.
        kappa: kappa_par, kappa_perp, kappa_A over c, in L_c; the first two positive. Limits of large T as
            `transport_coefficients.asymptotics` tells them, or all at the same Omega T.
        errors: Their standard errors.
        degree: As of `fit_emulator`.

    Raises:
        InputError: As of `fit_emulator`, or if a number is not positive that must be.
    """
    radius, sigma2, kappa, errors = (np.asarray(v, float) for v in (larmor_radius, sigma2, kappa, errors))
    for name, each in (("larmor_radius", radius), ("sigma2", sigma2), ("kappa_par and kappa_perp", kappa[:, :2])):
        if not np.all(each > 0):
            raise InputError(f"{name} of an emulator must be positive, not {np.min(each):g}: simulate longer, or more")
    inputs = {"ln_larmor_radius": np.log(radius), "ln_sigma2": np.log(sigma2)}
    logs = [fit_emulator(inputs, np.log(kappa[:, i]), errors[:, i] / kappa[:, i], degree) for i in (0, 1)]
    return TransportEmulator(*logs, fit_emulator(inputs, kappa[:, 2] / radius, errors[:, 2] / radius, degree))


# Gaussian process ---------------------------------------------------------------------------------------------


def _kernel(a, b, lengths, amplitude) -> Float[Array, "... point"]:
    square = jnp.sum(((a[..., None, :] - b) / lengths) ** 2, axis=-1)
    return amplitude**2 * jnp.exp(-0.5 * square)


def _powers(x: Float[Array, "*point input"], degree: int) -> Float[Array, "*point term"]:
    """Monomials up to a degree."""
    terms = [jnp.ones(x.shape[:-1])]
    for order in range(1, degree + 1):
        for chosen in itertools.combinations_with_replacement(range(x.shape[-1]), order):
            terms.append(jnp.prod(x[..., list(chosen)], axis=-1))
    return jnp.stack(terms, axis=-1)


def _solve(emulator: Emulator):
    """Factor of the covariance, C^-1 H, factor of H^T C^-1 H, C^-1 (y - H beta), and beta."""
    kernel = _kernel(emulator.design, emulator.design, emulator.lengths, emulator.amplitude)
    factor = jnp.linalg.cholesky(kernel + jnp.diag(emulator.errors**2))
    powers = _powers(emulator.design, emulator.degree)
    basis = jax.scipy.linalg.cho_solve((factor, True), powers)
    small = jnp.linalg.cholesky(powers.T @ basis)
    beta = jax.scipy.linalg.cho_solve((small, True), basis.T @ emulator.values)
    weights = jax.scipy.linalg.cho_solve((factor, True), emulator.values - powers @ beta)
    return factor, basis, small, weights, beta


def _projected_inverse(emulator: Emulator) -> Float[Array, "point point"]:
    """C^-1 - C^-1 H (H^T C^-1 H)^-1 H^T C^-1."""
    factor, basis, small, _, _ = _solve(emulator)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(emulator.values)))
    return inverse - basis @ jax.scipy.linalg.cho_solve((small, True), basis.T)


def _with_kernel(parameters: Float[Array, " term"], emulator: Emulator) -> Emulator:
    """The emulator with other ln s and ln l_d."""
    return eqx.tree_at(lambda e: (e.amplitude, e.lengths), emulator, (jnp.exp(parameters[0]), jnp.exp(parameters[1:])))


@eqx.filter_jit
@eqx.filter_value_and_grad
def _loss(parameters: Float[Array, " term"], emulator: Emulator) -> Float[Array, ""]:
    """Minus ln of the likelihood of the kernel, the polynomial's coefficients integrated out."""
    emulator = _with_kernel(parameters, emulator)
    factor, _, small, weights, _ = _solve(emulator)
    logs = jnp.sum(jnp.log(jnp.diagonal(factor))) + jnp.sum(jnp.log(jnp.diagonal(small)))
    return 0.5 * emulator.values @ weights + logs


def _best(emulator: Emulator) -> Emulator:
    """With the kernel of the largest likelihood, from several starts."""
    from scipy.optimize import minimize

    def loss(parameters):
        return tuple(np.asarray(v, float) for v in _loss(jnp.asarray(parameters), emulator))

    inputs, error = len(emulator.names), float(np.median(emulator.errors))
    size = max(float(np.std(emulator.values)), error)
    # A length beyond 5 half widths is a polynomial of degree two or so, one below 0.2 none that points can show.
    bounds = [(np.log(1e-3 * error), np.log(10 * size))] + inputs * [(np.log(0.2), np.log(5.0))]
    starts = [[np.log(share * size)] + inputs * [np.log(length)] for share in (0.1, 1.0) for length in (0.7, 2.0)]
    results = [minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B") for start in starts]
    return _with_kernel(jnp.asarray(min(results, key=lambda result: result.fun).x), emulator)


def _hull(design: Float[np.ndarray, "point input"]) -> Float[np.ndarray, "face term"]:
    from scipy.spatial import ConvexHull, QhullError

    if design.shape[1] == 1:
        return np.array([[1.0, -1.0], [-1.0, -1.0]])
    try:
        return np.unique(ConvexHull(design).equations.round(12), axis=0)
    except QhullError:
        raise InputError("the points of a design must not lie in a plane: vary its inputs independently") from None


def _require_points(inputs, values, errors, degree):
    names = tuple(inputs)
    y, error = np.asarray(values, float), np.asarray(errors, float)
    columns = [np.asarray(inputs[name], float) for name in names]
    if not names or any(column.shape != y.shape for column in (*columns, error)) or y.ndim != 1:
        raise InputError("an emulator needs as many inputs of each name, values and errors as there are points")
    if isinstance(degree, bool) or degree not in (0, 1, 2):
        raise InputError(f"the degree of an emulator's polynomial is 0, 1 or 2, not {degree!r}")
    for name, each in zip((*names, "values", "errors"), (*columns, y, error), strict=True):
        if not np.all(np.isfinite(each)):
            raise InputError(f"{name} of an emulator must be finite: leave out points that failed")
    if not np.all(error > 0):
        raise InputError("errors of an emulator must be positive: give standard errors over realisations")
    x = np.stack(columns, axis=-1)
    terms = _powers(jnp.asarray(x), int(degree)).shape[-1]
    if len(y) < terms + 3:
        raise InputError(
            f"an emulator of degree {degree} in {len(names)} inputs needs {terms + 3} points, not {len(y)}"
        )
    return names, x, y, error
