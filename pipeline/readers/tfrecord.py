"""TFRecord framing without TensorFlow.

A file is a sequence of records, each ``u64 length | u32 masked crc32c(length) | data | u32 masked crc32c(data)``,
all little-endian (tensorflow/core/lib/io/record_writer.h). Lengths and data are both checked. Plain or gzipped,
local or on any file system that fsspec knows.

The one damage that cannot be seen is a plain file cut exactly between two records: the format has no end mark.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal, cast

import fsspec
import google_crc32c

from gail_cli.sim.errors import UserError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_GZIP_MAGIC = b"\x1f\x8b\x08"
MAX_RECORD_BYTES = 1 << 30
_SKIP_BYTES = 1 << 14
"""Fetched at a time where records are skipped."""

GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
"""What Python raises while it reads a damaged gzip stream."""


class TFRecordError(UserError):
    """The file is not (or no longer) a TFRecord; nothing after this point can be read."""


class CorruptRecordError(UserError):
    """One record's data fails its checksum; the records after it can still be read."""


def masked_crc32c(data: bytes) -> int:
    """CRC-32C rotated right by 15 bits plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8 & 0xFFFFFFFF


@contextmanager
def open_binary(path: str, mode: Literal["rb", "wb"] = "rb", skips: bool = False) -> Iterator[BinaryIO]:
    """Open a local path or an fsspec URL; gzip is recognised by the content when reading, by ``.gz`` when writing.

    What is written to a ``.gz`` depends only on the data (no time, no name).

    Args:
        path: what to open.
        mode: to read or to write.
        skips: little of the file will be read, here and there; over a network no more is fetched.

    Raises:
        OSError: when the file cannot be opened.
    """
    fs, name = fsspec.url_to_fs(path)
    with fs.open(name, mode, **({"block_size": _SKIP_BYTES} if skips and not path.endswith(".gz") else {})) as raw:
        if mode == "wb":
            zipped = path.endswith(".gz")
        else:
            head = raw.read(_HEADER.size)
            zipped = head.startswith(_GZIP_MAGIC) and not _is_header(head)  # a record of 559,903 bytes looks like gzip
            raw.seek(0)
        if not zipped:
            yield cast(BinaryIO, raw)
            return
        with gzip.GzipFile(filename="", mode=mode, fileobj=raw, mtime=0) as file:
            yield cast(BinaryIO, file)


def read_records(path: str) -> Iterator[bytes | CorruptRecordError]:
    """Stream the records of one file.

    A record whose data fails its checksum is yielded as a :class:`CorruptRecordError`, so that a caller can count it
    and go on.

    Raises:
        TFRecordError: when the framing itself is broken, the file is empty or ends within a record.
        OSError: when the file cannot be opened or read.
    """
    with open_binary(path) as file:
        _refuse_empty(file, path)
        while (record := _read_record(file, path, skip=False)) is not None:
            yield record


def index_records(path: str) -> tuple[list[int], TFRecordError | None]:
    """Where each record starts, reading only the framing (the data of a plain file is skipped by seeking).

    Returns:
        Byte offsets for :func:`read_records_at` (of the uncompressed stream where the file is gzipped), and the error
        that ends the readable part of the file, if there is one.

    Raises:
        OSError: when the file cannot be opened or read.
    """
    offsets: list[int] = []
    try:
        with open_binary(path, skips=True) as file:
            _refuse_empty(file, path)
            start = 0
            while _read_record(file, path, skip=True) is not None:
                offsets.append(start)
                start = file.tell()
    except TFRecordError as error:
        return offsets, error
    return offsets, None


def read_records_at(path: str, offsets: Iterable[int]) -> Iterator[bytes | CorruptRecordError | TFRecordError]:
    """Read the records that start at these byte offsets, opening the file once.

    An offset at which no record can be read is yielded as an error. Ascending offsets are cheap everywhere; in a
    gzipped file every byte before the first offset is decompressed.

    Raises:
        OSError: when the file cannot be opened or read.
    """
    with open_binary(path) as file:
        for offset in offsets:
            try:
                file.seek(offset)
                record = _read_record(file, path, skip=False)
                changed = TFRecordError("", f"{path} ends before byte {offset}", "it has changed")
                yield changed if record is None else record
            except TFRecordError as error:
                yield error
            except GZIP_ERRORS as error:
                yield _gzip_error(path, offset, error)


def write_records(path: str, records: Iterable[bytes]) -> None:
    """Write a TFRecord file (gzipped when the path ends in ``.gz``).

    Raises:
        OSError: when the path cannot be written.
    """
    with open_binary(path, "wb") as file:
        for data in records:
            header = struct.pack("<Q", len(data))
            file.write(header + _FOOTER.pack(masked_crc32c(header)) + data + _FOOTER.pack(masked_crc32c(data)))


def _refuse_empty(file: BinaryIO, path: str) -> None:
    """A file of no bytes is what an interrupted download leaves."""
    try:
        empty = not file.read(1)
        file.seek(0)
    except GZIP_ERRORS as error:
        raise _gzip_error(path, 0, error) from error
    if empty:
        raise TFRecordError("", f"{path} is empty", "fetch the file again")


def _read_record(file: BinaryIO, path: str, *, skip: bool) -> bytes | CorruptRecordError | None:
    """One record (its data skipped, and b"" returned, with ``skip``); None at the end of the file."""
    start = file.tell()
    where = f"{path}, record at byte {start}"
    try:
        header = file.read(_HEADER.size)
        if not header:
            return None
        if len(header) < _HEADER.size:
            raise TFRecordError(where, "the file ends within a record header", "fetch the file again")
        length = int.from_bytes(header[:8], "little")
        if not _is_header(header) or length > MAX_RECORD_BYTES:
            raise TFRecordError(where, "the record header fails its checksum", "not a TFRecord, or damaged")
        data = b"" if skip else file.read(length)
        if skip:
            file.seek(length, 1)
        footer = file.read(_FOOTER.size)
    except GZIP_ERRORS as error:
        raise _gzip_error(path, start, error) from error
    if len(footer) < _FOOTER.size:
        raise TFRecordError(where, "the file ends within the record", "fetch the file again")
    if not skip and _FOOTER.unpack(footer)[0] != masked_crc32c(data):
        return CorruptRecordError(where, "the data fails its checksum", "fetch the file again")
    return data


def _is_header(data: bytes) -> bool:
    return len(data) == _HEADER.size and _HEADER.unpack(data)[1] == masked_crc32c(data[:8])


def _gzip_error(path: str, start: int, error: Exception) -> TFRecordError:
    where = f"{path}, record at byte {start}"
    return TFRecordError(where, f"the gzip stream is damaged ({error})", "fetch the file again")
