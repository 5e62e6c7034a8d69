import gzip
import hashlib

import pytest

from srigl_jax.data import idx

# Two images of 2x3 pixels: magic, three lengths, twelve bytes.
HEADER = bytes.fromhex("00000803 00000002 00000002 00000003")
CONTENT = HEADER + bytes(range(12))


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "some-idx"
        path.write_bytes(content)
        return path

    return write


def test_reads_plain_file(write):
    array = idx.read(write(CONTENT))
    assert array.dtype == "uint8"
    assert array.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


def test_reads_compressed_file_whatever_its_name(write):
    assert idx.read(write(gzip.compress(CONTENT))).shape == (2, 2, 3)


def test_accepts_the_digest_of_the_decompressed_content(write):
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert idx.read(write(gzip.compress(CONTENT)), sha256=digest).size == 12


def test_other_digest_is_an_error_naming_file_and_both_digests(write):
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match=rf"some-idx.*{digest}, expected abc"):
        idx.read(write(CONTENT), sha256="abc")


def test_truncated_file_is_an_error_with_bytes_expected_and_seen(write):
    with pytest.raises(ValueError, match=r"some-idx is truncated.*28 bytes.*holds 23"):
        idx.read(write(CONTENT[:-5]))


def test_surplus_bytes_are_an_error(write):
    with pytest.raises(ValueError, match=r"too long.*28 bytes.*holds 29"):
        idx.read(write(CONTENT + b"\0"))


def test_file_cut_in_its_header_is_an_error(write):
    with pytest.raises(ValueError, match="header alone takes 16 bytes.*holds 9"):
        idx.read(write(CONTENT[:9]))


def test_truncated_gzip_stream_is_an_error_with_bytes_expected(write):
    stored = gzip.compress(CONTENT, compresslevel=0)
    with pytest.raises(ValueError, match=r"some-idx is truncated: 28 bytes.*after 2"):
        idx.read(write(stored[:-12]))


def test_corrupt_gzip_stream_is_an_error(write):
    corrupt = bytearray(gzip.compress(CONTENT))
    corrupt[-8] ^= 0xFF  # The stream's own checksum.
    with pytest.raises(ValueError, match="some-idx is corrupt"):
        idx.read(write(bytes(corrupt)))


@pytest.mark.parametrize("content", [b"", b"\0\0", b"PK\3\4rest", b"\0\0\x0d\1" * 2])
def test_anything_but_an_idx_file_of_bytes_is_an_error(write, content):
    with pytest.raises(ValueError, match="some-idx is not an idx file"):
        idx.read(write(content))
