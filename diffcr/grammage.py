r"""Boron over carbon in a leaky box, as a constraint on the diffusion coefficient over the halo's height.

Boron is made of heavier nuclei on their way through the gas of the disc, and with a thin disc of gas in a halo
of height H the matter they cross before they leave is

$$ X(R) = \frac{\mu\, v\, H}{2 K(R)}, \qquad K(R) = K_1 (R / \mathrm{TV})^\delta, $$

which B/C follows. The model has carbon and oxygen alone for parents, cross sections that do not depend on the
energy, no break of K, no losses, winds, re-acceleration or solar modulation, and no boron from sources or from
dense matter around them. Nitrogen and the nuclei beyond oxygen add 15 to 20 per cent of boron that it leaves
out, and the cross sections are known to 5 or 10 per cent. It holds above some 20 GV, and as well as that: a
constraint on K / H to 20 per cent, not a propagation code. The index is that of the rigidities of the table;
the ratio flattens above some 300 GV, which one power law does not follow, and which extrapolation to 100 TV needs.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .units import GV

GAS_SURFACE_DENSITY = 2.4e-3
"""Surface density of the gas disc near the Sun, both sides [g/cm^2] (Ferriere 2001, Rev. Mod. Phys. 73, 1031)."""

OXYGEN_OVER_CARBON = 1.08
"""O/C at one rigidity, 50 GV to 2 TV, to 4 per cent (AMS: Aguilar et al. 2021, Phys. Rep. 894, 1)."""

SPECTRAL_INDEX = 2.7
"""Index of the intensity of carbon and oxygen, which moves boron from equal velocity to equal rigidity."""

# Production of 10B and 11B by protons on 12C and 16O at high energy, with the short-lived 10C and 11C that decay
# to them [mb] (Evoli et al. 2019, PRD 99, 103023), and inelastic cross section of boron (Tripathi et al. 1999,
# NASA/TP-1999-209726).
_FROM_CARBON = {10: 17.9, 11: 52.5}
_FROM_OXYGEN = {10: 10.4, 11: 26.9}
_BORON_INELASTIC = 253.0

# Gas with one helium nucleus for ten of hydrogen; cross sections on helium are 4^(2/3) larger. In g.
_PROTON_MASS = 1.67262192e-24
_PER_GRAM = 1e-27 * (1 + 0.1 * 4 ** (2 / 3)) / (1.4 * _PROTON_MASS)


class RatioTable(NamedTuple):
    """Measured ratios of two fluxes.

    Attributes:
        rigidity: Rigidity [TV].
        ratio: The ratio there. Dimensionless.
        error: Its standard error, statistical and systematic in quadrature.
        checked: Whether the numbers were compared with a copy of the publication's table.
        source: Where they were published.
    """

    rigidity: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    checked: bool
    source: str

    def above(self, rigidity: float) -> "RatioTable":
        """The points at this rigidity [TV] and above."""
        keep = self.rigidity >= rigidity
        return self._replace(rigidity=self.rigidity[keep], ratio=self.ratio[keep], error=self.error[keep])


# Rigidity [GV], B/C, statistical and systematic error in units of the last digit of B/C.
_AMS = """
29.93 .2086 11 45   32.28 .2017 12 44   34.78 .1988 12 44   37.47 .1904 13 42   40.37 .1834 13 41
43.47 .1800 14 41   46.77 .1780 15 41   50.32 .1694 15 40   54.11 .1668 16 40   58.16 .1618 17 39
62.51 .1589 18 39   67.21 .1519 18 38   72.25 .1489 19 37   77.65 .1434 20 36   83.45 .1420 21 37
89.69 .1388 22 36   96.44 .1340 23 36   103.9 .1247 23 34   111.9 .1256 26 35   120.4 .1230 26 34
129.9 .1157 27 33   140.9 .1176 28 34   153.4 .1148 30 35   167.3 .1131 31 34   183.3 .1096 32 34
201.3 .1025 33 32   221.7 .1040 36 34   245.7 .0970 36 33   274.5 .0929 36 34   309.9 .0883 38 32
353.7 .0829 39 33   408.8 .0884 44 37   481.2 .0782 42 35   588.6 .0703 41 35   762.1 .0717 46 44
1070. .0733 53 59   2071. .0465 95 40
"""


def _read(text: str, source: str, checked: bool) -> RatioTable:
    rigidity, ratio, statistical, systematic = np.array(text.split(), float).reshape(-1, 4).T
    return RatioTable(rigidity * GV, ratio, 1e-4 * np.hypot(statistical, systematic), checked, source)


BORON_TO_CARBON = _read(
    _AMS, "AMS-02: Aguilar et al. 2021, Phys. Rep. 894, 1, through the Cosmic-Ray Data Base (lpsc.in2p3.fr/crdb)", True
)
"""B/C from 30 GV to 2 TV. Five years of data have the index -0.333 +- 0.015 above 65 GV (Aguilar et al. 2016, PRL 117,
231102)."""


def grammage(
    rigidity: Real[ArrayLike, "..."],
    diffusion: Real[ArrayLike, "..."],
    index: Real[ArrayLike, "..."],
    halo_height: Real[ArrayLike, "..."],
    surface_density: Real[ArrayLike, "..."] = GAS_SURFACE_DENSITY,
) -> Float[Array, "..."]:
    r"""Mean matter X = mu H / (2 K / c) that particles close to c cross before they leave the halo.

    Args:
        rigidity: R [TV].
        diffusion: K / c at 1 TV [pc].
        index: delta, with K proportional to R^delta. Dimensionless.
        halo_height: H, half the full height of the halo [pc].
        surface_density: mu of the gas, both sides of the disc together [g/cm^2]. Leading axes broadcast.

    Returns:
        X [g/cm^2].

    Raises:
        InputError: If an argument other than the index is not finite and above zero, or the index not finite.

    References:
        Jones, Lukasik, Ptuskin & Webber (2001), ApJ 547, 264.
    """
    given = {
        "rigidity": rigidity,
        "diffusion": diffusion,
        "halo_height": halo_height,
        "surface_density": surface_density,
    }
    for name, value in (*given.items(), ("index", index)):
        if is_known(value):
            numbers = np.asarray(value, float)
            if not (np.all(np.isfinite(numbers)) and (name == "index" or np.all(numbers > 0))):
                bound = "" if name == "index" else " and above zero"
                raise InputError(f"{name} of a grammage must be finite{bound}, not {value}: {_UNITS[name]}")
    rigidity, diffusion, halo_height, surface_density = (jnp.asarray(value, float) for value in given.values())
    return surface_density * halo_height / (2 * diffusion) * rigidity ** -jnp.asarray(index, float)


def boron_to_carbon(
    rigidity: Real[ArrayLike, "..."],
    diffusion: Real[ArrayLike, "..."],
    index: Real[ArrayLike, "..."],
    halo_height: Real[ArrayLike, "..."],
    surface_density: Real[ArrayLike, "..."] = GAS_SURFACE_DENSITY,
) -> Float[Array, "..."]:
    r"""B/C at one rigidity, in balance of production, escape and destruction.

    $$ \frac{B}{C} = \frac{X}{1 + X \sigma_B / m} \sum_{A = 10, 11}
       \frac{\sigma_{C \to A} + (O/C)\, \sigma_{O \to A}}{m} \left(\frac{A}{10}\right)^{\Gamma - 1} $$

    with the cross sections per mass of gas. The last factor is that of spectra in rigidity: a fragment keeps the
    velocity of its parent, which for 11B means a rigidity 1.1 times as high.

    Arguments and errors are those of `grammage`. For small X it is proportional to X, and so to H / K.

    References:
        Jones, Lukasik, Ptuskin & Webber (2001), ApJ 547, 264; Genolini et al. (2015), A&A 580, A9.
    """
    matter = grammage(rigidity, diffusion, index, halo_height, surface_density)
    return matter * _PRODUCTION / (1 + matter * _BORON_INELASTIC * _PER_GRAM)


def log_likelihood(
    diffusion: Real[ArrayLike, ""],
    index: Real[ArrayLike, ""],
    halo_height: Real[ArrayLike, ""],
    table: RatioTable = BORON_TO_CARBON,
    systematic: float | int = 0.2,
) -> Float[Array, ""]:
    r"""Log-likelihood of measured B/C, with the height of the model's curve uncertain.

    The model is multiplied by 1 + epsilon, epsilon normal with the width `systematic`, and epsilon integrated
    over: the covariance is diag(error^2) + systematic^2 m m^T for the model values m. It stands for parents left
    out, cross sections and gas, which move the whole curve; the default covers them. The errors of the points
    are taken for independent. However wide the width, the bend of the curve, from the destruction of boron, tells
    K / H to some 10 per cent: it is only as good as the constant cross sections.

    Args:
        diffusion: K / c at 1 TV [pc].
        index: delta. Dimensionless.
        halo_height: H [pc]. Only diffusion / halo_height and the index matter.
        table: What was measured.
        systematic: Relative error of the model, common to all points.

    Returns:
        Log of the density of the ratios, normalised; differentiable in the three parameters.

    Raises:
        InputError: As `grammage`; or if systematic is negative or not finite.
    """
    if not (np.isfinite(systematic) and systematic >= 0):
        raise InputError(f"systematic of a ratio must be finite and at least 0, not {systematic}: 0.2 is 20 per cent")
    model = boron_to_carbon(table.rigidity, diffusion, index, halo_height)
    scaled, residual = model / table.error, (table.ratio - model) / table.error
    # The inverse and the determinant of a diagonal plus one outer product (Sherman & Morrison 1950).
    spread = 1 + systematic**2 * jnp.sum(scaled**2)
    squares = jnp.sum(residual**2) - systematic**2 * jnp.sum(residual * scaled) ** 2 / spread
    return -0.5 * (squares + jnp.log(spread) + np.sum(np.log(2 * np.pi * table.error**2)))


_UNITS = {
    "rigidity": "give it in TV",
    "diffusion": "give K / c at 1 TV, a length in pc",
    "halo_height": "give half the height of the halo in pc",
    "surface_density": "give it in g/cm^2",
    "index": "K is proportional to rigidity^index",
}
_PRODUCTION = _PER_GRAM * sum(
    (_FROM_CARBON[mass] + OXYGEN_OVER_CARBON * _FROM_OXYGEN[mass]) * (mass / 10) ** (SPECTRAL_INDEX - 1)
    for mass in _FROM_CARBON
)
