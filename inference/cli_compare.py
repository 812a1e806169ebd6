"""The command `diffcr compare`: which of several sampled models foretells each degree of the sky best."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_options import Output, make_folder, require_folder


def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Output folders of diffcr sample, of the same data.", metavar="DIR...")
    ],
    refit: Annotated[
        bool,
        typer.Option(
            "--refit/--no-refit", help="Sample again without those degrees for which importance weights fail."
        ),
    ] = True,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw a picture beside the results.")] = True,
    output: Output = Path("diffcr-compare"),
) -> None:
    """Compare sampled models of the same counts by how they foretell each degree l of the sky from the others.

    For the models multipoles, small-scale, and local-field with a profile. Writes compare.json and compare.png. Exit
    code 3 where the chains of a model had not converged.

    Example: [bold]diffcr compare cascade profile power-law -o comparison[/bold]
    """
    from .degree_report import compare_folders, describe, figure
    from .plots import save
    from .report import write_json

    if len(folders) < 2:
        raise InputError("one folder alone has nothing to be compared with; give two or more")
    require_folder(output)
    tell = lambda name, l: print(f"sampling {name} again without l = {l}", file=sys.stderr)
    content = compare_folders(folders, refit, tell)
    make_folder(output)
    if plots:
        save(figure(content), output / "compare.png")
    write_json(output / "compare.json", content)
    print("\n".join(describe(content)))
    print(f"results          {output / 'compare.json'}" + (f", {output / 'compare.png'}" if plots else ""))
    failed = [name for name, entry in content["models"].items() if not entry["converged"]]
    if failed:
        raise FitError(f"the chains of {', '.join(failed)} had not converged: sample more draws; results were written")
