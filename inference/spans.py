"""First and last time of the events of counts, and what becomes of both where counts are joined."""

import numpy as np
from jaxtyping import Float, Int


def span_of_events(
    span: Float[np.ndarray, "*lead 2"], num_events: Int[np.ndarray, "*lead"]
) -> Float[np.ndarray, "*lead 2"]:
    """The span, (inf, -inf) where there is no event: what changes nothing when it is joined."""
    return np.where(num_events[..., None] > 0, span, (np.inf, -np.inf))


def joined_span(one: Float[np.ndarray, "*lead 2"], other: Float[np.ndarray, "*lead 2"]) -> Float[np.ndarray, "*lead 2"]:
    """From the first event of either to the last one; NaN where either is."""
    return np.stack([np.minimum(one[..., 0], other[..., 0]), np.maximum(one[..., 1], other[..., 1])], axis=-1)


def known_span(span: Float[np.ndarray, "*lead 2"]) -> Float[np.ndarray, "*lead 2"]:
    """NaN for both ends where there is no event or one of them is not known."""
    return np.where(np.isfinite(span).all(axis=-1)[..., None], span, np.nan)


def livetime_within(
    livetime: Float[np.ndarray, "*lead"], span: Float[np.ndarray, "*lead 2"]
) -> Float[np.ndarray, "*lead"]:
    """A sum of live times [days], no longer than the time between first and last event where these are known.

    Parts that were taken at the same time, such as streams of one detector, would count it several times.
    """
    length = span[..., 1] - span[..., 0]
    return np.where(np.isnan(length), livetime, np.minimum(livetime, length))
