"""Archives of arrays: what is sound is read, and damage of any kind is one line, whatever it asks for."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest
from diffcr.inference import scan_store, toy_files
from diffcr.inference.archives import read_archive, read_label
from diffcr.inference.file_batches import accounts_of, load_part
from diffcr.inference.toy_plan import ToyPlan

from diffcr.errors import InputError
from diffcr.grid import RingGrid


def npy(values) -> bytes:
    values = np.asarray(values)
    return header(values.shape, values.dtype.str) + values.tobytes()


def header(shape, kind="<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return raw_header(text + b" " * (53 - len(text) % 64) + b"\n")


def raw_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def label_of(text: bytes) -> bytes:
    return npy(np.frombuffer(text, np.uint8))


def write(path, members: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def patched(path, offset_here: int, offset_there: int, value: int):
    """The archive with one byte changed in the header of its first member, here and in the directory."""
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x03\x04") + offset_here] = value
    content[content.find(b"PK\x01\x02") + offset_there] = value
    path.write_bytes(content)


DEEP = b"[" * 200_000


def bad(**own):
    return {"label": b"{}", "x": npy([1.0])} | own


CASES = {
    "72 terabytes": (bad(x=header((10**13,))), "x.npy has 0 bytes, not the 80000000000000 that it says"),
    "a negative shape": (bad(x=header((-1,))), "x.npy is no array of numbers"),
    "a shape that wraps": (bad(x=header((2**40, 2**40)) + bytes(8)), "has 8 bytes, not"),
    "countless nothings": (bad(x=header((10**13,), "<U0")), "x.npy is no array of numbers"),
    "objects": (bad(x=header((3,), "|O") + b"cos\nsystem\n"), "x.npy is no array of numbers"),
    "nested label": (bad(label=DEEP), "cannot be read"),
    "nested header": (bad(x=raw_header(b"(" * 8999 + b"\n")), "cannot be read"),
    "bad header": (bad(x=raw_header(b"{'a\n")), "cannot be read"),
    "another version": (bad(x=b"\x93NUMPY\x09\x00" + b"0" * 90), "unknown version|cannot be read"),
    "text as a label": (bad(label=b'"abc"'), "its label is no table"),
    "list as a label": (bad(label=b"[1]"), "its label is no table"),
    "null as a label": (bad(label=b"null"), "its label is no table"),
    "no text as a label": (bad(label=b"\xff\xfe"), "cannot be read"),
    "no label": ({"x": npy([1.0])}, "it has no"),
}


def made(path, case: str, label: str = "label.npy"):
    """A file that is bad in the way of a case; its label of the name that a reader expects."""
    if case in CASES:
        members = dict(CASES[case][0])
        if "label" in members:
            text = members.pop("label")
            members[label] = label_of(text) if label.endswith(".npy") else text
        return write(path, {k if "." in k else f"{k}.npy": v for k, v in members.items()})
    text = label_of(b"{}") if label.endswith(".npy") else b"{}"
    write(path, {label: text, "x.npy": npy(np.zeros(100))}, zipfile.ZIP_DEFLATED)
    if case == "encrypted":
        patched(path, 6, 8, 1)
    if case == "unknown compression":
        patched(path, 8, 10, 99)
    if case == "folder":
        path.unlink()
        path.mkdir()
    if case == "empty":
        path.write_bytes(b"")
    if case == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    if case == "changed":
        content = bytearray(path.read_bytes())
        content[content.find(b"x.npy") + 30] ^= 255
        path.write_bytes(content)
    return path


OTHERS = {
    "encrypted": "label.npy is encrypted",
    "unknown compression": "label.npy has an unknown compression",
    "folder": "cannot be read",
    "empty": "not a zip file",
    "cut": "not a zip file",
    "changed": "cannot be read",
}
ALL = {name: words for name, (_, words) in CASES.items()} | OTHERS


def test_what_numpy_writes_is_read(tmp_path):
    arrays = {
        "x": np.arange(6.0).reshape(2, 3),
        "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "flags": np.array([True, False]),
        "words": np.array(["a", "größer"]),
        "one": np.array(1.5, np.float32),
        "none": np.zeros((0, 3)),
        "zeros": np.zeros(300_000),
    }
    about = {"n": [1, None, "ü"]}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    for number, save in enumerate((np.savez, np.savez_compressed)):
        path = tmp_path / f"{number}.npz"
        save(path, label=text, **arrays)
        found = read_archive(path)
        assert found.label == about and found.arrays.keys() == arrays.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(found.arrays[name], values)
            assert found.arrays[name].dtype == values.dtype
        assert read_archive(path, leave_out=("x", "zeros")).arrays.keys() == arrays.keys() - {"x", "zeros"}
        assert read_label(path) == about
    assert read_archive(tmp_path / "no.npz") is None and read_label(tmp_path / "no.npz") is None


@pytest.mark.parametrize("case", ALL)
def test_damage_is_one_line(tmp_path, case):
    path = made(tmp_path / "a.npz", case)
    with pytest.raises(InputError, match=ALL[case]) as told:
        read_archive(path)
    assert str(told.value).startswith(f"{path}: cannot be read (") and "\n" not in str(told.value)
    assert len(str(told.value)) < len(str(path)) + 250


def test_members_larger_than_the_file_are_refused(tmp_path):
    """Deflate gains a factor of 1032 at most; a directory can name the same bytes many times."""
    path = write(tmp_path / "a.npz", {"label.npy": label_of(b"{}"), "x.npy": npy(np.zeros(1000))}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    with pytest.raises(InputError, match="x.npy is larger than can be"):
        read_archive(path)
    write(path, {"label.npy": label_of(b"{}"), "x.npy": npy(np.zeros(100_000))})
    content = path.read_bytes()
    start, end = content.find(b"PK\x01\x02"), content.rfind(b"PK\x05\x06")
    last = content[content.rfind(b"PK\x01\x02") : end]
    names = [last.replace(b"x.npy", name) for name in (b"y.npy", b"z.npy")]
    directory = content[start:end] + b"".join(names)
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 4, 4, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)
    with pytest.raises(InputError, match="its members are larger than the file|Overlapped"):
        read_archive(path)


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path / "a.npz", {"label.npy": label_of(b"{}")})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("label.npy", label_of(b'{"a": 1}'))
    with pytest.raises(InputError, match="a member is there twice"):
        read_archive(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(InputError, match="it is no regular file"):
        read_archive(tmp_path / "a.npz")


def test_no_memory_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    path = made(tmp_path / "a.npz", "no label")
    monkeypatch.setattr(zipfile.ZipFile, "read", full)
    write(path, {"label.npy": label_of(b"{}")})
    with pytest.raises(InputError, match=r"a.npz: cannot be read \(MemoryError\)$"):
        read_archive(path)


# Readers --------------------------------------------------------------------------------------------------

KEY = "a" * 32
PLAN = ToyPlan(RingGrid(4, 4), ("X",), np.full((1, 4), 25.0), np.full((1, 4, 4), 1 / 16), toys=10, block=10)


def of_a_plan(folder):
    toy_files.load_plan.cache_clear()
    with pytest.raises(InputError, match=r"isotropic_plan.npz: cannot be read .*; run the same command again"):
        toy_files.load_plan(folder, "isotropic", PLAN.checksum, 10)
    # What cannot be used is written again.
    path = folder / "blocks" / "isotropic_plan.npz"
    if not path.is_dir():
        toy_files.save_plan(folder, PLAN)
        assert toy_files.load_plan(folder, "isotropic", PLAN.checksum, 10).label == PLAN.label


def of_a_block(folder):
    found = toy_files.load_block(folder, PLAN, 0)
    assert "isotropic_00000.npz: cannot be read" in found and found.endswith("; its toys are drawn again")


def of_a_point(folder):
    with pytest.raises(InputError, match=f"{KEY}.npz: (cannot be read|is damaged)"):
        scan_store.load(folder, KEY)


def of_a_batch(folder):
    assert load_part(folder, KEY) is None


def of_accounts(folder):
    found = accounts_of(folder, KEY)
    assert found is None


def of_a_segment(folder):
    from diffcr.inference import sampler

    with pytest.raises(InputError, match="segment_00000.npz: .*(then resume|choose another -o)"):
        sampler._load(folder, '{"software": "x"}', [], True)


def of_a_realisation(folder):
    from diffcr.inference import backtrack

    from diffcr.backtracking import Setup

    with pytest.raises(InputError, match=r"00000.npz: cannot be read .*delete it, then continue with --resume"):
        backtrack._load(folder, Setup(), 0, 4, False)


READERS = {
    of_a_plan: ("blocks/isotropic_plan.npz", "label.npy"),
    of_a_block: ("blocks/isotropic_00000.npz", "label.npy"),
    of_a_point: (f"{KEY}.npz", "about.npy"),
    of_a_batch: (f"{KEY}.npz", "label.json"),
    of_accounts: (f"{KEY}.npz", "label.json"),
    of_a_segment: ("segment_00000.npz", "label.npy"),
    of_a_realisation: ("00000.npz", "label.npy"),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("case", ALL)
def test_every_reader_takes_bad_files_for_damaged(tmp_path, reader, case):
    name, label = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    made(path, case, label)
    reader(tmp_path)
