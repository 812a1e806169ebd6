"""Density and dipole of many random bursts in a halo, with the Jacobian by all transport parameters.

    python3 benchmarks/sources.py [--sources 1e6] [--energies 8] [--chunk 2048] [--threads 2] [--ensembles 10]

Prints one JSON line. `value_s` is the time of the log density and dipole at all energies, `jacobian_s` that of these
and their Jacobian by K_0, its index, H, f, kappa_perp / kappa_par, kappa_A / kappa_par and the field's longitude and
latitude: 4 numbers x energies x 8 parameters. Energies are shared among threads. `numpy_s` is a NumPy loop over
energies, for the value alone; `ratio` is it over `value_s`, and `ratio_jacobian` that of its one-sided finite
differences, 9 loops, over `jacobian_s`. `difference` is the largest deviation of our values from NumPy's,
`jacobian_difference` that from its central finite differences on fewer sources; both are relative to the largest.
Medians of warm calls; `compile_s` is the time to compile. `ensemble_s` is the time of the value of `ensembles`
ensembles of 1e4 sources each, mapped inside one compiled call.
"""

import argparse
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.propagation import Mixture, diffusion_coefficient, total_log_density_and_gradient
from diffcr.sky import unit_vector
from diffcr.source import Sources, log_spectrum, make_sources
from diffcr.transport import diffusion_tensor, fick_dipole
from diffcr.units import SPEED_OF_LIGHT

PARAMETERS = np.array([3.244, 1 / 3, 3000.0, 1.5, 0.05, 0.2, 3.674, -0.9966])
"""K_0 [pc], index, H [pc], f, kappa_perp / kappa_par, kappa_A / kappa_par, field longitude and latitude [rad]."""


def draw(rng, number: int) -> Sources:
    """Bursts in a disc of 15 kpc, 100 pc thick, over 25 Myr, inside the light cone, in the order of their age."""
    place = np.stack([*rng.uniform(-15e3, 15e3, (2, number)), np.clip(rng.laplace(0, 100, number), -2900, 2900)], -1)
    age = np.sort(rng.uniform(0, 2.5e7, number))
    return make_sources(place, np.maximum(age, np.linalg.norm(place, axis=1) / SPEED_OF_LIGHT), 1.0, 2.2)


def observe(parameters, rigidity, mixture: Mixture):
    """ln n and dipole at all energies, (energy, 4), from the density's gradient and the local tensor."""
    k0, index, _, f, perpendicular, drift, longitude, latitude = parameters
    parallel = f * diffusion_coefficient(rigidity, k0, index)
    tensor = diffusion_tensor(parallel, perpendicular * parallel, drift * parallel, unit_vector(longitude, latitude))
    return jnp.concatenate([mixture.log_density[:, None], fick_dipole(tensor, mixture.gradient)], axis=-1)


def make_functions(sources: Sources, rigidity, chunk: int, threads: int):
    """Functions of the parameters that give `observe`, and `observe` with its Jacobian; and the time to compile."""
    groups = np.array_split(np.arange(len(rigidity)), min(threads, len(rigidity)))
    pool = ThreadPoolExecutor(threads)

    def mixtures(diffusion, halo_height, rigidity, sources):
        def one(diffusion, rigidity):
            weights = jnp.log(sources.power) + log_spectrum(rigidity, sources.spectral_index, sources.cutoff)
            return total_log_density_and_gradient(
                sources, weights, diffusion, halo_height, chunk=chunk, continuous=False
            )

        # One energy after the other: steps in which all sources are old then need no images.
        return jax.lax.map(lambda each: one(*each), (diffusion, rigidity))

    # Through the density only one coefficient per energy, and H, matter: two tangents. All else is on small arrays.
    def slopes(diffusion, halo_height, rigidity, sources):
        def both(scale, halo_height):
            mixture = mixtures(scale * diffusion, halo_height, rigidity, sources)
            return mixture, mixture

        jacobian, mixture = jax.jacfwd(both, (0, 1), has_aux=True)(1.0, halo_height)
        return mixture, Mixture(*(jnp.stack(each) for each in jacobian))

    def compiled(function):
        function = jax.jit(function)

        def call(parameters):
            diffusion = parameters[0] * rigidity ** parameters[1]

            def work(group):
                return jax.block_until_ready(function(diffusion[group], parameters[2], rigidity[group], sources))

            jobs = [pool.submit(work, group) for group in groups]
            return [job.result() for job in jobs]

        return call

    start = time.perf_counter()
    plain, with_slopes = compiled(mixtures), compiled(slopes)
    join = jax.jit(lambda parameters, parts: observe(parameters, rigidity, _stack(parts)))

    @jax.jit
    def join_slopes(parameters, parts):
        mixture = _stack([part for part, _ in parts])
        slopes = jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *(slope for _, slope in parts))

        def first_order(moved):
            scale = (
                diffusion_coefficient(rigidity, moved[0], moved[1]) / (parameters[0] * rigidity ** parameters[1]) - 1
            )
            change = (scale, moved[2] - parameters[2])
            log_density = mixture.log_density + sum(s * c for s, c in zip(slopes.log_density, change, strict=True))
            columns = (scale[:, None], change[1])
            gradient = mixture.gradient + sum(s * c for s, c in zip(slopes.gradient, columns, strict=True))
            return observe(moved, rigidity, Mixture(log_density, gradient))

        return first_order(parameters), jax.jacfwd(first_order)(parameters)

    def value(parameters):
        return join(parameters, plain(parameters))

    def jacobian(parameters):
        return join_slopes(parameters, with_slopes(parameters))

    jax.block_until_ready((value(PARAMETERS), jacobian(PARAMETERS)))
    return value, jacobian, time.perf_counter() - start


def _stack(parts) -> Mixture:
    return Mixture(*(jnp.concatenate(each) for each in zip(*parts, strict=True)))


def numpy_loop(parameters, sources: Sources, rigidity):
    """The same values, one energy after the other: 13 images before K t = H^2 / 2, 8 eigenfunctions after."""
    k0, index, height, *_ = parameters
    place, path = np.asarray(sources.position), SPEED_OF_LIGHT * np.asarray(sources.age)
    radius, z = np.sum(place[:, :2] ** 2, axis=1), place[:, 2]
    log_densities, gradients = [], []
    for each in rigidity:
        spread = k0 * each**index * path
        early = spread < height**2 / 2
        density, slope = np.zeros_like(z), np.zeros_like(z)
        for n in range(-6, 7):
            image = 2 * height * n + (-1) ** n * z[early]
            term = (-1) ** n * np.exp(-(image**2) / (4 * spread[early])) / np.sqrt(4 * np.pi * spread[early])
            density[early] += term
            slope[early] += term * image / (2 * spread[early])
        for m in range(1, 9):
            k = m * np.pi / (2 * height)
            term = np.sin(k * (z[~early] + height)) * np.exp(-(k**2) * spread[~early]) / height
            density[~early] += np.sin(k * height) * term
            slope[~early] += k * np.cos(k * height) * term
        across = each**-2.2 * np.exp(-radius / (4 * spread)) / (4 * np.pi * spread)
        total = np.sum(across * density)
        log_densities.append(np.log(total))
        sideways = (across * density / (2 * spread)) @ place[:, :2]
        gradients.append(np.append(sideways, np.sum(across * slope)) / total)
    return np.asarray(observe(parameters, rigidity, Mixture(jnp.array(log_densities), jnp.array(gradients))))


def timed(function, repeat: int) -> float:
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def relative(ours, reference) -> float:
    """Largest deviation at any energy, in each column over the largest entry of that column."""
    return float(np.max(np.max(np.abs(ours - reference), axis=0) / np.max(np.abs(reference), axis=0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=float, default=1e6)
    parser.add_argument("--energies", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--ensembles", type=int, default=10)
    options = parser.parse_args()
    rng, rigidity = np.random.default_rng(1), np.geomspace(1.0, 1e3, options.energies)

    few = draw(rng, 3000)
    _, jacobian, _ = make_functions(few, rigidity, options.chunk, options.threads)
    steps = 1e-5 * np.abs(PARAMETERS)
    differences = [
        (numpy_loop(PARAMETERS + h * e, few, rigidity) - numpy_loop(PARAMETERS - h * e, few, rigidity)) / (2 * h)
        for h, e in zip(steps, np.eye(len(steps)), strict=True)
    ]
    differences = np.stack(differences, axis=-1) * PARAMETERS
    deviation = np.asarray(jacobian(PARAMETERS)[1]) * PARAMETERS - differences

    sources = draw(rng, int(options.sources))
    value, jacobian, compile_s = make_functions(sources, rigidity, options.chunk, options.threads)
    value_s = timed(lambda: value(PARAMETERS), options.repeat)
    jacobian_s = timed(lambda: jacobian(PARAMETERS), options.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    reference = numpy_loop(PARAMETERS, sources, rigidity)
    numpy_s = time.perf_counter() - start
    result = {
        "benchmark": "density and dipole of random sources, with Jacobian",
        "sources": int(options.sources),
        "energies": options.energies,
        "parameters": len(PARAMETERS),
        "threads": options.threads,
        "value_s": round(value_s, 3),
        "jacobian_s": round(jacobian_s, 3),
        "jacobian_ns_per_source_and_energy": round(1e9 * jacobian_s / options.sources / options.energies, 1),
        "compile_s": round(compile_s, 1),
        "numpy_s": round(numpy_s, 2),
        "ratio": round(numpy_s / value_s, 1),
        "ratio_jacobian": round((1 + len(PARAMETERS)) * numpy_s / jacobian_s, 1),
        "peak_mib": round(peak),
        "difference": relative(np.asarray(value(PARAMETERS)), reference),
        "jacobian_difference": float(np.max(np.abs(deviation)) / np.max(np.abs(differences))),
    }
    if options.ensembles:
        drawn = [draw(rng, 10_000) for _ in range(min(options.ensembles, 1000))]
        batch = jax.tree.map(lambda *each: jnp.stack(each), *drawn)
        result |= ensembles(batch, rigidity, options.chunk)
    print(json.dumps(result))


def ensembles(batch: Sources, rigidity, chunk: int) -> dict:
    @jax.jit
    def all_of_them(batch, parameters):
        def one(sources):
            def at(rigidity, diffusion):
                weights = log_spectrum(rigidity, sources.spectral_index, sources.cutoff)
                return total_log_density_and_gradient(
                    sources, weights, diffusion, parameters[2], chunk=chunk, continuous=False
                )

            diffusion = diffusion_coefficient(rigidity, parameters[0], parameters[1])
            return observe(parameters, rigidity, jax.vmap(at)(rigidity, diffusion))

        return jax.lax.map(one, batch)

    dipoles = all_of_them(batch, PARAMETERS)[..., 1:]
    seconds = timed(lambda: all_of_them(batch, PARAMETERS), 1)
    return {
        "ensembles": len(batch.age),
        "ensemble_s": round(seconds, 3),
        "median_dipole": [float(f"{x:.3g}") for x in np.median(np.linalg.norm(dipoles, axis=-1), axis=0)],
    }


if __name__ == "__main__":
    main()
