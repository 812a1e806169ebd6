"""The exchange format of the field: local HEALPix maps per sidereal bin and their JSON configuration, read and written.

It is that of multi-llh, the program behind the joint map of IceCube and HAWC (Abeysekara et al. 2019, ApJ 871, 96).
"""

import dataclasses
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffcr.errors import InputError

from .files import atomic
from .local_maps import LocalMaps
from .sky_files import binary_table

_KEYS = ("nside", "latitude", "longitude", "thetamax", "prefix")
_IMAGES = ("LMAPS", "WMAPS", "W2MAPS")
_NO_SQUARES = (
    "weights need the sums of their squares, without which no error is known: use a multimap with W2MAPS, or set "
    '"weights" to false'
)


# Reading ------------------------------------------------------------------------------------------------------


def read_exchange(config: str | os.PathLike, timesteps: int | None = None) -> list[LocalMaps]:
    """Local maps of every detector of a JSON configuration of multi-llh.

    The configuration is {"detectors": {NAME: {"nside", "latitude", "longitude", "thetamax" (degrees), "prefix",
    "suffix", "multifits", "weights"}}}. Without "multifits" there is one file per sidereal bin, PREFIX000SUFFIX and
    on: a HEALPix table in its second HDU, whose columns are counts, sums of weights and (where "weights" is true)
    sums of squared weights. With it PREFIX is one FITS file of images LMAPS, WMAPS, W2MAPS of shape (n_time, n_pix).
    Paths that are not found from the working directory are taken from the folder of the configuration.

    Args:
        config: The JSON file.
        timesteps: Number of sidereal bins to insist on; default what the files hold.

    Returns:
        One `LocalMaps` per detector, in RING order.

    Raises:
        InputError: If a key is missing, a file is missing, damaged or of another resolution, the numbers of bins
            differ, an entry is negative, unseen or not finite, or weights come without squares.
    """
    config = Path(config)
    maps = []
    for name, entry in _detectors(config).items():
        where = f"{config}: detector {name}"
        options = _options(entry, where)
        read = _read_multimap if options["multifits"] else _read_bins
        counts, weights, squares, digest, notes = read(options, config.parent, where)
        if timesteps is not None and len(counts) != timesteps:
            raise InputError(
                f"{where}: it has {len(counts)} time bins, not {timesteps}; correct the number, or the files"
            )
        maps.append(
            LocalMaps(
                name=name,
                latitude=math.radians(options["latitude"]),
                longitude=math.radians(options["longitude"]),
                zenith_max=math.radians(options["thetamax"]),
                counts=counts,
                sum_weights=weights,
                sum_squares=squares,
                source=f"{config.name}: {name}",
                checksum=digest,
                notes=notes,
            )
        )
    lengths = {each.name: len(each.counts) for each in maps}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {number}" for name, number in lengths.items())
        raise InputError(f"{config}: the detectors differ in the number of time bins ({text}); all must have the same")
    return maps


def _detectors(config: Path) -> dict:
    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise InputError(f"{config}: {twice!r} stands twice in one object; give each detector and key once")
        return found

    try:
        content = json.loads(config.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise InputError(f"{config}: cannot be read ({error.strerror}); give the JSON configuration") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{config}: not a JSON file ({error}); correct it") from error
    detectors = content.get("detectors") if isinstance(content, dict) else None
    if not isinstance(detectors, dict) or not detectors:
        raise InputError(f'{config}: it has no detectors; it must read {{"detectors": {{NAME: {{"nside": .., ..}}}}}}')
    return detectors


def _options(entry, where: str) -> dict:
    """The checked options of one detector; numbers and truth values may be text, as multi-llh accepts them."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: it must be an object with {', '.join(_KEYS)}")
    options = {"multifits": False, "weights": False} | entry
    for key in ("multifits", "weights"):
        value = str(options[key]).lower()
        if value not in ("true", "false", "1", "0"):
            raise InputError(f'{where}: "{key}" must be true or false, not {options[key]!r}')
        options[key] = value in ("true", "1")
    missing = [key for key in _KEYS + (() if options["multifits"] else ("suffix",)) if key not in options]
    if missing:
        raise InputError(f"{where}: the key {', '.join(missing)} is missing; add it to the configuration")
    for key in ("nside", "latitude", "longitude", "thetamax"):
        try:
            options[key] = float(options[key])
        except (TypeError, ValueError):
            options[key] = math.nan
        if not math.isfinite(options[key]):
            raise InputError(f'{where}: "{key}" must be a number, not {entry[key]!r}')
    if abs(options["latitude"]) > 90 or abs(options["longitude"]) > 360 or not 0 < options["thetamax"] <= 90:
        raise InputError(
            f"{where}: latitude {options['latitude']:g}, longitude {options['longitude']:g} and thetamax "
            f"{options['thetamax']:g} must be degrees within 90, 360 and 0 to 90"
        )
    for key in ("prefix", "suffix"):
        if not isinstance(options.get(key, ""), str):
            raise InputError(f'{where}: "{key}" must be text, not {options[key]!r}')
    return options


def _find_bins(prefix: str, suffix: str, base: Path, where: str) -> list[Path]:
    """The files of the bins in order, refused where a number is missing."""
    for start in (Path(prefix), base / prefix):
        # A prefix that ends in a slash has an empty last part.
        folder, stem = (start, "") if prefix.endswith(("/", os.sep)) else (start.parent, start.name)
        if not folder.is_dir():
            continue
        pattern = re.compile(re.escape(stem) + r"(\d{3,})" + re.escape(suffix))
        matches = [m for m in map(pattern.fullmatch, os.listdir(folder)) if m and f"{int(m[1]):03d}" == m[1]]
        found = {int(m[1]): folder / m[0] for m in matches}
        if found:
            gap = next((k for k in range(len(found)) if k not in found), None)
            if gap is not None:
                raise InputError(
                    f"{where}: of bins 000 to {max(found):03d} the file {prefix}{gap:03d}{suffix} is missing; "
                    "add it, or write the bins again"
                )
            return [found[k] for k in range(len(found))]
    raise InputError(f"{where}: there is no file {prefix}000{suffix}; correct the prefix or the suffix")


def _read_bins(options: dict, base: Path, where: str):
    """Counts, weights, squares, checksum and notes of the files of the bins."""
    paths = _find_bins(options["prefix"], options["suffix"], base, where)
    digest, notes, sums = hashlib.sha256(), (), []
    for k, path in enumerate(paths):
        content = _content(path)
        digest.update(content)
        table = binary_table(content, str(path), columns=3 if options["weights"] else 1)
        for header in (table.primary, table.header):
            _check_header(header, k, len(paths), path)
        if options["weights"] and len(table.columns) < 3:
            raise InputError(f"{path}: it has {len(table.columns)} columns: {_NO_SQUARES}")
        number, order = _layout(table.header, table.columns[0].size, options, path)
        if not sums:
            sums = [np.empty((len(paths), number)) for _ in table.columns]
        if {column.size for column in table.columns} != {number} or len(table.columns) != len(sums):
            raise InputError(f"{path}: its columns differ from those of the first bin; write the bins again")
        for values, column in zip(sums, table.columns, strict=True):
            values[k] = column if order is None else column[order]
        if order is not None:
            notes = ("NESTED order was turned into RING",)
    return (*sums, *(None,) * (3 - len(sums)), digest.hexdigest(), notes)


def _read_multimap(options: dict, base: Path, where: str):
    from astropy.io import fits

    path = next((p for p in (Path(options["prefix"]), base / options["prefix"]) if p.is_file()), None)
    if path is None:
        raise InputError(f"{where}: there is no file {options['prefix']}; correct the prefix")
    content = path.read_bytes()
    wanted = _IMAGES if options["weights"] else _IMAGES[:1]
    sums, notes = [], ()
    try:
        with fits.open(path, memmap=False) as hdus:
            images = {hdu.name.upper(): (hdu.header, hdu.data) for hdu in hdus if hdu.name.upper() in wanted}
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise InputError(f"{path}: not a readable FITS file ({type(error).__name__}); copy it again") from error
    for name in wanted:
        header, values = images.get(name, (None, None))
        if values is None:
            remedy = _NO_SQUARES if name != "LMAPS" else "a multimap has an image LMAPS of shape (n_time, n_pix)"
            raise InputError(f"{path}: the image {name} is missing; {remedy}")
        if values.ndim != 2:
            raise InputError(f"{path}: {name} has shape {values.shape}, not (n_time, n_pix); write it again")
        _, order = _layout(header, values.shape[1], options, path)
        native = np.asarray(values, dtype=np.float64)
        sums.append(native if order is None else native[:, order])
        if order is not None:
            notes = ("NESTED order was turned into RING",)
    if len({each.shape for each in sums}) > 1:
        raise InputError(f"{path}: {', '.join(wanted)} have different shapes; write it again")
    return (*sums, *(None,) * (3 - len(sums)), hashlib.sha256(content).hexdigest(), notes)


def _content(path: Path) -> bytes:
    """Bytes of a file, unpacked where it is gzipped, whatever its name."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again") from error


def _check_header(primary: Mapping, k: int, number: int, path: Path) -> None:
    """Refuse files that say themselves that they are another bin, or one of another number of bins."""
    for key, expected, lowest in (("TIMEBIN", k, 1), ("NBINS", number, 1)):
        stated = primary.get(key)
        if isinstance(stated, int) and stated >= lowest and stated != expected:
            raise InputError(f"{path}: its header says {key} = {stated}, by its place it is {expected}; sort the files")


def _layout(header: Mapping, n_pix: int, options: dict, path: Path) -> tuple[int, np.ndarray | None]:
    """Number of pixels, and the NESTED number of each RING pixel where the file is NESTED."""
    nside = math.isqrt(n_pix // 12)
    if n_pix != 12 * nside**2 or nside < 1 or str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT":
        raise InputError(f"{path}: {n_pix} values are no full HEALPix map; write the map of the whole sphere")
    if nside != options["nside"]:
        raise InputError(
            f"{path}: its nside is {nside}, the configuration says {options['nside']:g}; correct one of them"
        )
    if not str(header.get("ORDERING", "RING")).strip().upper().startswith("NEST"):
        return n_pix, None
    import healpy

    return n_pix, healpy.ring2nest(nside, np.arange(n_pix))


def read_array(
    path: str | os.PathLike,
    latitude: float,
    longitude: float,
    zenith_max: float,
    name: str,
    dataset: str | None = None,
) -> LocalMaps:
    """Local maps from a plain array (n_time, n_pix) of counts in .npy, HDF5 or NetCDF, in the frame of `LocalMaps`.

    Args:
        path: The file; its kind is told by its first bytes.
        latitude, longitude, zenith_max: Of the observatory [rad].
        name: Of the observatory.
        dataset: Which array of an HDF5 or NetCDF file; default the only one of the shape of local maps.

    Raises:
        InputError: If the file holds no such array, or several (the message names them), or the array is no set of
            local maps of non-negative numbers.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            start = handle.read(8)
            if start.startswith(b"\x93NUMPY"):
                handle.seek(0)
                values = np.lib.format.read_array(handle, allow_pickle=False)
            elif start.startswith(b"\x89HDF"):
                values = _hdf5_array(path, dataset)
            elif start.startswith(b"CDF"):
                values = _classic_array(path, dataset)
            else:
                raise InputError(f"{path}: neither .npy nor HDF5 nor NetCDF; write the array in one of them")
    except InputError:
        raise
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write the array again") from error
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: holds no real numbers ({values.dtype}); write the counts as floats")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    counts = np.ascontiguousarray(values, dtype=np.float64)
    return LocalMaps(name, latitude, longitude, zenith_max, counts, source=path.name, checksum=digest)


def _hdf5_array(path: Path, dataset: str | None) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        found = {}
        file.visititems(lambda key, item: found.update({key: item}) if isinstance(item, h5py.Dataset) else None)
        return found[_choose({k: v.shape for k, v in found.items()}, dataset, path)][()]


def _classic_array(path: Path, dataset: str | None) -> np.ndarray:
    from scipy.io import netcdf_file

    with netcdf_file(path, "r", mmap=False) as file:
        return np.array(file.variables[_choose({k: v.shape for k, v in file.variables.items()}, dataset, path)].data)


def _choose(shapes: dict[str, tuple[int, ...]], dataset: str | None, path: Path) -> str:
    shown = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "none"
    if dataset is not None:
        if dataset.strip("/") not in shapes:
            raise InputError(f"{path}: there is no array {dataset!r}; the arrays are {shown}")
        return dataset.strip("/")
    fitting = [
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and shape[0] >= 4 and shape[1] > 0 and shape[1] == 12 * math.isqrt(shape[1] // 12) ** 2
    ]
    if len(fitting) != 1:
        fault = "no array" if not fitting else f"{len(fitting)} arrays"
        raise InputError(
            f"{path}: {fault} of shape (n_time, 12 nside^2); say which with dataset=, the arrays are {shown}"
        )
    return fitting[0]


# Writing ------------------------------------------------------------------------------------------------------


def write_exchange(
    folder: str | os.PathLike,
    name: str,
    maps: Sequence[LocalMaps],
    multifits: bool = False,
    compress: bool = False,
) -> Path:
    """Write local maps in the exchange format; the JSON configuration NAME.json comes last.

    Args:
        folder: Where to; must exist.
        name: Begin of all file names.
        maps: Of one or several observatories.
        multifits: One FITS file of images per observatory, instead of one HEALPix table per sidereal bin.
        compress: Whether to gzip the tables.

    Returns:
        Path of the configuration. Its prefixes are file names, so that the folder can be moved: multi-llh must be
        started in the folder.

    Raises:
        InputError: If the folder does not exist, or a file cannot be written.
    """
    folder = _existing(folder)
    detectors = {}
    for each in maps:
        stem = f"{name}_{_plain(each.name)}"
        arrays = [a for a in (each.counts, each.sum_weights, each.sum_squares) if a is not None]
        entry = {
            "nside": each.nside,
            "latitude": math.degrees(each.latitude),
            "longitude": math.degrees(each.longitude),
            "thetamax": math.degrees(each.zenith_max),
            "multifits": multifits,
            "weights": len(arrays) > 1,
        }
        if multifits:
            entry |= {"prefix": f"{stem}.fits", "suffix": ""}
            _write_multimap(folder / entry["prefix"], arrays)
        else:
            entry |= {"prefix": f"{stem}_", "suffix": ".fits.gz" if compress else ".fits"}
            for k in range(len(each.counts)):
                extra = [("TIMEBIN", k, "sidereal bin"), ("NBINS", len(each.counts), "number of sidereal bins")]
                write_map(
                    folder / f"{entry['prefix']}{k:03d}{entry['suffix']}",
                    [a[k] for a in arrays],
                    ["counts", "weights", "squares"][: len(arrays)],
                    coord=None,
                    header=[*extra, ("COORDS", "L", "Local coordinate system")],
                )
        detectors[each.name] = entry
    path = folder / f"{name}.json"
    with atomic(path) as part:
        part.write_text(json.dumps({"detectors": detectors}, indent=4) + "\n", encoding="utf-8")
    return path


def _existing(folder: str | os.PathLike) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; make it first")
    return folder


def _plain(name: str) -> str:
    """A name that can be part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", name)


def _write_multimap(path: Path, arrays: Sequence[np.ndarray]) -> None:
    from astropy.io import fits

    images = [fits.ImageHDU(np.asarray(a, np.float64), name=n) for a, n in zip(arrays, _IMAGES, strict=False)]
    with atomic(path) as part:
        fits.HDUList([fits.PrimaryHDU(), *images]).writeto(part)


def write_map(
    path: str | os.PathLike,
    columns: Sequence[np.ndarray],
    names: Sequence[str],
    coord: str | None = "C",
    header: Sequence[tuple] = (),
) -> None:
    """Write HEALPix maps in RING order, 64-bit floats, gzipped where the name ends in .gz.

    Args:
        path: Where to.
        columns: Maps of one resolution.
        names: Of the columns.
        coord: "C" equatorial, "G" Galactic, or None for a local frame.
        header: More cards, (keyword, value, comment).

    Raises:
        InputError: If it cannot be written.
    """
    import healpy

    with atomic(path) as part:
        healpy.write_map(
            str(part),
            list(columns),
            dtype=np.float64,
            coord=coord,
            column_names=list(names),
            extra_header=list(header),
            overwrite=True,
        )
        if os.fspath(path).endswith(".gz"):
            part.write_bytes(gzip.compress(part.read_bytes(), compresslevel=6, mtime=0))


@dataclasses.dataclass(frozen=True)
class ExchangeResult:
    """A fitted sky in the terms of multi-llh; equatorial maps are HEALPix in RING order, NaN where not exposed.

    Attributes:
        relative_intensity: I - 1, shape (n_pix,).
        sigma: Its statistical error, same shape.
        significance: Signed Li-Ma significance, in standard deviations, same shape.
        data: Counts n_a, same shape.
        background: Isotropic expectation, same shape.
        expected: Expectation mu of the best fit, same shape.
        acceptance: Per detector, the acceptance A_i in the pixels of its horizon (frame of `LocalMaps`), summing to 1.
        rates: Per detector, the expected counts N_tau of each sidereal bin, shape (n_time,).
        log_likelihoods: ln L, up to a constant, after each iteration.
    """

    relative_intensity: np.ndarray
    sigma: np.ndarray
    significance: np.ndarray
    data: np.ndarray
    background: np.ndarray
    expected: np.ndarray
    acceptance: Mapping[str, np.ndarray]
    rates: Mapping[str, np.ndarray]
    log_likelihoods: Sequence[float] = ()


def write_result(
    folder: str | os.PathLike, result: ExchangeResult, iteration: int = 1, converged: bool = False
) -> list[Path]:
    """Write a fitted sky under the names, with the columns and in the units of multi-llh.

    CR_* holds relint, sigma, lima; RAW_* data, background, mu; both equatorial, CR_* unseen (`healpy.UNSEEN`) and
    RAW_* zero where not exposed. Per detector there are exposure_* (A_i) and norm_* (N_tau, six digits); llhratio_*
    holds the list of ln L. multi-llh joins the names of the detectors with an underscore behind each.

    Args:
        folder: Where to; must exist.
        result: What to write.
        iteration: Number in the file names.
        converged: Whether CR and RAW end in _max instead of the number, as where multi-llh stopped by itself.

    Returns:
        The paths written.

    Raises:
        InputError: If the folder does not exist, the arrays do not fit each other, or a file cannot be written.
    """
    folder = _existing(folder)
    intensive = (result.relative_intensity, result.sigma, result.significance)
    additive = (result.data, result.background, result.expected)
    nside, bins = _check_result(result, (*intensive, *additive))
    names = "".join(f"{_plain(name)}_" for name in result.rates)
    count = f"iteration{iteration:02d}"
    last = "max" if converged else count
    unseen = -1.6375e30
    written = []
    sky = ("COORDS", "C", "Equatorial coordinate system")
    for kind, columns, labels, hole in (
        ("CR", intensive, ("relint", "sigma", "lima"), unseen),
        ("RAW", additive, ("data", "background", "mu"), 0.0),
    ):
        written.append(folder / f"{kind}_{names}_{nside}_{bins}_{last}.fits.gz")
        write_map(written[-1], [np.where(np.isnan(c), hole, c) for c in columns], labels, "C", [sky])
    for name, rate in result.rates.items():
        acceptance = result.acceptance[name]
        size = math.isqrt(len(acceptance) // 12)
        written.append(folder / f"exposure_{_plain(name)}_{size}_{bins}_{count}.fits.gz")
        local = ("COORDS", "L", "Local coordinate system")
        write_map(written[-1], [np.where(np.isnan(acceptance), 0.0, acceptance)], ["acceptance"], None, [local])
        written.append(folder / f"norm_{_plain(name)}_{size}_{bins}_{count}.dat")
        _write_numbers(written[-1], rate)
    written.append(folder / f"llhratio_{names}_{nside}_{bins}_{count}.dat")
    _write_numbers(written[-1], result.log_likelihoods)
    return written


def _check_result(result: ExchangeResult, maps: Sequence[np.ndarray]) -> tuple[int, int]:
    """nside and number of time bins of a result whose arrays fit each other."""
    shapes = {np.shape(each) for each in maps}
    number = math.isqrt(len(maps[0]) // 12)
    if shapes != {(12 * number**2,)} or number < 1:
        raise InputError(f"the sky maps have shapes {sorted(shapes)}; all must be HEALPix maps of one resolution")
    lengths = {len(rate) for rate in result.rates.values()}
    if len(lengths) != 1 or set(result.rates) != set(result.acceptance):
        raise InputError("each detector needs its acceptance and its rates, all with the same number of time bins")
    for name, acceptance in result.acceptance.items():
        if np.ndim(acceptance) != 1 or len(acceptance) != 12 * math.isqrt(len(acceptance) // 12) ** 2:
            raise InputError(f"the acceptance of {name} has shape {np.shape(acceptance)}, which is no HEALPix map")
    return number, lengths.pop()


def _write_numbers(path: Path, values) -> None:
    with atomic(path) as part:
        part.write_text("".join(f"{float(x):.6g}\n" for x in values))
