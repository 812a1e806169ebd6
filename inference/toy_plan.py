"""What toys are drawn from, how often, and how they are fitted."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import dipole_to_coefficients, synthesis

from .code_version import code_version

MOST_TOYS = 100_000_000

_ARRAYS = ("rates", "acceptances", "rotations", "weight_spreads", "groups")


@dataclasses.dataclass(frozen=True, eq=False)
class ToyPlan:
    """What is drawn, how often, and how it is fitted: every rate and the acceptance free, as in `fit`.

    A configuration is one observatory (or one energy bin or epoch of it); all share the sky.

    Attributes:
        grid: The ring grid, in the equator of date.
        names: Of the configurations.
        rates: Expected counts of each time bin for an isotropic sky, shape (configuration, time).
        acceptances: Relative acceptances, each sums to 1, shape (configuration, ring, hour_angle).
        dipole: True (delta_0h, delta_6h) in the equator of date; it points to the excess.
        toys: Number of skies. Block k of `block` skies is the same whatever their number.
        seed: Of the random numbers.
        groups: Free rates of each configuration; they divide the time bins. Default one per bin.
        even_rates: Whether the rate is constant within each group of time bins, as where rate bins are asked for; else
            it follows the counts there.
        rotations: Right ascension of a direction in each configuration's frame minus that in the common one [rad].
        weight_spreads: Standard deviation of the logarithm of log-normal event weights; 0 for none.
        block: Skies in one block.

    Raises:
        InputError: If a number is out of range, or an array does not fit the grid.
    """

    grid: RingGrid
    names: tuple[str, ...]
    rates: Float[np.ndarray, "configuration time"]
    acceptances: Float[np.ndarray, "configuration ring hour_angle"]
    dipole: tuple[float, float] = (0.0, 0.0)
    toys: int = 1000
    seed: int = 0
    groups: Int[np.ndarray, " configuration"] | None = None
    even_rates: bool = False
    rotations: Float[np.ndarray, " configuration"] | None = None
    weight_spreads: Float[np.ndarray, " configuration"] | None = None
    block: int = 1000

    def __post_init__(self):
        defaults = {
            "groups": np.full(len(self.names), self.grid.n_ra),
            "rotations": np.zeros(len(self.names)),
            "weight_spreads": np.zeros(len(self.names)),
        }
        for name, values in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, values)
        object.__setattr__(self, "dipole", tuple(float(x) for x in self.dipole))
        _require_plan(self)

    @property
    def isotropic(self) -> bool:
        """Whether the true sky has no dipole."""
        return self.dipole == (0.0, 0.0)

    @property
    def kind(self) -> str:
        """ "isotropic" or "dipole": the first word of the names of its files."""
        return "isotropic" if self.isotropic else "dipole"

    @property
    def weighted(self) -> bool:
        """Whether events carry weights."""
        return bool(self.weight_spreads.any())

    @property
    def blocks(self) -> int:
        """Number of blocks, the last of which may be short."""
        return -(-self.toys // self.block)

    def size(self, number: int) -> int:
        """Skies of a block."""
        return min(self.block, self.toys - number * self.block)

    def random(self, number: int, configuration: int) -> np.random.Generator:
        """Random numbers of a block in a configuration: those of other blocks, seeds, skies and configurations are
        others."""
        # The numbers that tell streams apart have places of their own: in one list a large seed runs into the next.
        key = (int(not self.isotropic), configuration, number)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def sky(self, configuration: int) -> Float[np.ndarray, "ring ra"]:
        """True relative intensity of the cells in the frame of a configuration."""
        turn = self.rotations[configuration]
        first, second = self.dipole
        turned = (first * np.cos(turn) - second * np.sin(turn), first * np.sin(turn) + second * np.cos(turn), 0.0)
        return 1 + np.asarray(synthesis(dipole_to_coefficients(np.array(turned)), self.grid, cell_average=True))

    @property
    def label(self) -> dict[str, Any]:
        """What identifies the skies, their number apart. JSON."""
        digest = hashlib.sha256()
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return {
            "software": code_version(),
            "grid": list(self.grid.shape),
            "observatories": list(self.names),
            "dipole": list(self.dipole),
            "seed": self.seed,
            "even rates": self.even_rates,
            "block": self.block,
            "detectors": digest.hexdigest(),
        }

    @property
    def checksum(self) -> str:
        """SHA-256 of the label."""
        return hashlib.sha256(json.dumps(self.label, sort_keys=True).encode()).hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def replace(self, **changes: Any) -> "ToyPlan":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def plan_of_arrays(label: dict[str, Any], arrays: dict[str, np.ndarray], toys: int) -> ToyPlan:
    """The plan again from its label and its arrays."""
    return ToyPlan(
        grid=RingGrid(*label["grid"]),
        names=tuple(label["observatories"]),
        dipole=tuple(label["dipole"]),
        toys=toys,
        seed=label["seed"],
        even_rates=label["even rates"],
        block=label["block"],
        **{name: arrays[name] for name in _ARRAYS},
    )


def _require_plan(plan: ToyPlan) -> None:
    for name, low, high in (("toys", 1, MOST_TOYS), ("block", 1, 1_000_000), ("seed", 0, 2**63)):
        value = getattr(plan, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
            raise InputError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    if len(plan.dipole) != 2 or not np.hypot(*plan.dipole) < 1:
        raise InputError(f"the dipole of toys must be two numbers with a length below 1, not {list(plan.dipole)}")
    n, count = plan.grid.n_ra, len(plan.names)
    shapes = {"rates": (count, n), "acceptances": (count, *plan.grid.shape)}
    for name in _ARRAYS:
        values, shape = getattr(plan, name), shapes.get(name, (count,))
        if values.shape != shape or not np.all(np.isfinite(values)):
            raise InputError(f"the {name} of toys must be finite and of shape {shape}; they are {values.shape}")
    if min(plan.rates.min(), plan.acceptances.min(), plan.weight_spreads.min()) < 0 or not np.all(
        plan.rates.sum(1) > 0
    ):
        raise InputError("rates, acceptances and spreads of weights of toys must not be negative, nor all rates zero")
    if not np.allclose(plan.acceptances.sum((1, 2)), 1):
        raise InputError("each acceptance of toys must sum to 1; divide it by its sum")
    if any(n % g for g in plan.groups):
        raise InputError(f"rate bins of toys must divide the {n} time bins, not {plan.groups.tolist()}")
