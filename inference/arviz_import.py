"""ArviZ, imported so that many processes can do so at once, and where the home folder cannot be written.

ArviZ 0.23 notes in the user's cache folder that it has warned of its next version today. Processes that do so at the
same moment fail on each other's file, as they do on a folder that is read-only: both are usual on a cluster. Modules
take ArviZ from here.
"""

import importlib
import os
import tempfile
import warnings
from types import ModuleType


def import_arviz() -> ModuleType:
    """The module `arviz`; where its note cannot be written it goes to a folder that is then removed."""
    try:
        return importlib.import_module("arviz")
    except OSError:
        pass
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Said by the first try, or not of use to a worker.
        warnings.simplefilter("ignore", FutureWarning)
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            return importlib.import_module("arviz")
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


arviz = import_arviz()
