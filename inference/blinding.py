"""Blinding: right ascension and sidereal time are rotated by a secret angle until `unblind`, which is recorded."""

import hashlib
import hmac
from datetime import UTC, datetime

import numpy as np

from diffcr.errors import InputError

from .data import Counts

_TELLTALE = ("right_ascension_harmonic", "truth_dipole_j2000")
_CONTEXT = b"diffcr blinding of right ascension"


def blind(counts: Counts, key: str) -> Counts:
    """Rotate right ascension and time of all counts by a whole number of bins that follows from the key.

    Rates, acceptances, amplitudes and significances stay as they are; every phase is off by the secret angle. (Where
    the fit groups time bins into fewer free rates, the groups begin elsewhere: a change of some per cent of the error.)
    The key is not kept, only a hash that tells whether a later key is the same.

    Raises:
        InputError: If the key is empty or the counts are blinded already.
    """
    if counts.blinded:
        raise InputError("the counts are blinded already; unblind them first with the key they were blinded with")
    if not key:
        raise InputError("the blinding key is empty; give any word, and keep it for `diffcr unblind`")
    history = {name: entry for name, entry in counts.history.items() if name != "unblinded"}
    return _rotated(counts, _bins(key, counts.grid.n_ra), history | {"blind": {"key_check": _check(key)}})


def unblind(counts: Counts, key: str) -> Counts:
    """Undo `blind`; the history keeps that it was done, and when (UTC).

    Raises:
        InputError: If the counts are not blinded, or with another key.
    """
    if not counts.blinded:
        raise InputError("the counts are not blinded: there is nothing to unblind")
    if not hmac.compare_digest(counts.history["blind"]["key_check"], _check(key)):
        raise InputError("this is not the key the counts were blinded with; give the one used with --blind")
    history = {name: entry for name, entry in counts.history.items() if name != "blind"}
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    return _rotated(counts, -_bins(key, counts.grid.n_ra), history | {"unblinded": {"time": stamp}})


def _rotated(counts: Counts, bins: int, history: dict) -> Counts:
    # The hour angle is the difference of time and right ascension: rotating both leaves local maps alone.
    def roll(values):
        return np.roll(values, bins, axis=-1)

    moved = {name: roll(getattr(counts, name)) for name in ("n_sky", "n_time", "n_half")}
    squares = {name: roll(v) if name != "n_local" else v for name, v in counts.w2.items()}
    angle = bins * counts.grid.step
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moments = counts.moments.copy()
    moments[..., [0, 2], :] = moments[..., [0, 2], :] @ turn.T
    # The sums over the events' own right ascensions would tell the angle.
    inputs = tuple({k: v for k, v in e.items() if k not in _TELLTALE} for e in counts.inputs)
    return counts.replace(**moved, w2=squares, moments=moments, history=history, inputs=inputs)


def _bins(key: str, n: int) -> int:
    """Between 1 and n - 1: a rotation by nothing would hide nothing."""
    digest = hmac.new(_CONTEXT, key.encode(), hashlib.sha256).digest()
    return 1 + int.from_bytes(digest[:8], "big") % (n - 1)


def _check(key: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", key.encode(), _CONTEXT, 100_000).hex()
