"""Which model with which priors: every contradiction is refused in one line, and what follows from a choice."""

import inspect
import json

import numpy as np
import pytest
from diffcr.inference import models, specification
from diffcr.inference.data import Counts
from diffcr.inference.sky_likelihood import SkyLikelihood
from diffcr.inference.specification import MODELS, Specification

from diffcr.errors import InputError

COUNTS = object.__new__(Counts)


def empty_sky(*energies):
    """A likelihood that knows its energy bins and nothing else."""
    sky = object.__new__(SkyLikelihood)
    object.__setattr__(sky, "energies", energies)
    return sky


def field(**priors):
    return Specification("local-field", priors=priors)


WRONG = [
    (lambda: Specification("quadrupole"), r"unknown model 'quadrupole': choose one of dipole, multipoles, local-field"),
    (
        lambda: Specification("multipoles", priors={"medain": 1e-7}),
        r"the model multipoles has no prior 'medain'; did you mean 'median'\?",
    ),
    (lambda: Specification("dipole", priors={"xyz": 1}), r"the model dipole has no prior 'xyz'; it has scale$"),
    # What the data decide is no prior.
    (lambda: field(stretch=np.eye(2)), r"the model local-field has no prior 'stretch'"),
    (lambda: Specification("dipole", priors={"sky": 1}), r"the model dipole has no prior 'sky'"),
    (lambda: Specification("dipole", priors={"rates": "laplace"}), r"the model dipole has no prior 'rates'"),
    (lambda: Specification(rates="profiled"), r"rates must be sampled or laplace, not 'profiled'"),
    *(
        (
            lambda c=c: Specification(concentration=c),
            r"concentration of the rates' Dirichlet prior must be positive and",
        )
        for c in (0.0, -1.0, np.inf, np.nan)
    ),
    *(
        (
            lambda s=s: Specification("dipole", priors={"scale": s}),
            r"the prior scale of the dipole must be positive and finite, not .*: a prior that cannot be normalised",
        )
        for s in (0.0, -1.0, np.inf, np.nan)
    ),
    (lambda: Specification("dipole", l_max=2), r"the model dipole has l_max 1, not 2; use --model multipoles"),
    (
        lambda: Specification("multipoles", priors={"dipole_scale": 0.0}),
        r"the prior scale of the dipole must be positive and finite, not 0.0",
    ),
    (
        lambda: Specification("multipoles", priors={"power": "flat"}),
        r"the shape of C_l must be one of free, power-law, cascade, template, fixed, not 'flat'",
    ),
    (
        lambda: Specification("multipoles", l_max=1),
        r"the model multipoles needs l_max of at least 2, not 1; use --model dipole",
    ),
    (
        lambda: Specification("multipoles", priors={"median": 0.0}),
        r"the prior median of C_2 must be positive and finite",
    ),
    (
        lambda: Specification("multipoles", priors={"spread": np.inf}),
        r"the spread of ln C_l must be positive and finite",
    ),
    (
        lambda: Specification("multipoles", priors={"slope": np.nan}),
        r"the slope of the prior C_l must be finite, not nan",
    ),
    (lambda: field(transport="diffusive"), r"transport must be projected or tensor, not 'diffusive'"),
    (lambda: field(scale=-1e-3), r"the prior scale of the gradient dipole must be positive and finite"),
    *(
        (
            lambda b=b: field(perpendicular=b),
            r"the bounds of kappa_perp/kappa_par contradict each other or lie outside \(0, 1\]: .*; give the lower one",
        )
        for b in ((0.5, 0.1), (0.0, 1.0), (0.1, 1.5), (0.1, 0.1), (np.nan, 1.0))
    ),
    (lambda: field(transport="tensor", antisymmetric=-0.5), r"\|kappa_A\|/kappa_par must not be negative, got -0.5"),
    (lambda: field(transport="tensor", antisymmetric=np.inf), r"\|kappa_A\|/kappa_par must not be negative, got inf"),
    (
        lambda: field(antisymmetric=0.5),
        r"kappa_A has no meaning for a dipole projected on the field; use the transport",
    ),
    *(
        (lambda g=g: field(spectral_index=g), r"the spectral index needs a mean and a width that is not negative, got")
        for g in ((np.nan, 0.1), (2.7, -0.1), (2.7, np.inf))
    ),
    *(
        (
            lambda s=s: field(velocity=(0, 0, 0), velocity_spread=s),
            r"the spread of the velocity must not be negative, got",
        )
        for s in (-1e-5, np.nan)
    ),
    (lambda: field(velocity_spread=1e-5), r"a spread of the velocity was given, but no velocity; give its mean too"),
    *(
        (lambda v=v: field(velocity=v), r"the velocity needs three components in units of c, shorter than 1, got")
        for v in ((1e-4, 0.0), (1.0, 0.0, 0.0), (np.nan, 0.0, 0.0), 1e-4)
    ),
    (lambda: field(profile_scale=0.0), r"the prior scale of the profile must be positive and finite"),
    (lambda: field(profile_scale=[1e-3, -1e-3]), r"the prior scale of the profile must be positive and finite"),
    (
        lambda: Specification("local-field", l_max=1, priors={"profile_scale": 1e-3}),
        r"a profile about the field needs l_max of at least 2; raise --lmax",
    ),
    (
        lambda: Specification("local-field", l_max=4, priors={"profile_scale": [1e-3, 1e-3]}),
        r"the profile needs one scale, or one for each l from 2 to 4, got 2",
    ),
    (
        lambda: Specification("local-field", l_max=2),
        r"l_max = 2 without a profile leaves the multipoles above the dipole without a model; give --profile-scale",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_cannot_be_sampled_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Specification("multipoles", priors={"scale": 1.0}),
        lambda: Specification("local-field", priors={"median": 1.0}),
    ],
)
def test_a_prior_of_another_model_is_not_one_of_this(make):
    with pytest.raises(InputError, match="has no prior"):
        make()


@pytest.mark.parametrize(
    ("spec", "degree", "dense", "accept", "symmetric", "profile"),
    [
        (Specification(), 1, False, 0.8, False, False),
        (Specification("multipoles"), 4, False, 0.8, False, False),
        (Specification("multipoles", l_max=6), 6, False, 0.8, False, False),
        (field(), 1, True, 0.8, True, False),
        (field(profile_scale=1e-3), 3, True, 0.8, True, True),
        (field(transport="tensor"), 1, True, 0.9, True, False),
        (field(transport="tensor", antisymmetric=0.5), 1, True, 0.9, False, False),
        (field(transport="tensor", antisymmetric=0.5, profile_scale=[1e-3, 2e-3]), 3, True, 0.9, False, True),
    ],
)
def test_what_follows_from_a_choice(spec, degree, dense, accept, symmetric, profile):
    assert spec.degree == degree
    assert bool(spec.dense) == dense
    assert spec.target_accept == accept
    assert spec.symmetric == symmetric
    assert spec.has_profile == profile


def test_a_prior_is_the_one_given_or_the_functions_own_default():
    for name, function in MODELS.items():
        spec = Specification(name)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name not in ("sky", "stretch", "rates"):
                assert spec.prior(parameter.name) == parameter.default
    assert Specification("multipoles", priors={"median": 2e-6}).prior("median") == 2e-6


def test_the_function_is_the_model_with_its_priors():
    function = Specification("multipoles", rates="laplace", priors={"median": 2e-6, "power": "cascade"}).function
    assert function.func is models.multipoles
    assert function.keywords == {"rates": "laplace", "median": 2e-6, "power": "cascade"}


def test_the_header_is_json_and_says_the_whole_choice():
    spec = Specification(
        "local-field",
        concentration=2.0,
        rate_bins=12,
        priors={"profile_scale": np.array([1e-3, 2e-3]), "velocity": (1e-4, 0.0, 0.0), "scale": np.float64(0.1)},
    )
    entry = json.loads(json.dumps(spec.header()))
    assert entry == {
        "model": "local-field",
        "l_max": 3,
        "priors": {"profile_scale": [1e-3, 2e-3], "scale": 0.1, "velocity": [1e-4, 0.0, 0.0]},
        "concentration": 2.0,
        "rate_bins": 12,
        "rates": "sampled",
    }
    assert list(entry["priors"]) == sorted(entry["priors"])


@pytest.fixture
def asked(monkeypatch):
    """What `sky_likelihood` is asked for."""
    calls = []
    monkeypatch.setattr(specification, "sky_likelihood", lambda *args: (calls.append(args), empty_sky())[1])
    return calls


def test_the_likelihood_is_centred_with_the_median_power(asked):
    """1/C_l with C_l = 1e-6 (l/2)^-3 for l >= 2, nothing for the dipole, whose own prior is wide."""
    spec = Specification("multipoles", l_max=3, concentration=2.0, rate_bins=6, priors={"median": 1e-6, "slope": 3.0})
    spec.likelihood(COUNTS, nodes=9)
    ((counts, l_max, groups, concentration, precision, nodes),) = asked
    assert counts is COUNTS
    assert (l_max, groups, concentration, nodes) == (3, 6, 2.0, 9)
    np.testing.assert_allclose(precision, [0] * 2 + [1e6] * 4 + [1e6 * 1.5**3] * 6)


def test_the_likelihood_of_a_profile_is_centred_with_its_widths(asked):
    field(profile_scale=1e-3).likelihood(COUNTS)
    Specification("local-field", l_max=3, priors={"profile_scale": [1e-3, 1e-4]}).likelihood(COUNTS)
    Specification("dipole").likelihood(COUNTS)
    one, each, none = (call[4] for call in asked)
    assert not one[:2].any() and (one[2:] > 0).all() and len(one) == 12
    np.testing.assert_allclose(each[:6], one[:6])
    np.testing.assert_allclose(each[6:], 100 * one[6:])
    np.testing.assert_array_equal(none, [0, 0])


def test_the_mirror_turns_over_the_field_and_what_goes_with_it():
    """(B, kappa_A) -> (-B, -kappa_A): strengths along B and odd multipoles of the profile change sign, gradients and
    even ones do not."""
    sky = empty_sky("a", "b")
    assert Specification().mirror(sky) is None
    assert Specification("multipoles").mirror(sky) is None
    plain = field().mirror(sky)
    assert plain["field"] == plain["field_sine_declination"] == -1
    np.testing.assert_array_equal(plain["sources"], [-1, -1])
    profile = Specification("local-field", l_max=5, priors={"profile_scale": 1e-3}).mirror(sky)
    np.testing.assert_array_equal(profile["sources"], [-1, -1, 1, -1, 1, -1])
    tensor = field(transport="tensor", antisymmetric=0.3, profile_scale=1e-3).mirror(sky)
    np.testing.assert_array_equal(tensor["sources"], [1] * 6 + [1, -1])
    assert tensor["antisymmetric"] == -1
    assert "antisymmetric" not in field(transport="tensor").mirror(sky)


def test_only_a_field_has_a_stretch():
    assert Specification().arguments(empty_sky()) == {} == Specification("multipoles").arguments(empty_sky())
