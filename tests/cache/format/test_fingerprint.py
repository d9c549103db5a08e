"""Digests of inputs and keys of recipes and datasets, against what docs/store-format.md says they are."""

import hashlib

import pytest
import xxhash

from msa.cache.format import fingerprint


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(b"sound" * 500_000)  # more than one piece
    return path


def test_the_digest_of_a_file_is_that_of_its_bytes(clip):
    assert fingerprint.of_file(clip) == xxhash.xxh3_128_digest(clip.read_bytes())
    assert fingerprint.of_file(clip, 0.0, None) == fingerprint.of_file(clip)


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [(1.5, None, "1.5-None"), (0.0, 2.25, "0.0-2.25"), (1.5, 2.25, "1.5-2.25"), (0.0, 0.0, "0.0-0.0")],
)
def test_the_digest_of_a_span_is_that_of_the_file_and_its_bounds(clip, start, end, text):
    """Also of a span from 0 on: a clip of the first seconds is not the whole file."""
    whole = xxhash.xxh3_128_digest(clip.read_bytes())
    assert fingerprint.of_file(clip, start, end) == xxhash.xxh3_128_digest(whole + text.encode())


def test_a_file_that_changed_has_another_digest(clip):
    before = fingerprint.of_file(clip)
    clip.write_bytes(b"other")
    assert fingerprint.of_file(clip) == xxhash.xxh3_128_digest(b"other") != before


def test_a_text_has_the_digest_of_its_bytes_in_utf8_whatever_it_holds():
    assert fingerprint.of_text("schön") == xxhash.xxh3_128_digest("schön".encode())
    assert fingerprint.of_text("\ud800") == xxhash.xxh3_128_digest(b"\xed\xa0\x80")


def test_a_key_is_16_digits_of_sorted_json_without_spaces():
    text = '{"a":[1,2.5],"b":{"c":"ö","d":null}}'
    assert (
        fingerprint.key({"b": {"d": None, "c": "ö"}, "a": [1, 2.5]}) == hashlib.sha256(text.encode()).hexdigest()[:16]
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint.key({"a": float("nan")})


def test_sha256_is_that_of_the_whole_file(clip):
    assert fingerprint.sha256(clip) == hashlib.sha256(clip.read_bytes()).hexdigest()
