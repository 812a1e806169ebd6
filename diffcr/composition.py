r"""What is in an energy bin: the elements of the cosmic rays against energy, and the true energies of its events.

Transport knows rigidity, detectors measure energy. With R_b(E, Z) the probability that a particle of element Z and
energy E is counted in bin b, the bin shows

$$ \delta_b = \frac{\sum_Z \int dE\, \Phi_Z(E)\, R_b(E, Z)\, \delta(E / Z)}{\sum_Z \int dE\, \Phi_Z(E)\, R_b(E, Z)}. $$

Experiments publish not R_b but the median and spread of the true energies *of the events* in a bin. That is what a
response here describes: g_b(ln E), of unit integral, already holds the spectrum, and is not weighted with it again:

$$ \delta_b = \int d\ln E\, g_b(\ln E) \sum_Z f_Z(E)\, \delta(E / Z), \qquad f_Z = \Phi_Z / \sum_{Z'} \Phi_{Z'}. $$

Energies are per particle [TeV], rigidities E / Z [TV].
"""

import abc
import difflib
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InputError, is_known
from .units import GEV, GV

ELEMENTS = {"p": (1.0, 1.0), "He": (2.0, 4.0), "CNO": (7.0, 14.0), "Mg-Si": (13.0, 27.0), "Fe": (26.0, 56.0)}
"""Charge Z and mass number A of the elements and groups of elements that have a name here."""

# Gaisser (2012), Astropart. Phys. 35, 801, model H3a: [population][element] a_Z [1/(m^2 s sr GeV)] at 1 GeV and
# gamma_Z, in the order of ELEMENTS; a particle's integral spectrum falls as E^-gamma. Numbers and charges as in
# the public codes crflux (HillasGaisser2012, which rounds the groups to Z = 6 and 14) and SimWeights (GaisserH3a,
# Z = 7 and 13, taken here), which agree with each other but for that.
_H3A_AMPLITUDE = [[7860, 3550, 2200, 1430, 2120], [20, 20, 13.4, 13.4, 13.4], [1.7, 1.7, 1.14, 1.14, 1.14]]
_H3A_GAMMA = [[1.66, 1.58, 1.63, 1.67, 1.63], [1.4] * 5, [1.4] * 5]
_H3A_CUTOFF = [4e6 * GV, 30e6 * GV, 2e9 * GV]


def _floats(value) -> Float[Array, "..."]:
    return jnp.asarray(value, float)


def _numbers(values) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


# Elements -----------------------------------------------------------------------------------------------------


class Composition(eqx.Module):
    r"""Fluxes of the elements: sums of power laws that are cut off at common rigidities (a Peters cycle),

    $$ \Phi_Z(E) = \sum_p a_{pZ}\, E^{-s_{pZ}} \exp[-E / (Z R_p)]. $$

    Attributes:
        names: Name of each element.
        charges: Z of each element.
        masses: Mass number A of each element.
        amplitude: a at 1 TeV [1/(m^2 s sr TeV), or any common unit]; 0 where a population lacks an element.
        index: s = gamma + 1, the index of the differential flux. Dimensionless.
        cutoff: R of each population [TV]; inf for none.

    Raises:
        InputError: If shapes do not belong together, an element has no flux, or a value is out of range.

    References:
        Gaisser, Stanev & Tilav (2013), Front. Phys. 8, 748.
    """

    names: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    charges: tuple[float, ...] = eqx.field(static=True, converter=_numbers)
    masses: tuple[float, ...] = eqx.field(static=True, converter=_numbers)
    amplitude: Float[Array, "population element"] = eqx.field(converter=_floats)
    index: Float[Array, "population element"] = eqx.field(converter=_floats)
    cutoff: Float[Array, " population"] = eqx.field(converter=_floats)

    def __check_init__(self):
        count = len(self.names)
        if not count or not (len(self.charges) == len(self.masses) == self.amplitude.shape[1] == count):
            raise InputError(
                f"a composition needs a name, a charge, a mass and a flux for each element, not {count} names, "
                f"{len(self.charges)} charges, {len(self.masses)} masses and {self.amplitude.shape[1]} fluxes"
            )
        for name, charge, mass in zip(self.names, self.charges, self.masses, strict=True):
            if not (1 <= charge <= mass < np.inf):
                raise InputError(
                    f"element {name!r} of a composition has charge {charge:g} and mass number {mass:g}: "
                    "the charge must be at least 1, and the mass number no smaller"
                )
        if not all(is_known(each) for each in (self.amplitude, self.index, self.cutoff)):
            return
        amplitude = np.asarray(self.amplitude)
        if not (np.all(np.isfinite(amplitude)) and np.all(amplitude >= 0)):
            raise InputError("amplitudes of a composition must be finite and not negative: 0 leaves an element out")
        for name, flux in zip(self.names, amplitude.T, strict=True):
            if not np.any(flux):
                raise InputError(f"element {name!r} of a composition has no flux: leave it out")
        if not np.all(np.isfinite(self.index)):
            raise InputError("spectral indices of a composition must be finite: about 2.7")
        if not np.all(np.asarray(self.cutoff) > 0):
            raise InputError("cut-off rigidities of a composition must be above zero [TV]: inf for no cut-off")


def h3a() -> Composition:
    """Model H3a: five groups of elements, two Galactic populations (4 and 30 PV) and an extragalactic mix (2 EV).

    References:
        Gaisser (2012), Astropart. Phys. 35, 801.
    """
    index = np.array(_H3A_GAMMA) + 1
    amplitude = np.array(_H3A_AMPLITUDE) * GEV ** (index - 1)
    return _of_elements(ELEMENTS, amplitude, index, _H3A_CUTOFF)


def pure(element: str, index: float = 2.7) -> Composition:
    """One element alone, by its name in `ELEMENTS`, with a flux E^-index.

    Raises:
        InputError: If the element is unknown.
    """
    return constant({element: 1.0}, index)


def constant(shares: Mapping[str, float], index: float = 2.7) -> Composition:
    """Elements whose fractions of the flux at an energy per particle are the same at all energies.

    Args:
        shares: Name in `ELEMENTS` -> fraction, or any number in proportion; 0 leaves an element out.
        index: Index of the differential flux of each.

    Raises:
        InputError: If an element is unknown, a share is negative or not finite, or none is above zero.
    """
    for name, share in shares.items():
        if name not in ELEMENTS:
            raise InputError(f"unknown element {name!r}{_nearest(name, ELEMENTS)}; known: {', '.join(ELEMENTS)}")
        if not 0 <= share < np.inf:
            raise InputError(f"the fraction of {name} must be a number from 0 up, not {share}: 0 leaves it out")
    present = {name: float(share) for name, share in shares.items() if share > 0}
    if not present:
        raise InputError("a composition needs an element: give one a fraction above zero")
    amplitude = np.array([list(present.values())]) / sum(present.values())
    return _of_elements(present, amplitude, np.full_like(amplitude, index), [np.inf])


COMPOSITIONS = {
    "h3a": h3a,
    "proton": lambda: pure("p"),
    "iron": lambda: pure("Fe"),
    # H3a at 10 TeV to two digits, with Mg-Si counted as Fe.
    "constant": lambda: constant({"p": 0.35, "He": 0.33, "CNO": 0.13, "Fe": 0.19}),
}
"""Mixes that have a name: `named_composition` makes them."""


def named_composition(name: str) -> Composition:
    """A mix of `COMPOSITIONS`: "h3a", "proton", "iron", or "constant" fractions of p, He, CNO and Fe.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in COMPOSITIONS:
        raise InputError(
            f"unknown composition {name!r}{_nearest(name, COMPOSITIONS)}; known: {', '.join(COMPOSITIONS)}"
        )
    return COMPOSITIONS[name]()


def log_fluxes(
    composition: Composition,
    energy: Float[ArrayLike, "*batch"],
    log_weights: Float[ArrayLike, " element"] | None = None,
) -> Float[Array, "*batch element"]:
    """Natural logarithm of the flux of each element at an energy per particle [TeV], above 0."""
    return _log_fluxes(composition, _floats(energy)[..., None], log_weights)


def fractions(
    composition: Composition,
    energy: Float[ArrayLike, "*batch"],
    log_weights: Float[ArrayLike, " element"] | None = None,
) -> Float[Array, "*batch element"]:
    r"""Fraction of each element in the flux at an energy per particle; they sum to 1.

    Args:
        composition: The elements and their fluxes.
        energy: Energy per particle [TeV], above 0.
        log_weights: w, which multiply the flux of each element by exp(w); None for zeros. Differences alone count:
            a normal prior of width 0.5 on each makes every ratio of two elements uncertain by a factor of 2, and
            the flux at all energies stays positive.
    """
    return jax.nn.softmax(log_fluxes(composition, energy, log_weights), axis=-1)


def all_particle_index(
    composition: Composition,
    energy: Float[ArrayLike, "*batch"],
    log_weights: Float[ArrayLike, " element"] | None = None,
) -> Float[Array, "*batch"]:
    """-d ln(flux) / d ln(energy) of all particles together: Gamma of the Compton-Getting effect. Arguments as above."""
    energy = _floats(energy)[..., None]
    terms = _log_terms(composition, energy, log_weights)
    slopes = composition.index + _over_cutoff(composition, energy)
    return jnp.sum(jax.nn.softmax(terms, axis=(-2, -1)) * slopes, axis=(-2, -1))


def mean_log_mass(
    composition: Composition,
    energy: Float[ArrayLike, "*batch"],
    log_weights: Float[ArrayLike, " element"] | None = None,
) -> Float[Array, "*batch"]:
    """<ln A> of the particles of an energy, which air showers measure: 0 for protons, 4.03 for iron."""
    return fractions(composition, energy, log_weights) @ np.log(composition.masses)


# Energies -----------------------------------------------------------------------------------------------------


class Response(eqx.Module):
    r"""True energies of the events in bins: the distribution g_b(ln E) of all of them, and what shifts it.

    At one secant of the zenith angle, bin b holds the particles that a standard particle of ln E* stands for, with

    $$ \ln E = \ln E^* + s\, (\ln A - \langle\ln A\rangle_b), \qquad
       \ln E^* \sim g_b(\ln E^* - t\, (\sec\theta - \overline{\sec\theta}_b)) : $$

    heavier primaries shower higher in the atmosphere, and of two that look alike at the ground the heavier has more
    energy (s > 0); so has the more inclined one (t > 0). <ln A>_b is that of the composition at the bin's median, so
    that of a mix or of one element alone the published median stays where it is. An element with shifted energies is
    taken from another place of its falling spectrum, and the weights follow it there.

    Attributes:
        mass_shift: s, ln energy per ln A. Dimensionless.
        zenith_shift: t, ln energy per unit of sec(theta). Dimensionless.
        mean_secant: Mean sec(theta) of the events that the published energies are of, one or one a bin.
    """

    mass_shift: Float[Array, ""] = eqx.field(converter=_floats, default=0.0, kw_only=True)
    zenith_shift: Float[Array, ""] = eqx.field(converter=_floats, default=0.0, kw_only=True)
    mean_secant: Float[Array, "..."] = eqx.field(converter=_floats, default=1.0, kw_only=True)

    @abc.abstractmethod
    def quadrature(self) -> tuple[Float[Array, "bin node"], Float[Array, "bin node"]]:
        """ln of energies [TeV], and the fraction of the bin's events that each stands for; these sum to 1 in a bin."""

    @abc.abstractmethod
    def overlap(self) -> Float[Array, "bin bin"]:
        """See `bin_overlap`."""


class EnergyResponse(Response):
    """Log-normal distributions of the true energy of the events in each bin.

    Attributes:
        median: Median true energy of the events [TeV].
        width: Standard deviation of ln(energy): half of ln(high / low) of a 68 % range (`log_width`).
        nodes: Gauss-Hermite nodes in a bin: n of them integrate polynomials in ln E up to degree 2 n - 1 exactly.

    Raises:
        InputError: If an energy or a width is not above zero, or the shapes differ.
    """

    median: Float[Array, " bin"] = eqx.field(converter=_floats)
    width: Float[Array, " bin"] = eqx.field(converter=_floats)
    nodes: int = eqx.field(static=True, default=9)

    def __check_init__(self):
        if self.width.shape != self.median.shape:
            raise InputError(
                f"an energy response needs one width for each median energy, not {self.width.shape[0]} for "
                f"{self.median.shape[0]}"
            )
        if self.nodes < 1:
            raise InputError(f"an energy response needs one quadrature node or more, not {self.nodes}: 9 serve well")
        _require_positive("median energies [TeV]", self.median)
        _require_positive("widths in ln(energy)", self.width, "; 0.01 for a bin that is all but sharp")
        _require_shifts(self, self.median.shape[0])

    def quadrature(self) -> tuple[Float[Array, "bin node"], Float[Array, "bin node"]]:
        """Gauss-Hermite nodes about each median."""
        place, weight = np.polynomial.hermite_e.hermegauss(self.nodes)
        log_energy = jnp.log(self.median)[:, None] + self.width[:, None] * place[None, :]
        return log_energy, jnp.broadcast_to(weight / weight.sum(), log_energy.shape)

    def overlap(self) -> Float[Array, "bin bin"]:
        """See `bin_overlap`: for normal distributions in closed form."""
        place, variance = jnp.log(self.median), self.width**2
        total = variance[:, None] + variance[None, :]
        peak = jnp.sqrt(2 * self.width[:, None] * self.width[None, :] / total)
        return peak * jnp.exp(-((place[:, None] - place[None, :]) ** 2) / (4 * total))


class TabulatedResponse(Response):
    """Histograms of the true energy of the events in each bin, such as a simulation makes.

    Attributes:
        energy: Centres of the histogram's bins in true energy [TeV], the same for all; spaced finely enough for the
            dipole to change little from one to the next.
        events: Events of a bin at each of them, in any unit.

    Raises:
        InputError: If an energy is not above zero, events are negative, or a bin has none.
    """

    energy: Float[Array, " node"] = eqx.field(converter=_floats)
    events: Float[Array, "bin node"] = eqx.field(converter=_floats)

    def __check_init__(self):
        if self.events.shape[1:] != self.energy.shape:
            raise InputError(
                f"a tabulated response needs events at each of its {self.energy.shape[0]} energies, not at "
                f"{self.events.shape[1]}: rows are bins, columns true energies"
            )
        _require_positive("tabulated energies [TeV]", self.energy)
        if is_known(self.events):
            events = np.asarray(self.events)
            if not (np.all(np.isfinite(events)) and np.all(events >= 0)):
                raise InputError("events of a tabulated response must be finite and not negative")
            if not np.all(events.sum(axis=1) > 0):
                raise InputError(
                    f"bin {np.argmin(events.sum(axis=1))} of a tabulated response has no events: leave it out"
                )
        _require_shifts(self, self.events.shape[0])

    def quadrature(self) -> tuple[Float[Array, "bin node"], Float[Array, "bin node"]]:
        """The table's energies and normalised events."""
        weight = self.events / jnp.sum(self.events, axis=1, keepdims=True)
        return jnp.broadcast_to(jnp.log(self.energy), self.events.shape), weight

    def overlap(self) -> Float[Array, "bin bin"]:
        """See `bin_overlap`."""
        _, weight = self.quadrature()
        # A root has no derivative where a bin has no events.
        root = jnp.where(weight > 0, jnp.sqrt(jnp.where(weight > 0, weight, 1.0)), 0.0)
        return root @ root.T


def log_width(low: Float[ArrayLike, "*bin"], high: Float[ArrayLike, "*bin"]) -> Float[Array, "*bin"]:
    """Width in ln(energy) of a log-normal whose central 68 % lie from `low` to `high`."""
    return jnp.log(jnp.asarray(high) / jnp.asarray(low)) / 2


def response_energies(
    response: Response, composition: Composition, secant: Float[ArrayLike, "*batch"] | None = None
) -> Float[Array, "*batch bin element node"]:
    """Energies per particle [TeV] at which a bin asks for the dipole of each element, at rigidity energy / Z [TV].

    They depend on the composition where `Response.mass_shift` is not 0.

    Args:
        response: Energy bins.
        composition: Elements.
        secant: sec(theta) of the zenith angle; None for all zenith angles together.
    """
    standard, shift, _ = _standard_energies(response, composition, secant)
    return jnp.exp(standard[..., None, :] + shift[:, :, None])


def response_weights(
    response: Response,
    composition: Composition,
    log_weights: Float[ArrayLike, " element"] | None = None,
    secant: Float[ArrayLike, "*batch"] | None = None,
) -> Float[Array, "*batch bin element node"]:
    """Fraction of a bin's events that are of each element, at each of `response_energies`; they sum to 1 in a bin.

    What a bin shows is the sum of these times the same at each energy: einsum("bzn,bznk->bk", weights, dipoles).

    Args:
        response: Energy bins.
        composition: Elements.
        log_weights: As of `fractions`. They change how many events are of which element, not the distribution of the
            energies of all of them, nor `response_energies`.
        secant: sec(theta) of the zenith angle; None for all zenith angles together.
    """
    standard, shift, weight = _standard_energies(response, composition, secant)
    own = standard[..., None, :] + shift[:, :, None]
    # E Phi_Z(E) of each element over E* Phi(E*) of all: f_Z where nothing is shifted. Detection is R_b(E*).
    fluxes = _log_fluxes(composition, jnp.exp(jnp.swapaxes(own, -2, -1)), log_weights)
    each = own + jnp.swapaxes(fluxes, -2, -1)
    every = standard + jax.nn.logsumexp(log_fluxes(composition, jnp.exp(standard), log_weights), axis=-1)
    ratio = each - every[..., None, :]
    weight = weight[:, None, :]
    # Nodes without events may lie anywhere: they must neither set the scale nor overflow.
    peak = jnp.max(jnp.where(weight > 0, ratio, -jnp.inf), axis=(-2, -1), keepdims=True)
    counted = weight * jnp.exp(jnp.minimum(ratio - jax.lax.stop_gradient(peak), 300.0))
    return counted / jnp.sum(counted, axis=(-2, -1), keepdims=True)


def bin_overlap(response: Response) -> Float[Array, "bin bin"]:
    r"""Overlap of the true energies of the events of any two bins: 1 on the diagonal, 0 for bins far apart,

    $$ C_{ab} = \int d\ln E\, \sqrt{g_a(\ln E)\, g_b(\ln E)}. $$

    As the products of functions with each other its eigenvalues are not negative. So it is a correlation matrix: that
    of what a model leaves out, local in energy, in bins that share their energies. Counts of different events do
    not become correlated by it.

    References:
        Bhattacharyya (1943), Bull. Calcutta Math. Soc. 35, 99.
    """
    return response.overlap()


# Helpers ------------------------------------------------------------------------------------------------------


def _of_elements(names, amplitude, index, cutoff) -> Composition:
    charges, masses = zip(*(ELEMENTS[name] for name in names), strict=True)
    return Composition(names, charges, masses, amplitude, index, cutoff)


def _log_fluxes(composition: Composition, energy, log_weights) -> Float[Array, "*batch element"]:
    """ln flux of each element at an energy of its own, or one for all: energies (*batch, element or 1)."""
    return jax.nn.logsumexp(_log_terms(composition, energy, log_weights), axis=-2)


def _log_terms(composition: Composition, energy, log_weights) -> Float[Array, "*batch population element"]:
    """ln flux of each element in each population, at energies (*batch, element or 1)."""
    amplitude = composition.amplitude
    log_amplitude = jnp.where(amplitude > 0, jnp.log(jnp.where(amplitude > 0, amplitude, 1.0)), -jnp.inf)
    power = composition.index * jnp.log(energy)[..., None, :]
    terms = log_amplitude - power - _over_cutoff(composition, energy)
    return terms if log_weights is None else terms + jnp.asarray(log_weights)


def _over_cutoff(composition: Composition, energy) -> Float[Array, "*batch population element"]:
    """E / (Z R) of each population and element, at energies (*batch, element or 1): 0 without a cut-off."""
    return energy[..., None, :] / (np.array(composition.charges) * composition.cutoff[:, None])


def _standard_energies(response: Response, composition: Composition, secant):
    """ln of standard energies (*batch, bin, node), their shift by element (bin, element), the weights (bin, node)."""
    log_energy, weight = response.quadrature()
    centre = jnp.exp(jnp.sum(weight * log_energy, axis=1))
    log_mass = np.log(composition.masses)
    shift = response.mass_shift * (log_mass[None, :] - mean_log_mass(composition, centre)[:, None])
    if secant is not None:
        inclined = jnp.asarray(secant)[..., None] - response.mean_secant
        log_energy = log_energy + response.zenith_shift * jnp.broadcast_to(
            inclined[..., None], (*jnp.shape(secant), *log_energy.shape)
        )
    return log_energy, shift, weight


def _nearest(name: str, known: Mapping[str, object]) -> str:
    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    return f": did you mean {lower[near[0]]}?" if near else ""


def _require_positive(what: str, value: Array, remedy: str = "") -> None:
    if not is_known(value):
        return
    value = np.asarray(value)
    good = (value > 0) & np.isfinite(value)
    if not value.size:
        raise InputError(f"{what} of a response are missing: give one bin or more")
    if not np.all(good):
        place = np.argmin(good)
        raise InputError(f"{what} of a response must be above zero and finite, not {value[place]:g} at {place}{remedy}")


def _require_shifts(response: Response, count: int) -> None:
    if response.mean_secant.shape not in ((), (count,)):
        raise InputError(
            f"mean_secant of a response must be one number or one for each of its {count} bins, not of the shape "
            f"{response.mean_secant.shape}"
        )
    for name in ("mass_shift", "zenith_shift", "mean_secant"):
        value = getattr(response, name)
        if is_known(value) and not np.all(np.isfinite(value)):
            raise InputError(f"{name} of a response must be finite, not {value}")
