r"""East-West method: the equatorial dipole from how the eastern and western sky differ, whatever the rate does.

Both halves of the sky are seen at the same moment, so that their relative difference knows nothing of the rate. For a
direction with East component E = sin(theta) sin(az) = -cos(dec) sin(H), a dipole is
$\delta \cdot n = \cos\delta \cos H\, u - E s$ plus a constant in time, with
$u = \delta_{0h} \cos t + \delta_{6h} \sin t$ and $s = \delta_{0h} \sin t - \delta_{6h} \cos t$. With g = +1 in the
East and -1 in the West ("halves"), or g = E ("directions"), the mean of g over the events of time t is to first order

$$ G(t) / S(t) = \langle g \rangle + u\, \mathrm{Cov}(g, \cos\delta\cos H) - s\, \mathrm{Cov}(g, E) $$

over the acceptance. For an acceptance even in azimuth this is $-(2 \langle\sin\theta\rangle / \pi)\, d_\perp \sin(t -
\alpha)$ for the halves. Bonino et al. 2011, ApJ 738, 67.
"""

import dataclasses
import math

import numpy as np

from diffcr.counts import east_weight
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import index, ring_basis

from .data import Counts
from .estimators import EquatorialEstimate, combine_estimates, local_sines

WEIGHTINGS = ("halves", "directions")


@dataclasses.dataclass(frozen=True)
class EastWestPart(EquatorialEstimate):
    """East-West dipole of one configuration.

    Attributes:
        label: Name of the configuration.
        vector: (delta_0h, delta_6h), shape (2,).
        covariance: Shape (2, 2).
        offset: Constant part of G / S: what is not even between East and West in the acceptance. Removed.
        offset_error: Its standard error.
        response: Complex factor between p - iq = delta_0h - i delta_6h and P - iQ of the harmonic P cos t + Q sin t of
            G / S, time bins included; i 2 <sin theta> / pi for halves and an acceptance even in azimuth. The imaginary
            part is Cov(g, E); a real part comes from an acceptance that leans East or West, and is corrected.
        mean_sin_zenith: Mean of sin(theta) over the events.
        effective_events: (sum w)^2 / sum w^2.
    """

    label: str
    vector: np.ndarray
    covariance: np.ndarray
    offset: float
    offset_error: float
    response: complex
    mean_sin_zenith: float
    effective_events: float


@dataclasses.dataclass(frozen=True)
class EastWestResult(EquatorialEstimate):
    """East-West dipole, configurations combined by inverse covariance.

    Attributes:
        vector: (delta_0h, delta_6h), shape (2,).
        covariance: Shape (2, 2).
        weighting: "halves" or "directions".
        parts: One `EastWestPart` for each configuration.
        chi2, ndf: Agreement of the configurations, see `Combination`; 0, 0 for one.
    """

    vector: np.ndarray
    covariance: np.ndarray
    weighting: str
    parts: tuple[EastWestPart, ...]
    chi2: float
    ndf: int


def east_west(counts: Counts, weighting: str = "halves") -> EastWestResult:
    """Equatorial dipole by the East-West method, from counts in any time frame.

    The harmonic c + P cos t + Q sin t of G / S is fitted to all time bins with weights S: least squares with Poisson
    weights, whose normal equations hold only sums over the events, so that a bin may be empty and an uneven rate
    neither biases nor mixes the components (plain sums of G sin t would do both). Errors are the scatter of the sums of
    w g, so that weights are accounted for. The width of the time bins is corrected (factor sin(pi/n) / (pi/n)).

    An acceptance that favours East or West by a part that does not change with time makes a constant offset, which is
    fitted and removed, and turns and scales the harmonic, which `response` corrects to first order. One that changes
    with sidereal time, such as a tilt that follows the temperature, is not corrected. delta_N drops out. Multipoles
    l >= 2 with m = 1 do not: see `cross_talk`.

    Args:
        counts: Counts of one or several configurations. Each is analysed with its own acceptance, then combined by
            inverse covariance.
        weighting: "halves" uses g = +-1 and the counts of both halves; "directions" uses g = sin(theta) sin(az), the
            optimal weight, and needs the cube of time and local cell.

    Raises:
        InputError: If there is no event, the weighting is unknown, the cube is missing, or the times leave a component
            unmeasured.
    """
    _require_weighting(weighting)
    places = counts.configurations()
    if not places:
        raise InputError("the East-West method needs at least one event; the counts are empty")
    if weighting == "directions" and getattr(counts, "cube", None) is None:
        raise InputError(
            "weights by direction need the counts of every time bin and local cell: bin with --cube, give the events "
            'to east_west_events, or use weighting="halves"'
        )
    parts = tuple(_one(counts, place, weighting) for place in places)
    both = combine_estimates([p.vector for p in parts], [np.linalg.inv(p.covariance) for p in parts])
    return EastWestResult(both.vector, both.covariance, weighting, parts, both.chi2, both.ndf)


def east_west_events(
    sidereal_time: np.ndarray,
    zenith: np.ndarray,
    azimuth: np.ndarray,
    weights: np.ndarray | None = None,
    weighting: str = "directions",
    latitude: float | None = None,
) -> EastWestPart:
    """The same from the events of one observatory, without bins.

    Args:
        sidereal_time: Local sidereal time, or the time of another frame [rad], shape (event,).
        zenith: Zenith angle [rad], shape (event,).
        azimuth: From North through East [rad], shape (event,).
        weights: Event weights, shape (event,); default 1.
        weighting: "directions" (optimal) or "halves".
        latitude: Of the site [rad]. Needed only to correct for an acceptance that leans East or West; without it the
            acceptance is taken to be even.

    Raises:
        InputError: If there is no event, the weighting is unknown, or the times leave a component unmeasured.
    """
    _require_weighting(weighting)
    time, zenith, azimuth = (np.asarray(x, float) for x in (sidereal_time, zenith, azimuth))
    w = np.ones(time.shape) if weights is None else np.asarray(weights, float)
    if not w.sum() > 0:
        raise InputError("the East-West method needs at least one event; the list is empty or without weight")
    east = np.sin(zenith) * np.sin(azimuth)
    g = east if weighting == "directions" else np.where(east > 0, 1.0, -1.0)
    mean = np.average(g, weights=w)
    kappa = 1j * np.average((g - mean) * east, weights=w)
    if latitude is not None:
        meridian = np.cos(zenith) * math.cos(latitude) - np.sin(zenith) * np.cos(azimuth) * math.sin(latitude)
        kappa += np.average((g - mean) * meridian, weights=w)
    basis = np.stack([np.ones_like(time), np.cos(time), np.sin(time)])
    design, total = (basis * w) @ basis.T, (basis * w) @ g
    scatter = (basis * (w * (g - mean)) ** 2) @ basis.T
    return _solve("events", design, total, scatter, kappa, np.average(np.sin(zenith), weights=w), w)


def cross_talk(local: np.ndarray, grid: RingGrid, l_max: int, weighting: str = "halves") -> np.ndarray:
    """The dipole that the East-West method reports for every multipole of unit size, to first order.

    Only m = +1 and -1 make a first harmonic in sidereal time; all other columns are zero. The columns of l = 1 are what
    they should be, sqrt(3 / (4 pi)) for delta_0h of s_{1,1} and for delta_6h of s_{1,-1}.

    Args:
        local: Acceptance or local counts, of any normalisation, shape (ring, hour_angle).
        grid: The ring grid.
        l_max: Highest degree.
        weighting: "halves" or "directions".

    Returns:
        (delta_0h, delta_6h) per unit of s_lm in the real basis of `diffcr.harmonics`, shape (2, (l_max + 1)**2).

    Raises:
        InputError: If the weighting is unknown or l_max below 1.
    """
    _require_weighting(weighting)
    if l_max < 1:
        raise InputError(f"cross-talk needs l_max of at least 1, not {l_max}")
    kappa = _response(local, _on_rings(grid, l_max), grid, weighting)
    ratio = kappa / _response(local, _level(grid), grid, weighting)
    matrix = np.zeros((2, (l_max + 1) ** 2))
    for l in range(1, l_max + 1):
        # R_{l,1} = b cos(RA) has p - iq = 1, R_{l,-1} = b sin(RA) has -i.
        for m, unit in ((1, 1), (-1, -1j)):
            fake = unit * ratio[l - 1]
            matrix[:, index(l, m)] = fake.real, -fake.imag
    return matrix


def _require_weighting(weighting: str) -> None:
    if weighting not in WEIGHTINGS:
        raise InputError(f"unknown East-West weighting {weighting!r}: choose one of {', '.join(WEIGHTINGS)}")


def _one(counts: Counts, place: tuple[int, int, int], weighting: str) -> EastWestPart:
    grid, local = counts.grid, counts.n_local[place]
    squares = {name: (counts.w2[name] if counts.weighted else getattr(counts, name))[place] for name in _NEEDED}
    if weighting == "halves":
        east, west = counts.n_half[place].sum(axis=1)
        mean = (east - west).sum() / (east + west).sum()
        signal = east - west
        scatter = squares["n_half"].sum(axis=1).T @ [(1 - mean) ** 2, (1 + mean) ** 2]
    else:
        g, g2 = _east_component(grid)
        mean = np.sum(local * g) / local.sum()
        signal = np.tensordot(counts.cube[place], g, axes=2)
        spread = np.sum(squares["n_local"] * (g2 - 2 * mean * g + mean**2)) / squares["n_local"].sum()
        scatter = squares["n_time"] * spread
    time = grid.sidereal_time
    basis = np.stack([np.ones_like(time), np.cos(time), np.sin(time)])
    design = (basis * counts.n_time[place]) @ basis.T
    kappa = _response(local, _level(grid), grid, weighting)[0] * np.sinc(1 / grid.n_ra)
    sine = float(np.sum(local * local_sines(counts.sites[place[0]], grid)[0]) / local.sum())
    weights = counts.n_time[place], squares["n_time"]
    return _solve(counts.label(place), design, basis @ signal, (basis * scatter) @ basis.T, kappa, sine, *weights)


_NEEDED = ("n_time", "n_local", "n_half")


def _solve(label, design, total, scatter, kappa, mean_sine, weights, squares=None) -> EastWestPart:
    """Fit c, P, Q by the normal equations and divide by the response."""
    if np.linalg.cond(design) > 1e8:
        raise InputError(
            f"the events of {label} cover too little of the day to tell a harmonic from an offset: join more epochs"
        )
    if not abs(kappa) > 1e-6:
        raise InputError(f"East and West do not differ for a dipole in the acceptance of {label}: use fit")
    inverse = np.linalg.inv(design)
    offset, p, q = inverse @ total
    noise = inverse @ scatter @ inverse
    vector = (p - 1j * q) / kappa
    turn = 1 / kappa
    # delta_0h - i delta_6h = turn (P - iQ), written for (P, Q).
    jacobian = np.array([[turn.real, turn.imag], [-turn.imag, turn.real]])
    squares = np.asarray(weights) ** 2 if squares is None else squares
    return EastWestPart(
        label=label,
        vector=np.array([vector.real, -vector.imag]),
        covariance=jacobian @ noise[1:, 1:] @ jacobian.T,
        offset=float(offset),
        offset_error=float(np.sqrt(noise[0, 0])),
        response=complex(kappa),
        mean_sin_zenith=float(mean_sine),
        effective_events=float(np.sum(weights) ** 2 / np.sum(squares)),
    )


def _response(local: np.ndarray, levels: np.ndarray, grid: RingGrid, weighting: str) -> np.ndarray:
    """Cov(g, b e^{-iH}) over the local map for ring functions b, shape (function, ring) -> (function,) complex.

    A sky b(dec) Re[(p - iq) e^{i RA}] makes G / S vary as Re[(p - iq) e^{it} Cov(g, b e^{-iH})], because RA = t - H.
    """
    share = np.asarray(local, float) / np.sum(local)
    first, second = _cell_phase(grid, 1), _cell_phase(grid, 2)
    if weighting == "halves":
        # Bins cut by the meridian hold as much of East as of West, and sin(H) = 0 at their centres.
        g = (2 * east_weight(grid.n_ra) - 1)[None, :]
        product = g * first
    else:
        g, product = _east_component(grid)[0], _level(grid)[0][:, None] * (second - 1) / 2j
    together = levels @ np.sum(share * product, axis=1)
    return together - np.sum(share * g) * (levels @ np.sum(share * first, axis=1))


def _cell_phase(grid: RingGrid, order: int) -> np.ndarray:
    """e^{-i k H} of the hour-angle bins, shape (hour_angle,), such that sums over counts are those over the events.

    Counting in triangular bins takes a factor sinc^2 from the harmonic k of the events; it is given back.
    """
    return np.exp(-1j * order * grid.hour_angle) / np.sinc(order / grid.n_ra) ** 2


def _east_component(grid: RingGrid) -> tuple[np.ndarray, np.ndarray]:
    """E = -cos(dec) sin(H) and its square for the local cells, shape (ring, hour_angle)."""
    level = _level(grid)[0][:, None]
    return level * _cell_phase(grid, 1).imag, level**2 * (1 - _cell_phase(grid, 2).real) / 2


def _on_rings(grid: RingGrid, l_max: int) -> np.ndarray:
    """Amplitude of R_{l,1} on the rings, l = 1 .. l_max, averaged over declination only; shape (l_max, ring)."""
    return ring_basis(grid, l_max)[1:, 1] / np.sinc(1 / grid.n_ra)


def _level(grid: RingGrid) -> np.ndarray:
    """cos(dec) averaged over the solid angle of each ring, shape (1, ring)."""
    return _on_rings(grid, 1) / math.sqrt(3 / (4 * math.pi))
