"""Errors a user can mend: each message names what is wrong, where, and the remedy."""


class InputError(ValueError):
    """Input that cannot be used as it is. The command line prints it as one line and exits with 2."""


class FitError(RuntimeError):
    """A fit that finished without reaching its maximum, where a maximum was required. Exit code 3."""


def require_float64(what: str) -> None:
    """Refuse to run `what` on 32-bit floats, and say how to turn on 64-bit ones.

    Raises:
        RuntimeError: If JAX runs without 64-bit floats.
    """
    import jax

    if not jax.config.jax_enable_x64:
        raise RuntimeError(
            f"{what} needs 64-bit floats: call jax.config.update('jax_enable_x64', True) before anything else"
        )


def is_known(value) -> bool:
    """Whether a value can be looked at, and so checked: not while JAX traces it."""
    import jax

    return not isinstance(value, jax.core.Tracer)
