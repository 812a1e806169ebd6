"""Discrete sources of cosmic rays: where, when, how many particles and with which spectrum; and those known nearby.

Places are Galactic Cartesian, from the Sun: x to the Galactic centre, y to l = 90 degrees, z to the north Galactic
pole [pc]. The Sun lies in the plane z = 0.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from .errors import InputError, is_known
from .sky import unit_vector
from .units import DEGREE, SPEED_OF_LIGHT

SPECTRAL_INDEX = 2.7 - 1 / 3
"""Index of the injected spectrum where nothing else is said: 2.7 as observed, with diffusion rising as R^(1/3)."""


class Sources(eqx.Module):
    """Discrete sources. Those of power 0 do not exist: they only keep shapes fixed.

    A batch of ensembles, as `jax.vmap` returns it, has leading axes; what takes Sources takes one of them.

    Attributes:
        position: Places [pc].
        age: Time since the first emission [yr]; above 0.
        duration: 0 for a burst at `age`; above 0 for constant emission from `age` to
            max(age - duration, 0) ago [yr].
        power: Number of particles injected per rigidity at 1 TV (before the cutoff), over that of the reference
            supernova; for lasting emission the number of the whole `duration`. Dimensionless.
        spectral_index: Injected number per rigidity ~ rigidity^-index exp(-rigidity / cutoff). Dimensionless.
        cutoff: Cutoff rigidity [TV], inf for none.
    """

    position: Float[Array, "source 3"]
    age: Float[Array, " source"]
    duration: Float[Array, " source"]
    power: Float[Array, " source"]
    spectral_index: Float[Array, " source"]
    cutoff: Float[Array, " source"]


def make_sources(
    position: Real[ArrayLike, "source 3"],
    age: Real[ArrayLike, "..."],
    power: Real[ArrayLike, "..."] = 1.0,
    spectral_index: Real[ArrayLike, "..."] = SPECTRAL_INDEX,
    cutoff: Real[ArrayLike, "..."] = np.inf,
    duration: Real[ArrayLike, "..."] = 0.0,
) -> Sources:
    """Sources at these places [pc], everything else given once for all or for each; see `Sources`.

    Nothing is checked: `require_sources` does so where numbers come in.
    """
    position = jnp.asarray(position, float)
    each = (jnp.broadcast_to(jnp.asarray(x, float), position.shape[:1]) for x in (age, duration, power))
    spectrum = (jnp.broadcast_to(jnp.asarray(x, float), position.shape[:1]) for x in (spectral_index, cutoff))
    return Sources(position, *each, *spectrum)


def join(*sources: Sources) -> Sources:
    """All sources of several collections, in order.

    Raises:
        InputError: Where there is nothing to join.
    """
    if not sources:
        raise InputError("no sources to join: give at least one collection of sources")
    return Sources(*(jnp.concatenate(parts) for parts in zip(*(_fields(each) for each in sources), strict=True)))


def galactic_position(
    distance: Real[ArrayLike, "..."], longitude: Float[ArrayLike, "..."], latitude: Float[ArrayLike, "..."]
) -> Float[Array, "... 3"]:
    """Places [pc] at a distance from the Sun [pc] in the direction l, b [rad]; the three are broadcast together."""
    return jnp.asarray(distance)[..., None] * unit_vector(longitude, latitude)


def log_spectrum(
    rigidity: Real[ArrayLike, "..."], spectral_index: Real[ArrayLike, "..."], cutoff: Real[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """ln(rigidity^-index exp(-rigidity / cutoff)), which is 0 at 1 TV without a cutoff.

    Args:
        rigidity: [TV]; above 0. The three are broadcast together.
        spectral_index: Dimensionless.
        cutoff: [TV], above 0; at inf all gradients are finite, that to the cutoff is 0.
    """
    rigidity = jnp.asarray(rigidity)
    return -jnp.asarray(spectral_index) * jnp.log(rigidity) - rigidity / jnp.asarray(cutoff)


# Where diffusion does not hold --------------------------------------------------------------------------------


def superluminal(sources: Sources) -> Bool[Array, "*batch source"]:
    """Whether a source is farther than light went since its first emission, r > c t: nothing can have arrived.

    Diffusion knows no such limit and gives these sources a density all the same, with a dipole above 3/2.
    """
    square = jnp.sum(sources.position**2, axis=-1)
    return square > (SPEED_OF_LIGHT * sources.age) ** 2


def age_limit(sources: Sources) -> Float[Array, "*batch source"]:
    """Dipole 3 r / (2 c t) of each source were it a burst and alone, in free space with isotropic diffusion.

    It depends on neither the diffusion coefficient nor the energy, and other particles only dilute it. Diffusion
    holds where it is well below 1. Lasting emission is taken for a burst at its start: what came later has more.

    References:
        Shen & Mao (1971), Astrophys. Lett. 9, 169.
    """
    square = jnp.sum(sources.position**2, axis=-1)
    # At r = 0 the root has no derivative, and the gradient is set to the zero of symmetry.
    away = square > 0
    distance = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)
    return 3 * distance / (2 * SPEED_OF_LIGHT * sources.age)


# The boundary ---------------------------------------------------------------------------------------------------


def require_sources(sources: Sources, halo_height: Real[ArrayLike, ""] | None = None) -> Sources:
    """The same sources, where they can be sources; traced ones have no values to check and pass.

    Args:
        sources: One collection, or a batch of them.
        halo_height: Half-height of the halo [pc], None where there is no boundary.

    Raises:
        InputError: If shapes do not belong together, a number is not finite (a cutoff may be infinite), an age or
            cutoff is not above zero, a duration or power is negative, or a source is not inside the halo. The
            message names the first such source, counted from 0.
    """
    if not all(is_known(value) for value in _fields(sources)):
        return sources
    fields = {field.name: np.asarray(getattr(sources, field.name)) for field in dataclasses.fields(sources)}
    position = fields["position"]
    for name, value in fields.items():
        if position.shape[-1:] != (3,) or value.shape != (
            position.shape if name == "position" else position.shape[:-1]
        ):
            shapes = ", ".join(f"{name} {value.shape}" for name, value in fields.items())
            raise InputError(
                f"sources of these shapes do not belong together: {shapes}; give positions (source, 3) and one "
                "number per source for all else, as make_sources does"
            )
    age, duration, power, cutoff = (fields[name] for name in ("age", "duration", "power", "cutoff"))
    for name in ("age", "duration", "power", "spectral_index"):
        _require(np.isfinite(fields[name]), fields[name], f"the {name} must be finite", "give a number")
    _require(np.isfinite(position).all(-1), position, "the position must be finite", "give three numbers in pc")
    _require(age > 0, age, "the age must not be negative or zero", "give the years since the first emission")
    _require(duration >= 0, duration, "the duration must not be negative", "give years, 0 for a burst")
    _require(power >= 0, power, "the power must not be negative", "give a number of reference supernovae")
    _require(cutoff > 0, cutoff, "the cutoff must be above zero", "give a rigidity in TV, inf for none")
    if halo_height is not None and is_known(halo_height):
        z = position[..., 2]
        _require(
            np.abs(z) < halo_height,
            z,
            f"a source outside the halo: z must be between -{float(halo_height):g} and {float(halo_height):g} pc",
            "raise the halo's height or leave the source out",
        )
    return sources


def _require(good: np.ndarray, value: np.ndarray, what: str, remedy: str) -> None:
    if not np.all(good):
        first = np.unravel_index(np.argmin(good), good.shape)
        where = ", ".join(str(i) for i in first)
        shown = np.array2string(value[first], separator=", ", formatter={"float_kind": lambda x: f"{x:g}"})
        raise InputError(f"source {where}: {what}, not {shown}: {remedy}")


def _fields(sources: Sources) -> tuple:
    return tuple(getattr(sources, field.name) for field in dataclasses.fields(sources))


# Known remnants -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Remnant:
    """A known supernova remnant.

    Attributes:
        name: What messages and files call it.
        longitude: Galactic longitude [deg].
        latitude: Galactic latitude [deg].
        distance: Lowest, best and highest distance [pc].
        age: Lowest, best and highest age [yr].
        reference: The publications that the numbers are from.
        checked: Whether best distance and best age were read in the publication, its abstract or a text that
            quotes it. Else they are from memory.
        power: As in `Sources`; None leaves it to whoever uses the table, as for the next two.
        spectral_index: As in `Sources`.
        cutoff: As in `Sources` [TV].
        duration: As in `Sources` [yr].

    Raises:
        InputError: If a number is not finite (the cutoff may be infinite) or out of range.
    """

    name: str
    longitude: float
    latitude: float
    distance: tuple[float, float, float]
    age: tuple[float, float, float]
    reference: str = ""
    checked: bool = False
    power: float | None = None
    spectral_index: float | None = None
    cutoff: float | None = None
    duration: float | None = None

    def __post_init__(self):
        if not self.name:
            raise InputError("a remnant has no name: give each one a name of its own")
        for what, value, low, high in (
            ("longitude", self.longitude, -360, 360),
            ("latitude", self.latitude, -90, 90),
        ):
            if not low <= value <= high:
                raise InputError(f"{self.name}: the {what} must lie in [{low}, {high}] degrees, not {value:g}")
        for what, unit, values in (("distance", "pc", self.distance), ("age", "yr", self.age)):
            low, best, high = values
            if not (0 < low <= best <= high < math.inf):
                raise InputError(
                    f"{self.name}: the {what} must be above zero and finite, lowest <= best <= highest, "
                    f"not {low:g}, {best:g}, {high:g} {unit}"
                )
        for what, value in (("power", self.power), ("duration", self.duration)):
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{self.name}: the {what} must be finite and not negative, not {value:g}")
        if self.cutoff is not None and not self.cutoff > 0:
            raise InputError(f"{self.name}: the cutoff must be above zero, not {self.cutoff:g}: give TV, inf for none")
        if self.spectral_index is not None and not math.isfinite(self.spectral_index):
            raise InputError(f"{self.name}: the spectral index must be finite, not {self.spectral_index:g}")


_TABLE = (
    Remnant(
        "Vela",
        263.9,
        -3.3,
        (250.0, 287.0, 306.0),
        (9000.0, 11300.0, 27000.0),
        "Distance: VLBI parallax of the pulsar, Dodson et al. (2003), ApJ 596, 1137, lowest Cha, Sembach & Danks "
        "(1999), ApJ 515, L25. Age: spin-down of the pulsar, Reichley, Downs & Morris (1970), ApJ 159, L35, range "
        "Aschenbach, Egger & Truemper (1995), Nature 373, 587.",
    ),
    Remnant(
        "Monogem",
        201.1,
        8.3,
        (261.0, 288.0, 321.0),
        (86000.0, 86000.0, 110000.0),
        "Distance: parallax of PSR B0656+14, Brisken et al. (2003), ApJ 593, L89. Age: Plucinsky et al. (1996), ApJ "
        "463, 224, highest the pulsar's spin-down, Thorsett et al. (2003), ApJ 592, L71. The place is the pulsar's; "
        "the ring is centred on (203, 12) and 25 degrees wide.",
        checked=True,
    ),
    Remnant(
        "Geminga",
        195.1,
        4.3,
        (188.0, 250.0, 370.0),
        (300000.0, 342000.0, 342000.0),
        "Distance: parallax of the pulsar, Faherty, Walter & Anderson (2007), Ap&SS 308, 225. Age: spin-down of the "
        "pulsar, an upper limit, Bignami & Caraveo (1996), ARA&A 34, 331, lowest Gehrels & Chen (1993), Nature 361, "
        "706. The place is the pulsar's today.",
        checked=True,
    ),
    Remnant(
        "Cygnus Loop",
        74.0,
        -8.5,
        (710.0, 725.0, 740.0),
        (10000.0, 20000.0, 21000.0),
        "Distance and age: Fesen et al. (2021), MNRAS 507, 244, highest age Fesen et al. (2018), MNRAS 481, 1786, "
        "lowest from memory.",
        checked=True,
    ),
    Remnant(
        "Loop I",
        329.0,
        17.5,
        (130.0, 170.0, 200.0),
        (100000.0, 200000.0, 300000.0),
        "Distance of the centre: Egger & Aschenbach (1995), A&A 294, L25, lowest Berkhuijsen (1973), A&A 24, 143. "
        "Age: of the last supernova, Egger (1998), Lect. Notes Phys. 506, 287, within a factor. Whether it is "
        "local at all is disputed: Lallement (2022), C. R. Phys. 23, 1.",
    ),
    Remnant(
        "Vela Jr",
        266.2,
        -1.2,
        (500.0, 750.0, 1000.0),
        (1700.0, 3000.0, 5100.0),
        "Distance and age: Katsuda, Tsunemi & Mori (2008), ApJ 678, L35, range of both with Allen et al. (2015), "
        "ApJ 798, 82.",
    ),
    Remnant(
        "S147",
        180.0,
        -1.7,
        (1200.0, 1470.0, 1890.0),
        (26000.0, 40000.0, 40000.0),
        "Distance and age: parallax and motion of PSR J0538+2817, Ng et al. (2007), ApJ 654, 487, lowest age Kramer "
        "et al. (2003), ApJ 593, L31.",
        checked=True,
    ),
)
REMNANTS: dict[str, Remnant] = {entry.name: entry for entry in _TABLE}
"""Supernova remnants near the Sun, by name. Any mapping of names to Remnants stands in for it."""


def known_sources(
    names: str | Sequence[str] | None = None,
    power: Real[ArrayLike, ""] = 1.0,
    spectral_index: Real[ArrayLike, ""] = SPECTRAL_INDEX,
    cutoff: Real[ArrayLike, ""] = math.inf,
    duration: Real[ArrayLike, ""] = 0.0,
    table: Mapping[str, Remnant] = REMNANTS,
) -> Sources:
    """Remnants of a table at their best distances and ages, in the order of the names.

    Args:
        names: Which ones, in any case and with or without spaces and hyphens; None for all of the table.
        power: As in `Sources`, like the next three, for the remnants of which the table leaves it open.
        spectral_index: Dimensionless.
        cutoff: [TV].
        duration: [yr].
        table: Remnants by name.

    Raises:
        InputError: If a name is unknown (the message names the nearest one) or given twice, or there is none.
    """
    chosen = (
        [*table] if names is None else [_find(name, table) for name in ([names] if isinstance(names, str) else names)]
    )
    if not chosen:
        raise InputError(
            f"no remnant is named: choose from {', '.join(table)}" if table else "the table has no remnant"
        )
    for name in chosen:
        if chosen.count(name) > 1:
            raise InputError(f"the remnant {name!r} is named twice and would count twice: name it once")
    remnants = [table[name] for name in chosen]

    def column(field: str, default: Real[ArrayLike, ""]) -> Real[Array, " source"]:
        values = [getattr(each, field) for each in remnants]
        given = np.array([value is not None for value in values])
        return jnp.where(
            given, np.array([value if ok else 1.0 for value, ok in zip(values, given, strict=True)]), default
        )

    angles = np.array([(each.longitude, each.latitude) for each in remnants]) * DEGREE
    return make_sources(
        galactic_position(np.array([each.distance[1] for each in remnants], float), angles[:, 0], angles[:, 1]),
        np.array([each.age[1] for each in remnants], float),
        column("power", power),
        column("spectral_index", spectral_index),
        column("cutoff", cutoff),
        column("duration", duration),
    )


_NEEDED = ("name", "longitude_deg", "latitude_deg", "distance_pc", "age_yr")
_RANGES = ("distance_low_pc", "distance_high_pc", "age_low_yr", "age_high_yr")
_OPTIONAL = {"power": "power", "spectral_index": "spectral_index", "cutoff_TV": "cutoff", "duration_yr": "duration"}
REMNANT_COLUMNS = (*_NEEDED, *_RANGES, *_OPTIONAL, "reference")
"""Columns of a table of remnants: the first five are needed; of the others an empty cell is one left out."""


def remnants_from_rows(rows: Iterable[Mapping[str, str]], what: str = "the table of remnants") -> dict[str, Remnant]:
    """Remnants by name from rows of text, such as `csv.DictReader` gives.

    Args:
        rows: For each remnant the text of the columns `REMNANT_COLUMNS`: angles in degrees, pc, yr and TV. Where
            there is no lowest or highest value, it is the best one.
        what: What messages call the table.

    Raises:
        InputError: If a column is unknown (the message names the nearest valid one) or missing, a cell is not the
            number it should be or out of range, a name occurs twice, or there is no row. Rows are counted from 1.
    """
    found = {}
    for number, row in enumerate(rows, 1):
        try:
            remnant = _remnant(row)
            if _plain(remnant.name) in {_plain(name) for name in found}:
                raise InputError(f"{remnant.name!r} is there already: give each remnant one row and a name of its own")
        except InputError as error:
            raise InputError(f"row {number} of {what}: {error}") from None
        found[remnant.name] = remnant
    if not found:
        raise InputError(f"{what} has no rows: give at least one with the columns {', '.join(_NEEDED)}")
    return found


def _remnant(row: Mapping[str, str]) -> Remnant:
    for column in row:
        if not isinstance(column, str):
            raise InputError("there are more cells than columns: quote a text with commas in it")
        if column not in REMNANT_COLUMNS:
            nearest = difflib.get_close_matches(column, REMNANT_COLUMNS, n=1, cutoff=0.0)[0]
            raise InputError(f"unknown column {column!r}; the nearest valid one is {nearest!r}")
    text = {column: (value or "").strip() for column, value in row.items()}
    for column in _NEEDED:
        if not text.get(column):
            raise InputError(f"the column {column!r} is {'empty' if column in text else 'missing'}, and is needed")

    def number(column: str, default: float | None = None) -> float | None:
        if not text.get(column):
            return default
        try:
            return float(text[column])
        except ValueError:
            raise InputError(f"{column} must be a number, not {text[column]!r}") from None

    distance, age = number("distance_pc"), number("age_yr")
    return Remnant(
        text["name"],
        number("longitude_deg"),
        number("latitude_deg"),
        (number("distance_low_pc", distance), distance, number("distance_high_pc", distance)),
        (number("age_low_yr", age), age, number("age_high_yr", age)),
        text.get("reference", ""),
        **{field: number(column) for column, field in _OPTIONAL.items()},
    )


def _find(name: str, table: Mapping[str, Remnant]) -> str:
    plain = {_plain(each): each for each in table}
    if _plain(name) not in plain:
        near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.0)
        nearest = f"; the nearest known one is {plain[near[0]]!r}" if near else ""
        raise InputError(f"unknown remnant {name!r}{nearest}. Known: {', '.join(table)}")
    return plain[_plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
