"""Local HEALPix maps, one per sidereal-time bin, into `Counts`: each pixel goes as a whole into one grid cell."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffcr.errors import InputError
from diffcr.grid import ROUNDING, RingGrid
from diffcr.site import Site

from .data import Counts, combine

BIN_REFERENCES = ("start", "center")
"""Where the sky stands for a bin: at its start, as multi-llh has it, or at its centre."""

_ON_MERIDIAN = 1e-9
_EAST, _WEST, _MERIDIAN = range(3)


@dataclasses.dataclass(frozen=True)
class LocalMaps:
    """Counts of one observatory in the pixels of its own horizon, one HEALPix map per sidereal-time bin.

    Pixels are in RING order in the frame x = South, y = East, z = zenith: theta is the zenith angle, and phi runs
    from South through East. Row tau *begins* at the Greenwich sidereal time 2 pi tau / n_time, which is the local
    sidereal time 2 pi tau / n_time + longitude.

    Attributes:
        name: Name of the observatory.
        latitude: Geographic latitude [rad], North positive.
        longitude: Geographic longitude [rad], East positive.
        zenith_max: Pixels whose centre is farther from the zenith are left out [rad].
        counts: Number of events, shape (n_time, n_pix); fractions are allowed (expectations).
        sum_weights: Sums of the weights of the events, same shape, or None for unit weights.
        sum_squares: Sums of the squared weights, same shape; there exactly where sum_weights is.
        source: What messages and `Counts.inputs` call it: a file.
        checksum: SHA-256 of what was read, by which the same data are known again.
        notes: What was converted on reading, in sentences for the user.

    Raises:
        InputError: If the shapes disagree or are no HEALPix maps, or an entry is negative, unseen or not finite.
    """

    name: str
    latitude: float
    longitude: float
    zenith_max: float
    counts: np.ndarray
    sum_weights: np.ndarray | None = None
    sum_squares: np.ndarray | None = None
    source: str = "local maps"
    checksum: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        Site(self.name, self.latitude, self.longitude, self.zenith_max)  # refuses what is out of range
        shape = np.shape(self.counts)
        if len(shape) != 2 or shape[0] < 4 or not _is_healpix(shape[-1]):
            raise InputError(
                f"{self.source}: local maps of {self.name} have shape {shape}; they need at least 4 time bins of "
                "12 nside^2 pixels each, (n_time, n_pix)"
            )
        if (self.sum_weights is None) != (self.sum_squares is None):
            raise InputError(
                f"{self.source}: weighted maps of {self.name} need sum_weights and sum_squares; give both, or neither"
            )
        for name in ("counts", "sum_weights", "sum_squares"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != shape:
                raise InputError(
                    f"{self.source}: {name} of {self.name} has shape {values.shape}, the counts have {shape}"
                )
            require_countable(values, f"{self.source}: {name} of {self.name}")

    @property
    def site(self) -> Site:
        """The observatory."""
        return Site(self.name, self.latitude, self.longitude, self.zenith_max)

    @property
    def nside(self) -> int:
        """HEALPix resolution of the maps."""
        return math.isqrt(self.counts.shape[1] // 12)


def require_countable(values: np.ndarray, name: str) -> None:
    """Refuse negative, unseen and non-finite entries; the message gives the first of them.

    Raises:
        InputError: If there is one.
    """
    # NaN passes through min and max, which are ten times cheaper than a look at each entry.
    if values.size and values.min() >= 0 and values.max() < np.inf:
        return
    bad = np.argwhere(~((values >= 0) & np.isfinite(values)))
    if len(bad):
        where, value = tuple(int(i) for i in bad[0]), values[tuple(bad[0])]
        kind = "HEALPix UNSEEN" if value < -1e30 else f"{value:g}"
        raise InputError(
            f"{name}: {len(bad)} of {values.size} entries are negative, unseen or not finite, the first is {kind} at "
            f"{where}; set pixels without data to zero"
        )


def _is_healpix(n_pix: int) -> bool:
    return n_pix > 0 and n_pix % 12 == 0 and math.isqrt(n_pix // 12) ** 2 == n_pix // 12


def hour_vector(
    theta: Float[np.ndarray, " pixel"], phi: Float[np.ndarray, " pixel"], latitude: float
) -> Float[np.ndarray, "3 pixel"]:
    """cos(dec) cos H, cos(dec) sin H and sin(dec) of horizon directions.

    With the components S = sin(theta) cos(phi) South, E = sin(theta) sin(phi) East and U = cos(theta) up, they are
    S sin(lat) + U cos(lat), -E and U sin(lat) - S cos(lat): East of the meridian the hour angle is negative.

    Args:
        theta: Zenith angle [rad].
        phi: Angle from South through East [rad].
        latitude: Of the observatory [rad].
    """
    south, east, up = np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)
    sine, cosine = math.sin(latitude), math.cos(latitude)
    return np.stack([south * sine + up * cosine, -east, up * sine - south * cosine])


def bin_offset(longitude: float, n_time: int, bin_reference: str = "start") -> tuple[int, float]:
    """How the bins of a file lie on the time bins of a grid.

    Bin tau of the file stands for the local sidereal time 2 pi tau / n + longitude, plus half a bin for "center";
    it becomes the grid's bin (tau + shift) mod n, whose centre is at (tau + shift + 1/2) 2 pi / n.

    Returns:
        (shift, rest): whole bins, and the sidereal time of the file's bin minus that of the grid's centre [rad],
        between -1 and +1/2 bins.

    Raises:
        InputError: If the reference is unknown.
    """
    if bin_reference not in BIN_REFERENCES:
        raise InputError(f"unknown bin reference {bin_reference!r}: choose one of {', '.join(BIN_REFERENCES)}")
    step = 2 * math.pi / n_time
    shift = round(longitude / step)
    return shift, longitude - shift * step - (step / 2 if bin_reference == "start" else 0.0)


def default_rings(maps: Sequence[LocalMaps]) -> int:
    """Number of declination rings that fits the pixels: 180, or fewer where pixels are coarser than two degrees.

    Neighbouring pixel centres are at most 0.9 / nside apart in declination, so rings at least that wide are tried
    first, and widened until each ring that lies wholly in the field of view of a site holds a pixel centre. Pixels do
    not fill such rings evenly, which biases a fitted dipole: by 2 % at nside 8, 1 % at 16 and 0.02 % at 64, measured at
    41 degrees South. Twice the number of rings brings it below 0.2 %, and leaves some of them empty, so that is taken.
    """
    best = 180
    for each in maps:
        sine, _ = _pixels(each)[1:]
        number = max(4, min(best, int(math.pi * each.nside / 0.9)))
        low, high = max(-np.pi / 2, each.latitude - each.zenith_max), min(np.pi / 2, each.latitude + each.zenith_max)
        while number > 4:
            grid = RingGrid(number, 4)
            edges = grid.declination_edges
            inside = (edges[:-1] >= low - 1e-9) & (edges[1:] <= high + 1e-9)
            filled = np.zeros(number, bool)
            filled[grid.ring_of(np.arcsin(sine))] = True
            if not np.any(inside & ~filled):
                break
            number -= 1
        best = number
    return min(180, 2 * best)


def to_counts(
    maps: Sequence[LocalMaps],
    n_ring: int | None = None,
    bin_reference: str = "start",
    cube: bool = False,
    mean_epoch: float = math.nan,
    livetime: float = math.nan,
) -> Counts:
    """Counts on a ring grid with as many right-ascension bins as the maps have time bins.

    A pixel goes as a whole into the cell that holds its centre, so cells stay Poisson-distributed and independent.
    The hour-angle bin is chosen such that the pixel's centre at the sidereal time of its bin lies in the
    right-ascension bin the grid assigns: hour angles count from the meridian of the place where the sidereal time is
    that at the centre of the grid's bin, at most a bin from the site's own. `Counts.moments` come from the centres of
    the pixels, with the same hour angles. The true side of the meridian decides on East and West, and pixels on it
    count half in each.

    Args:
        maps: One or several observatories, with equal numbers of time bins; names differ.
        n_ring: Number of declination rings; default `default_rings`.
        bin_reference: "start": the sky of bin tau is that at its beginning, as multi-llh maps it. "center": half a bin
            later, right for events collected over the bin.
        cube: Keep the counts of every time bin and local cell.
        mean_epoch: Mean time of the events [Julian year]; NaN where it is not known, and the result then stays in the
            equator of date.
        livetime: Time spanned by the events [days]; NaN where it is not known.

    Returns:
        `Counts`. The numbers of counts beyond zenith_max are in `inputs` under cut, zenith.

    Raises:
        InputError: If there is no map, the numbers of time bins differ, a name comes twice, or no count lies within the
            zenith cut.
    """
    if not maps:
        raise InputError("no local maps were given: name at least one observatory")
    lengths = {each.name: len(each.counts) for each in maps}
    if len(lengths) < len(maps):
        raise InputError("two of the local maps have the same name; give each observatory its own")
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {number}" for name, number in lengths.items())
        raise InputError(f"the local maps have different numbers of time bins ({text}); all must have the same")
    grid = RingGrid(default_rings(maps) if n_ring is None else n_ring, len(maps[0].counts))
    parts = [_counts_of(each, grid, bin_reference, cube, mean_epoch, livetime) for each in maps]
    return parts[0] if len(parts) == 1 else combine(parts)


def pixel_cells(
    maps: LocalMaps, grid: RingGrid, bin_reference: str = "start"
) -> tuple[Int[np.ndarray, " pixel"], Int[np.ndarray, " pixel"], Int[np.ndarray, " pixel"]]:
    """Pixels within the zenith cut, and the ring and the hour-angle bin of the grid that `to_counts` puts each into."""
    groups = _group(maps, grid, bin_offset(maps.longitude, grid.n_ra, bin_reference)[1])
    size = np.diff(groups.starts, append=len(groups.order))
    return groups.order, np.repeat(groups.ring, size), np.repeat(groups.hour, size)


class _Groups(NamedTuple):
    """Pixels of one observatory within its zenith cut, those of one (ring, side, hour-angle bin) side by side.

    Attributes:
        order: Pixel numbers, sorted by group.
        starts: Where each group begins in `order`.
        ring, side, hour: Of each group.
        moment: cos(dec) (cos H, sin H) of the pixels in `order`, with H as the grid counts it, shape (pixel, 2).
    """

    order: Int[np.ndarray, " pixel"]
    starts: Int[np.ndarray, " group"]
    ring: Int[np.ndarray, " group"]
    side: Int[np.ndarray, " group"]
    hour: Int[np.ndarray, " group"]
    moment: Float[np.ndarray, "pixel 2"]


def _pixels(maps: LocalMaps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the pixels within the zenith cut, their sin(dec), and cos(dec) (cos H, sin H)."""
    import healpy

    theta, phi = healpy.pix2ang(maps.nside, np.arange(maps.counts.shape[1]))
    inside = np.flatnonzero(theta <= maps.zenith_max + 1e-12)
    ahead, aside, sine = hour_vector(theta[inside], phi[inside], maps.latitude)
    return inside, np.clip(sine, -1, 1), np.stack([ahead, aside], axis=1)


def _group(maps: LocalMaps, grid: RingGrid, rest: float) -> _Groups:
    inside, sine, moment = _pixels(maps)
    ahead, aside = moment.T
    ring = grid.ring_of(np.arcsin(sine))
    # Right-ascension bin tau - h must be that of (tau + 1/2) step + rest - H.
    turns = (np.arctan2(aside, ahead) - rest) / grid.step
    # Centres on the edge of two cells go to the eastern one from the eastern sky and to the western one from the
    # western: else a few per cent of the pixels would turn the sky by half a cell.
    hour = -np.floor(0.5 - turns + np.where(aside < 0, ROUNDING, -ROUNDING)).astype(np.int64) % grid.n_ra
    side = np.where(np.abs(aside) < _ON_MERIDIAN, _MERIDIAN, np.where(aside < 0, _EAST, _WEST))
    key = (ring * 3 + side) * grid.n_ra + hour
    order = np.argsort(key, kind="stable")
    found, starts = np.unique(key[order], return_index=True)
    return _Groups(
        order=inside[order],
        starts=starts,
        ring=found // (3 * grid.n_ra),
        side=found // grid.n_ra % 3,
        hour=found % grid.n_ra,
        moment=_turned(moment[order], -rest),
    )


def _turned(vector: Float[np.ndarray, "pixel 2"], angle: float) -> Float[np.ndarray, "pixel 2"]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return vector @ np.array([[cosine, sine], [-sine, cosine]])


def _counts_of(
    maps: LocalMaps, grid: RingGrid, bin_reference, cube: bool, mean_epoch: float, livetime: float
) -> Counts:
    shift, rest = bin_offset(maps.longitude, grid.n_ra, bin_reference)
    groups = _group(maps, grid, rest)
    values = maps.counts if maps.sum_weights is None else maps.sum_weights
    chosen = values[:, groups.order]
    total = float(maps.counts.sum())
    kept = float(chosen.sum() if values is maps.counts else maps.counts[:, groups.order].sum())
    if not kept > 0:
        degrees = math.degrees(maps.zenith_max)
        what = f"no count lies within the zenith cut of {degrees:g} degrees, {total:g} beyond" if total else "no count"
        raise InputError(f"{maps.source}: {maps.name}: {what}; check the maps, their frame and the cut")
    sums = _marginals(chosen, groups, grid, shift, cube)
    squares = (
        {} if maps.sum_squares is None else _marginals(maps.sum_squares[:, groups.order], groups, grid, shift, False)
    )
    centre = 2 * np.pi * (np.arange(grid.n_ra) + shift + 0.5) / grid.n_ra
    entry = {
        "file": maps.source,
        "sha256": maps.checksum,
        "site": maps.name,
        "events_read": round(total),
        "cut": {"zenith": round(total - kept)},
        "notes": [*maps.notes, *_whole(maps)],
        "nside": maps.nside,
        "time_bins": len(maps.counts),
        "latitude_deg": math.degrees(maps.latitude),
        "longitude_deg": math.degrees(maps.longitude),
        "zenith_max_deg": math.degrees(maps.zenith_max),
        "bin_reference": bin_reference,
    }
    one = np.ones((1, 1, 1))
    return Counts(
        grid=grid,
        sites=(maps.site,),
        energies=("all",),
        epochs=("all",),
        **{name: each[None, None, None] for name, each in sums.items()},
        num_events=np.full((1, 1, 1), max(1, round(kept)), np.int64),
        mean_epoch=mean_epoch * one,
        livetime=livetime * one,
        moments=_moments(chosen, groups.moment, centre)[None, None, None],
        w2={name: each[None, None, None] for name, each in squares.items()},
        inputs=({k: v for k, v in entry.items() if v is not None},),
    )


def _whole(maps: LocalMaps) -> list[str]:
    """A note where counts without weights are not whole numbers."""
    if maps.sum_weights is not None or np.array_equal(maps.counts, np.rint(maps.counts)):
        return []
    return ["counts are not whole numbers; errors are those of as many events"]


def _marginals(
    chosen: Float[np.ndarray, "time pixel"], groups: _Groups, grid: RingGrid, shift: int, cube: bool
) -> dict[str, np.ndarray]:
    """The marginals of counts, one column per pixel of `groups.order`; all but n_half without a look at the sides."""
    rings, bins = grid.shape
    # Time bins of the grid from here on.
    cells = np.roll(np.add.reduceat(chosen, groups.starts, axis=1), shift, axis=0)
    local = groups.ring * bins + groups.hour
    column = (np.arange(bins)[:, None] - groups.hour) % bins + groups.ring * bins
    strips, first = np.unique(groups.ring * 3 + groups.side, return_index=True)
    parts = np.zeros((3, rings, bins))
    parts[strips % 3, strips // 3] = np.add.reduceat(cells, first, axis=1).T
    out = {
        "n_sky": np.bincount(column.ravel(), cells.ravel(), rings * bins).reshape(rings, bins),
        "n_time": cells.sum(axis=1),
        "n_local": np.bincount(local, cells.sum(axis=0), rings * bins).reshape(rings, bins),
        "n_half": parts[:2] + parts[_MERIDIAN] / 2,
    }
    if cube:
        full = np.zeros((bins, rings * bins))
        for side in (_EAST, _WEST, _MERIDIAN):
            mine = groups.side == side
            full[:, local[mine]] += cells[:, mine]
        out["cube"] = full.reshape(bins, rings, bins)
    return out


def _moments(
    chosen: Float[np.ndarray, "time pixel"], moment: Float[np.ndarray, "pixel 2"], time: Float[np.ndarray, " time"]
) -> Float[np.ndarray, "3 2"]:
    """Sums of cos(dec) (cos RA, sin RA), of cos(dec) (cos H, sin H) and of (cos t, sin t), with RA = t - H."""
    hour = (chosen @ moment) @ np.array([1, 1j])
    turned = np.exp(1j * time)
    sums = (np.sum(turned * hour.conj()), np.sum(hour), np.sum(turned * chosen.sum(axis=1)))
    return np.array([[z.real, z.imag] for z in sums])
