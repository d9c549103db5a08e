"""A journal is read as far as it was written, and refused for what no writer writes."""

import pytest

from msa.cache.write import journal
from msa.cache.write.journal import Journal
from msa.errors import StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, hidden


@pytest.fixture
def folder(store, index):
    """An open segment with two samples in one flush and a failure in another."""
    dataset = store.add_index(index)
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    writer = store.writer("v", dataset, FORM, {"device": "cpu"})
    for row in (4, 2):
        writer.write(row, index.digests[Modality.AUDIO][row].tobytes(), hidden(row), {"frames": row})
    writer.flush()
    writer.fail(7, b"7" * 16, "decode", "no sound")
    writer.flush()
    return writer.folder


def test_a_journal_holds_what_was_committed(folder, index):
    noted = Journal.read(folder)
    assert noted.header["run"] == {"device": "cpu"}
    assert [(row.sample, row.start, row.length, row.counts) for row in noted.samples] == [
        (4, 0, len(hidden(4)), {"frames": 4}),
        (2, len(hidden(4)), len(hidden(2)), {"frames": 2}),
    ]
    assert noted.samples[0].digest == index.digests[Modality.AUDIO][4].tobytes().hex()
    assert [failure["sample"] for failure in noted.failures] == [7]
    assert list(noted.shards) == [0]
    assert noted.shards[0]["rows"] == len(hidden(4)) + len(hidden(2))


def test_a_torn_last_line_never_counted(folder):
    path = folder / journal.NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:-1])
    assert Journal.read(folder).failures == []
    path.write_bytes(lines[0][:-1])
    assert Journal.read(folder) is None


@pytest.mark.parametrize("longer", [0, 1])
def test_a_line_may_be_as_long_as_the_limit(folder, monkeypatch, longer):
    path = folder / journal.NAME
    lines = path.read_bytes().splitlines(keepends=True)
    monkeypatch.setattr(journal, "MAX_LINE", max(map(len, lines[1:])))
    path.write_bytes(b"".join(lines) + b"{" * (journal.MAX_LINE + longer))
    if longer:
        with pytest.raises(StoreError, match=f"more than {journal.MAX_LINE} bytes in line 4") as caught:
            Journal.read(folder)
        assert caught.value.fix
    else:
        assert len(Journal.read(folder).samples) == 2
