"""Where events of an isotropic sky fall: the exposure that discs of a search are judged against."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from diffcr.errors import InputError
from diffcr.grid import RingGrid, interpolate

from .data import Counts

_NODES = 4_000_000
"""Pairs of centre and quadrature node held at once."""

_AROUND = 64
"""Nodes in azimuth of the integral over a disc."""


def sommers_exposure(
    latitude: float, zenith_max: float, declination: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch"]:
    r"""Relative exposure per solid angle of a flat array at full efficiency, uniform in sidereal time.

    $$ \omega = \cos\Phi \cos\delta \sin\alpha_m + \alpha_m \sin\Phi \sin\delta, \quad
       \cos\alpha_m = \frac{\cos\theta_m - \sin\Phi \sin\delta}{\cos\Phi \cos\delta} $$

    with alpha_m the half-width in hour angle of the field of view, 0 or pi where the right side is beyond 1 or -1.
    The integral of omega cos(delta) over declination is (pi/2) sin^2(theta_m).

    Args:
        latitude: Phi [rad], North positive.
        zenith_max: theta_m [rad].
        declination: delta [rad].

    References:
        Sommers (2001), Astropart. Phys. 14, 271.
    """
    along = np.cos(latitude) * np.cos(declination)
    across = np.sin(latitude) * np.sin(declination)
    # At a pole, of the Earth or of the sky, every hour angle is inside or none.
    low = np.where(np.abs(along) < 1e-15, 1e-15, along)
    reach = np.arccos(np.clip((np.cos(zenith_max) - across) / low, -1, 1))
    return np.maximum(along * np.sin(reach) + reach * across, 0.0)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """Where events of an isotropic sky fall: a density on the sphere.

    Attributes:
        density: Function of declination and right ascension [rad], arrays of one shape: per steradian, integral 1.
        largest: Upper bound of the density [1/sr].
        zonal: Whether it depends on the declination alone.
    """

    density: Callable[[np.ndarray, np.ndarray], np.ndarray]
    largest: float
    zonal: bool

    @classmethod
    def of_declination(cls, function: Callable[[np.ndarray], np.ndarray]) -> "Exposure":
        """From any function of the declination [rad], per solid angle, of any normalisation.

        Raises:
            InputError: If it is negative or not finite, or zero everywhere.
        """
        edges = np.linspace(-np.pi / 2, np.pi / 2, 20001)
        middle = (edges[1:] + edges[:-1]) / 2
        values = np.asarray(function(middle), float)
        _require_exposure(values)
        total = 2 * np.pi * float(values @ np.diff(np.sin(edges)))
        # Between two of 20000 declinations a continuous function hardly rises further.
        return cls(lambda dec, ra: np.asarray(function(dec), float) / total, 1.001 * float(values.max()) / total, True)

    @classmethod
    def of_site(cls, latitude: float, zenith_max: float) -> "Exposure":
        """`sommers_exposure` of a latitude and a largest zenith angle [rad]."""
        return cls.of_declination(lambda dec: sommers_exposure(latitude, zenith_max, dec))

    @classmethod
    def of_map(cls, values: np.ndarray, grid: RingGrid) -> "Exposure":
        """From a map of expected counts per cell of the ring grid, shape (ring, ra), or per ring, shape (ring,).

        Between cell centres the density is interpolated linearly.

        Raises:
            InputError: If the shape is not the grid's, or a value is negative or not finite, or all are zero.
        """
        values = np.asarray(values, float)
        if values.shape == (grid.n_ring,):
            values = np.repeat(values[:, None] / grid.n_ra, grid.n_ra, axis=1)
        if values.shape != grid.shape:
            raise InputError(f"a map of the exposure has the shape {grid.shape} of the grid, not {values.shape}")
        _require_exposure(values)
        density = values / grid.solid_angle[:, None]
        # The interpolated density, not the map, is what discs and skies are made of: it is what has integral 1.
        fine = RingGrid(4 * grid.n_ring, 4 * grid.n_ra)
        at = np.meshgrid(fine.declination, fine.right_ascension, indexing="ij")
        density = density / float((interpolate(density, grid, *at) * fine.solid_angle[:, None]).sum())
        return cls(lambda dec, ra: interpolate(density, grid, dec, ra), float(density.max()), False)

    @classmethod
    def of_counts(cls, counts: Counts) -> "Exposure":
        """What isotropy makes of the counts themselves: each configuration's rate against its local map, added.

        In the equator of date. Its declination profile is that of the events, so that an excess of whole rings is
        taken for exposure; with few events it is as rough as they are: `of_site` is better then.

        Raises:
            InputError: If there is no event.
        """
        total = np.zeros(counts.grid.shape)
        for place in counts.configurations():
            total += _turned(counts.n_time[place], counts.n_local[place] / counts.n_local[place].sum())
        return cls.of_map(total, counts.grid)

    @classmethod
    def of_fit(cls, result) -> "Exposure":
        """The same from the rates and acceptances of a `FitResult`, from which the fitted sky has been removed."""
        counts, total = result.counts, np.zeros(result.counts.grid.shape)
        for place, rate, local in zip(counts.configurations(), result.rates, result.acceptances, strict=True):
            total += counts.n_time[place].sum() * _turned(rate, local)
        return cls.of_map(total, counts.grid)

    def draw(self, rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Right ascensions and declinations [rad] of an isotropic sky as it is seen, each of shape (num,)."""
        kept_ra, kept_dec, have = [], [], 0
        while have < num:
            size = int(1.2 * (num - have) * 4 * np.pi * self.largest) + 64
            ra, dec = 2 * np.pi * rng.random(size), np.arcsin(rng.uniform(-1, 1, size))
            keep = rng.random(size) * self.largest < self.density(dec, ra)
            kept_ra.append(ra[keep])
            kept_dec.append(dec[keep])
            have += int(keep.sum())
        return np.concatenate([*kept_ra, np.zeros(0)])[:num], np.concatenate([*kept_dec, np.zeros(0)])[:num]

    def disc_fraction(
        self, right_ascension: np.ndarray, declination: np.ndarray, radii: np.ndarray
    ) -> Float[np.ndarray, "centre radius"]:
        """Integral of the density over discs: the chance of an event of an isotropic sky to fall within.

        Gauss-Legendre in the cosine of the distance, ring by ring between the radii, and equal steps in azimuth:
        within 1e-3 of the value, unless the disc just grazes the field of view.

        Args:
            right_ascension, declination: Of the centres [rad], shape (centre,).
            radii: [rad], increasing, shape (radius,).
        """
        ra, dec = np.asarray(right_ascension, float), np.asarray(declination, float)
        if self.zonal:
            # Centres of one declination, such as those of a HEALPix ring, see the same.
            dec, back = np.unique(np.round(dec, 12), return_inverse=True)
            ra = np.zeros_like(dec)
        cosine, weight, ring = _radial_nodes(np.asarray(radii, float))
        out = np.zeros((len(dec), len(radii)))
        step = max(1, _NODES // (len(cosine) * _AROUND))
        for first in range(0, len(dec), step):
            part = slice(first, first + step)
            around = self._mean_around(ra[part], dec[part], cosine)
            for k in range(len(radii)):
                out[part, k] = 2 * np.pi * around[:, ring == k] @ weight[ring == k]
        out = np.minimum(out.cumsum(axis=1), 1.0)
        return out[back] if self.zonal else out

    def disc_lookup(self, radii: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """`disc_fraction` as a function of right ascension and declination, for many calls: where the exposure is zonal
        it interpolates a table of steps of 0.1 degrees."""
        if not self.zonal:
            return lambda ra, dec: self.disc_fraction(ra, dec, radii)
        nodes = np.linspace(-np.pi / 2, np.pi / 2, 1801)
        table = self.disc_fraction(np.zeros_like(nodes), nodes, radii)

        def lookup(ra, dec):
            row = (dec / np.pi + 0.5) * (len(nodes) - 1)
            low = np.clip(np.floor(row).astype(int), 0, len(nodes) - 2)
            up = (row - low)[:, None]
            return (1 - up) * table[low] + up * table[low + 1]

        return lookup

    def _mean_around(self, ra: np.ndarray, dec: np.ndarray, cosine: np.ndarray) -> np.ndarray:
        """Density averaged over circles about the centres, shape (centre, cosine)."""
        angle = 2 * np.pi * (np.arange(_AROUND) + 0.5) / _AROUND
        c, s = cosine[None, :, None], np.sqrt(1 - cosine**2)[None, :, None]
        sin_dec, cos_dec = np.sin(dec)[:, None, None], np.cos(dec)[:, None, None]
        north, east = s * np.cos(angle), s * np.sin(angle)
        height = np.clip(c * sin_dec + north * cos_dec, -1, 1)
        turn = np.arctan2(np.broadcast_to(east, height.shape), c * cos_dec - north * sin_dec)
        return self.density(np.arcsin(height), (ra[:, None, None] + turn) % (2 * np.pi)).mean(axis=-1)


def _radial_nodes(radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, weights d(cos) and number of the ring between neighbouring radii, of the nodes of all rings."""
    nodes, weights, rings = [], [], []
    for k, (low, high) in enumerate(zip([0.0, *radii[:-1]], radii, strict=True)):
        x, w = np.polynomial.legendre.leggauss(4 + int(np.ceil(np.degrees(high - low))))
        inner, outer = np.cos(low), np.cos(high)
        nodes.append((inner + outer) / 2 + (inner - outer) / 2 * x)
        weights.append((inner - outer) / 2 * w)
        rings.append(np.full(len(x), k))
    return np.concatenate(nodes), np.concatenate(weights), np.concatenate(rings)


def _turned(rate: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Exposure of the sky, sum over tau of rate[tau] local[r, (tau - a) mod n]."""
    turned = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(local, axis=1)), n=len(rate), axis=1)
    return np.where(turned > 1e-13 * turned.max(), turned, 0.0)


def _require_exposure(values: np.ndarray) -> None:
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise InputError("an exposure must be finite and not negative; set what is not seen to zero")
    if not values.any():
        raise InputError("the exposure is zero everywhere; widen the zenith range, or give counts with events")
