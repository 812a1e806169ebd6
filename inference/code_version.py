"""The version of the program, by its sources: what is kept of a run is used again by the same program alone."""

import functools
import hashlib
from pathlib import Path

import diffcr


@functools.cache
def code_version() -> str:
    """Version of the program with a digest of its sources: results of other code are not taken for those of this.

    The digest is of the programs and data of the package, taken once in a process.
    """
    from . import __file__ as inference

    digest = hashlib.sha256()
    roots = (("diffcr", Path(diffcr.__file__).parent), ("diffcr.inference", Path(inference).parent))
    for name, root in roots:
        for path in sorted(root.rglob("*")):
            part = path.relative_to(root)
            # Where the package is installed one lies in the other. What editors and Python leave is not of it.
            inner = name == "diffcr" and part.parts[0] == "inference"
            own = not path.name.startswith(".") and path.suffix in (".py", ".toml", ".csv", ".dat", ".txt")
            if own and not inner and path.is_file():
                digest.update(f"{name}/{part.as_posix()}".encode() + b"\0" + path.read_bytes())
    return f"diffcr {diffcr.__version__} ({digest.hexdigest()[:16]})"
