r"""Gyroresonance with waves along the mean field: quasi-linear theory of D_mumu, a single wave, and a mirror.

A particle gyrates with Omega = B_0 / r_L, signed as its charge, and meets a wave along B_0 with the frequency k mu
(c = 1, k > 0). It keeps in phase where k mu = +Omega with waves of positive helicity (B . curl B > 0: they turn
left-handed along B_0, as a positive charge does in time), and where k mu = -Omega with those of negative helicity.
Waves of linear polarisation are half of either.

References:
    Jokipii (1966), ApJ 146, 480; Schlickeiser (1989), ApJ 336, 243.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .spectrum import Spectrum, band, power_moment
from .trajectory import integrate
from .turbulence import PlaneWaves, Sum, Uniform

# Turbulence ---------------------------------------------------------------------------------------------------


def quasi_linear_slab(
    mu: Real[ArrayLike, "*mu"],
    spectrum: Spectrum,
    larmor_radius: Real[ArrayLike, ""],
    *,
    rms: Real[ArrayLike, ""],
    mean_field: Real[ArrayLike, ""] = 1.0,
    helicity: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "*mu"]:
    r"""D_mumu of static slab turbulence much weaker than the mean field.

    On the unperturbed helix $r_L \dot\mu = \sqrt{1 - \mu^2}\, (\delta B_y \cos\Omega t + \delta B_x \sin\Omega t)$, r_L
    that in a field of one unit. The autocorrelation of it, averaged over gyrophase and position and integrated over
    time, is

    $$ D_{\mu\mu} = \frac{\pi}{4}\, |\Omega|\, (1 - \mu^2)\, \frac{\langle\delta B^2\rangle}{B_0^2}\,
       \frac{k_r P(k_r)}{\int P\, dk}\, [1 + \sigma\, \mathrm{sgn}(\mu\, \Omega)],
       \qquad k_r = |\Omega / \mu|. $$

    Zero where no wave resonates, around mu = 0 in particular: the theory fails there first.

    Args:
        mu: Cosines of the pitch angle of the momentum about +B_0.
        spectrum: One-sided P(k).
        larmor_radius: In a field of one unit, with the sign of the charge.
        rms: sqrt <dB^2>, both components together.
        mean_field: B_0 > 0, along the axis.
        helicity: sigma of `turbulence.draw_plane_waves`, -1 to 1.

    Returns:
        D_mumu [1 / unit of positions].
    """
    mu = jnp.asarray(mu, float)
    omega = mean_field / jnp.asarray(larmor_radius, float)
    away = mu != 0
    resonant = jnp.abs(omega / jnp.where(away, mu, 1.0))
    share = resonant * spectrum.power(resonant) / power_moment(spectrum, 0, *band(spectrum))
    handed = 1 + helicity * jnp.sign(mu * omega)
    value = jnp.pi / 4 * jnp.abs(omega) * (1 - mu**2) * (rms / mean_field) ** 2 * share * handed
    return jnp.where(away, value, 0.0)


def fewest_waves(spectrum: Spectrum, larmor_radius: float, duration: float, mean_field: float = 1.0) -> int:
    """Number of plane waves, stratified in ln k, that are as good as a continuous spectrum for a path length t.

    After t a particle tells wave numbers apart that differ by 2 pi / (|mu| t). Where it resonates, at k = |Omega / mu|,
    those of N waves are ln(k_max / k_min) k / N apart: half of this for N = |Omega| t ln(k_max / k_min) / pi. With
    fewer it is carried to and fro by the one or two waves next to its resonance, and D_mumu is that of a comb.
    """
    turned = abs(mean_field / larmor_radius) * duration
    return math.ceil(turned * math.log(spectrum.largest / spectrum.smallest) / math.pi)


# A single wave ------------------------------------------------------------------------------------------------


def single_wave_change(
    wavenumber: Real[ArrayLike, "*wave"],
    mu: Real[ArrayLike, "*#wave"],
    time: Real[ArrayLike, ""],
    larmor_radius: Real[ArrayLike, ""],
    *,
    rms: Real[ArrayLike, ""],
    mean_field: Real[ArrayLike, ""] = 1.0,
    helicity: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "*wave"]:
    r"""<(mu(t) - mu(0))^2> in one weak wave along the mean field, averaged over its phase and the gyrophase.

    $$ \frac{1 - \mu^2}{4}\, \frac{\langle \delta B^2 \rangle}{r_L^2}\, t^2 \left[
       (1 + \sigma)\, \mathrm{sinc}^2 \frac{(k \mu - \Omega) t}{2} +
       (1 - \sigma)\, \mathrm{sinc}^2 \frac{(k \mu + \Omega) t}{2} \right],
       \qquad \mathrm{sinc}\, x = \sin x / x, $$

    of first order in dB: until the particle is trapped in the wave, at t of about r_L (B_0 / dB)^(1/2) / B_0.

    Args:
        wavenumber: k [rad / length], positive.
        mu: Cosine of the pitch angle at t = 0.
        time: t, in the unit of positions.
        larmor_radius: In a field of one unit, with the sign of the charge.
        rms: sqrt <dB^2>: the amplitude over sqrt 2 of a linearly polarised wave, the amplitude of a circular one.
        mean_field: B_0 > 0.
        helicity: sigma: 0 for a linear wave, 1 and -1 for circular ones.
    """
    mu = jnp.asarray(mu, float)
    phase = jnp.asarray(wavenumber, float) * mu * time / (2 * jnp.pi)
    turns = mean_field / jnp.asarray(larmor_radius, float) * time / (2 * jnp.pi)
    square = (1 + helicity) * jnp.sinc(phase - turns) ** 2 + (1 - helicity) * jnp.sinc(phase + turns) ** 2
    return (1 - mu**2) / 4 * (rms * time / larmor_radius) ** 2 * square


def measure_single_wave(
    wavenumber: Real[ArrayLike, " wave"],
    mu: Real[ArrayLike, "*#wave"],
    time: float,
    larmor_radius: float,
    *,
    rms: float,
    mean_field: float = 1.0,
    helicity: float = 0.0,
    particles: int = 233,
    step: float | None = None,
    dtype=np.float32,
) -> Float[np.ndarray, " wave"]:
    """What `single_wave_change` predicts, from paths in one wave of each wave number.

    Args:
        wavenumber: As of `single_wave_change`, shape (wave,).
        mu: Of all waves or of each.
        time: As there.
        larmor_radius: As there.
        rms: As there.
        mean_field: As there.
        helicity: As there.
        particles: Gyrophases and phases of the wave, on a lattice of good rank 1; Fibonacci numbers are best.
        step: By default a twentieth of the Larmor radius.
        dtype: Of the paths.
    """
    wavenumber = np.asarray(wavenumber, float)
    cosine = np.broadcast_to(np.asarray(mu, float), wavenumber.shape)
    step = abs(larmor_radius / mean_field) / 20 if step is None else step
    half = 0.5 * math.asin(helicity)
    amplitude = math.sqrt(2) * rms * np.array([[math.cos(half), 0], [0, math.sin(half)], [0, 0]])
    place = np.arange(particles) / particles
    gyrophase = 2 * np.pi * np.mod(np.arange(particles) * (math.sqrt(5) - 1) / 2, 1)
    changes = []
    for k, c in zip(wavenumber, cosine, strict=True):
        vector = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]) * k / (2 * np.pi)
        wave = PlaneWaves(*(jnp.asarray(v, dtype) for v in (vector, amplitude, np.array([0.0, 0.25]))))
        across = math.sqrt(1 - c**2)
        direction = np.stack([across * np.cos(gyrophase), across * np.sin(gyrophase), np.full(particles, c)])
        start = np.stack([0 * place, 0 * place, 2 * np.pi / k * place])
        field = Sum((Uniform([0.0, 0.0, mean_field]), wave))
        end = integrate(field, jnp.asarray(start, dtype), jnp.asarray(direction, dtype), larmor_radius, time, step)
        changes.append(np.mean((np.asarray(end.direction[2], float) - c) ** 2))
    return np.array(changes)


# A mirror -----------------------------------------------------------------------------------------------------


class Mirror(eqx.Module):
    r"""Field that converges along z on both sides of its weakest point: B_z = B_0 [1 + (z^2 - rho^2 / 2) / L^2].

    With B_rho = -B_0 rho z / L^2 it has neither divergence nor curl. (1 - mu^2) / B, mu about the local field, stays
    constant where gyration is small compared with L: particles turn round where B = B_0 / (1 - mu_0^2).

    Attributes:
        strength: B_0.
        length: L.

    Raises:
        InputError: If the length is not finite and positive.
    """

    strength: Real[ArrayLike, ""] = 1.0
    length: Real[ArrayLike, ""] = 1.0

    def __check_init__(self):
        if is_known(self.length) and not (np.isfinite(self.length) and self.length > 0):
            raise InputError(f"the length of a mirror field must be finite and positive, not {self.length!r}")

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        x, y, z = position
        scale = self.length**-2
        along = 1 + scale * (z**2 - (x**2 + y**2) / 2)
        return (self.strength * jnp.stack([-scale * x * z, -scale * y * z, along])).astype(position.dtype)
