"""The arrays of a part: sharded Zarr v3 arrays, written by zarr-python, whose rows are read with one request each.

An array is one shard (a file) of small chunks, whose positions stand at its beginning. Rows of some scenes that follow
each other are chunks that follow each other, hence one range of bytes. Reading here does what zarr-python would, for
this one layout: it is some times faster, asks a bucket once, and takes nothing that is missing for zeros.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ShardingCodecIndexLocation, TransposeCodec
from zarr.core.array import ShardsConfigParam
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

_CHUNK_BYTES = 65536
"""Chunks have about this size before compression: small enough for one scene, large enough to compress."""
_LEVEL = 8
"""Level of zstd behind a byte shuffle; docs/store-format.md has measurements of other choices."""
_CRC = struct.Struct("<I")


class DamagedError(ValueError):
    """Bytes that are not those that were written, in a few words."""


@dataclass(frozen=True)
class ArraySpec:
    """What an array is like, whatever its number of rows."""

    dtype: np.dtype[Any]
    tail: tuple[int, ...]
    """Its dimensions after the first."""

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, a power of two."""
        return 1 << max(0, int(math.log2(_CHUNK_BYTES / (self.dtype.itemsize * math.prod(self.tail)))))

    def chunks(self, rows: int) -> int:
        """Number of chunks of so many rows."""
        return -(-rows // self.chunk_rows)

    def head(self, rows: int) -> int:
        """Bytes at the beginning of the shard that hold where its chunks are."""
        return 16 * self.chunks(rows) + _CRC.size

    @property
    def order(self) -> tuple[int, ...]:
        """How dimensions are ordered within a chunk: time last, so that what changes slowly is together."""
        n = len(self.tail) + 1
        return tuple(range(n)) if n == 1 else (0, 2, 1) if n == 3 else (1, 0)


def encode(arrays: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """A Zarr group of these arrays as files: contents by name."""
    files: dict[str, Any] = {}
    with zarr.config.set({"json_indent": None}):
        group = zarr.open_group(MemoryStore(files), mode="w", zarr_format=3)
        for path, data in arrays.items():
            _create(group, path, data)
    return {name: buffer.to_bytes() for name, buffer in sorted(files.items())}


def _create(group: zarr.Group, path: str, data: NDArray[Any]) -> None:
    form = ArraySpec(data.dtype, data.shape[1:])
    shape = (form.chunk_rows, *form.tail)
    shard = (max(1, form.chunks(len(data))) * form.chunk_rows, *form.tail)
    group.create_array(
        path,
        shape=data.shape,
        chunks=shape,
        shards=ShardsConfigParam(shape=shard, index_location=ShardingCodecIndexLocation.start),
        dtype=data.dtype,
        filters=[TransposeCodec(order=form.order)] if len(shape) > 1 else None,
        compressors=[BloscCodec(cname="zstd", clevel=_LEVEL, shuffle="shuffle"), Crc32cCodec()],
        config={"write_empty_chunks": True},  # so that a chunk that is not there was lost
    )[...] = data


def open_files(files: Mapping[str, bytes]) -> zarr.Group:
    """The Zarr group that these files are."""
    prototype = default_buffer_prototype()
    memory = MemoryStore({name: prototype.buffer.from_bytes(data) for name, data in files.items()})
    return zarr.open_group(memory, mode="r", zarr_format=3)


def shard_name(path: str, form: ArraySpec) -> str:
    """The file of an array's shard, relative to its group."""
    return f"{path}/c" + "/0" * (1 + len(form.tail))


@dataclass(frozen=True, eq=False)
class Shard:
    """Where the chunks of an array lie in its file."""

    form: ArraySpec
    rows: int
    offset: NDArray[np.uint64]
    """[chunks, 2] first byte and number of bytes."""

    @classmethod
    def parse(cls, form: ArraySpec, rows: int, head: bytes) -> Shard:
        """From the first ``form.head(rows)`` bytes of the file.

        Raises:
            DamagedError: when they are not what was written.
        """
        if len(head) != form.head(rows):
            raise DamagedError("the file is cut")
        return cls(form, rows, np.frombuffer(_checked(head), "<u8").reshape(-1, 2))

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Bytes [begin, end) that hold the rows [first, last); none for no rows."""
        if first >= last:
            return 0, 0
        offset = self.offset[first // self.form.chunk_rows : self.form.chunks(last)]
        return int(offset[0, 0]), int(offset[-1].sum())

    def rows_of(self, data: bytes, first: int, last: int) -> NDArray[Any]:
        """The rows [first, last) from the bytes of :meth:`span`.

        Raises:
            DamagedError: when these are not what was written.
        """
        if first >= last:
            return np.zeros((0, *self.form.tail), self.form.dtype)
        begin = first // self.form.chunk_rows
        offset = self.offset[begin : self.form.chunks(last)].astype(np.int64)
        base = offset[0, 0]
        chunks = [self._decode(data[a - base : a - base + n]) for a, n in offset]
        rows = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return rows[first - begin * self.form.chunk_rows : last - begin * self.form.chunk_rows]

    def _decode(self, data: bytes) -> NDArray[Any]:
        try:
            raw = numcodecs.blosc.decompress(_checked(data))
        except RuntimeError as error:
            raise DamagedError("a chunk cannot be decompressed") from error
        form = self.form
        shape = (form.chunk_rows, *form.tail)
        flat = np.frombuffer(raw, form.dtype)
        if flat.size != math.prod(shape):
            raise DamagedError("a chunk has another size")
        inverse = np.argsort(form.order)
        return flat.reshape([shape[k] for k in form.order]).transpose(inverse)


def all_rows(form: ArraySpec, rows: int, data: bytes) -> NDArray[Any]:
    """All of an array from its file.

    Raises:
        DamagedError: when it is not what was written.
    """
    if rows == 0:
        return np.zeros((0, *form.tail), form.dtype)
    shard = Shard.parse(form, rows, data[: form.head(rows)])
    begin, end = shard.span(0, rows)
    return shard.rows_of(data[begin:end], 0, rows)


def _checked(data: bytes) -> bytes:
    """Without the CRC-32C at its end."""
    if len(data) < _CRC.size or google_crc32c.value(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise DamagedError("a checksum (CRC-32C) is wrong")
    return data[: -_CRC.size]
