"""How time and memory of the commands grow, and how they share work over workers and devices.

    python3 benchmarks/scaling.py [--only NAME ..] [--file-events 1e8] [--toys 20000] [--output FILE]

Each measurement is a process of its own, so that its CPU time (with that of its workers) and its largest memory are its
own. On machines that others use too, CPU seconds tell more than seconds. NAME is one of those in `MEASUREMENTS`.
Prints the strong scaling as a table, then one JSON line, which is written to benchmarks/results/scaling.json; with
--only the other measurements of that file stay.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scaling.json"
GRIDS = {"36x18": (18, 36), "90x45": (45, 90), "180x90": (90, 180), "360x180": (180, 360)}
DEVICES = "--xla_force_host_platform_device_count="


def measured(words: list[str], environ: dict[str, str] | None = None) -> dict[str, float]:
    """Run a process; its wall time, its CPU time with that of its children, and the largest memory of one of them."""
    begun = time.monotonic()
    process = subprocess.Popen(words, env=os.environ | (environ or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{err.decode()[-2000:]}")
    return {
        "seconds": time.monotonic() - begun,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "said": out.decode(),
    }


def command(*words, **environ) -> dict[str, float]:
    """The same for the command line."""
    return measured([sys.executable, "-m", "diffcr.inference.cli", *map(str, words)], environ)


def child(name: str, environ: dict[str, str] | None = None, **options) -> dict:
    """One of the functions below in a process of its own; what it returns, with memory and CPU time."""
    out = measured([sys.executable, __file__, "--child", name, json.dumps(options)], environ)
    return json.loads(out.pop("said").splitlines()[-1]) | {k: out[k] for k in ("cpu_seconds", "peak_mb")}


def best_of(function, repeat: int) -> float:
    """Shortest time of several runs, after one that compiles."""
    function()
    times = []
    for _ in range(repeat):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def simulated(grid: str, events: float, seed: int = 1):
    """Counts of HAWC with a dipole of 1e-3."""
    from diffcr.inference import Simulation, simulate_counts

    from diffcr.grid import RingGrid
    from diffcr.site import site

    return simulate_counts(Simulation(site("hawc"), events, (8e-4, 6e-4, 0.0)), RingGrid(*GRIDS[grid]), seed)


# Run in children -------------------------------------------------------------------------------------------


def fit_once(grid: str, l_max: int, events: float) -> dict:
    """Seconds of one fit, and of the first, which compiles."""
    from diffcr.inference import fit

    counts = simulated(grid, events)
    # One site does not measure all multipoles by itself.
    prior = None if l_max == 1 else 1e-8
    begun = time.perf_counter()
    result = fit(counts, l_max=l_max, prior_power=prior)
    first = time.perf_counter() - begun
    return {
        "grid": grid,
        "l_max": l_max,
        "events": events,
        "first_s": first,
        "seconds": best_of(lambda: fit(counts, l_max=l_max, prior_power=prior), 3),
        "converged": bool(result.converged),
    }


def map_once(grid: str, events: float) -> dict:
    """Seconds of a free map."""
    from diffcr.inference import sky_map

    counts = simulated(grid, events)
    return {"grid": grid, "events": events, "seconds": best_of(lambda: sky_map(counts), 2)}


def sample_once(grid: str, model: str, l_max: int, events: float, draws: int) -> dict:
    """Seconds per step of one chain of NUTS after warm-up, and how many gradients a step takes."""
    from diffcr.inference import Plan, Specification
    from diffcr.inference.posterior import sample_likelihood

    counts = simulated(grid, events)
    spec = Specification(model, None if model == "dipole" else l_max, {} if model == "dipole" else {"median": 1e-8})
    sky = spec.likelihood(counts)
    plan = Plan(chains=1, warmup=draws, draws=draws, segment=draws, target_accept=spec.target_accept)
    clock = []
    begun = time.perf_counter()
    posterior = sample_likelihood(counts, sky, spec, plan, None, False, lambda *_: clock.append(time.perf_counter()))
    steps = np.asarray(posterior["sample_stats"]["num_steps"])
    return {
        "grid": grid,
        "model": model,
        "l_max": l_max,
        "parameters": int(sky.block.rate_modes.shape[-2]) + len(sky.degree),
        "compiling_s": clock[0] - begun - (clock[1] - clock[0]),
        "seconds_per_draw": (clock[1] - clock[0]) / draws,
        "gradients_per_draw": float(steps.mean()),
    }


def trace_once(size: int, representation: str, nside: int) -> dict:
    """Particle-steps a second of backtracking over all devices."""
    import jax

    from diffcr.backtracking import Setup, displacements

    setup = Setup(representation=representation, size=size, nside=nside, omega_t=5.0, samples=1)
    seconds = best_of(lambda: np.asarray(displacements(setup, 0).position), 2)
    return {
        "representation": representation,
        "size": setup.number,
        "particles": setup.pixels,
        "devices": len(jax.local_devices()),
        "steps": setup.steps,
        "seconds": seconds,
        "particle_steps_per_s": setup.pixels * setup.steps / seconds,
    }


def toys_once(toys: int) -> dict:
    """Toys of an Auger-like detector a second, over all devices, after the first block, which compiles."""
    import jax
    from diffcr.inference.toy_detectors import plan_of_sites
    from diffcr.inference.toys import run_block

    from diffcr.site import site

    plan = plan_of_sites([site("auger")], [3e4], toys=toys)
    run_block(plan, 0)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(1, plan.blocks):
        run_block(plan, number)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = plan.toys - plan.size(0)
    return {
        "toys": done,
        "devices": len(jax.local_devices()),
        "toys_per_s": done / wall,
        "toys_per_cpu_s": done / cpu,
    }


def write_once(folder: str, files: int, events: int) -> dict:
    """Event files; in a process of its own, since the memory of this one would count as that of those it starts."""
    from diffcr.inference.synthetic_files import write_synthetic_files

    begun = time.perf_counter()
    write_synthetic_files(folder, files, events)
    return {"events_per_s": files * events / (time.perf_counter() - begun)}


CHILDREN = {each.__name__: each for each in (fit_once, map_once, sample_once, trace_once, toys_once, write_once)}


# Measurements ----------------------------------------------------------------------------------------------


def of_fit(options) -> list[dict]:
    """A fit against cells, degree and events."""
    cases = [(grid, 1, options.events) for grid in GRIDS] + [("360x180", l, options.events) for l in (2, 4, 8)]
    cases += [("360x180", 1, events) for events in (1e6, 1e10, 1e12)]
    return [child("fit_once", grid=grid, l_max=l, events=events) for grid, l, events in cases]


def of_map(options) -> list[dict]:
    """A free map against cells."""
    return [child("map_once", grid=grid, events=options.events) for grid in GRIDS]


def of_sample(options) -> list[dict]:
    """A draw of the posterior against cells, rates and degree."""
    cases = [(grid, "dipole", 1) for grid in GRIDS] + [("180x90", "multipoles", l) for l in (2, 4, 8)]
    return [
        child(
            "sample_once",
            {"PJRT_NPROC": "1"},
            grid=grid,
            model=model,
            l_max=l,
            events=options.events,
            draws=options.draws,
        )
        for grid, model, l in cases
    ]


def of_backtrack(options) -> list[dict]:
    """Paths against waves and particles, and over devices of the processor."""
    cases = [("ladder", 20, 16, 1), ("ladder", 80, 16, 1), ("ladder", 80, 32, 1), ("plane", 300, 16, 1)]
    cases += [("ladder", 80, 32, 2)]
    return [
        child("trace_once", {"XLA_FLAGS": DEVICES + str(n)}, representation=kind, size=size, nside=nside)
        for kind, size, nside, n in cases
    ]


def of_toys(options) -> list[dict]:
    """Dipole fits of an Auger-like detector (3e4 events, 36 sidereal bins): devices of one process, and workers."""
    rows = [
        child("toys_once", {"XLA_FLAGS": DEVICES + str(n)} | pool, toys=options.toys) | {"threads": threads}
        for n, threads, pool in ((1, "all", {}), (2, "all", {}), (1, "1", {"NPROC": "1"}))
    ]
    for workers in (1, 2):
        few, many = (_toys_command(number, workers) for number in (1000 * workers, options.toys))
        extra = options.toys - 1000 * workers
        rows.append(
            {
                "workers": workers,
                "toys": extra,
                "toys_per_s": extra / (many["seconds"] - few["seconds"]),
                "toys_per_cpu_s": extra / (many["cpu_seconds"] - few["cpu_seconds"]),
                "peak_mb": many["peak_mb"],
            }
        )
    return rows


def _toys_command(number: int, workers: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        words = ("toys", "--site", "auger", "--events", "3e4", "--toys", number, "--workers", workers, "--threads", 1)
        return command(*words, "--no-plots", "-o", folder)


def of_bin(options) -> list[dict]:
    """`diffcr bin` against events, files and workers; Parquet files of HAWC with time, RA, dec and energy."""
    rows = []
    for files, events in ((10, options.file_events / 10), (10, options.file_events), (100, options.file_events / 10)):
        with tempfile.TemporaryDirectory() as folder:
            child("write_once", folder=folder, files=files, events=round(events / files))
            for workers in (None, 1, 2):
                words = () if workers is None else ("--workers", workers, "--threads", 1)
                found = command("bin", folder, "--site", "hawc", *words, "-o", f"{folder}/counts.nc")
                del found["said"]
                rows.append({"files": files, "events": events, "workers": workers or 0} | found)
    return rows


SCANS = {
    "predict": 'run = "predict"\n[fixed]\npoints = "published"\n[vary]\n'
    'perpendicular = {{ from = 0.01, to = 1.0, scale = "log" }}\n"vela.age_yr" = {{ from = 8000.0, to = 20000.0 }}\n'
    '[design]\nkind = "sobol"\npoints = {points}\n',
    "fit": 'run = "fit"\ninputs = ["dataset:auger-8eev"]\n[fixed]\ngrid = "180x90"\n[vary]\n'
    "zenith_max = {{ from = 45.0, to = 80.0, number = {points} }}\n",
}


def of_scan(options) -> list[dict]:
    """`diffcr scan` against points and workers: points of one shape, so that each process compiles once."""
    rows = []
    for name, points in (("predict", 64), ("predict", 256), ("fit", 16), ("fit", 64)):
        for workers in (None, 2) if points > 16 else (None,):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "scan.toml"
                file.write_text(SCANS[name].format(points=points), encoding="utf-8")
                words = () if workers is None else ("--workers", workers, "--threads", 1)
                found = command("scan", file, *words, "--no-plots", "-o", f"{folder}/out")
                del found["said"]
                rows.append({"run": name, "points": points, "workers": workers or 0} | found)
    return rows


MEASUREMENTS = {
    "fit": of_fit,
    "map": of_map,
    "sample": of_sample,
    "backtrack": of_backtrack,
    "toys": of_toys,
    "bin": of_bin,
    "scan": of_scan,
}


def strong_scaling(content: dict) -> list[str]:
    """What two workers or devices do against one, by CPU seconds where work is shared with others."""
    lines = []
    if "toys" in content:
        rows = content["toys"]["rows"]
        one, two = (next(r for r in rows if r.get("workers") == n) for n in (1, 2))
        lines.append(
            f"toys     2 workers     {2 * two['toys_per_cpu_s'] / one['toys_per_cpu_s']:.2f} times 1, by CPU time"
        )
        one, two = (next(r for r in rows if r.get("devices") == n) for n in (1, 2))
        lines.append(f"toys     2 devices     {two['toys_per_s'] / one['toys_per_s']:.2f} times 1, by the clock")
    if "bin" in content:
        rows = [r for r in content["bin"]["rows"] if r["events"] == max(r["events"] for r in content["bin"]["rows"])]
        one, two = (next(r for r in rows if r["workers"] == n) for n in (1, 2))
        lines.append(f"bin      2 workers     {2 * one['cpu_seconds'] / two['cpu_seconds']:.2f} times 1, by CPU time")
    if "backtrack" in content:
        rows = [
            r
            for r in content["backtrack"]["rows"]
            if r["particles"] == max(x["particles"] for x in content["backtrack"]["rows"])
        ]
        one, two = (next(r for r in rows if r["devices"] == n) for n in (1, 2))
        ratio = two["particle_steps_per_s"] / one["particle_steps_per_s"]
        lines.append(f"backtrack 2 devices    {ratio:.2f} times 1, by the clock (1 device uses both cores too)")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, help="which measurements (default: all)")
    parser.add_argument("--events", type=float, default=1e8, help="events of simulated counts")
    parser.add_argument("--file-events", type=float, default=1e8, help="events in files")
    parser.add_argument("--toys", type=int, default=20_000)
    parser.add_argument("--draws", type=int, default=200, help="draws of the posterior")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, metavar=("NAME", "OPTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import jax

        jax.config.update("jax_enable_x64", True)
        name, words = options.child
        print(json.dumps(CHILDREN[name](**json.loads(words))))
        return
    content = json.loads(options.output.read_text()) if options.output.exists() else {}
    content["benchmark"] = "scaling of time and memory"
    for name in options.only or MEASUREMENTS:
        content[name] = {"rows": MEASUREMENTS[name](options), "provenance": provenance()}
        for row in content[name]["rows"]:
            print(name, json.dumps(row), file=sys.stderr)
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join(strong_scaling(content)), file=sys.stderr)
    print(json.dumps(content))


def provenance() -> dict:
    import jax

    import diffcr

    return {
        "command": f"python3 benchmarks/scaling.py {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.date.today().isoformat(),
        "diffcr": diffcr.__version__,
        "jax": jax.__version__,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
