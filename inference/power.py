r"""C_l with full covariance from counts: the quadratic estimator on the likelihood's own score and information.

About isotropy, with the rates and the acceptance of every configuration eliminated exactly, the likelihood of the
m != 0 multipoles s is Gaussian: score y = sum_a (n_a - B_a) Y_a with mean F s and covariance F. The field of view, its
weights, the removal of ring means and what the fit of rate and acceptance takes from the lowest multipoles are all
in F, and information adds over configurations. With x = (F + 1/C)^-1 y and q_l = sum_m x_lm^2 / C_l^2,

$$ \langle q_l \rangle = \sum_{l'} W_{ll'} C_{l'} + b_l, \qquad \hat C = W^{-1} (q - b), $$

which is the quadratic maximum-likelihood estimator (Tegmark 1997, PRD 55, 5895): unbiased whatever the fiducial C_l, of
least variance where it is the true one. C_l is the variance of one m != 0 multipole of an isotropic random field.

The expansion about isotropy holds where the anisotropy is small, as for cosmic rays; the score uses the binned counts,
and multipoles are of the equator of date (C_l is the same in every frame, apart from the missing m = 0).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from diffcr.errors import InputError
from diffcr.harmonics import ring_basis

from .data import Counts
from .fit import _exposed, _frame_rotation, _in_effective_events, _rate_bins
from .likelihood import grouped_rate
from .measurable import MAX_INFLATION
from .multipoles import free_multipoles
from .pseudo_power import check_bins, multipoles_of_order, ring_products, sum_by_degree


@dataclasses.dataclass(frozen=True)
class Information:
    """Score and information of the m != 0 multipoles about isotropy; rates and acceptances are eliminated.

    Attributes:
        score: y, shape (param,), or (..., param) for simulated skies that share the matrix.
        matrix: F, shape (param, param): the derivative of the mean of y by the multipoles, and for unit weights the
            covariance of y.
        degree, order: l and m of each multipole, in the order of `free_multipoles`, shape (param,).
        effective_events: (sum w)^2 / sum w^2 of the events behind it.
        weighted_covariance: Covariance of y under isotropy where events are weighted, shape (param, param); None for
            unit weights, where it is F.
    """

    score: np.ndarray
    matrix: np.ndarray
    degree: np.ndarray
    order: np.ndarray
    effective_events: float
    weighted_covariance: np.ndarray | None = None

    @property
    def l_max(self) -> int:
        """Highest degree."""
        return int(self.degree.max())

    @property
    def score_covariance(self) -> np.ndarray:
        """Covariance of y under isotropy, shape (param, param)."""
        return self.matrix if self.weighted_covariance is None else self.weighted_covariance

    def __add__(self, other: "Information") -> "Information":
        """The information of both together, for independent data of one sky, in one frame."""
        if self.l_max != other.l_max:
            raise InputError(f"information to l = {self.l_max} and to l = {other.l_max} cannot be added; use one l_max")
        weighted = not (self.weighted_covariance is None and other.weighted_covariance is None)
        return dataclasses.replace(
            self,
            score=self.score + other.score,
            matrix=self.matrix + other.matrix,
            effective_events=self.effective_events + other.effective_events,
            weighted_covariance=self.score_covariance + other.score_covariance if weighted else None,
        )


def sky_information(counts: Counts, l_max: int, rate_bins: int | None = None) -> Information:
    """Score and information matrix of all m != 0 multipoles to l_max; seconds at l_max = 40 on the default grid.

    The score is that of the binned counts. Weighted counts are scaled to effective events, (sum w)^2 / sum w^2, as in
    `fit`, and the covariance of the score is that of the squared weights, which may depend on the local direction but
    not on time.

    Args:
        counts: The binned data; all configurations share the sky.
        l_max: Highest degree.
        rate_bins: Number of equal groups of time bins with a free rate; default as many as hold 100 events each.

    Raises:
        InputError: If the grid does not resolve l_max, or there is no event.
    """
    configurations, degree, order = prepare(counts, l_max, rate_bins)
    return combined_information(configurations, degree, order, counts.effective_events)


def combined_information(
    configurations: Sequence["Configuration"],
    degree: np.ndarray,
    order: np.ndarray,
    effective_events: float,
    windows: np.ndarray | None = None,
) -> Information:
    """Information of all configurations together, each seeing the multipoles times its own window.

    Args:
        configurations: From `prepare`.
        degree, order: l and m of each multipole, shape (param,).
        effective_events: Of all configurations.
        windows: b_l of each configuration's point spread, for each multipole, shape (configuration, param).
    """
    matrix, covariance = np.zeros((2, len(degree), len(degree)))
    score = np.zeros(len(degree))
    weighted = any(c.squares is not None for c in configurations)
    for k, c in enumerate(configurations):
        window = np.ones(len(degree)) if windows is None else windows[k]
        score += window * c.turn(c.score())
        matrix += window[:, None] * c.turn(c.turn(c.information()).T) * window
        if weighted:
            covariance += window[:, None] * c.turn(c.turn(c.score_covariance()).T) * window
    matrix, covariance = (matrix + matrix.T) / 2, (covariance + covariance.T) / 2
    return Information(score, matrix, degree, order, effective_events, covariance if weighted else None)


@dataclasses.dataclass(frozen=True)
class InformationAction:
    """Score, and the information as a function: no matrix is formed, so l_max of 100 and more is affordable.

    Attributes:
        score: y, shape (param,).
        degree, order: l and m of each multipole, shape (param,).
        configurations: What the information is applied with.
    """

    score: np.ndarray
    degree: np.ndarray
    order: np.ndarray
    configurations: tuple["Configuration", ...]

    def __call__(self, multipoles: np.ndarray) -> np.ndarray:
        """F times a vector of multipoles (param,)."""
        return sum(c.turn(c.apply(c.turn(multipoles, back=True))) for c in self.configurations)

    def wiener(self, prior_power: np.ndarray, tolerance: float = 1e-8, max_steps: int = 1000) -> np.ndarray:
        """Most probable multipoles (F + 1/C)^-1 y for a Gaussian prior of power C_l, by conjugate gradients.

        Args:
            prior_power: C_l > 0, l = 1 .. l_max.
            tolerance: Largest residual over the size of the score.
            max_steps: Most steps.

        Raises:
            InputError: If the prior does not fit, or the steps did not suffice.
        """
        from scipy.sparse.linalg import LinearOperator, cg

        prior = _precision(prior_power, self.degree)
        root = 1 / np.sqrt(prior)
        size = len(self.score)
        # In units of the prior's width the matrix is 1 + S^1/2 F S^1/2: conditioned by the signal-to-noise ratio.
        operator = LinearOperator((size, size), matvec=lambda v: v + root * self(root * v), dtype=float)
        solution, failed = cg(operator, root * self.score, rtol=tolerance, maxiter=max_steps)
        if failed:
            raise InputError(f"{max_steps} conjugate-gradient steps did not reach {tolerance:g}; raise max_steps")
        return root * solution


def information_action(counts: Counts, l_max: int, rate_bins: int | None = None) -> InformationAction:
    """`sky_information` without its matrix. Arguments and errors as there."""
    configurations, degree, order = prepare(counts, l_max, rate_bins)
    score = sum(c.turn(c.score()) for c in configurations)
    return InformationAction(score, degree, order, tuple(configurations))


@dataclasses.dataclass(frozen=True)
class Multipoles:
    """Multipoles m != 0 with their full covariance, of the equator of date.

    Attributes:
        values: s_lm, shape (..., param).
        covariance: Shape (param, param): of the estimate, or with a prior of the truth about it (posterior).
        degree, order: l and m of each, shape (param,).
        condition: Largest over smallest eigenvalue of the (posterior) information.
        inflation: Error of each over that of full, even coverage with as many events, shape (param,).
        wiener: Whether a prior C_l was used: values are then shrunk towards zero.
    """

    values: np.ndarray
    covariance: np.ndarray
    degree: np.ndarray
    order: np.ndarray
    condition: float
    inflation: np.ndarray
    wiener: bool

    @property
    def error(self) -> np.ndarray:
        """Standard errors, shape (param,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def measurable(self) -> np.ndarray:
        """Which multipoles have an error below ten times that of full coverage, boolean (param,)."""
        return self.inflation < MAX_INFLATION


def multipoles(
    information: Information, prior_power: np.ndarray | None = None, max_inflation: float = math.inf
) -> Multipoles:
    """Maximum-likelihood multipoles F^-1 y, or with a prior C_l the Wiener estimate (F + 1/C)^-1 y.

    Args:
        information: From `sky_information`.
        prior_power: C_l > 0 of a Gaussian prior, l = 1 .. l_max. Default none.
        max_inflation: Refuse where an error exceeds this times that of full coverage; by default only what is
            singular in floating point is refused, and `measurable` tells the rest.

    Raises:
        InputError: If the information is singular, an error too large, or the prior does not fit.
    """
    prior = np.zeros(len(information.degree))
    if prior_power is not None:
        prior = _precision(prior_power, information.degree)
    values, vectors = np.linalg.eigh(information.matrix + np.diag(prior))
    if not values[0] > 1e-12 * values[-1]:
        worst = int(np.argmax(np.abs(vectors[:, 0])))
        raise InputError(
            f"the multipoles to l = {information.l_max} cannot be measured without a prior: the information is "
            f"singular, most of all for l = {information.degree[worst]}, m = {information.order[worst]}; lower l_max, "
            "add a site in the other hemisphere, or give a prior C_l"
        )
    inverse = covariance = (vectors / values) @ vectors.T
    if information.weighted_covariance is not None:
        # What the prior keeps from the truth, (1 - G F) s = G s / C, has the covariance G (1 / C) G.
        covariance = inverse @ information.weighted_covariance @ inverse + (inverse * prior) @ inverse
    inflation = np.sqrt(np.diag(covariance) * information.effective_events / (4 * np.pi))
    worst = int(np.argmax(inflation))
    if inflation[worst] > max_inflation:
        raise InputError(
            f"the multipole l = {information.degree[worst]}, m = {information.order[worst]} cannot be measured: its "
            f"error is {inflation[worst]:.3g} times that of full coverage (limit {max_inflation:g}); lower l_max, add "
            "a site in the other hemisphere, or give a prior C_l"
        )
    return Multipoles(
        information.score @ inverse,
        covariance,
        information.degree,
        information.order,
        float(values[-1] / values[0]),
        inflation,
        prior_power is not None,
    )


@dataclasses.dataclass(frozen=True)
class PowerSpectrum:
    """Estimated C_l in bins of l, with full covariance.

    Attributes:
        l: Middle of each bin, shape (bin,).
        low, high: First and last l of each bin, shape (bin,).
        power: Estimate of C_l, its mean over the bin weighted with 2 l where it follows the fiducial shape, shape
            (..., bin).
        covariance: With the signal that was assumed, shape (bin, bin).
        isotropic_covariance: Of noise alone, for tests of isotropy, shape (bin, bin).
        noise_bias: What was subtracted, in units of C_l, shape (bin,).
        window: Mean of the estimate is window @ C_l, shape (bin, l), l = 1 .. l_max.
    """

    l: np.ndarray
    low: np.ndarray
    high: np.ndarray
    power: np.ndarray
    covariance: np.ndarray
    isotropic_covariance: np.ndarray
    noise_bias: np.ndarray
    window: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Standard error of each bin with the assumed signal, shape (bin,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def significance(self) -> np.ndarray:
        """Estimate over its standard error under isotropy, shape (bin,); skewed, not normal, at the lowest l."""
        return self.power / np.sqrt(np.diag(self.isotropic_covariance))


def power_spectrum(
    information: Information,
    fiducial: np.ndarray | None = None,
    bins: list[tuple[int, int]] | None = None,
    signal: np.ndarray | None = None,
) -> PowerSpectrum:
    """Quadratic maximum-likelihood C_l; unbiased for any fiducial, also where single multipoles are unmeasurable.

    Args:
        information: From `sky_information`. Power above its l_max is taken as zero and leaks in: choose l_max well
            above the l of interest.
        fiducial: Expected C_l > 0, l = 1 .. l_max; sets weights, not the mean, and the shape within bins. Default:
            the noise power of full coverage 4 pi / N at every l.
        bins: First and last l of each bin, both included, without overlap; default every l.
        signal: C_l >= 0, l = 1 .. l_max, for which `covariance` holds; default the fiducial where one is given,
            else the estimate itself where it is positive (its mean over simulated skies).

    Raises:
        InputError: If neighbouring bins cannot be told apart, or the spectra or bins do not fit.
    """
    l_max, degree = information.l_max, information.degree
    low, high = check_bins(bins, l_max)
    l = np.arange(1, l_max + 1)
    given = np.full(l_max, 4 * np.pi / information.effective_events) if fiducial is None else fiducial
    prior = _precision(given, degree)
    given = np.asarray(given, float)
    inside = ((l >= low[:, None]) & (l <= high[:, None])).astype(float)
    weight = inside / given**2
    mean = (inside * 2 * l) @ given / (inside * 2 * l).sum(axis=1)
    # What C_l = (value of the bin) x (fiducial over its mean in the bin) is at each l, shape (l, bin).
    shape = (inside * given / mean[:, None]).T
    x, kernel, noise = _filtered(information, prior)
    full = weight @ _by_degree(kernel**2, l_max)
    binned = full @ shape
    scale = np.sqrt(np.abs(np.diag(binned)))
    condition = np.linalg.cond(binned / scale[:, None] / scale)
    if not condition < 1e8:
        raise InputError(
            f"C_l from l = {low[0]} to {high[-1]} cannot be told apart (condition number {condition:.1e}): this field "
            "of view needs wider bins, or a site in the other hemisphere"
        )
    bias = weight @ sum_by_degree(np.diag(noise), l_max)
    inverse = np.linalg.inv(binned)
    estimate = (sum_by_degree(x**2, l_max) @ weight.T - bias) @ inverse.T
    if signal is None:
        mean_estimate = estimate.reshape(-1, len(low)).mean(axis=0)
        signal = given if fiducial is not None else shape @ np.maximum(mean_estimate, 0.0)
    signal = _spectrum(signal, l_max, "signal")

    def covariance(total):
        filtered = inverse @ weight
        return filtered @ (2 * _by_degree(total**2, l_max)) @ filtered.T

    return PowerSpectrum(
        (low + high) / 2,
        low,
        high,
        estimate,
        covariance((kernel * signal[degree - 1]) @ kernel.T + noise),
        covariance(noise),
        inverse @ bias,
        inverse @ full,
    )


def _filtered(information: Information, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x = G y, its response G F to the multipoles and its noise covariance G cov(y) G, with G = (F + prior)^-1."""
    from scipy.linalg import cho_factor, cho_solve

    root = np.sqrt(prior)
    # In units of the prior's width the matrix has no eigenvalue below 1.
    scaled = information.matrix / root / root[:, None] + np.eye(len(prior))
    factor = cho_factor(scaled, lower=True)
    inverse = cho_solve(factor, np.eye(len(prior))) / root / root[:, None]
    kernel = np.eye(len(prior)) - inverse * prior
    weighted = information.weighted_covariance
    noise = kernel @ inverse if weighted is None else inverse @ weighted @ inverse
    return information.score @ inverse, kernel, noise


def _by_degree(values: np.ndarray, l_max: int) -> np.ndarray:
    """Sum of a matrix (param, param) over the orders of each pair of degrees, shape (l, l')."""
    return sum_by_degree(sum_by_degree(values, l_max, 0), l_max, 1)


def _spectrum(power, l_max: int, name: str) -> np.ndarray:
    power = np.asarray(power, float)
    if power.shape != (l_max,) or not np.all(np.isfinite(power)) or power.min() < 0:
        raise InputError(f"the {name} C_l needs one finite value of zero or more for each l from 1 to {l_max}")
    return power


def _precision(power, degree: np.ndarray) -> np.ndarray:
    """1 / C_l of each multipole."""
    power = _spectrum(power, int(degree.max()), "prior or fiducial")
    if power.min() <= 0:
        raise InputError("the prior or fiducial C_l must be positive at every l; leave out none")
    return 1 / power[degree - 1]


def prepare(
    counts: Counts, l_max: int, rate_bins: int | None = None
) -> tuple[list["Configuration"], np.ndarray, np.ndarray]:
    """The configurations with events, and the degrees and orders of their multipoles. Errors as `sky_information`."""
    if isinstance(l_max, bool) or l_max < 1 or 2 * l_max >= min(counts.grid.shape):
        raise InputError(
            f"l_max = {l_max} must be at least 1 and below half the {min(counts.grid.shape)} rings or cells of the "
            "grid; choose another l_max or bin the events finer"
        )
    counts = _in_effective_events(counts)
    places = counts.configurations()
    if not places:
        raise InputError("the counts hold no event: no power can be measured; look at the cuts and the time range")
    groups = _rate_bins(counts, places, rate_bins)
    basis = ring_basis(counts.grid, l_max)
    configurations = [
        Configuration.make(counts, place, basis, number, rate_bins is not None)
        for place, number in zip(places, groups, strict=True)
    ]
    return configurations, *free_multipoles(l_max)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One detector configuration about isotropy, in the frame of its own mean epoch, on the rings it sees.

    Attributes:
        profile: Basis on these rings, shape (l_max + 1, l_max + 1, ring).
        sky: Angles of the right-ascension bins [rad]; local: of the hour-angle bins, shape (ra,) each.
        background: B_a, shape (ring, ra).
        residual: n_a - B_a, shape (ring, ra).
        counts: n_i, shape (ring, hour_angle).
        seen: sum over tau of rate exp(i m t), rate summing to 1, shape (l_max + 1,).
        kernel: Covariance of (cos m t, sin m t), m = 1 .. l_max, for one event, averaged over each rate's group.
        rotation: Right ascension of this frame minus that of the common one [rad].
        rings: Indices of the rings it sees.
        rate: Relative rate, sums to 1, shape (time,).
        squares: Sums of squared weights per local cell, shape (ring, hour_angle); None for unit weights.
    """

    profile: np.ndarray
    sky: np.ndarray
    local: np.ndarray
    background: np.ndarray
    residual: np.ndarray
    counts: np.ndarray
    seen: np.ndarray
    kernel: np.ndarray
    rotation: float
    rings: np.ndarray
    rate: np.ndarray
    squares: np.ndarray | None = None

    @classmethod
    def make(cls, counts: Counts, place: tuple, basis: np.ndarray, groups: int, even: bool) -> "Configuration":
        """From counts in effective events, the place of the configuration in them, `ring_basis`, and its free rates."""
        rings = np.flatnonzero(_exposed(counts, place, None))
        grid = counts.grid
        n_time, n_local = counts.n_time[place], counts.n_local[place][rings]
        rate = (grouped_rate(n_time, groups) if even else n_time) / n_time.sum()
        background = _exposure(rate, n_local)
        orders = np.arange(len(basis))
        waves = np.exp(1j * np.outer(orders, grid.sidereal_time))
        share = rate.reshape(groups, -1).sum(axis=-1)
        grouped = (waves * rate).reshape(len(orders), groups, -1).sum(axis=-1)[1:] / np.where(share > 0, share, 1.0)
        rows = np.concatenate([grouped.real, grouped.imag])
        rows = rows - (rows @ share)[:, None]
        return cls(
            profile=basis[:, :, rings],
            sky=grid.right_ascension,
            local=grid.hour_angle,
            background=background,
            residual=counts.n_sky[place][rings] - background,
            counts=n_local,
            seen=waves @ rate,
            kernel=(rows * share) @ rows.T,
            rotation=_frame_rotation(counts, place),
            rings=rings,
            rate=rate,
            squares=counts.w2["n_local"][place][rings] if counts.weighted else None,
        )

    @property
    def l_max(self) -> int:
        """Highest degree."""
        return len(self.profile) - 1

    def turn(self, values: np.ndarray, back: bool = False) -> np.ndarray:
        """Multipole space of this configuration's frame -> common frame along axis 0 (`back`: the other way).

        The sky R_p at RA in the common frame stands at RA + rotation in this one.
        """
        if self.rotation == 0:
            return values
        out = np.empty_like(values)
        for m in range(1, self.l_max + 1):
            plus, minus = multipoles_of_order(self.l_max, m), multipoles_of_order(self.l_max, -m)
            c, s = math.cos(m * self.rotation), math.sin(m * self.rotation) * (-1 if back else 1)
            out[plus] = c * values[plus] + s * values[minus]
            out[minus] = c * values[minus] - s * values[plus]
        return out

    def score(self) -> np.ndarray:
        """sum_a (n_a - B_a) Y_a; the terms of the rates and the acceptance vanish at the best isotropic fit."""
        return self._project(*_fourier(self.residual, self.sky, self.l_max))

    def information(self) -> np.ndarray:
        """F = Y^T B Y - X^T n X - H K H^T."""
        coupling = self._coupling(self.counts)
        own = self._within_cells(self.background, self.counts)
        return own - coupling @ (self.kernel / self.counts.sum()) @ coupling.T

    def score_covariance(self) -> np.ndarray:
        """Sum over events of w^2 psi psi^T under isotropy, psi what an event of unit weight adds to the score.

        psi = Y - X - (H K c) / sum w with c the cosines and sines of its time; F is its sum with w in place of w^2.
        """
        squares = self.counts if self.squares is None else self.squares
        total, one, two = self.counts.sum(), self._coupling(self.counts), self._coupling(squares)
        cross = one @ (self.kernel / total) @ two.T
        time = one @ (self.kernel * (squares.sum() / total**2)) @ one.T
        return self._within_cells(_exposure(self.rate, squares), squares) - cross - cross.T + time

    def _within_cells(self, background: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Y^T B Y - X^T n X: information with the acceptance eliminated, the rate known."""
        l_max = self.l_max
        own = ring_products(self.profile, *_fourier(background, self.sky, 2 * l_max))
        local = ring_products(self.profile, *_fourier(counts, self.local, 2 * l_max))
        return own - self._through_rate(self._through_rate(local).T)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """F times one vector of multipoles."""
        l_max = self.l_max
        sky = self._map(values, self.sky)
        own = self._project(*_fourier(self.background * sky, self.sky, l_max))
        seen = self._map(self._through_rate(values), self.local)
        local = self._through_rate(self._project(*_fourier(self.counts * seen, self.local, l_max)))
        coupling = self._coupling(self.counts)
        return own - local - coupling @ (self.kernel @ (coupling.T @ values)) / self.counts.sum()

    def field(self, values: np.ndarray) -> np.ndarray:
        """Sky of multipoles (param,) of this frame in the cells of these rings, shape (ring, ra)."""
        return self._map(values, self.sky)

    def projected(self, sky: np.ndarray) -> np.ndarray:
        """Sums over the cells (ring, ra) of the basis times a map, shape (param,): the transpose of `field`."""
        return self._project(*_fourier(sky, self.sky, self.l_max))

    def basis(self, columns: np.ndarray) -> np.ndarray:
        """The basis in some right-ascension bins of these rings, shape (param, ring, column)."""
        l_max, angle = self.l_max, self.sky[columns]
        out = np.empty((l_max * (l_max + 1), self.profile.shape[-1], len(angle)))
        for m in range(1, l_max + 1):
            out[multipoles_of_order(l_max, m)] = self.profile[m:, m, :, None] * np.cos(m * angle)
            out[multipoles_of_order(l_max, -m)] = self.profile[m:, m, :, None] * np.sin(m * angle)
        return out

    def _coupling(self, counts: np.ndarray) -> np.ndarray:
        """H: derivative of sum_i n_i I_{tau i} by the multipoles, per (cos m t, sin m t), shape (param, 2 l_max)."""
        l_max = self.l_max
        cosine, sine = _fourier(counts, self.local, l_max)
        out = np.zeros((l_max * (l_max + 1), 2 * l_max))
        for m in range(1, l_max + 1):
            # RA = t - H: cos m RA = cos mt cos mH + sin mt sin mH, sin m RA = sin mt cos mH - cos mt sin mH.
            c, s = self.profile[m:, m] @ cosine[m], self.profile[m:, m] @ sine[m]
            plus, minus = multipoles_of_order(l_max, m), multipoles_of_order(l_max, -m)
            out[plus, m - 1], out[plus, l_max + m - 1] = c, s
            out[minus, m - 1], out[minus, l_max + m - 1] = -s, c
        return out

    def _through_rate(self, values: np.ndarray) -> np.ndarray:
        """Products with cos m H, sin m H along axis 0 -> products with X, the basis seen through the rate.

        X of cos m RA is Re(r) cos m H + Im(r) sin m H, that of sin m RA is Im(r) cos m H - Re(r) sin m H, with
        r = `seen`. This matrix is symmetric, so its transpose is itself.
        """
        out = np.empty_like(values)
        for m in range(1, self.l_max + 1):
            plus, minus = multipoles_of_order(self.l_max, m), multipoles_of_order(self.l_max, -m)
            c, s = self.seen[m].real, self.seen[m].imag
            out[plus] = c * values[plus] + s * values[minus]
            out[minus] = s * values[plus] - c * values[minus]
        return out

    def _project(self, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
        """Sums over rings of the basis times Fourier sums (order, ring), shape (param,)."""
        out = np.empty(self.l_max * (self.l_max + 1))
        for m in range(1, self.l_max + 1):
            out[multipoles_of_order(self.l_max, m)] = self.profile[m:, m] @ cosine[m]
            out[multipoles_of_order(self.l_max, -m)] = self.profile[m:, m] @ sine[m]
        return out

    def _map(self, values: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """The field of these multipoles at the angles, shape (ring, angle)."""
        l_max, n = self.l_max, len(angle)
        modes = np.zeros((self.profile.shape[-1], n // 2 + 1), complex)
        for m in range(1, l_max + 1):
            c = values[multipoles_of_order(l_max, m)] @ self.profile[m:, m]
            s = values[multipoles_of_order(l_max, -m)] @ self.profile[m:, m]
            modes[:, m] = (c - 1j * s) * (n / 2) * np.exp(1j * m * angle[0])
        return np.fft.irfft(modes, n=n, axis=-1)


def _exposure(rate: np.ndarray, local: np.ndarray) -> np.ndarray:
    """sum over tau of rate_tau local[r, (tau - a) mod n] >= 0, shape (ring, ra)."""
    seen = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(local, axis=1)), n=len(rate), axis=1)
    return np.where(seen > 1e-13 * seen.max(), seen, 0.0)


def _fourier(values: np.ndarray, angle: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values (ring, angle) times cos and sin of k angle, k = 0 .. highest, each (highest + 1, ring).

    The angles are evenly spaced round the circle.
    """
    orders = np.arange(highest + 1)
    modes = np.fft.fft(values, axis=-1)[:, orders % values.shape[-1]] * np.exp(-1j * orders * angle[0])
    return modes.real.T, -modes.imag.T
