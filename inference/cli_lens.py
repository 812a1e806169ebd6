"""The command `diffcr lens`: skies at Earth behind the heliosphere's or the Galaxy's magnetic field."""

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcr.errors import InputError

from .cli_options import Output, make_folder, numbers, require_folder

_FIELDS = ("heliosphere", "galaxy")
_WINDS = ("none", "parker", "sectored")
_FRAMES = {"equatorial": "C", "galactic": "G"}


def lens(
    field: Annotated[
        str, typer.Argument(help="heliosphere (rigidities in TV, lengths in AU) or galaxy (EV, kpc).", metavar="FIELD")
    ],
    rigidity: Annotated[
        str, typer.Option(help="Rigidities, in TV (0.1 to 100) or EV (1 to 100), such as 1,3,10.", metavar="R1,R2")
    ],
    dipole: Annotated[
        str | None,
        typer.Option(
            help="Dipole outside: amplitude and where it points, in ICRS degrees. Without a direction along the "
            "interstellar field (heliosphere; default 1e-3), where a part across goes with a density gradient.",
            metavar="A[,RA,DEC]",
        ),
    ] = None,
    sky: Annotated[
        str | None,
        typer.Option(
            help="HEALPix FITS map of the relative intensity outside, whatever the place, instead of a dipole.",
            metavar="MAP.fits",
        ),
    ] = None,
    nside: Annotated[int, typer.Option(help="HEALPix resolution of the sky at Earth, a power of two.")] = 32,
    oversample: Annotated[
        int, typer.Option(help="Paths along each side of a pixel, a power of two; 1: of its centre alone.")
    ] = 1,
    frame: Annotated[
        str | None,
        typer.Option(help="Of all results: equatorial (default for heliosphere) or galactic.", metavar="FRAME"),
    ] = None,
    region: Annotated[
        float | None,
        typer.Option(help="Radius of the region: 600 AU about the Sun, 20 kpc about the Galactic centre by default."),
    ] = None,
    wind: Annotated[
        str | None,
        typer.Option(help="Field within the heliopause: none, parker, or sectored (a tilted sheet).", metavar="KIND"),
    ] = None,
    tilt: Annotated[
        float | None, typer.Option(help="Of the sheet of a sectored wind, in degrees (default 20).")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="Of the interstellar field, in muG (default 3).")] = None,
    field_lb: Annotated[
        str | None,
        typer.Option(help="Galactic direction of the interstellar field, degrees (default the ribbon).", metavar="L,B"),
    ] = None,
    nose: Annotated[float | None, typer.Option(help="Distance of the heliopause upstream, AU (default 120).")] = None,
    electric: Annotated[
        bool, typer.Option("--electric", help="Include E = -V x B of the interstellar gas; asks for --gamma.")
    ] = False,
    gamma: Annotated[
        float | None, typer.Option(help="Index of the spectrum outside, I ~ R^-gamma, such as 2.7.")
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(help="Longest step, in AU or kpc (default 0.03 Larmor radii, at most 2 AU or 0.05 kpc)."),
    ] = None,
    max_duration: Annotated[
        float | None, typer.Option(help="Longest path followed, in AU or kpc (default 50 diameters of the region).")
    ] = None,
    step_check: Annotated[
        bool, typer.Option("--step-check", help="Follow all again with half the step, and tell what changes.")
    ] = False,
    lmax: Annotated[int | None, typer.Option(help="Highest degree of C_l (default 2 nside).")] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-lens"),
) -> None:
    """Sky at Earth of what is outside a magnetic field, followed back along the paths of particles (Liouville).

    Writes sky_*.fits (HEALPix), lens.nc (directions outside, deflections, path lengths), lens.json and pictures.
    Particles are positive; directions whose path does not leave are without a value.

    Example: [bold]diffcr lens heliosphere --rigidity 1,3,10 --step-check -o helio[/bold]
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from .nearest import require_known

    require_known(field, _FIELDS, "there is no field")
    values = parse_rigidities(rigidity, "TV" if field == "heliosphere" else "EV")
    own = {"wind": wind, "strength": strength, "field_lb": field_lb, "nose": nose, "electric": electric or None}
    place = chosen_place(field, frame, region, tilt, own)
    from .lens import Setup
    from .lens_outside import chosen_outside

    setup = Setup(place, nside, oversample, 2 * nside if lmax is None else lmax, step, max_duration, gamma, step_check)
    distribution, outside, notes = chosen_outside(place, dipole, sky)
    require_folder(output)
    make_folder(output)
    _look_and_write(setup, values, distribution, outside, notes, output, plots)


def _look_and_write(setup, rigidities, distribution, outside: dict, notes, output: Path, plots: bool) -> None:
    from .lens import look
    from .lens_report import describe, write_lens

    with _Following(setup.blocks(len(rigidities))) as bar:
        skies = [look(setup, each, distribution(each), bar) for each in rigidities]
    content = write_lens(setup, skies, outside, output, plots)
    print("\n".join(describe(content)))
    for note in [*notes, *content["notes"]]:
        print(f"note             {note}", file=sys.stderr)
    print(f"results          {output / 'lens.json'}, {output / 'lens.nc'}" + (", pictures there" if plots else ""))


# Options ------------------------------------------------------------------------------------------------------


def parse_rigidities(text: str, unit: str) -> list[float]:
    """Rigidities from "1,3,10", increasing.

    Raises:
        InputError: If they are not different numbers above 0.
    """
    values = numbers(text, "--rigidity")
    if not all(0 < each < math.inf for each in values) or len({f"{v:g}" for v in values}) < len(values):
        raise InputError(f"--rigidity takes different rigidities above 0 in {unit}, such as 1,3,10, not {text!r}")
    return sorted(values)


def chosen_place(name: str, frame: str | None, region: float | None, tilt: float | None, own: dict[str, Any]) -> Any:
    """The field of the options; `own` are those of the heliosphere, None where not given.

    Raises:
        InputError: If an option does not go with the field, or cannot be.
    """
    from .lens_places import galaxy_place, heliosphere_place
    from .nearest import require_known

    frame = ("equatorial" if name == "heliosphere" else "galactic") if frame is None else frame
    require_known(frame, _FRAMES, "--frame: there is no frame")
    given = {key: value for key, value in own.items() if value is not None}
    if name == "galaxy":
        if tilt is not None or given:
            option = "tilt" if tilt is not None else next(iter(given)).replace("_", "-")
            raise InputError(f"--{option} is of the heliosphere and has no effect on the galaxy; leave it out")
        return galaxy_place(_FRAMES[frame], region)
    require_known(given.get("wind", "none"), _WINDS, "--wind: there is no wind")
    if tilt is not None:
        if given.get("wind") != "sectored" or not 0 < tilt <= 90:
            raise InputError("--tilt is an angle above 0 and up to 90 degrees, and goes with --wind sectored")
        given["tilt"] = tilt
    if "field_lb" in given:
        angles = numbers(given["field_lb"], "--field-lb")
        if len(angles) != 2 or not (math.isfinite(angles[0]) and -90 <= angles[1] <= 90):
            raise InputError(
                f"--field-lb takes Galactic longitude and latitude in degrees, such as 210.5,-57.1, not "
                f"{given['field_lb']!r}"
            )
        given["field_lb"] = tuple(angles)
    return heliosphere_place(_FRAMES[frame], region, **given)


class _Following:
    """A progress bar over parts of the work."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("following paths", total=total)

    def __enter__(self):
        self._bar.start()
        return self

    def __call__(self) -> None:
        self._bar.advance(self._task)

    def __exit__(self, *_):
        self._bar.stop()
