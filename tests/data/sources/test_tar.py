"""Tar files: every file in one is found, and every damage is said."""

import io
import struct
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.sources.files import find
from mplug_owl.data.sources.tar import END, Entry, _any_tar, _plain_entries, tars
from mplug_owl.errors import UserError
from tests.data.sources.layouts import tar

WHOLE = tar({f"{name}.{ending}": name.encode() * 700 for name in "ab" for ending in ("jpg", "txt")})
LAST = 4 * (512 + 1024)  # where the last file ends


def found(path: Path, content: bytes) -> list[Entry]:
    """The files in a tar file of these bytes."""
    path.write_bytes(content)
    return [entry for files in tars(find(str(path), ".tar")[0]) for entry in files]


def test_where_each_file_lies(tmp_path: Path) -> None:
    for entry in found(tmp_path / "a.tar", WHOLE):
        assert WHOLE[entry.start : entry.end] == entry.name[:1].encode() * 700


@given(st.integers(1, LAST + len(END) - 1))
def test_a_cut_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    with pytest.raises(UserError, match=r"cut short|not a tar file"):
        found(tmp_path_factory.getbasetemp() / "cut.tar", WHOLE[:length])


@given(at=st.integers(0, LAST - 1), by=st.integers(1, 255))
def test_a_byte_flipped_anywhere_is_said_or_lies_in_a_files_own_bytes(
    tmp_path_factory: pytest.TempPathFactory, at: int, by: int
) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= by
    path = tmp_path_factory.getbasetemp() / "flipped.tar"
    whole = found(path, WHOLE)
    if at % 1536 >= 512:  # no header
        assert found(path, bytes(damaged)) == whole
    else:
        try:
            assert found(path, bytes(damaged)) == whole  # another blank around the checksum, say
        except UserError as error:
            assert "damaged or cut" in str(error) or "not a tar file" in str(error)  # noqa: PT017  either is right


NAMES = st.text(st.sampled_from("abÄ /.0"), min_size=1, max_size=12) | st.just("long/" * 30 + "name") | st.just("x" * 100)
KINDS = st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.AREGTYPE])
MEMBERS = st.lists(st.tuples(NAMES, KINDS, st.integers(0, 1100), st.sampled_from([0, 1.5, -2, 2**40])), max_size=6)


@given(MEMBERS, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(0, 7_000), st.integers(0, 255))
def test_plain_headers_are_read_as_tarfile_reads_them(
    members: list[tuple[str, bytes, int, float]], form: int, at: int, by: int
) -> None:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=form) as archive:
        for name, kind, size, time in members:
            about = tarfile.TarInfo(name)
            about.type, about.mtime = kind, time
            about.size = size if about.isreg() else 0
            archive.addfile(about, io.BytesIO(b"o" * size))
    content = bytearray(file.getvalue())
    if at < len(content):
        content[at] ^= by
    found, end = _plain_entries(io.BytesIO(content), 0, len(content))
    if end is not None:
        assert (found, end) == _any_tar(io.BytesIO(content), 0, len(content))


def test_what_webdataset_writes_is_read_without_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("0.jpg", "0.txt"):
            about = tarfile.TarInfo(name)
            about.size, about.mtime = 3, 1_700_000_000.5  # a time with a fraction takes a header of its own
            archive.addfile(about, io.BytesIO(b"owl"))
    monkeypatch.setattr(tarfile, "open", lambda **how: pytest.fail("read by tarfile"))
    content = (tmp_path / "a.tar").read_bytes()
    assert [content[entry.start : entry.end] for entry in found(tmp_path / "b.tar", content)] == [b"owl", b"owl"]


def with_size(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar file whose second header says another size, with a right checksum."""
    header = bytearray(WHOLE[1536:2048])
    header[124:136], header[148:156], header[156:157] = size.ljust(12, b"\0"), b" " * 8, kind
    header[148:156] = b"%06o\0 " % sum(header)
    return WHOLE[:1536] + bytes(header) + WHOLE[2048:]


BELOW_ZERO = b"\xff" * 8 + struct.pack(">i", -2048)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
@pytest.mark.parametrize("size", [b"77777777777", b"\x80" + b"\xff" * 11, BELOW_ZERO, b"owl", b"00000000001", b"-1"])
def test_a_size_that_lies_is_damage(tmp_path: Path, size: bytes, kind: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.tar: damaged or cut short at byte"):
        found(tmp_path / "a.tar", with_size(size, kind))


def test_the_end_has_to_be_there(tmp_path: Path) -> None:
    for end in (0, 1, 512, 1023):
        with pytest.raises(UserError, match=r"ends at byte 6,144 without the two empty blocks|damaged or cut short"):
            found(tmp_path / "a.tar", WHOLE[: LAST + end])
    assert len(found(tmp_path / "a.tar", WHOLE[: LAST + 1024])) == 4


def test_tars_one_after_the_other_are_read_to_the_last(tmp_path: Path) -> None:
    short = WHOLE[: LAST + 1024]
    for content in (WHOLE + WHOLE, short + short, short + bytes(512) + WHOLE):
        files = found(tmp_path / "a.tar", content)
        assert [content[entry.start : entry.end] for entry in files] == [
            letter * 700 for letter in (b"a", b"a", b"b", b"b") * 2
        ]
    with pytest.raises(UserError, match="damaged or cut short at byte"):
        found(tmp_path / "a.tar", WHOLE + b"owl" * 400)
    with pytest.raises(UserError, match="cut short"):
        found(tmp_path / "a.tar", WHOLE + short[:-700])


def test_folders_are_no_files_and_links_have_no_bytes(tmp_path: Path) -> None:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for name, kind in (("photos", tarfile.DIRTYPE), ("photos/a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "c.jpg"
            archive.addfile(about)
    assert found(tmp_path / "a.tar", file.getvalue()) == [Entry("photos/a.jpg", 0, 0), Entry("b.jpg", 0, 0)]


PACKED = {"gzip": b"\x1f\x8b", "bzip2": b"BZh9", "xz": b"\xfd7zXZ", "zstd": b"(\xb5/\xfd", "zip": b"PK\3\4"}


@pytest.mark.parametrize("packing", PACKED)
def test_a_packed_file_is_said_to_be_so(tmp_path: Path, packing: str) -> None:
    with pytest.raises(UserError, match=rf"a\.tar: packed by {packing}, .*; unpack it to \.tar"):
        found(tmp_path / "a.tar", PACKED[packing] + WHOLE)
