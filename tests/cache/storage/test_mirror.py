"""Which parts of a shard are asked for, and how much of the disk may be used."""

from types import SimpleNamespace

import numpy as np
import pytest

from msa.cache.storage import mirror
from msa.cache.storage.mirror import BLOCK, GAP, LARGEST, most_bytes
from msa.errors import ConfigError


def ranges(spans, present=(), size=10_000 * BLOCK):
    """Return the byte ranges that are asked for, in blocks, where these blocks are there."""
    have = np.zeros(-(-size // BLOCK), np.uint8)
    have[list(present)] = 1
    known = SimpleNamespace(have=have, size=size)
    return [
        (a / BLOCK, b / BLOCK) for a, b in mirror._missing(known, [(int(a * BLOCK), int(b * BLOCK)) for a, b in spans])
    ]


NEAR = GAP // BLOCK


def test_whole_blocks_are_asked_for_and_those_that_are_there_are_not():
    assert ranges([(3, 4)]) == [(3, 4)]
    assert ranges([(3.5, 3.6)]) == [(3, 4)]
    assert ranges([(3.5, 4.1)]) == [(3, 5)]
    assert ranges([(3, 6)], present=[3, 5]) == [(4, 5)]
    assert ranges([(3, 6)], present=[3, 4, 5]) == []
    assert ranges([]) == []


def test_near_ranges_are_one_request_and_far_ones_are_two():
    assert ranges([(0, 1), (1 + NEAR, 2 + NEAR)]) == [(0, 2 + NEAR)]
    assert ranges([(0, 1), (2 + NEAR, 3 + NEAR)]) == [(0, 1), (2 + NEAR, 3 + NEAR)]
    assert ranges([(2 + NEAR, 3 + NEAR), (0, 1)]) == [(0, 1), (2 + NEAR, 3 + NEAR)]


def test_a_span_with_much_of_it_there_is_two_requests_that_leave_it_out():
    there = range(1, NEAR + 2)
    assert ranges([(0, NEAR + 5)], present=there) == [(0, 1), (NEAR + 2, NEAR + 5)]
    assert ranges([(0, NEAR + 5)], present=[*there, 0]) == [(NEAR + 2, NEAR + 5)]
    few = range(1, NEAR)
    assert ranges([(0, NEAR + 5)], present=few) == [(0, NEAR + 5)]


def test_no_request_goes_beyond_the_file_or_is_larger_than_the_largest():
    assert ranges([(8, 9.5)], size=int(9.5 * BLOCK)) == [(8, 9.5)]
    pieces = ranges([(0, 2.5 * LARGEST / BLOCK)])
    assert [b - a for a, b in pieces] == [LARGEST / BLOCK, LARGEST / BLOCK, LARGEST / BLOCK / 2]
    assert [a for a, _ in pieces[1:]] == [b for _, b in pieces[:-1]]


@pytest.mark.parametrize(
    ("text", "number"), [("1000", 1000), ("2k", 2000), ("1.5MB", 1_500_000), ("50GB", 50 * 10**9), ("1 T", 10**12)]
)
def test_the_limit_of_the_disk_is_a_number_with_or_without_a_unit(monkeypatch, text, number):
    monkeypatch.setenv("MSA_CACHE_BYTES", text)
    assert most_bytes() == number


@pytest.mark.parametrize("text", ["much", "50XB", "GB", "1e", "--3"])
def test_a_limit_of_the_disk_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("MSA_CACHE_BYTES", text)
    with pytest.raises(ConfigError, match="MSA_CACHE_BYTES is"):
        most_bytes()
