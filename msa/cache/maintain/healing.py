"""Files whose original bytes can be had again, and are proved by the SHA-256 in the manifest.

A single flipped bit, which is what bad memory and old disks make, is found through a CRC32C or by trying; metadata that
follows from the rest of a segment is written again. What the SHA-256 does not confirm is no restoration.
"""

import hashlib
from collections.abc import Iterator

import google_crc32c

CRC = 4  # bytes
BY_TRYING = 16 * 1024  # bytes: so short a file has every bit tried in about a second


def unflipped(data: bytes, digest: str, pieces: list[tuple[int, int]]) -> bytes | None:
    """`data` with the one bit turned back that makes its SHA-256 `digest`; None where no single bit does.

    `pieces` are (offset, bytes) of parts that end in their own CRC32C; without any, every bit is tried.
    """
    for bit in _suspects(data, pieces):
        trial = bytearray(data)
        trial[bit >> 3] ^= 1 << (bit & 7)
        if hashlib.sha256(trial).hexdigest() == digest:
            return bytes(trial)
    return None


def _suspects(data: bytes, pieces: list[tuple[int, int]]) -> Iterator[int]:
    if not pieces:
        yield from range(8 * len(data) if len(data) <= BY_TRYING else 0)
    wrong = [(offset, size, by) for offset, size in pieces if (by := _difference(data[offset : offset + size]))]
    if len(wrong) == 1:  # else it was more than one bit
        offset, size, by = wrong[0]
        if by & (by - 1) == 0:  # of the checksum itself
            yield 8 * (offset + size - CRC) + by.bit_length() - 1
        yield from (8 * offset + bit for bit in _bits(by, size - CRC))


def _difference(piece: bytes) -> int:
    """Between the checksum a piece has and the one it ends in."""
    return int(google_crc32c.value(piece[:-CRC])) ^ int.from_bytes(piece[-CRC:], "little")


def _bits(difference: int, size: int) -> Iterator[int]:
    """Bits of a text of `size` bytes any one of which changes its CRC32C by `difference`.

    A CRC is linear: the change a bit makes depends on how many bytes follow it, and on nothing else.
    """
    table = _table()
    # change made by each bit of the last byte; a byte further back, it has gone through the register once more
    made = [table[1 << bit] for bit in range(8)]
    for back in range(size):
        for bit in range(8):
            if made[bit] == difference:
                yield 8 * (size - 1 - back) + bit
            made[bit] = table[made[bit] & 0xFF] ^ (made[bit] >> 8)


def _table() -> list[int]:
    """What one byte does to the register of CRC32C (Castagnoli, reflected polynomial 0x82F63B78)."""
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found
