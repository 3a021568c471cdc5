import hashlib

import blake3
import pytest
import xxhash

from ray_workers.store import checksum
from ray_workers.store.checksum import digest_of, is_digest, known_algorithms, verify
from ray_workers.store.errors import DigestMismatchError, InvalidInputError, NewerFormatError

DATA = b"pawl" * 1000


def test_default_digest_is_xxh3_128_of_all_bytes():
    assert digest_of(DATA) == f"xxh3-128:{xxhash.xxh3_128_hexdigest(DATA)}"


def test_sha256_by_choice():
    assert digest_of(DATA, "sha256") == f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.mark.parametrize("algorithm", known_algorithms())
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview], ids=lambda w: w.__name__)
def test_any_buffer_gives_the_same_digest(algorithm, wrap):
    assert digest_of(wrap(DATA), algorithm) == digest_of(DATA, algorithm)


def test_typed_buffer_is_digested_as_bytes():
    assert digest_of(memoryview(DATA).cast("I")) == digest_of(DATA)


@pytest.mark.parametrize("algorithm", known_algorithms())
def test_verify_accepts_and_one_flipped_bit_is_found(algorithm):
    digest = digest_of(DATA, algorithm)
    verify(DATA, digest, key="k")
    flipped = bytearray(DATA)
    flipped[1234] ^= 1
    with pytest.raises(DigestMismatchError, match="k is damaged") as caught:
        verify(flipped, digest, key="k")
    assert caught.value.details["key"] == "k"
    assert caught.value.details["expected"] == digest


def test_unknown_algorithm_on_writing_names_the_known_ones():
    with pytest.raises(InvalidInputError, match="xxh3-128, sha256"):
        digest_of(DATA, "md5")


def test_unknown_algorithm_on_reading_is_a_newer_format():
    with pytest.raises(NewerFormatError, match="k carries a digest by 'xxh4'"):
        verify(DATA, "xxh4:00", key="k")


def test_missing_blake3_says_what_to_install(monkeypatch):
    monkeypatch.delitem(checksum._ALGORITHMS, "blake3")  # as at an import without the package
    with pytest.raises(NewerFormatError, match="install the package blake3"):
        verify(DATA, "blake3:" + "0" * 64, key="k")


def test_blake3_when_installed():
    assert is_digest(digest_of(DATA, "blake3"))
    assert digest_of(DATA, "blake3") == f"blake3:{blake3.blake3(DATA).hexdigest()}"


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        ("xxh3-128:" + "0" * 32, True),
        ("sha256:" + "a" * 64, True),
        ("newer-1:" + "0" * 40, True),
        ("sha256:" + "a" * 63, False),
        ("sha256:" + "A" * 64, False),
        ("xxh3-128", False),
        ("", False),
        ("xxh3-128:" + "0" * 32 + "\n", False),
    ],
)
def test_spelling_of_digests(text, legal):
    assert is_digest(text) is legal


def test_default_comes_first():
    assert known_algorithms()[0] == checksum.DEFAULT_ALGORITHM
