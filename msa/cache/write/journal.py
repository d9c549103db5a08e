"""Journal of a segment: what its writer has committed, every value checked before it is used.

    {"dataset", "form": {"width", "dtype", "chunk", "shard"}, "run", "writer"}           the header, written first
    {"samples": [[sample, start, length, digest, counts], ...], "failures": [...], "shard", "rows", "sha256"}  per flush

A segment that borrows its data has a header with `data_of` in place of `form`, and no other line. A journal may come
from a stranger: its numbers become names of files, so none is used before it was checked.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from msa.cache.format import layout, limits
from msa.cache.format.attributes import check_counts, check_failure
from msa.errors import StoreError

NAME = "journal.jsonl"
MAX_HEADER = 2**20  # bytes: versions, settings and the device of a run
MAX_LINE = 2**27  # bytes: the samples of a shard of 128 MB at a few bytes each
MAX_BYTES = 2**30  # of a journal: 15 million samples


def header(path: Path) -> dict[str, Any] | None:
    """Return the first line, any JSON object; None where there is none (yet), or what is there is torn.

    Raises FileNotFoundError where there is no journal, StoreError where it is no regular file.
    """
    with open(limits.open_regular(path), "rb") as file:
        return _header(file)


class Row(NamedTuple):
    """One sample of a segment: where its rows are, what they were made from, and what was counted of it."""

    sample: int  # row number in the index
    start: int
    length: int
    digest: str  # hexadecimal
    counts: Mapping[str, int] = {}


@dataclass
class Journal:
    """Journal of a segment: its header and everything that was committed, all checked."""

    header: dict[str, Any]
    samples: list[Row]
    failures: list[dict[str, Any]]
    shards: dict[int, dict[str, Any]]  # number -> line that commits it

    @classmethod
    def read(cls, folder: Path) -> "Journal | None":
        """Read the journal of a segment; None where not even the header was written.

        A torn last line never counted and is ignored. Raises FileNotFoundError, and StoreError for what no writer of
        msa writes.
        """
        path = folder / NAME
        try:
            with open(limits.open_regular(path), "rb") as file:
                if os.fstat(file.fileno()).st_size > MAX_BYTES:
                    _refuse(path, f"has more than {MAX_BYTES} bytes")
                if (head := _header(file)) is None:
                    if file.tell() >= MAX_HEADER:
                        _refuse(path, f"has more than {MAX_HEADER} bytes in line 1")
                    return None
                _check_header(path, head)
                lines = list(_lines(path, file))
            _check_lines(path, head, lines)
        except StoreError as error:
            raise StoreError(
                error.what, fix=f"remove {path.parent}: nothing in it is published, and its samples are extracted again"
            ) from None
        return cls(
            head,
            samples=[Row(*row) for line in lines for row in line["samples"]],
            failures=[failure for line in lines for failure in line["failures"]],
            shards={line["shard"]: line for line in lines if "shard" in line},
        )


def _header(file: BinaryIO) -> dict[str, Any] | None:
    line = file.readline(MAX_HEADER)
    return _object(line) if line.endswith(b"\n") else None


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # also numbers of thousands of digits
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path, file: BinaryIO) -> Iterator[dict[str, Any]]:
    number = 1
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if not line.endswith(b"\n"):
            if len(line) > MAX_LINE:
                _refuse(path, f"has more than {MAX_LINE} bytes in line {number}")
            return
        if (record := _object(line)) is None:
            _refuse(path, f"has no JSON object in line {number}")
        yield record


def _check_header(path: Path, head: Mapping[str, Any]) -> None:
    limits.check_name(path, "its dataset", head.get("dataset"), "id")
    limits.check_object(path, "its run", head.get("run"))
    limits.check_object(path, "its writer", head.get("writer"))
    if "data_of" in head:
        limits.check_name(path, "data_of", head["data_of"], "segment")
        return
    form = limits.check_object(path, "its form", head.get("form"))
    if set(form) != {"width", "dtype", "chunk", "shard"} or form["dtype"] not in layout.DTYPES:
        _refuse(path, "has a form that no segment has")
    for name in ("width", "chunk", "shard"):
        limits.check_whole(path, name, form[name], 1, limits.MAX_BYTES)
    # the rules for the array it becomes: sizes that can be held in memory, whole chunks in a shard
    limits.check_data(path, layout.data_metadata(0, form["width"], form["dtype"], form["chunk"], form["shard"]))


def _check_lines(path: Path, head: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
    """Refuse samples outside of shards that were committed with them or before, and samples that are listed twice."""
    if lines and "form" not in head:
        _refuse(path, "lists samples of a segment that has no data of its own")
    rows: dict[int, int] = {}  # shard -> how many
    seen: set[int] = set()
    for line in lines:
        if "shard" in line:
            number = limits.check_whole(path, "a shard", line["shard"], 0, limits.MAX_SAMPLES)
            if number in rows:
                _refuse(path, f"commits shard {number} twice")
            rows[number] = limits.check_whole(path, "rows", line.get("rows"), 1, head["form"]["shard"] + 1)
            limits.check_name(path, "SHA-256 of a shard", line.get("sha256"), "SHA-256")
        for row in _list(path, "samples", line):
            _check_row(path, row, rows, head["form"]["shard"])
            if row[0] in seen:
                _refuse(path, f"lists sample {row[0]} twice")
            seen.add(row[0])
        for failure in _list(path, "failures", line):
            check_failure(path, failure)
            limits.check_name(path, "digest of a failure", failure.get("digest"), "digest")
    if rows:
        form, last = head["form"], max(rows)
        shape = last * form["shard"] + rows[last]
        limits.check_data(path, layout.data_metadata(shape, form["width"], form["dtype"], form["chunk"], form["shard"]))


def _check_row(path: Path, row: object, rows: Mapping[int, int], shard: int) -> None:
    if not isinstance(row, list) or len(row) not in (4, 5):  # versions before counted nothing
        _refuse(path, f"lists {limits.short(row)} as a sample")
    limits.check_whole(path, "a sample", row[0], 0, limits.MAX_SAMPLES)
    start = limits.check_whole(path, "start", row[1], 0, limits.MAX_BYTES)
    length = limits.check_whole(path, "length", row[2], 1, limits.MAX_SAMPLES)
    limits.check_name(path, "digest of a sample", row[3], "digest")
    check_counts(path, row[4] if len(row) == 5 else {})
    if start % shard + length > rows.get(start // shard, 0):
        _refuse(path, f"has sample {row[0]} in rows {start} to {start + length - 1}, which were not committed")


def _list(path: Path, name: str, line: Mapping[str, Any]) -> list[Any]:
    entries = line.get(name)
    if not isinstance(entries, list):
        _refuse(path, f"has {name} {limits.short(entries)}, expected a list")
    return entries


def _refuse(path: Path, what: str) -> NoReturn:
    raise StoreError(f"{path}: {what}", fix="")  # the fix is added in `read`
