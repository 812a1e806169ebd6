"""The physical model with its numbers by name, in the units that people use: values in, parameters of the chain out."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffcr.ensemble import draw_sources, enough_sources
from diffcr.errors import InputError
from diffcr.model import ForwardModel, Parameters, require_parameters
from diffcr.sky import angles, galactic_to_icrs, icrs_to_galactic, unit_vector
from diffcr.source import Sources, join
from diffcr.transport import bgk_ratios
from diffcr.typing import AnyArray
from diffcr.units import CM, DEGREE, KM_PER_S, KPC, SECOND, SPEED_OF_LIGHT

from .nearest import require_known
from .source_priors import Prior

Values = dict[str, Any]
"""Numbers by name, in the units that the names say; vectors have three components."""

CM2_PER_S = CM**2 / SECOND / SPEED_OF_LIGHT
"""A diffusion coefficient of 1 cm^2/s over c, in pc."""


class Quantity(NamedTuple):
    """One number of the model.

    Attributes:
        default: Its value where nothing is said.
        low, high: Range, in its own unit; the ends belong to it where they are finite and not 0.
        meaning: What it is, with its unit.
    """

    default: Any
    low: float
    high: float
    meaning: str


INF = math.inf
QUANTITIES: dict[str, Quantity] = {
    "diffusion_cm2_s": Quantity(3e28, 0, INF, "K_global at the pivot rigidity [cm^2/s]"),
    "pivot_GV": Quantity(1.0, 0, INF, "rigidity at which diffusion_cm2_s is given [GV]; never varied"),
    "diffusion_index": Quantity(1 / 3, -INF, INF, "index of K in rigidity"),
    "halo_height_pc": Quantity(3000.0, 0, INF, "half-height of the halo [pc]; inf is free space"),
    "parallel_factor": Quantity(1.0, 0, INF, "f = kappa_par of the local tensor over K_global"),
    "perpendicular": Quantity(0.0, 0, INF, "kappa_perp / kappa_par of the local tensor; 0 projects on the field"),
    "antisymmetric": Quantity(0.0, -INF, INF, "kappa_A / kappa_par of the local tensor"),
    "field": Quantity((0.0, 0.0, 1.0), -INF, INF, "local magnetic field, ICRS vector of any length"),
    "global_perpendicular": Quantity(1.0, 0, INF, "kappa_perp / kappa_par of the global tensor"),
    "global_field": Quantity((0.0, 0.0, 1.0), -INF, INF, "field of the global tensor, ICRS vector"),
    "supernova_rate_per_yr": Quantity(1 / 30, 0, INF, "supernovae in the Galaxy [1/yr]"),
    "injection_index": Quantity(2.4, -INF, INF, "index of the number injected, in rigidity"),
    "injection_cutoff_TV": Quantity(INF, 0, INF, "rigidity of the exponential cut-off at injection [TV]"),
    "gradient_factor": Quantity(1.0, -INF, INF, "multiplies the background's radial gradient"),
    "gradient_along_field_per_kpc": Quantity(0.0, -INF, INF, "added to grad n / n along the local field [1/kpc]"),
    "velocity_km_s": Quantity((0.0, 0.0, 0.0), -INF, INF, "observer in the plasma frame, ICRS [km/s]"),
    "spectral_index": Quantity(2.7, -2, INF, "Gamma of the intensity, for Compton-Getting"),
    "transition_energy_TeV": Quantity(INF, 0, INF, "energy at which half of the flux is extragalactic [TeV]"),
    "transition_slope": Quantity(2.0, 0, INF, "the extragalactic part is 1 / (1 + (E/E_t)^-slope)"),
    "extragalactic_dipole": Quantity((0.0, 0.0, 0.0), -INF, INF, "dipole of the extragalactic part, ICRS vector"),
}
"""Numbers of every model by name."""

SOURCE_QUANTITIES: dict[str, Quantity] = {
    "distance_pc": Quantity(None, 0, INF, "distance from the Sun [pc]"),
    "longitude_deg": Quantity(None, -360, 360, "Galactic longitude [deg]"),
    "latitude_deg": Quantity(None, -90, 90, "Galactic latitude [deg]"),
    "age_yr": Quantity(None, 0, INF, "time since the (first) emission [yr]"),
    "duration_yr": Quantity(0.0, 0, INF, "0 is a burst, else the time for which it emits [yr]"),
    "power": Quantity(1.0, 0, INF, "particles injected, over those of the reference supernova"),
    "spectral_index": Quantity(None, -INF, INF, "index of the number injected; default that of the background"),
    "cutoff_TV": Quantity(None, 0, INF, "rigidity of the cut-off [TV]; default that of the background"),
}
"""Numbers of each discrete source, written NAME.QUANTITY."""

CLOSED_AT_ZERO = {
    "perpendicular",
    "supernova_rate_per_yr",
    "global_perpendicular",
    "distance_pc",
    "duration_yr",
    "power",
}
"""Quantities that may be zero; others with a range from 0 may not."""

ANGLES = {
    "field_l_deg": ("field", True, 0),
    "field_b_deg": ("field", True, 1),
    "field_ra_deg": ("field", False, 0),
    "field_dec_deg": ("field", False, 1),
    "global_field_l_deg": ("global_field", True, 0),
    "global_field_b_deg": ("global_field", True, 1),
}
"""Other ways to say a direction: what it sets, whether Galactic, and which of the two angles."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Random supernovae in place of a smooth disc.

    Attributes:
        max_age: Oldest [yr].
        number: How many are drawn in one realisation; with fewer than rate * max_age each stands for several.
        height: Scale height of the Laplace layer [pc].
        spiral: On spiral arms, or spread evenly in azimuth.
        young_age, young_number: All supernovae younger than this [yr] are drawn one by one, up to this number.
        known_distance, known_age: Random ones both nearer [pc] and younger [yr] than this are left out: the named
            sources stand there, where the catalogues are complete.
    """

    max_age: float
    number: int
    height: float = 100.0
    spiral: bool = False
    young_age: float = 0.0
    young_number: int = 0
    known_distance: float = 0.0
    known_age: float = 0.0


@dataclasses.dataclass(frozen=True)
class SourceModel:
    """A forward model with the values of its numbers and the priors of those that are uncertain.

    Attributes:
        name: What results call it.
        description: One sentence.
        forward: The chain.
        values: Every number, in the unit that its name says.
        priors: Of the uncertain ones; "field" may be "isotropic".
        sources: Names of the discrete sources.
        elements: Names of the elements; "weight.NAME" multiplies the flux of one.
        observer: Which velocity `velocity_km_s` is: a name, or "given".
        ensemble: Random supernovae; None for none.
        settings: The rest of the file, for provenance.
        allow_perpendicular: Let kappa_perp be above kappa_par.
    """

    name: str
    description: str
    forward: ForwardModel
    values: Values
    priors: dict[str, Prior | str]
    sources: tuple[str, ...]
    elements: tuple[str, ...]
    observer: str = "none"
    ensemble: Ensemble | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    allow_perpendicular: bool = False

    @property
    def names(self) -> list[str]:
        """Every name that can be set or have a prior."""
        each = [f"{source}.{quantity}" for source in self.sources for quantity in SOURCE_QUANTITIES]
        return [*QUANTITIES, *ANGLES, *each, *(f"weight.{element}" for element in self.elements), "gyration_ratio"]

    @property
    def grainy(self) -> ForwardModel:
        """The chain without its smooth background, where random supernovae stand in its place."""
        return self.forward if self.ensemble is None else dataclasses.replace(self.forward, disc=None)

    def parameters(self, values: Values | None = None, ensemble: Sources | None = None) -> Parameters:
        """Parameters of the chain for the given numbers, or its own; traceable.

        Args:
            values: Numbers that differ from the model's own.
            ensemble: Random sources beside the named ones.
        """
        v = {**self.values, **(values or {})}
        if "gyration_ratio" in v:
            v["perpendicular"], v["antisymmetric"] = bgk_ratios(jnp.asarray(v["gyration_ratio"], float))
        number = lambda name: jnp.asarray(v[name], float)
        named = self._named_sources(v)
        to_1_tv = (1e3 / number("pivot_GV")) ** number("diffusion_index")
        field = number("field")
        along = field / jnp.linalg.norm(field)
        return Parameters(
            diffusion=number("diffusion_cm2_s") * CM2_PER_S * to_1_tv,
            diffusion_index=number("diffusion_index"),
            halo_height=number("halo_height_pc"),
            parallel_factor=number("parallel_factor"),
            perpendicular=number("perpendicular"),
            antisymmetric=number("antisymmetric"),
            field=field,
            global_field=number("global_field"),
            global_perpendicular=number("global_perpendicular"),
            sources=named if ensemble is None else join(named, ensemble),
            supernova_rate=number("supernova_rate_per_yr"),
            injection_index=number("injection_index"),
            injection_cutoff=number("injection_cutoff_TV"),
            gradient_factor=number("gradient_factor"),
            local_gradient=number("gradient_along_field_per_kpc") / KPC * along,
            velocity=number("velocity_km_s") * KM_PER_S,
            spectral_index=number("spectral_index"),
            log_weights=jnp.stack([jnp.log(number(f"weight.{element}")) for element in self.elements]),
            transition_energy=number("transition_energy_TeV"),
            transition_slope=number("transition_slope"),
            extragalactic_dipole=number("extragalactic_dipole"),
            multipoles=jnp.zeros(0),
        )

    def _named_sources(self, v: Values) -> Sources:
        def column(quantity, default=None):
            given = [v.get(f"{source}.{quantity}") for source in self.sources]
            filled = [default if each is None else each for each in given]
            return jnp.stack([jnp.asarray(each, float) for each in filled]) if filled else jnp.zeros(0)

        towards = unit_vector(column("longitude_deg") * DEGREE, column("latitude_deg") * DEGREE)
        return Sources(
            position=column("distance_pc")[:, None] * towards,
            age=column("age_yr"),
            duration=column("duration_yr"),
            power=column("power"),
            spectral_index=column("spectral_index", v["injection_index"]),
            cutoff=column("cutoff_TV", v["injection_cutoff_TV"]),
        )

    def draw_ensemble(self, key: Array, values: Values | None = None) -> Sources | None:
        """Random supernovae of one realisation, or None where the model has none; traceable in key and values.

        The young ones, whose graininess makes the dipole, are drawn one by one; of the old ones a fixed number,
        each standing for several.
        """
        e = self.ensemble
        if e is None:
            return None
        v = {**self.values, **(values or {})}
        rate = jnp.asarray(v["supernova_rate_per_yr"], float)
        common = {
            "shape": self.settings["shape"],
            "edge": self.settings["edge_pc"],
            "height": e.height,
            "halo_height": jnp.asarray(v["halo_height_pc"], float),
            "spectral_index": jnp.asarray(v["injection_index"], float),
            "cutoff": jnp.asarray(v["injection_cutoff_TV"], float),
            **self.settings.get("ensemble_options", {}),
        }
        old, young = jax.random.split(key)
        span = e.max_age - e.young_age
        drawn = draw_sources(
            old, e.number, max_age=e.max_age, min_age=e.young_age, power=rate * span / e.number, **common
        )
        if e.young_number:
            few = draw_sources(young, e.young_number, max_age=e.young_age, expected=rate * e.young_age, **common)
            drawn = join(few, drawn)
        near = jnp.linalg.norm(drawn.position, axis=-1) < e.known_distance
        power = jnp.where(near & (drawn.age < e.known_age), 0.0, drawn.power)
        # In the order of their age, in which their densities are summed fastest.
        order = jnp.argsort(drawn.age)
        return jax.tree.map(lambda each: each[order], dataclasses.replace(drawn, power=power))

    def with_values(self, changes: Mapping[str, Any]) -> "SourceModel":
        """The same model with other numbers, checked.

        Raises:
            InputError: If a name is unknown, a number out of its range, or a velocity given to an observer at rest.
        """
        values = dict(self.values)
        for name, value in changes.items():
            require_known(name, self.names, f"the model {self.name} has no number")
            set_value(values, name, value, f"the number {name} of the model {self.name}")
        observer = self.observer
        if "velocity_km_s" in changes:
            self.require_motion(f"the model {self.name}")
            observer = "given"
        return dataclasses.replace(self, values=values, observer=observer).with_choices().checked()

    def require_motion(self, where: str) -> None:
        """Refuse a velocity where the motion of the observer is left out, which would not be seen.

        Raises:
            InputError: If it is.
        """
        if not self.forward.compton_getting:
            raise InputError(
                f"{where}: velocity_km_s is given, but the motion of the observer is left out (observer = none)"
            )

    def with_choices(self) -> "SourceModel":
        """The same model, whose chain knows what its numbers ask for: a halo or free space, lasting emission or bursts.

        Raises:
            InputError: If these do not go with the background.
        """
        lasting = any(self.values.get(f"{source}.duration_yr", 0) > 0 for source in self.sources)
        lasting = lasting or any(name.endswith(".duration_yr") for name in self.priors)
        halo = math.isfinite(self.values["halo_height_pc"])
        return dataclasses.replace(self, forward=dataclasses.replace(self.forward, halo=halo, continuous=lasting))

    def checked(self) -> "SourceModel":
        """This model, where its numbers are in their domain.

        Raises:
            InputError: If they are not.
        """
        v = self.values
        if v["perpendicular"] > 1 and not self.allow_perpendicular:
            raise InputError(
                f"kappa_perp is {v['perpendicular']:g} times kappa_par in the model {self.name}: check perpendicular, "
                "or set allow_perpendicular = true in [model]"
            )
        require_parameters(self.forward, self.parameters())
        self._require_room_for_the_young()
        return self

    def _require_room_for_the_young(self) -> None:
        """In a trace nothing could tell that a Poisson number of supernovae was cut."""
        if self.ensemble is None or not self.ensemble.young_number:
            return
        rate, prior = self.values["supernova_rate_per_yr"], self.priors.get("supernova_rate_per_yr")
        if isinstance(prior, Prior):
            rate = max(rate, float(prior.value(jnp.asarray(4.0))))
        enough = enough_sources(rate * self.ensemble.young_age)
        if self.ensemble.young_number < enough:
            raise InputError(
                f"young_number of the ensemble of the model {self.name} is {self.ensemble.young_number}, too few for "
                f"{rate:g} supernovae per year over young_age_yr = {self.ensemble.young_age:g}: raise it to {enough}"
            )


def set_value(values: Values, name: str, value: Any, what: str) -> None:
    """Set one number by name, in place; directions and the gyration ratio set what they stand for.

    Raises:
        InputError: If it is no number, has the wrong number of components, or is out of its range.
    """
    if name in ANGLES:
        target, galactic, which = ANGLES[name]
        vector = jnp.asarray(values[target], float)
        pair = [float(a) for a in angles(icrs_to_galactic(vector) if galactic else vector)]
        pair[which] = (
            _checked(value, 1, -360.0 if which == 0 else -90.0, 360.0 if which == 0 else 90.0, True, what) * DEGREE
        )
        turned = unit_vector(*pair)
        values[target] = tuple(float(x) for x in (galactic_to_icrs(turned) if galactic else turned))
        return
    if name == "gyration_ratio":
        ratio = _checked(value, 1, -INF, INF, True, what)
        perpendicular, antisymmetric = bgk_ratios(ratio)
        values |= {"perpendicular": float(perpendicular), "antisymmetric": float(antisymmetric)}
        return
    own = name.rpartition(".")[2]
    if name.startswith("weight."):
        values[name] = _checked(value, 1, 0.0, INF, False, what)
        return
    q = (SOURCE_QUANTITIES if "." in name else QUANTITIES)[own]
    size = len(q.default) if isinstance(q.default, tuple) else 1
    endless = own in ("halo_height_pc", "injection_cutoff_TV", "cutoff_TV", "transition_energy_TeV")
    values[name] = _checked(value, size, q.low, q.high, own in CLOSED_AT_ZERO or q.low != 0, what, endless)


def range_of(name: str) -> tuple[float, float, int]:
    """Range and number of components of what a name stands for."""
    own = name.rpartition(".")[2]
    if name.startswith("weight."):
        return 0.0, INF, 1
    if name in ANGLES or name == "gyration_ratio":
        return -INF, INF, 1
    q = (SOURCE_QUANTITIES if "." in name else QUANTITIES)[own]
    return q.low, q.high, len(q.default) if isinstance(q.default, tuple) else 1


def _checked(value: Any, size: int, low: float, high: float, closed: bool, what: str, endless: bool = False) -> Any:
    if size > 1:
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray) or len(value) != size:
            raise InputError(f"{what} must have {size} components, not {value!r}")
        return tuple(_checked(each, 1, low, high, closed, what) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise InputError(f"{what} must be a number, not {value!r}")
    try:
        value = float(value)
    except OverflowError:
        raise InputError(f"{what} must be finite, not a number beyond 1e308") from None
    if math.isnan(value) or (math.isinf(value) and not (endless and value > 0)):
        raise InputError(f"{what} must be finite, not {value}")
    if value < low or value > high or (value == low and not closed):
        ends = (
            f"from {low:g} to {high:g}"
            if math.isfinite(low) and math.isfinite(high)
            else (f"of at least {low:g}" if closed else f"above {low:g}")
        )
        raise InputError(f"{what} must be {ends}, not {value:g}")
    return value


def prior_draws(model: SourceModel, key: Array, number: int) -> dict[str, Float[Array, "draw ..."]]:
    """Numbers drawn from the priors of a model, by name: arrays with a leading axis of `number` draws."""
    out: dict[str, AnyArray] = {}
    for place, (name, prior) in enumerate(sorted(model.priors.items())):
        size = range_of(name)[2]
        own = jax.random.fold_in(key, place)
        z = jax.random.normal(own, (number, size) if size > 1 else (number,))
        out[name] = z / jnp.linalg.norm(z, axis=-1, keepdims=True) if prior == "isotropic" else prior.value(z)
    return out
