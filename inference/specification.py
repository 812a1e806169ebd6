"""Which model is sampled with which priors, checked once; everything that follows from that choice."""

import dataclasses
import difflib
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from diffcr.errors import InputError

from . import models, small_scale_model
from .data import Counts
from .multipoles import free_multipoles
from .prior import SHAPES, log_power_prior, require_positive
from .sky_likelihood import SkyLikelihood, sky_likelihood

MODELS = {
    "dipole": models.dipole,
    "multipoles": models.multipoles,
    "local-field": models.local_field,
    "small-scale": small_scale_model.small_scale,
}
"""Models by the name that the command line knows."""

_DERIVED = {"sky", "stretch"}

_POWER = ("power", "median", "slope", "spread", "template")
"""Priors of C_l, in the order of `log_power_prior`."""


@dataclasses.dataclass(frozen=True)
class Specification:
    """A model, its priors, and how the rates are treated.

    Attributes:
        model: "dipole", "multipoles", "local-field" or "small-scale".
        l_max: Highest degree; None for the least that the model needs (1, or 4 for multipoles and small scales, and 1
            for a local field without a profile, else 3).
        priors: Arguments of the model function by name; the others keep their defaults.
        concentration: alpha of the Dirichlet prior of the relative rates.
        rate_bins: Free rates per configuration; None for as many as hold 100 events each.
        rates: "sampled", or "laplace" for Laplace's approximation.

    Raises:
        InputError: If a name is unknown or a prior is improper or contradictory.
    """

    model: str = "dipole"
    l_max: int | None = None
    priors: dict[str, Any] = dataclasses.field(default_factory=dict)
    concentration: float = 1.0
    rate_bins: int | None = None
    rates: str = "sampled"

    def __post_init__(self):
        if self.model not in MODELS:
            raise InputError(f"unknown model {self.model!r}: choose one of {', '.join(MODELS)}")
        known = [name for name in inspect.signature(MODELS[self.model]).parameters if name not in {*_DERIVED, "rates"}]
        for name in self.priors:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise InputError(
                    f"the model {self.model} has no prior {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}")
                )
        if self.rates not in ("sampled", "laplace"):
            raise InputError(f"rates must be sampled or laplace, not {self.rates!r}")
        if not (np.isfinite(self.concentration) and self.concentration > 0):
            raise InputError(
                f"the concentration of the rates' Dirichlet prior must be positive and finite, not "
                f"{self.concentration}; 1 is uniform on the relative rates"
            )
        _CHECKS[self.model](self)

    def prior(self, name: str) -> Any:
        """A prior's value, given or default."""
        return self.priors.get(name, inspect.signature(MODELS[self.model]).parameters[name].default)

    @property
    def degree(self) -> int:
        """l_max, given or default."""
        if self.l_max is not None:
            return self.l_max
        if self.model in ("multipoles", "small-scale"):
            return 4
        return 3 if self.has_profile else 1

    @property
    def has_profile(self) -> bool:
        """Whether an axisymmetric profile about the field is part of the sky."""
        return self.model == "local-field" and self.prior("profile_scale") is not None

    @property
    def function(self) -> Callable:
        """The numpyro model with its priors, a function of the likelihood (and of `arguments`)."""
        return functools.partial(MODELS[self.model], rates=self.rates, **self.priors)

    @property
    def dense(self) -> tuple[str, ...]:
        """Sites that share a dense mass matrix: those that no whitening knows."""
        if self.model == "small-scale":
            return ("field", *small_scale_model.HYPER_PARAMETERS)
        return ("field", "antisymmetric", "log_perpendicular_scaled") if self.model == "local-field" else ()

    @property
    def target_accept(self) -> float:
        """Mean acceptance that the geometry of the model asks for."""
        tensor = self.model == "local-field" and self.prior("transport") == "tensor"
        return 0.9 if tensor or self.model == "small-scale" else 0.8

    @property
    def symmetric(self) -> bool:
        """Whether B and -B cannot be told apart whatever the data, so that only the axis is reported (kappa_A = 0)."""
        if self.model == "small-scale":
            return True
        return self.model == "local-field" and (
            self.prior("transport") == "projected" or self.prior("antisymmetric") == 0
        )

    def likelihood(
        self,
        counts: Counts,
        nodes: int | None = None,
        acceptance: dict[str, np.ndarray] | None = None,
        relative_error: float | dict | None = None,
    ) -> SkyLikelihood:
        """The likelihood of counts for this model, with a geometry that fits its priors.

        Args:
            counts: The binned data.
            nodes: Nodes per ring; None for as many as the accuracy asks for.
            acceptance: Prior mean of each observatory's acceptance by name, (n_ring, n_ra); None where it is free.
            relative_error: Of the acceptance of each cell; see `acceptance_likelihood`.
        """
        l_max = self.degree
        degree, _ = free_multipoles(l_max, acceptance is not None)
        precision = np.zeros(len(degree))
        if self.model == "multipoles" and l_max > 1:
            median = np.exp(log_power_prior(l_max, *(self.prior(k) for k in _POWER)))
            precision = np.where(degree > 1, 1 / median[np.maximum(degree - 2, 0)], 0.0)
        if self.has_profile:
            scale = np.broadcast_to(np.asarray(self.prior("profile_scale"), float), (l_max - 1,))
            widths = scale**2 * 4 * np.pi / (2 * np.arange(2, l_max + 1) + 1) ** 2
            precision = np.where(degree > 1, 1 / widths[np.maximum(degree - 2, 0)], 0.0)
        if self.model == "small-scale":
            _require_one_energy(counts)
            power = small_scale_model.fiducial_power(l_max, **self.priors)
            precision = np.where(degree > 1, 1 / power[np.maximum(degree - 2, 0)], 0.0)
        if acceptance is not None:
            from .acceptance_prior import acceptance_likelihood

            return acceptance_likelihood(
                counts, acceptance, relative_error, l_max, self.rate_bins, self.concentration, precision
            )
        return sky_likelihood(counts, l_max, self.rate_bins, self.concentration, precision, nodes)

    def arguments(self, sky: SkyLikelihood) -> dict[str, Array]:
        """What the model takes besides the likelihood that depends on the data: the stretch of the field."""
        if self.model == "small-scale":
            return {"stretch": jax.jit(functools.partial(small_scale_model.small_scale_stretch, **self.priors))(sky)}
        if self.model != "local-field":
            return {}
        return {"stretch": jax.jit(functools.partial(models.field_stretch, **self.priors))(sky)}

    def mirror(self, sky: SkyLikelihood) -> dict[str, Array] | None:
        """Signs of the move B -> -B, or None where the model has no field."""
        if self.model == "small-scale":
            return small_scale_model.small_scale_mirror(sky, **self.priors)
        if self.model != "local-field":
            return None
        pair = self.prior("transport"), self.degree, len(sky.energies)
        return models.field_mirror(*pair, self.prior("antisymmetric"), self.has_profile)

    def priors_in_use(self) -> dict[str, Any]:
        """Every prior of the model, given or default, as JSON."""
        names = [n for n in inspect.signature(MODELS[self.model]).parameters if n not in {*_DERIVED, "rates"}]
        values = {name: self.prior(name) for name in names}
        return {k: np.asarray(v).tolist() if isinstance(v, np.ndarray | list | tuple) else v for k, v in values.items()}

    def header(self) -> dict[str, Any]:
        """The choice as JSON."""
        entry = dataclasses.asdict(self)
        entry["l_max"] = self.degree
        entry["priors"] = {k: np.asarray(v).tolist() if np.ndim(v) else v for k, v in sorted(self.priors.items())}
        return entry


def _check_dipole(spec: Specification) -> None:
    require_positive("the prior scale of the dipole", spec.prior("scale"))
    if spec.l_max not in (None, 1):
        raise InputError(f"the model dipole has l_max 1, not {spec.l_max}; use --model multipoles")


def _check_multipoles(spec: Specification) -> None:
    require_positive("the prior scale of the dipole", spec.prior("dipole_scale"))
    if spec.prior("power") not in SHAPES:
        raise InputError(f"the shape of C_l must be one of {', '.join(SHAPES)}, not {spec.prior('power')!r}")
    if spec.degree < 2:
        raise InputError(f"the model multipoles needs l_max of at least 2, not {spec.degree}; use --model dipole")
    log_power_prior(spec.degree, *(spec.prior(k) for k in _POWER))
    scatter = spec.prior("template_spread")
    if not (math.isfinite(scatter) and scatter >= 0):
        raise InputError(f"the spread of ln C_l about its template must be finite and not negative, not {scatter}")


def _check_field(spec: Specification) -> None:
    if spec.prior("transport") not in ("projected", "tensor"):
        raise InputError(f"transport must be projected or tensor, not {spec.prior('transport')!r}")
    require_positive("the prior scale of the gradient dipole", spec.prior("scale"))
    low, high = spec.prior("perpendicular")
    if not 0 < low < high <= 1:
        raise InputError(
            f"the bounds of kappa_perp/kappa_par contradict each other or lie outside (0, 1]: {low}, {high}; give the "
            "lower one first"
        )
    most = spec.prior("antisymmetric")
    if not (math.isfinite(most) and most >= 0):
        raise InputError(f"the bound of |kappa_A|/kappa_par must not be negative, got {most}")
    if most > 0 and spec.prior("transport") == "projected":
        raise InputError("kappa_A has no meaning for a dipole projected on the field; use the transport tensor")
    _check_motion(spec)
    if spec.has_profile:
        require_positive("the prior scale of the profile", spec.prior("profile_scale"))
        if spec.degree < 2:
            raise InputError("a profile about the field needs l_max of at least 2; raise --lmax")
        size = np.size(spec.prior("profile_scale"))
        if size not in (1, spec.degree - 1):
            raise InputError(f"the profile needs one scale, or one for each l from 2 to {spec.degree}, got {size}")
    elif spec.degree > 1:
        raise InputError(
            f"l_max = {spec.degree} without a profile leaves the multipoles above the dipole without a model; give "
            "--profile-scale, or lower --lmax"
        )


def _check_motion(spec: Specification) -> None:
    mean, width = spec.prior("spectral_index")
    if not (math.isfinite(mean) and width >= 0 and math.isfinite(width)):
        raise InputError(f"the spectral index needs a mean and a width that is not negative, got {mean}, {width}")
    if not (math.isfinite(spec.prior("velocity_spread")) and spec.prior("velocity_spread") >= 0):
        raise InputError(f"the spread of the velocity must not be negative, got {spec.prior('velocity_spread')}")
    velocity = spec.prior("velocity")
    if velocity is None and spec.prior("velocity_spread") > 0:
        raise InputError("a spread of the velocity was given, but no velocity; give its mean too, such as 0,0,0")
    if velocity is not None and not (np.shape(velocity) == (3,) and np.linalg.norm(velocity) < 1):
        raise InputError(f"the velocity needs three components in units of c, shorter than 1, got {velocity}")


def _check_small_scale(spec: Specification) -> None:
    small_scale_model.check_small_scale(spec.degree, **spec.priors)
    _check_motion(spec)


def _require_one_energy(counts: Counts) -> None:
    energies = counts.n_time.shape[1]
    if energies > 1:
        raise InputError(
            f"the model small-scale describes one energy bin, the counts have {energies}: sample one at a time, "
            "such as with --energy-min and --energy-max"
        )


_CHECKS = {
    "dipole": _check_dipole,
    "multipoles": _check_multipoles,
    "local-field": _check_field,
    "small-scale": _check_small_scale,
}
