"""Write the README's table of measurements from benchmarks/results.

python3 benchmarks/table.py            rewrite the table
python3 benchmarks/table.py --check    exit with 1 if the README's table is not that of the results
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- measurements: made by benchmarks/table.py -->", "<!-- end of measurements -->"


def table() -> str:
    results = {path.stem: json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").glob("*.json")}
    likelihood, binning, calibration = (results[n] for n in ("likelihood", "binning", "calibration"))
    rows = [
        ("what", "measured", "command"),
        ("---", "---", "---"),
        (
            "ln L with its gradient, 360 x 180 x 360 cells, against the dense sum over all cells",
            f"{likelihood['ours_ms']:.2g} ms, {likelihood['ratio']:.0f} times faster",
            "`benchmarks/likelihood.py`",
        ),
        (
            f"the same against the dense sum over the {likelihood['cells_seen']:,} cells with acceptance",
            f"{likelihood['ratio_seen']:.0f} times faster",
            "`benchmarks/likelihood.py`",
        ),
        (
            "events into counts (time, precession, sidereal shift), against astropy + healpy",
            f"{binning['events_per_second'] / 1e6:.0f} million a second, {binning['ratio']:.0f} times faster",
            "`benchmarks/binning.py`",
        ),
        (
            "the same from a Parquet file",
            f"{binning['events_per_second_parquet'] / 1e6:.0f} million a second, "
            f"{binning['ratio_parquet']:.0f} times faster",
            "`benchmarks/binning.py`",
        ),
    ]
    for name in ("auger-like", "hawc-like", "icecube-like"):
        entry = calibration[name]
        signal = entry["signal"]
        means = ", ".join(f"{x:+.2f}" for x in signal["pull_mean"])
        widths = ", ".join(f"{x:.2f}" for x in signal["pull_width"])
        rows.append(
            (
                f"pulls of (delta_0h, delta_6h), {signal['skies']} skies, {name}, {entry['events']:.0e} events",
                f"mean {means}, width {widths}",
                "`benchmarks/calibration.py`",
            )
        )
    rows += _map_rows(results)
    rows += _posterior_rows(results)
    rows += _source_rows(results)
    rows += _trajectory_rows(results)
    rows += _small_scale_rows(results)
    rows += _scaling_rows(results)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _scaling_rows(results: dict) -> list[tuple[str, str, str]]:
    found, rows = results.get("scaling", {}), []
    if "toys" in found:
        each = {row.get("workers", f"device {row.get('devices')}"): row for row in reversed(found["toys"]["rows"])}
        rate, ratio = each["device 1"], 2 * each[2]["toys_per_cpu_s"] / each[1]["toys_per_cpu_s"]
        rows.append(
            (
                "dipole fits of isotropic skies, Auger-like, 3e4 events, 36 sidereal bins; two workers against one",
                f"{rate['toys_per_s']:.0f} a second, {rate['toys_per_cpu_s']:.0f} a CPU second; {ratio:.2f} times",
                "`benchmarks/scaling.py --only toys`",
            )
        )
    if "bin" in found:
        most = max(row["events"] for row in found["bin"]["rows"])
        each = {row["workers"]: row for row in found["bin"]["rows"] if row["events"] == most}
        rows.append(
            (
                f"`diffcr bin` of {most:.0e} events in {each[0]['files']} Parquet files, one process; with two workers",
                f"{most / each[0]['cpu_seconds'] / 1e6:.1f} million events a CPU second, {each[0]['peak_mb']:.0f} MB; "
                f"{each[2]['peak_mb']:.0f} MB each",
                "`benchmarks/scaling.py --only bin`",
            )
        )
    return rows


def _map_rows(results: dict) -> list[tuple[str, str, str]]:
    maps, significance = results["maps"], results["significance"]
    rows = [
        (
            f"free map of {maps['free_values']:,} cells, 360 rates, {maps['events']:.0e} events, against plain "
            "alternation over exposed (time, cell) pairs to the same ln L",
            f"{maps['fit_cpu_seconds']:.2g} CPU s, {maps['gradient_steps']} gradient steps, "
            f"{maps['ratio']:.0f} times faster",
            "`benchmarks/maps.py`",
        ),
        (
            f"`diffcr map --config` with {maps['files']} HEALPix files of nside {maps['files_nside']}, whole process",
            f"{maps['process_cpu_seconds']:.1f} CPU s",
            "`benchmarks/maps.py --files`",
        ),
    ]
    for name in ("hawc-like", "auger-like", "icecube-like"):
        found = [row for row in significance["rows"] if row["detector"] == name]
        radii = ", ".join(f"{row['radius_deg']:g}" for row in found)
        widths = ", ".join(f"{row['width']:.3f}" for row in found)
        others = ", ".join(f"{row['li_ma_width']:.2f}" for row in found)
        rows.append(
            (
                f"width of the disc significance under isotropy, {name}, radii {radii} degrees, at least "
                f"{min(row['discs'] for row in found)} separate discs each",
                f"{widths} (Li-Ma, background as known: {others})",
                "`benchmarks/significance.py`",
            )
        )
    return rows


def _posterior_rows(results: dict) -> list[tuple[str, str, str]]:
    posterior = results["posterior"]
    rows = [
        (
            f"posterior of the dipole with {posterior['free_rates']} free rates, 360 x 180 cells, two cores",
            f"{posterior['ess_per_second']:.0f} effective samples a second, {posterior['ratio_unwhitened']:.0f} times "
            "those of plain parameters",
            "`benchmarks/posterior.py`",
        )
    ]
    for name in ("dipole", "multipoles", "local-field", "local-field_second-seed", "small-scale"):
        entry = results[f"sbc_{name}"]
        low, high = (entry[f"coverage_{level}"] for level in (68, 95))
        label = name.replace("_", ", ").replace("-seed", " seed")
        rows.append(
            (
                f"simulation-based calibration, {entry['sets']} sets, {label}",
                f"p {entry['holm_p_sky_and_hyper']:.2g} (Holm), 68 % intervals hold {low[0]:.0%} to {low[1]:.0%}, "
                f"95 % ones {high[0]:.0%} to {high[1]:.0%}",
                "`benchmarks/sbc.py`",
            )
        )
    return rows


def _source_rows(results: dict) -> list[tuple[str, str, str]]:
    rows = []
    if "sources" in results:
        sources = results["sources"]
        rows.append(
            (
                f"density and dipole of {sources['sources']:,} bursts in a halo, {sources['energies']} energies, with "
                f"the Jacobian by {sources['parameters']} parameters, against NumPy with finite differences",
                f"{sources['jacobian_s']:.3g} s, {sources['ratio_jacobian']:.0f} times faster",
                "`benchmarks/sources.py`",
            )
        )
    if "recovery" in results:
        recovery = results["recovery"]
        held = [entry["coverage_68"] for entry in recovery["quantities"].values()]
        rows.append(
            (
                f"truths of the physical model, counts of two sites in three energy bins, {recovery['sets']} sets",
                f"68 % intervals hold {min(held):.0%} to {max(held):.0%}, p {recovery['holm_p']:.2g} (Holm)",
                "`benchmarks/recovery.py`",
            )
        )
    return rows


def _trajectory_rows(results: dict) -> list[tuple[str, str, str]]:
    rows = []
    if "trajectory" in results:
        found = results["trajectory"]
        names = {
            "plane_100_f32": "100 plane waves",
            "plane_300_f32": "300",
            "plane_1000_f32": "1000",
            "ladder_322_f32": "ladder of 322",
            "ladder_1120_f32": "1120 waves",
            "grid_256_f32": "one grid of 256^3",
            "grids_64_nested_f32": "nested grids of 64^3",
        }
        cores = found["plane_300_f32"]["cores"]
        rates = ", ".join(f"{found[key]['steps_per_second'] / 1e6:.3g}" for key in names)
        rows.append(
            (
                f"particle-steps in turbulence, 32 bits, {cores} cores: {', '.join(names.values())}",
                f"{rates} million a second",
                "`benchmarks/trajectory.py --steps 50 --gradients`",
            )
        )
        gain = found["plane_300_f32"]["steps_per_second"] / found["plain_300_f32"]["steps_per_second"]
        reverse = ", ".join(f"{found['reverse'][key]['reverse']:.2g}" for key in ("ladder_1120", "plane_300"))
        rows.append(
            (
                "300 plane waves against jnp.cos, in the same pusher; value with gradient against value, ladder, plane",
                f"{gain:.0f} times faster; {reverse} times the time",
                "`benchmarks/trajectory.py --steps 50 --gradients`",
            )
        )
    if "representations" in results:
        found = results["representations"]
        rows.append(
            (
                f"kappa and C_l of ladders, plane waves and grids, {found['realisations']} realisations each, "
                f"{found['quantities']} numbers",
                f"alike, p {found['holm_p']:.2g} (Holm)",
                "`benchmarks/representations.py --nside 8`",
            )
        )
    return rows


def _small_scale_rows(results: dict) -> list[tuple[str, str, str]]:
    if "small_scales" not in results:
        return []
    found = results["small_scales"]
    held = {
        level: [
            entry[f"coverage_{level}"]
            for case in found["recovery"].values()
            for entry in case.values()
            if isinstance(entry, dict)
        ]
        for level in ("68", "95")
    }
    command = f"`{found['provenance']['command'].removeprefix('python3 ').strip()}`"
    rows = [
        (
            f"parameters of {', '.join(found['recovery'])} from C_l, {found['skies']} skies each",
            f"68 % intervals hold {min(held['68']):.0%} to {max(held['68']):.0%}, 95 % ones {min(held['95']):.0%} to "
            f"{max(held['95']):.0%}",
            command,
        )
    ]
    if found["comparison"]:
        best = ", ".join(f"{entry['best'][name]:.0%}" for name, entry in found["comparison"].items())
        true = ", ".join(found["comparison"])
        rows.append((f"of {true} the true one foretells degrees best, {found['skies']} skies each", best, command))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    wanted = f"{before}{START}\n{table()}\n{END}{after}"
    if options.check:
        if wanted != text:
            sys.exit("README.md: the table of measurements is not that of benchmarks/results; run benchmarks/table.py")
        print("README table: up to date")
    else:
        readme.write_text(wanted)


if __name__ == "__main__":
    main()
