r"""The whole chain: from sources through diffusion, the observer's motion and the detector to expected counts.

`ForwardModel` holds the choices, `Parameters` the numbers; every stage is a pure function of both, so that the
derivative of the expected counts with respect to a source's age or to kappa_perp / kappa_par exists and is exact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .composition import Composition, Response, fractions, response_energies, response_weights
from .counts import MarginalCounts, expected_marginals
from .disc import Disc, TabulatedDisc, density_and_gradient
from .errors import InputError, is_known
from .grid import RingGrid
from .harmonics import dipole_to_coefficients, rotate, synthesis
from .observer import compton_getting_dipole, compton_getting_multipoles, cosmic_velocity
from .propagation import diffusion_coefficient, total_log_density_and_gradient
from .sky import galactic_to_icrs, icrs_to_galactic, precession_matrix
from .source import Sources, log_spectrum, require_sources
from .transport import diffusion_tensor, fick_dipole
from .typing import AnyArray
from .units import SPEED_OF_LIGHT

_MANY = 4096
GLOBAL_TENSORS = ("isotropic", "local", "tensor")


class Parameters(eqx.Module):
    """The numbers of the model: one leaf per quantity, all floats, so that gradients reach each of them.

    Attributes:
        diffusion: K_global / c at a rigidity of 1 TV [pc], the coefficient of the scales above the coherence length.
        diffusion_index: delta of K ~ rigidity^delta. Dimensionless.
        halo_height: Half-height H of the halo, beyond which particles escape freely [pc]; inf for free space.
        parallel_factor: f = kappa_par,local / K_global. Dimensionless; 1 to 3.
        perpendicular: kappa_perp / kappa_par of the local tensor. 0 projects the dipole on the field.
        antisymmetric: kappa_A / kappa_par of the local tensor, for positive charges.
        field: Local magnetic field, a vector of any length, along ICRS axes.
        global_field: Field of the global tensor, along ICRS axes; read only by the global tensor "tensor".
        global_perpendicular: kappa_perp / kappa_par of that tensor.
        sources: The discrete sources.
        supernova_rate: R of the smooth background [1/yr]; each injects one reference supernova.
        injection_index: Of the background's spectrum, number ~ rigidity^-index at injection. Dimensionless.
        injection_cutoff: Rigidity of its exponential cut-off [TV]; inf for none.
        gradient_factor: Multiplies the background's gradient d ln n / dR. Dimensionless; 1 is the disc's own.
        local_gradient: Added to grad n / n, a vector along ICRS axes [1/pc]: what the mean field leaves out.
        velocity: Velocity of the observer in the plasma frame [c], along ICRS axes.
        spectral_index: Gamma of the intensity in energy, for the Compton-Getting effect. Dimensionless.
        log_weights: Natural logarithm of a factor on each element's flux, (element,).
        transition_energy: Energy at which half of the flux is extragalactic [TeV]; inf for none.
        transition_slope: The extragalactic part is 1 / (1 + (energy / transition_energy)^-slope). Dimensionless.
        extragalactic_dipole: Intrinsic dipole of the extragalactic part in the frame of the microwave background,
            along ICRS axes. Dimensionless.
        multipoles: Real multipoles of the relative intensity, ICRS, added to the sky of every energy, (coefficient,)
            with zeros up to l = 1.
    """

    diffusion: Float[Array, ""]
    diffusion_index: Float[Array, ""]
    halo_height: Float[Array, ""]
    parallel_factor: Float[Array, ""]
    perpendicular: Float[Array, ""]
    antisymmetric: Float[Array, ""]
    field: Float[Array, "3"]
    global_field: Float[Array, "3"]
    global_perpendicular: Float[Array, ""]
    sources: Sources
    supernova_rate: Float[Array, ""]
    injection_index: Float[Array, ""]
    injection_cutoff: Float[Array, ""]
    gradient_factor: Float[Array, ""]
    local_gradient: Float[Array, "3"]
    velocity: Float[Array, "3"]
    spectral_index: Float[Array, ""]
    log_weights: Float[Array, " element"]
    transition_energy: Float[Array, ""]
    transition_slope: Float[Array, ""]
    extragalactic_dipole: Float[Array, "3"]
    multipoles: Float[Array, " coefficient"]


class Background(NamedTuple):
    """The smooth disc's part.

    Attributes:
        log_amount: ln of density times K_global / c, before the spectrum [pc^-2].
        gradient: grad n / n [1/pc], along Galactic axes.
    """

    log_amount: Float[Array, ""]
    gradient: Float[Array, "3"]


class Density(NamedTuple):
    """Density at the Sun, and its gradient.

    Attributes:
        log_background: ln n of the smooth disc [pc^-3 per reference supernova at 1 TV]; -inf without a disc.
        log_sources: ln n of all discrete sources together, in the same unit.
        gradient: grad n / n of the sum [1/pc], along Galactic axes.
    """

    log_background: Float[Array, ""]
    log_sources: Float[Array, ""]
    gradient: Float[Array, "3"]


class Configuration(eqx.Module):
    """One detector configuration: an observatory in one epoch and energy bin.

    Attributes:
        rate: N_tau, counts per sidereal-time bin for I = 1, (time,).
        acceptance: Relative acceptance of the local cells, sums to 1, (ring, hour_angle).
        days: Mean epoch, days since J2000: the grid lives in the equator of that date.
        grid: The ring grid.
        name: Of the observatory.
    """

    rate: Float[Array, " time"]
    acceptance: Float[Array, "ring hour_angle"]
    days: float = eqx.field(static=True)
    grid: RingGrid = eqx.field(static=True)
    name: str = eqx.field(static=True, default="")


class ForwardModel(eqx.Module):
    """What is in the model: which background, which composition, which tensor carries particles over long ways.

    Attributes:
        composition: Elements and their fluxes.
        disc: Smooth background of sources; None for discrete sources alone.
        global_tensor: "isotropic": the density follows from K_global (the closure of a field that is tangled on
            scales below the distance of the sources); "local": from the local tensor, so that the dipole of a
            single burst points at its source; "tensor": from one of its own, about `global_field`.
        halo: Whether particles escape at the height of the halo; False for free space.
        continuous: Whether any source emits for longer than a moment.
        compton_getting: Whether the observer moves.
        chunk: Sources that are held in memory at once.

    Raises:
        InputError: If the tensor is unknown, there is nothing that makes cosmic rays steady, or a disc is asked for
            with a tensor that is not isotropic, or in free space.
    """

    composition: Composition
    disc: Disc | TabulatedDisc | None = None
    global_tensor: str = eqx.field(static=True, default="isotropic")
    halo: bool = eqx.field(static=True, default=True)
    continuous: bool = eqx.field(static=True, default=False)
    compton_getting: bool = eqx.field(static=True, default=True)
    chunk: int = eqx.field(static=True, default=16384)

    def __check_init__(self):
        if self.global_tensor not in GLOBAL_TENSORS:
            raise InputError(f"global_tensor must be one of {', '.join(GLOBAL_TENSORS)}, not {self.global_tensor!r}")
        if self.disc is not None and self.global_tensor != "isotropic":
            raise InputError(
                f"a smooth disc of sources diffuses isotropically over long ways, not with global_tensor = "
                f"{self.global_tensor!r}: draw an ensemble of sources instead, or leave the background out"
            )
        if self.disc is not None and not self.halo:
            raise InputError(
                "a steady disc of sources in free space has no finite density: give the halo a height, or "
                "leave the background out"
            )

    # Density -------------------------------------------------------------------------------------------

    def background(self, parameters: Parameters) -> Background:
        """The disc's part that is the same at every rigidity. Without a disc there is none."""
        p = parameters
        if self.disc is None:
            return Background(jnp.asarray(-jnp.inf), jnp.zeros(3))
        density, outwards = density_and_gradient(self.disc, p.halo_height)
        amount = p.supernova_rate * density / SPEED_OF_LIGHT
        # The Sun is at the origin and the Galactic centre along +x: the radius falls along x.
        return Background(_log_or_none(amount), p.gradient_factor * outwards * jnp.array([-1.0, 0.0, 0.0]))

    def density(
        self, parameters: Parameters, rigidity: Float[ArrayLike, ""], background: Background | None = None
    ) -> Density:
        """Density at the Sun of what has the given rigidity [TV], and grad n / n.

        The gradient is the exact derivative of the summed density; the disc's is that of the steady state.

        Args:
            parameters: The numbers.
            rigidity: Energy over charge [TV].
            background: What `background` gives, where it is at hand already.
        """
        p, rigidity = parameters, jnp.asarray(rigidity, float)
        background = self.background(p) if background is None else background
        coefficient = diffusion_coefficient(rigidity, p.diffusion, p.diffusion_index)
        smooth = (
            background.log_amount - jnp.log(coefficient) + log_spectrum(rigidity, p.injection_index, p.injection_cutoff)
        )
        extra = icrs_to_galactic(p.local_gradient)
        if p.sources.age.shape[0] == 0:
            return Density(smooth, jnp.asarray(-jnp.inf), background.gradient + extra)
        spectrum = log_spectrum(rigidity, p.sources.spectral_index, p.sources.cutoff)
        mixture = total_log_density_and_gradient(
            p.sources,
            _log_or_none(p.sources.power) + spectrum,
            self._global_tensor(p, coefficient),
            p.halo_height if self.halo else None,
            chunk=self.chunk,
            continuous=self.continuous,
        )
        if self.disc is None:
            return Density(smooth, mixture.log_density, mixture.gradient + extra)
        share = jax.nn.sigmoid(mixture.log_density - smooth)
        gradient = share * mixture.gradient + (1 - share) * background.gradient
        return Density(smooth, mixture.log_density, gradient + extra)

    def _global_tensor(self, p: Parameters, coefficient: Array) -> Array:
        if self.global_tensor == "isotropic":
            return coefficient
        field, ratio, scale = p.global_field, p.global_perpendicular, 1.0
        if self.global_tensor == "local":
            field, ratio, scale = p.field, p.perpendicular, p.parallel_factor
        along = icrs_to_galactic(_unit(field))
        return scale * coefficient * diffusion_tensor(1.0, ratio, 0.0, along)

    # Dipole --------------------------------------------------------------------------------------------

    def plasma_dipole(self, parameters: Parameters, rigidity: Float[ArrayLike, "*any"]) -> Float[Array, "*any 3"]:
        """Dipole of the Galactic particles of one rigidity [TV] in the plasma frame, along ICRS axes.

        delta = 3 K_local grad n / n with K_local = f K_global [B B + r (1 - B B) + a eps B]: Fick's law with the
        local tensor, the gradient being that of the global one.
        """
        p = parameters
        rigidity = jnp.asarray(rigidity, float)
        background = self.background(p)
        tensor = diffusion_tensor(1.0, p.perpendicular, p.antisymmetric, _unit(p.field))

        def one(rigidity):
            coefficient = p.parallel_factor * diffusion_coefficient(rigidity, p.diffusion, p.diffusion_index)
            gradient = galactic_to_icrs(self.density(p, rigidity, background).gradient)
            return coefficient * fick_dipole(tensor, gradient)

        # One rigidity after the other where sources are many: see `slab`.
        every = jax.vmap(one) if p.sources.age.shape[0] <= _MANY else lambda r: jax.lax.map(one, r)
        return every(rigidity.reshape(-1)).reshape(*rigidity.shape, 3)

    def motion_dipole(self, parameters: Parameters) -> Float[Array, "3"]:
        """Compton-Getting dipole of the Galactic particles, to first order, along ICRS axes."""
        if not self.compton_getting:
            return jnp.zeros(3)
        return compton_getting_dipole(parameters.velocity, parameters.spectral_index)

    def extragalactic_fraction(self, parameters: Parameters, energy: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Part of the flux at an energy [TeV] that is extragalactic, 0 to 1."""
        p = parameters
        finite = jnp.isfinite(p.transition_energy)
        # A transition at infinity would leave 0 * inf in the gradient.
        place = jnp.log(jnp.asarray(energy, float)) - jnp.log(jnp.where(finite, p.transition_energy, 1.0))
        return jnp.where(finite, jax.nn.sigmoid(p.transition_slope * place), 0.0)

    def dipole(self, parameters: Parameters, energy: Float[ArrayLike, "..."]) -> Float[Array, "... 3"]:
        """Observed dipole (delta_0h, delta_6h, delta_N) of all particles of an energy per particle [TeV], J2000.

        The sum over elements, each at its rigidity energy / Z, of fraction times dipole, plus the observer's motion;
        of the extragalactic part its own dipole plus the motion against the microwave background. It points to
        where the excess comes from.
        """
        energy = jnp.asarray(energy, float)
        flat = energy.reshape(-1)
        shares = fractions(self.composition, flat, parameters.log_weights)
        charges = jnp.asarray(self.composition.charges, float)
        each = self.plasma_dipole(parameters, flat[:, None] / charges)
        galactic = jnp.einsum("ez,ezk->ek", shares, each) + self.motion_dipole(parameters)
        outer = self.extragalactic_fraction(parameters, flat)[:, None]
        total = (1 - outer) * galactic + outer * self.extragalactic(parameters)
        return total.reshape(*energy.shape, 3)

    def extragalactic(self, parameters: Parameters) -> Float[Array, "3"]:
        """Observed dipole of the extragalactic part, along ICRS axes: its own, and the motion against the CMB."""
        own = parameters.extragalactic_dipole
        if not self.compton_getting:
            return own
        return own + compton_getting_dipole(cosmic_velocity(), parameters.spectral_index)

    def bin_dipole(self, parameters: Parameters, response: Response) -> Float[Array, "bin 3"]:
        """Observed dipole of each energy bin: the mean over its true energies and elements, J2000."""
        p = parameters
        charges = jnp.asarray(self.composition.charges, float)
        energy = response_energies(response, self.composition)
        weights = response_weights(response, self.composition, p.log_weights)
        each = self.plasma_dipole(p, energy / charges[:, None])
        outer = self.extragalactic_fraction(p, energy)[..., None]
        total = (1 - outer) * (each + self.motion_dipole(p)) + outer * self.extragalactic(p)
        return jnp.einsum("bzn,bznk->bk", weights, total)

    # Sky and counts ------------------------------------------------------------------------------------

    def sky(
        self, parameters: Parameters, dipole: Float[Array, "... 3"], l_max: int = 3
    ) -> Float[Array, "... coefficient"]:
        """Real multipoles of the relative intensity, J2000, l = 0 (which is 1) to l_max, from its dipole.

        Beyond the dipole there are the quadrupole and higher terms of the exact Compton-Getting factor (1e-7 for
        the Sun's velocities) and `Parameters.multipoles`.
        """
        size = (l_max + 1) ** 2
        sky = jnp.zeros((*dipole.shape[:-1], size)).at[..., :4].set(dipole_to_coefficients(dipole))
        sky = sky.at[..., 0].add(np.sqrt(4 * np.pi))
        if self.compton_getting and l_max > 1:
            exact = compton_getting_multipoles(parameters.velocity, parameters.spectral_index, l_max)
            sky = sky + exact.at[:4].set(0.0)
        given = parameters.multipoles[:size]
        return sky.at[..., : given.shape[0]].add(given)

    def expected_counts(
        self,
        parameters: Parameters,
        response: Response,
        configurations: Sequence[tuple[int, Configuration]],
        l_max: int = 3,
    ) -> list[MarginalCounts]:
        """Marginals of mu = I N A for each (energy bin, configuration): observatories, epochs and energy bins.

        Args:
            parameters: The numbers.
            response: Energy bins.
            configurations: Index of the energy bin, and the detector configuration that counts in it.
            l_max: Highest degree of the sky.
        """
        skies = self.sky(parameters, self.bin_dipole(parameters, response), l_max)
        out = []
        for place, each in configurations:
            of_date = rotate(skies[place], precession_matrix(each.days))
            intensity = synthesis(of_date, each.grid, cell_average=True)
            out.append(expected_marginals(each.rate, each.acceptance, intensity))
        return out


def invalid(
    model: ForwardModel,
    parameters: Parameters,
    energy: Sequence[float] | np.ndarray,
    dipole: Float[AnyArray, "energy 3"] | None = None,
) -> list[str]:
    """What in a prediction lies outside the domain of diffusion: one line each, empty where all is well.

    A source further away than light has come since it was born (r > c t), and dipoles above 0.3, for which Fick's
    law is no more than a direction.

    Args:
        model: The model.
        parameters: Its numbers.
        energy: Energies per particle [TeV].
        dipole: Its dipoles there, where they are at hand already.
    """
    notes = []
    sources = parameters.sources
    distance = np.linalg.norm(np.asarray(sources.position), axis=-1)
    far = (distance > SPEED_OF_LIGHT * np.asarray(sources.age)) & (np.asarray(sources.power) > 0)
    if far.any():
        first = int(np.argmax(far))
        notes.append(
            f"{int(far.sum())} of {far.size} sources are further away than light has travelled since their birth "
            f"(r > c t; the first is number {first}, at {distance[first]:.0f} pc and "
            f"{float(sources.age[first]):.0f} yr): their diffusion is superluminal"
        )
    if dipole is None:
        dipole = eqx.filter_jit(model.dipole)(parameters, jnp.asarray(energy, float))
    strength = np.linalg.norm(np.asarray(dipole), axis=-1)
    strong = np.atleast_1d(strength > 0.3)
    if strong.any():
        notes.append(
            f"the dipole is above 0.3 at {int(strong.sum())} of {strong.size} energies, from "
            f"{np.min(np.atleast_1d(energy)[strong]):g} TeV: diffusion does not hold there"
        )
    return notes


def require_parameters(model: ForwardModel, parameters: Parameters) -> Parameters:
    """The same parameters, where they are in the domain of the model.

    Raises:
        InputError: If a number is not finite or out of its range; the message names it and the range.
    """
    p = parameters
    if not all(is_known(leaf) for leaf in jax.tree.leaves(p)):
        return p
    bounds = {
        "diffusion": (0, np.inf, False),
        "diffusion_index": (-np.inf, np.inf, False),
        "halo_height": (0, np.inf, not model.halo),
        "parallel_factor": (0, np.inf, False),
        "perpendicular": (-1e-300, np.inf, False),
        "antisymmetric": (-np.inf, np.inf, False),
        "global_perpendicular": (0, np.inf, False),
        "supernova_rate": (-1e-300, np.inf, False),
        "injection_index": (-np.inf, np.inf, False),
        "injection_cutoff": (0, np.inf, True),
        "gradient_factor": (-np.inf, np.inf, False),
        "spectral_index": (-2, np.inf, False),
        "transition_energy": (0, np.inf, True),
        "transition_slope": (0, np.inf, False),
    }
    for name, (low, high, endless) in bounds.items():
        value = float(getattr(p, name))
        if not (low < value < high or (endless and value == np.inf)):
            sign = "be above 0" if low == 0 else "not be negative" if low == -1e-300 else f"be above {low:g}"
            raise InputError(f"{name} must {sign} and finite, not {value:g}")
    if model.global_tensor == "local" and not float(p.perpendicular) > 0:
        raise InputError(
            "perpendicular must be above 0 with global_tensor = 'local': without diffusion across the field what a "
            "source makes stays on one line"
        )
    for name in ("field", "global_field"):
        _require_direction(name, np.asarray(getattr(p, name)))
    for name in ("local_gradient", "velocity", "log_weights", "extragalactic_dipole", "multipoles"):
        if not np.all(np.isfinite(np.asarray(getattr(p, name)))):
            raise InputError(f"{name} must be finite, not {np.asarray(getattr(p, name)).tolist()}")
    if np.linalg.norm(p.velocity) >= 1:
        raise InputError("the velocity of the observer must be below 1, in units of c; 1 km/s is 3.34e-6")
    require_sources(p.sources, float(p.halo_height) if model.halo else None)
    return p


def _require_direction(name: str, vector: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        length = np.linalg.norm(vector)
    # So long or short that its square is no number, it has no length either.
    if not (np.isfinite(length) and length > 0):
        raise InputError(f"{name} must be a finite vector that is not zero, not {vector.tolist()}: it has no direction")


def _unit(vector: Array) -> Array:
    return vector / jnp.linalg.norm(vector)


def _log_or_none(value: Array) -> Array:
    """Natural logarithm, -inf where the value is zero, with a gradient of zero there and not a NaN."""
    some = value > 0
    return jnp.where(some, jnp.log(jnp.where(some, value, 1.0)), -jnp.inf)
