"""Epochs: one detector configuration each. Reading their table, and whether two may be merged."""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from diffcr.errors import InputError

from .data import MARGINALS, Counts
from .dipole import log10_p_value
from .spans import joined_span, known_span, livetime_within, span_of_events

_MJD = (15020.0, 161117.0)
"""Years 1900 and 2300."""


def read_epochs(path: str | Path) -> tuple[tuple[str, float, float], ...]:
    """Table of epochs: CSV with columns label, start, end; ISO dates (UTC) or MJD.

    Returns:
        Tuples (label, start, end) in days since J2000.0, start included, end excluded.

    Raises:
        InputError: If the file is missing or malformed, an epoch is empty, or two overlap.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; --epochs takes 'yearly' or a CSV file with columns label,start,end")
    try:
        table = pd.read_csv(path, comment="#", dtype=str, skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV table ({error}); it needs columns label,start,end") from error
    table.columns = [str(c).strip().lower() for c in table.columns]
    missing = {"label", "start", "end"} - set(table.columns)
    if missing:
        raise InputError(f"{path}: the table of epochs lacks column {sorted(missing)[0]}; it needs label,start,end")
    epochs = []
    for row, (label, start, end) in enumerate(table[["label", "start", "end"]].itertuples(index=False), 1):
        low, high = (_moment(x, path, row, name) for x, name in ((start, "start"), (end, "end")))
        if not high > low:
            raise InputError(f"{path}: epoch {label!r} in row {row} ends before it starts; swap start and end")
        epochs.append((str(label).strip(), low, high))
    if not epochs:
        raise InputError(f"{path}: the table of epochs has no row")
    ordered = sorted(epochs, key=lambda e: e[1])
    for (one, _, end), (two, start, _) in itertools.pairwise(ordered):
        if start < end:
            raise InputError(f"{path}: epochs {one!r} and {two!r} overlap; every event must belong to one epoch")
    if len({label for label, _, _ in epochs}) < len(epochs):
        raise InputError(f"{path}: two epochs have the same label; give each configuration its own")
    return tuple(epochs)


def _moment(text, path: Path, row: int, column: str) -> float:
    """Days since J2000.0 of an ISO date or an MJD; a number that is no MJD of our time, such as a year, is refused."""
    wrong = InputError(f"{path}: {column} = {text!r} in row {row} is neither a date (2012-05-15) nor an MJD")
    try:
        number = float(text)
    except (TypeError, ValueError):
        try:
            return pd.to_datetime(text, utc=True, format="ISO8601").timestamp() / 86400 - 10957.5
        except (TypeError, ValueError):
            raise wrong from None
    if not _MJD[0] <= number <= _MJD[1]:  # an empty field is NaN
        raise wrong
    return number - 51544.5


@dataclasses.dataclass(frozen=True)
class MergeTest:
    """Whether epochs share one acceptance: likelihood ratio of one acceptance against one for each epoch.

    Attributes:
        test_statistic: 2 ln(L_separate / L_common), summed over blocks of local cells.
        degrees_of_freedom: Of its chi-squared distribution under a common acceptance.
        log10_p: log10 of the chance probability.
    """

    test_statistic: float
    degrees_of_freedom: int
    log10_p: float

    @property
    def allowed(self) -> bool:
        """Whether the data do not contradict a common acceptance at 1 %."""
        return bool(self.log10_p > -2)


def merge_test(fit_result, min_counts: float = 20.0) -> MergeTest:
    """Test of a common acceptance of all epochs of each observatory and energy bin.

    Given the fitted sky and rates, an epoch expects in local cell i the share x_ie of the events found there
    by all epochs together; the multinomial likelihood ratio sums n_ie ln(n_ie / expected). Neighbouring
    cells are joined until each epoch expects at least `min_counts` events.

    Args:
        fit_result: `FitResult` of the separate epochs.
        min_counts: Smallest expectation of a block.

    Raises:
        InputError: If there is only one epoch, or too few events.
    """
    counts: Counts = fit_result.counts
    places = counts.configurations()

    def effective(place):
        if not counts.weighted:
            return 1.0
        return float(counts.n_time[place].sum() / counts.w2["n_time"][place].sum())

    statistic, freedom = 0.0, 0
    groups = sorted({place[:2] for place in places})
    if all(sum(p[:2] == g for p in places) < 2 for g in groups):
        raise InputError("a merge test needs at least two epochs of one observatory; bin with --epochs")
    for group in groups:
        mine = [k for k, p in enumerate(places) if p[:2] == group]
        if len(mine) < 2:
            continue
        local = np.stack([counts.n_local[places[k]] * effective(places[k]) for k in mine])
        # A_i times what the epoch's rate and the sky give: its expectation is proportional to n_i / A_i.
        seen = np.stack(
            [
                _seen(counts.n_local[places[k]], fit_result.acceptances[k])
                * counts.n_time[places[k]].sum()
                * effective(places[k])
                for k in mine
            ]
        )
        share = seen / seen.sum(axis=0)
        expected = share * local.sum(axis=0)
        ts, dof = _blocks(local, expected, min_counts)
        statistic += ts
        freedom += dof
    if freedom == 0:
        raise InputError(
            f"too few events for a merge test: it needs two blocks of cells with {min_counts:g} expected in every epoch"
        )
    return MergeTest(statistic, freedom, log10_p_value(statistic, freedom))


def _seen(local: np.ndarray, acceptance: np.ndarray) -> np.ndarray:
    """x_i of an epoch relative to isotropy, 1 where it has no event."""
    total = local.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = local / (acceptance * total)
    return np.where(local > 0, ratio, 1.0)


def _blocks(local: np.ndarray, expected: np.ndarray, min_counts: float) -> tuple[float, int]:
    """Likelihood ratio and degrees of freedom after joining neighbouring cells, the last block topped up."""
    # Start each ring opposite to the meridian, so that its field of view is one stretch; rings follow each other.
    half = local.shape[2] // 2
    n, mu = (np.roll(x, half, axis=2).reshape(len(x), -1) for x in (local, expected))
    block_n, block_mu = np.zeros(len(n)), np.zeros(len(n))
    blocks = []
    for k in np.flatnonzero(mu.sum(axis=0) > 0):
        block_n, block_mu = block_n + n[:, k], block_mu + mu[:, k]
        if block_mu.min() >= min_counts:
            blocks.append((block_n, block_mu))
            block_n, block_mu = np.zeros(len(n)), np.zeros(len(n))
    if blocks:
        blocks[-1] = (blocks[-1][0] + block_n, blocks[-1][1] + block_mu)
    statistic = sum(2 * float(np.sum(f * np.log(np.where(f > 0, f / w, 1.0)))) for f, w in blocks)
    return statistic, max(len(blocks) - 1, 0) * (len(n) - 1)


def merge_epochs(counts: Counts, force: bool = False) -> Counts:
    """Add all epochs into one, as if they shared one acceptance.

    Raises:
        InputError: Without `force`: merging is refused, and the message says what the likelihood-ratio test finds.
    """
    if len(counts.epochs) < 2:
        raise InputError("there is only one epoch: nothing to merge")
    if not force:
        from .fit import fit

        test = merge_test(fit(counts))
        verdict = "would be allowed by" if test.allowed else "is excluded by"
        raise InputError(
            f"epochs {', '.join(counts.epochs)} are different detector configurations and are not merged: one "
            f"acceptance for all {verdict} a likelihood-ratio test (TS = {test.test_statistic:.1f} for "
            f"{test.degrees_of_freedom} degrees of freedom, log10 p = {test.log10_p:.2f}); keep them apart, as the fit "
            "does, or force the merge"
        )
    merged = {name: getattr(counts, name).sum(axis=2, keepdims=True) for name in MARGINALS}
    squares = {name: v.sum(axis=2, keepdims=True) for name, v in counts.w2.items()}
    events = counts.num_events.sum(axis=2, keepdims=True)
    weighted = np.where(counts.num_events > 0, counts.mean_epoch * counts.num_events, 0).sum(axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_epoch = np.where(events > 0, weighted / events, np.nan)
    spans = np.split(span_of_events(counts.span, counts.num_events), len(counts.epochs), axis=2)
    span = known_span(functools.reduce(joined_span, spans))
    return counts.replace(
        epochs=("all",),
        **merged,
        moments=np.where((counts.num_events > 0)[..., None, None], counts.moments, 0.0).sum(axis=2, keepdims=True),
        w2=squares,
        num_events=events,
        mean_epoch=mean_epoch,
        livetime=livetime_within(counts.livetime.sum(axis=2, keepdims=True), span),
        span=span,
        history=counts.history | {"merged_epochs": list(counts.epochs)},
    )
