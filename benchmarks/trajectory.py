"""Particle-steps per second in uniform fields, sums of waves and grids, beside a fixed kernel on the same array sizes.

    python3 benchmarks/trajectory.py [--repeat 5] [--steps 200] [--particles 8192] [--cells 256] [--only plane_300]

Prints one JSON line. Keys are field_waves_precision, as plane_300_f32: plane waves, octave ladders (waves = directions
x octaves), one periodic grid, and nested grids of the whole band; `cores` holds how many were used, all of them and
one alone (key ending in _1core; the process is bound to a core). Of each:

- `steps_per_second`: particle-steps per second, median of `repeat`;
- `ratio`: that over the passes per second of a reference kernel, a loop of 16 chained float32 multiply-adds over an
  array (waves, 512) per step, shared among the same devices and measured in turn. Machines differ, the ratio less;
- `reverse` (with --gradients): time of the value with its gradient over that of the value, 100 steps, 64 bits,
  one core.

plain_300_f32 is the same field of 300 plane waves written with jnp.cos, in the same pusher.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time

LENGTHS = {"larmor_radius": 0.1, "step": 0.01}


def fields(jax, jnp, cells: int):
    """Name -> (function that draws, precision, rows of the reference's array)."""
    import numpy as np

    from diffcr.spectrum import BendOver, PowerLaw
    from diffcr.turbulence import Sum, Uniform, draw_ladder, draw_plane_waves
    from diffcr.turbulence_grid import draw_grids

    key, spectrum, regular = jax.random.key(0), BendOver(), Uniform([0.0, 0.0, 1.0])
    with_regular = lambda draw: lambda: Sum((regular, draw()))
    found = {}

    class Plain:
        """Plane waves with the library's cosine."""

        def __init__(self, waves):
            self.waves = waves

        def __call__(self, x):
            q, a, phase = (v.astype(x.dtype) for v in (self.waves.wavevector, self.waves.amplitude, self.waves.phase))
            return a @ jnp.cos(2 * np.pi * (q.T @ x + phase[:, None]))

    for bits, dtype in (("f32", jnp.float32), ("f64", jnp.float64)):
        found[f"uniform_{bits}"] = (lambda: regular), dtype, 6
        for waves in (100, 300, 1000):
            draw = lambda waves=waves: draw_plane_waves(key, spectrum, waves)
            found[f"plane_{waves}_{bits}"] = with_regular(draw), dtype, waves
        for directions in (23, 80):
            draw = lambda directions=directions: draw_ladder(key, spectrum, directions)
            found[f"ladder_{directions * 14}_{bits}"] = with_regular(draw), dtype, directions * 14
        # One cube holds waves from half its side down to four cells; the whole band takes nested ones.
        one = PowerLaw(slope=5 / 3, smallest=4 / cells, largest=0.5)
        draw = lambda dtype=dtype, one=one: draw_grids(key, one, cells, levels=1, dtype=dtype)
        found[f"grid_{cells}_{bits}"] = with_regular(draw), dtype, 36
        draw = lambda dtype=dtype: draw_grids(key, spectrum, 64, dtype=dtype)
        found[f"grids_64_nested_{bits}"] = with_regular(draw), dtype, 180
    found["plain_300_f32"] = with_regular(lambda: Plain(draw_plane_waves(key, spectrum, 300))), jnp.float32, 300
    return found


def child(options) -> dict:
    """Measure in this process, on the devices that it was given."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if options.child > 1:
        jax.config.update("jax_num_cpu_devices", options.child)
    import jax.numpy as jnp

    results = {}
    for name, (draw, dtype, rows) in fields(jax, jnp, options.cells).items():
        if options.only and not any(name.startswith(prefix) for prefix in options.only):
            continue
        try:
            results[name] = measure(jax, jnp, draw(), dtype, rows, options)
        except ValueError as error:
            # A grid that needs more waves than it has cells, or memory, says so.
            results[name] = {"left_out": str(error)}
    # One core: on several the value alone is shared among them in another way than its gradient.
    if options.gradients and options.child == 1:
        results["reverse"] = gradients(jax, jnp)
    return results


def measure(jax, jnp, field, dtype, rows: int, options) -> dict:
    import numpy as np

    from diffcr.trajectory import integrate, isotropic_directions

    direction = isotropic_directions(jax.random.key(1), options.particles, dtype)
    start = np.zeros((3, 1))
    duration = LENGTHS["step"] * options.steps

    def ours():
        end = integrate(field, start, direction, LENGTHS["larmor_radius"], duration, LENGTHS["step"])
        return end.position.block_until_ready()

    kernel, arguments, passes = reference(jax, jnp, rows, options)
    kernel_now = lambda: jax.block_until_ready(kernel(*arguments))
    times, reference_times = [], []
    for call in (ours, kernel_now):
        call()
    for _ in range(options.repeat):
        times.append(clock(ours))
        reference_times.append(clock(kernel_now))
    rate = options.particles * options.steps / statistics.median(times)
    reference_rate = passes / statistics.median(reference_times)
    return {
        "steps_per_second": rate,
        "ratio": rate / reference_rate,
        "reference_per_second": reference_rate,
        "cores": max(options.child, 1),
    }


def reference(jax, jnp, rows: int, options):
    """A loop of 16 chained multiply-adds per element of (rows, 512), on each device; and particle-passes in a call."""
    import numpy as np
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    chunk, devices = 512, len(jax.local_devices())

    def one(y, a, b):
        def once(_, y):
            for _ in range(16):
                y = y * a + b
            return y

        return jax.lax.fori_loop(0, options.steps, once, y)

    chunks = max(1, options.particles // chunk // devices) * devices
    y = jnp.linspace(0, 1, chunks * rows * chunk, dtype=jnp.float32).reshape(chunks, rows, chunk)
    share = lambda y, a, b: jax.lax.map(lambda y: one(y, a, b), y)
    if devices > 1:
        mesh = Mesh(np.array(jax.local_devices()), ("chunk",))
        share = jax.shard_map(share, mesh=mesh, in_specs=(P("chunk"), P(), P()), out_specs=P("chunk"), check_vma=False)
    arguments = (y, jnp.float32(0.999), jnp.float32(0.001))
    options_of = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else {}
    return jax.jit(share, compiler_options=options_of), arguments, chunks * chunk * options.steps


def gradients(jax, jnp) -> dict:
    """Value with gradient over value, ladder of 80 directions, 100 steps to Omega T = 10, and memory against steps."""
    import numpy as np

    from diffcr.spectrum import BendOver
    from diffcr.trajectory import integrate, isotropic_directions
    from diffcr.turbulence import Sum, Uniform, draw_ladder, draw_plane_waves

    found = {}
    direction = isotropic_directions(jax.random.key(1), 2048)
    for name, turbulence in (
        ("ladder_1120", draw_ladder(jax.random.key(0), BendOver(), 80)),
        ("plane_300", draw_plane_waves(jax.random.key(0), BendOver(), 300)),
    ):

        def loss(vector, radius, steps, turbulence=turbulence):
            field = Sum((Uniform(vector), turbulence))
            return jnp.sum(integrate(field, np.zeros((3, 1)), direction, radius, 1.0, 1.0 / steps).position ** 2)

        point = (jnp.array([0.0, 0, 1]), jnp.asarray(0.1))
        wide = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else {}
        value = jax.jit(lambda v, r: loss(v, r, 100), compiler_options=wide)
        both = jax.jit(jax.value_and_grad(lambda v, r: loss(v, r, 100), argnums=(0, 1)), compiler_options=wide)
        forward = jax.jit(lambda v, r: jax.jvp(lambda r: loss(v, r, 100), (r,), (1.0,)), compiler_options=wide)
        seconds = []
        for call in (value, both, forward):
            jax.block_until_ready(call(*point))
            once = functools.partial(_block, jax, call, point)
            seconds.append(min(clock(once) for _ in range(5)))
        by_radius = [jax.jit(jax.grad(functools.partial(loss, steps=n), argnums=1)) for n in (100, 400, 1600)]
        memory = [function.lower(*point).compile().memory_analysis() for function in by_radius]
        found[name] = {
            "reverse": seconds[1] / seconds[0],
            "forward": seconds[2] / seconds[0],
            "mebibytes_100_400_1600_steps": [m.temp_size_in_bytes / 2**20 for m in memory],
        }
    return found


def _block(jax, call, point) -> None:
    jax.block_until_ready(call(*point))


def clock(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--particles", type=int, default=8192)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--only", action="append", help="Names that start so; may be repeated.")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(child(options)))
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    results = run(len(cores), cores)
    if not _accelerator() and len(cores) > 1:
        alone = run(1, cores[:1])
        reverse = alone.pop("reverse", None)
        results |= {f"{name}_1core": entry for name, entry in alone.items()}
        results |= {} if reverse is None else {"reverse": reverse}
    print(json.dumps(results | {"backend": _backend()}))


def run(devices: int, cores: list[int]) -> dict:
    """Measure in a new process bound to these cores, with so many devices of XLA."""
    bind = (lambda: os.sched_setaffinity(0, cores)) if hasattr(os, "sched_setaffinity") else None
    command = [sys.executable, __file__, *sys.argv[1:], "--child", str(devices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=bind)
    return json.loads(done.stdout.splitlines()[-1])


def _backend() -> str:
    code = "import jax; print(jax.default_backend())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]


def _accelerator() -> bool:
    return _backend() != "cpu"


if __name__ == "__main__":
    main()
