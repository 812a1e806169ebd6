"""Real data shipped with the package, each with its source and licence (see README.md in this folder)."""
