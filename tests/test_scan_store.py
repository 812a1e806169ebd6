"""Files of points: exact round trips, and damage that is noticed."""

import numpy as np
import pytest
import xarray as xr
from diffcr.inference import scan_store

from diffcr.errors import InputError


def dataset():
    return xr.Dataset(
        {
            "amplitude": ((), 0.1 + 0.2, {"units": "", "long_name": "amplitude", "range": [0, np.float64(1)]}),
            "cl": (("l",), np.array([1e-300, np.nan, -np.inf]), {"units": "sr"}),
            "single": (("l", "m"), np.arange(6, dtype=np.float32).reshape(3, 2)),
            "number": (("m",), np.array([2**62, -1])),
            "converged": ((), True),
            "flags": (("m",), np.array([True, False])),
            "word": ((), "größer"),
            "words": (("m",), np.array(["", "b c"], object)),
            "none": (("empty",), np.zeros(0)),
        },
        {"l": [1, 2, 3], "name": ("m", np.array(["a", "bb"]))},
        {"task": "fit", "levels": [1, 2.5]},
    )


def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path):
    scan_store.save(tmp_path, "ab", dataset(), {"settings": {"x": 1.5, "n": None}, "seconds": np.float64(2)})
    stored = scan_store.load(tmp_path, "ab")
    xr.testing.assert_identical(stored.dataset, dataset())
    assert {k: v.dtype for k, v in stored.dataset.variables.items()} == {
        k: v.dtype for k, v in dataset().variables.items()
    }
    assert stored.label == {"settings": {"x": 1.5, "n": None}, "seconds": 2.0}
    assert [p.name for p in tmp_path.iterdir()] == ["ab.npz"]
    assert scan_store.load(tmp_path, "cd") is None


def test_nothing_in_a_file_is_a_pickle(tmp_path):
    scan_store.save(tmp_path, "ab", dataset())
    with np.load(tmp_path / "ab.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "uifbU" for name in file.files)


def test_damage_is_noticed_wherever_it_is(tmp_path):
    scan_store.save(tmp_path, "ab", dataset(), {"seconds": 1.0})
    path, whole = tmp_path / "ab.npz", (tmp_path / "ab.npz").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PK" + whole[2:], whole[:-30], b"not an archive at all"):
        path.write_bytes(content)
        if content != whole:
            with pytest.raises(InputError, match="ab.npz: cannot be read"):
                scan_store.load(tmp_path, "ab")


def rewritten(path, **changes):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **(arrays | changes))


def test_a_file_of_another_point_or_with_other_numbers_is_refused(tmp_path):
    scan_store.save(tmp_path, "ab", dataset())
    (tmp_path / "cd.npz").write_bytes((tmp_path / "ab.npz").read_bytes())
    with pytest.raises(InputError, match="is damaged .its content is not what its label says"):
        scan_store.load(tmp_path, "cd")
    # A good archive, whose own checksums are right, with one number changed, or one array gone.
    rewritten(tmp_path / "ab.npz", v0=np.array(0.5))
    with pytest.raises(InputError, match="its content is not what its label says"):
        scan_store.load(tmp_path, "ab")
    rewritten(tmp_path / "ab.npz", about=np.frombuffer(b"[1]", np.uint8))
    with pytest.raises(InputError, match="cannot be read .its label is no table"):
        scan_store.load(tmp_path, "ab")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        scan_store.save(tmp_path / "nowhere", "ab", dataset())
