import gzip
import struct
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gail_cli.pipeline.readers import tfrecord
from gail_cli.pipeline.readers.tfrecord import (
    CorruptRecordError,
    TFRecordError,
    index_records,
    masked_crc32c,
    open_binary,
    read_records,
    read_records_at,
    write_records,
)

RECORDS = [b"one", b"", b"the third record"]


def damage(path):
    """What reading tells: the records, and the errors met on the way."""
    records, errors = [], []
    try:
        for record in read_records(path):
            (errors if isinstance(record, CorruptRecordError) else records).append(record)
    except TFRecordError as error:
        errors.append(error)
    return records, errors


@pytest.fixture(params=["plain.tfrecord", "zipped.tfrecord.gz"])
def path(request, tmp_path):
    path = str(tmp_path / request.param)
    write_records(path, RECORDS)
    return path


def test_masked_crc32c_of_known_data():
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720, the check value of every catalogue of CRCs).
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_the_bytes_are_those_of_tensorflow(tmp_path):
    # tf.io.TFRecordWriter wrote this for the single record b"abc": CRC-32C of b"abc" is 0x364B3FB7.
    path = str(tmp_path / "a.tfrecord")
    write_records(path, [b"abc"])
    mask = lambda crc: ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32  # noqa: E731
    data = (tmp_path / "a.tfrecord").read_bytes()
    assert data[:8] == struct.pack("<Q", 3)
    assert data[12:] == b"abc" + struct.pack("<I", mask(0x364B3FB7))


@settings(max_examples=60, deadline=None)
@given(records=st.lists(st.binary(max_size=300), min_size=1, max_size=5), zipped=st.booleans())
def test_round_trip(records, zipped):
    path = "memory://round.tfrecord" + (".gz" if zipped else "")
    write_records(path, records)
    assert list(read_records(path)) == records
    offsets, error = index_records(path)
    assert error is None
    assert list(read_records_at(path, offsets)) == records
    assert list(read_records_at(path, offsets[::-1])) == records[::-1]


def test_every_truncation_is_detected(path):
    whole = Path(path).read_bytes()
    boundaries = set() if path.endswith(".gz") else set(index_records(path)[0]) - {0}
    for length in set(range(len(whole))) - boundaries:
        Path(path).write_bytes(whole[:length])
        records, errors = damage(path)
        assert errors, f"cut to {length} bytes"
        assert records == RECORDS[: len(records)]
        assert index_records(path)[1] is not None, f"cut to {length} bytes"


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_detected(path, mask):
    whole = Path(path).read_bytes()
    for position in range(len(whole)):
        Path(path).write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        records, errors = damage(path)
        # Gzip has bits that change nothing: time, system and flags in its header, padding after its last block.
        harmless = path.endswith(".gz") and records == RECORDS
        assert errors or harmless, f"byte {position}"
        assert [record for record in records if record not in RECORDS] == []
        index_records(path)  # raises nothing, however damaged the file is


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x1f\x8b\x08", gzip.compress(b"x" * 40)[:20]]))
def test_any_bytes_give_records_or_the_two_errors(data, prefix):
    with fsspec.open("memory://any", "wb") as file:
        file.write(prefix + data)
    damage("memory://any")
    for _ in read_records_at("memory://any", [0, 7, 1000]):
        pass


def test_a_corrupt_record_does_not_stop_the_others(path):
    offsets, _ = index_records(path)
    with open_binary(path) as file:
        data = bytearray(file.read())
    data[12] ^= 1  # the first byte of the first record
    with open_binary(path, "wb") as file:
        file.write(bytes(data))
    first, *rest = read_records(path)
    assert isinstance(first, CorruptRecordError)
    assert path in str(first)
    assert rest == RECORDS[1:]
    assert index_records(path) == (offsets, None)
    assert [type(record) for record in read_records_at(path, offsets)] == [CorruptRecordError, bytes, bytes]


def test_index_of_a_cut_file_keeps_what_comes_before(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(str(path), RECORDS)
    path.write_bytes(path.read_bytes()[:-1])
    offsets, error = index_records(str(path))
    assert offsets == [0, 16 + 3]
    assert "byte 35" in str(error)


def test_reading_at_an_offset_that_is_no_record_goes_on(path):
    got = list(read_records_at(path, [0, 5, 19, 10_000]))
    assert got[0] == RECORDS[0]
    assert got[2] == RECORDS[1]
    assert isinstance(got[1], TFRecordError)
    assert isinstance(got[3], TFRecordError)


def test_gzip_is_told_by_the_content(tmp_path):
    path = tmp_path / "misnamed.tfrecord"
    write_records(str(tmp_path / "a.tfrecord"), RECORDS)
    path.write_bytes(gzip.compress((tmp_path / "a.tfrecord").read_bytes()))
    assert list(read_records(str(path))) == RECORDS


def test_a_plain_record_whose_length_looks_like_gzip(tmp_path):
    path = str(tmp_path / "a.tfrecord")
    record = bytes(0x088B1F)
    write_records(path, [record])
    assert Path(path).read_bytes()[:3] == b"\x1f\x8b\x08"
    assert list(read_records(path)) == [record]


def test_zipped_bytes_depend_on_the_data_alone(tmp_path):
    write_records(str(tmp_path / "a.gz"), RECORDS)
    header = (tmp_path / "a.gz").read_bytes()[:10]  # RFC 1952: magic, method, flags, time, more flags, system
    assert header[3:8] == bytes(5)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        index_records(str(tmp_path / "missing.tfrecord"))


def test_over_a_network_only_the_framing_is_fetched_to_plan(s3, monkeypatch):
    """Three records of 1 MB: some kB are read of them, and the same offsets found as in the file itself."""
    records = [bytes([k]) * 1_000_000 for k in range(3)]
    write_records(f"{s3}/a.tfrecord", records)
    asked = []
    real = tfrecord.open_binary

    @contextmanager
    def noting(*args, **kwargs):
        with real(*args, **kwargs) as file:
            yield file
            asked.append(file.cache.total_requested_bytes)

    monkeypatch.setattr(tfrecord, "open_binary", noting)
    assert index_records(f"{s3}/a.tfrecord") == ([0, 1_000_016, 2_000_032], None)
    assert 48 < asked[0] < 150_000
    assert list(read_records_at(f"{s3}/a.tfrecord", [1_000_016])) == records[1:2]
