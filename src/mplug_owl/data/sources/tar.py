"""Tar files: where each file in one lies, and whether the whole of it is there."""

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mplug_owl.data.sources.files import File, is_remote
from mplug_owl.errors import UserError

BLOCK = tarfile.BLOCKSIZE
# Every tar file ends in two empty blocks.
END = bytes(2 * BLOCK)
EMPTY = bytes(BLOCK)
# Where a header has its sum and its file's size.
NUMBERS = ((148, 156), (124, 136))
# What a PAX header may say without a word about the file's name or size. WebDataset's writer has one for each time.
IDLE = (b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment")
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"(\xb5/": "zstd", b"PK\3": "zip"}


class Entry(NamedTuple):
    """One file in a tar file, and where its bytes are. A link has none: it starts at 0, where only a header can be."""

    name: str
    start: int
    end: int


class TarDamageError(Exception):
    """The tar file ends too early, or what stands there is no header."""


def tars(file: File) -> Iterator[list[Entry]]:
    """The files of a tar file, and of those that were appended to it, one list each; folders are left out.

    Raises:
        UserError: It is no tar file, it is damaged, or its end is missing. tarfile itself only stops there.
    """
    try:
        with file.stream() as stream:
            start, position = stream.read(3), 0
            if (packing := next((name for magic, name in PACKED.items() if start.startswith(magic)), None)) is not None:
                raise UserError(
                    f"{file.address}: packed by {packing}, so its files cannot be read in any order; unpack it to .tar"
                )
            while position < file.size:
                found, end = _one_tar(stream, position, file.size)
                position = _after(stream, end)
                yield found
    except TarDamageError as error:
        raise UserError(f"{file.address}: {error}") from None
    except OSError as error:
        where = "cannot be fetched" if is_remote(file.address) else "cannot be read"
        raise UserError(f"{file.address}: {where} ({error.strerror or error})") from None


def first_entries(head: bytes) -> list[Entry]:
    """The files that lie whole in the first bytes of a tar file, as far as its headers are plain ones."""
    found, _ = _plain_entries(io.BytesIO(head), 0, len(head))
    return found


def _one_tar(stream: BinaryIO, position: int, size: int) -> tuple[list[Entry], int]:
    """The files of the tar that begins here, and the first byte after the last of them."""
    found, end = _plain_entries(stream, position, size)
    return (found, end) if end is not None else _any_tar(stream, position, size)


def _plain_entries(stream: BinaryIO, position: int, size: int) -> tuple[list[Entry], int | None]:
    """Files with headers such as img2dataset writes, ten times as fast as by tarfile; None for the end where others are.

    Whatever is long, linked, sparse or damaged is left to tarfile, so that it alone says what such a header means.
    """
    found, end, named = list[Entry](), position, True
    while True:
        stream.seek(end)
        header = stream.read(BLOCK)
        if header == EMPTY or (not header and end == size):
            return found, end if named and found else None
        if (plain := _plain_header(header)) is None:
            return found, None
        name, kind, length = plain
        after = end + BLOCK + (0 if kind == tarfile.DIRTYPE else length)
        if after > size or (kind == tarfile.XHDTYPE and not (named and _says_nothing(stream.read(length)))):
            return found, None
        if kind in tarfile.REGULAR_TYPES:
            found.append(Entry(name, end + BLOCK, after))
        named = kind != tarfile.XHDTYPE
        end = -(-after // BLOCK) * BLOCK


def _plain_header(header: bytes) -> tuple[str, bytes, int] | None:
    """Name, kind and size by a header that needs no second thought."""
    kind = header[156:157]
    if len(header) < BLOCK or kind not in (b"0", b"\0", b"5", b"x") or header[345] or header[124] >= 128:
        return None
    name = header[:100].partition(b"\0")[0]
    if not name or (kind != tarfile.DIRTYPE and name.endswith(b"/")):
        return None
    try:
        total, length = (int(header[first:last].partition(b"\0")[0].strip() or b"0", 8) for first, last in NUMBERS)
    except ValueError:
        return None
    # The sum of all bytes, those of the sum itself as if they were spaces.
    if total != sum(header) - sum(header[148:156]) + 8 * 32 or length < 0:
        return None
    return name.decode("utf-8", "surrogateescape"), kind, length


def _says_nothing(records: bytes) -> bool:
    """Whether a PAX header says only what nobody here asks: times, owners, remarks."""
    position = 0
    while position < len(records):
        digits, space, _ = records[position : position + 12].partition(b" ")
        if not space or not digits.isdigit():
            return False
        line = records[position + len(digits) + 1 : position + int(digits)]
        if line.partition(b"=")[0] not in IDLE or not line.endswith(b"\n"):
            return False
        position += int(digits)
    return position == len(records)


def _any_tar(stream: BinaryIO, position: int, size: int) -> tuple[list[Entry], int]:
    """The same for every kind of header, by tarfile."""
    stream.seek(position)
    found, end = list[Entry](), position
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                whole = member.isreg() and not member.issparse()
                after = member.offset_data + (member.size if whole else 0)
                if after > size:
                    raise TarDamageError(_damage(size))
                if not end < member.offset_data <= after:  # a size below zero leads back to where we were
                    raise TarDamageError(_damage(end))
                end = -(-after // BLOCK) * BLOCK
                if not member.isdir():
                    found.append(Entry(member.name, member.offset_data, after) if whole else Entry(member.name, 0, 0))
    except (OSError, TarDamageError, UserError):
        raise
    except Exception as error:  # sizes that lie make tarfile raise TarError, ValueError, OverflowError, MemoryError and more
        raise TarDamageError(_damage(min(end, size)) if end else f"not a tar file ({error})") from None
    return found, end


def _after(stream: BinaryIO, end: int) -> int:
    """The next byte that is not 0 after a tar's end, where another tar may begin: `cat a.tar b.tar`."""
    stream.seek(end)
    marks = stream.read(len(END))
    if marks != END:
        if marks.strip(b"\0"):
            raise TarDamageError(_damage(end))
        raise TarDamageError(
            f"ends at byte {end:,} without the two empty blocks that end a tar file; it was cut short, fetch it anew"
        )
    position = end + len(END)
    while chunk := stream.read(2**20):
        if rest := chunk.lstrip(b"\0"):
            return (position + len(chunk) - len(rest)) // BLOCK * BLOCK
        position += len(chunk)
    return position


def _damage(byte: int) -> str:
    return f"damaged or cut short at byte {byte:,}; fetch it anew"
