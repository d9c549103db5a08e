"""A folder with a table of labels and one CSV per sample and modality, of openSMILE, COVAREP, OpenFace. Read only.

Layout   FOLDER/samples.csv (id, split, label, text, group, position) and FOLDER/MODALITY/ID.csv, a frame in each line.
         Table, folders and labels are those of the format npy.
Columns  Named by the first line, or unnamed where it holds numbers, as in COVAREP's. Cells are parted by commas,
         semicolons (openSMILE) or tabs, with blanks around them (OpenFace). Names, times and numbers of frames are left
         out: `drop` says which. The names of the rest are kept with the view. Files may have them in another order.
Rows     Where there is a column success, as OpenFace writes it, the frames with 1; of several faces (face_id) the one
         seen most often. The others are counted.
Traps    A file with other columns than most, a text among its numbers or lines of unequal length is a recorded failure.
         NaN, infinity, `-1.#IND` and empty cells become 0 and are counted. A link to a file in the folder is
         followed, no other.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msa.annotations import frames
from msa.annotations.frames import Header
from msa.cache.exchange import _corpus, _folder
from msa.cache.exchange._foreign import Feature, Foreign, Unreadable
from msa.errors import MsaError

SUFFIX = ".csv"
LAYOUT = "FOLDER/samples.csv (id, split, label, text, group, position) and FOLDER/MODALITY/ID.csv, a frame in each line"
SUCCESS, FACE = "success", "face_id"  # columns of OpenFace


@dataclass(frozen=True)
class Config(_folder.Config):
    """Settings of a folder."""

    drop: tuple[str, ...] = (  # columns that are no features, in any case; one without a name is left out as well
        "name", "file", "index", "frame", "frameindex", "frametime", "time", "timestamp", "start", "end", FACE, SUCCESS,
    )  # fmt: skip


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return a folder of CSVs as a corpus. Raises SourceError where there is no table, or no feature."""
    dropped = {"", *(name.strip().lower() for name in config.drop)}
    return _folder.corpus("csvs", path, config, name, SUFFIX, LAYOUT, lambda folder, _: _feature(folder, dropped))


def _feature(folder: _folder.Files, dropped: set[str]) -> Feature:
    """Return the frames, lazily. Their columns are those of most files. Raises SourceError where none can be read."""
    kept = Counter(columns for id in folder.files if (columns := _columns(folder, id, dropped)))
    if not kept:
        raise folder.unreadable()
    names = kept.most_common(1)[0][0]
    met: Counter[str] = Counter()

    def states(id: str) -> np.ndarray:
        met.clear()
        try:
            path = folder.file(id)
            about = frames.header(path)
            places = _places(about, names, dropped)
            needed = {*places, *(i for i, name in enumerate(about.names) if name.lower() in (SUCCESS, FACE))}
            table = frames.values(path, about, set(range(len(about.names))) - needed)
        except (OSError, MsaError) as error:
            raise Unreadable(f"damaged file: {error}") from error
        except ValueError as error:
            raise Unreadable(str(error)) from error
        return table[_shown(table, about, met)][:, places]

    return Feature(
        name=folder.path.name,
        modality=folder.modality,
        dim=len(names),
        read=states,
        digest={id: folder.digest(id) for id in folder.ids}.get,
        columns=_corpus.columns_in(names, len(names)),
        counts=lambda: dict(met),
    )


def _columns(folder: _folder.Files, id: str, dropped: set[str]) -> tuple[str, ...] | None:
    """Return the names of a file's features, "" for each without one; None where it cannot be read."""
    try:
        about = frames.header(folder.file(id))
    except (OSError, MsaError, ValueError, Unreadable):  # recorded when the sample's turn comes
        return None
    return tuple(name for name in about.names if name.lower() not in dropped) if about.named else about.names


def _places(about: Header, names: tuple[str, ...], dropped: set[str]) -> list[int]:
    """Return where the columns `names` stand in a file. Raises Unreadable where it has others."""
    place = {name: i for i, name in enumerate(about.names) if name.lower() not in dropped}
    if about.named != any(names) or len(about.names) < len(names):
        raise Unreadable(f"{len(about.names)} columns{'' if about.named else ' without names'}, unlike most files")
    if not about.named:
        if len(about.names) != len(names):
            raise Unreadable(f"{len(about.names)} columns, and most files have {len(names)}")
        return list(range(len(names)))
    if lacking := [name for name in names if name not in place]:
        raise Unreadable(f"no column {lacking[0][:60]}, which most files have")
    if more := [name for name in place if name not in set(names)]:
        raise Unreadable(f"a column {more[0][:60]}, which most files have not")
    return [place[name] for name in names]


def _shown(table: np.ndarray, about: Header, met: Counter[str]) -> np.ndarray:
    """Return (T,) bool: the frames that show the face which is followed; all where the table is not one of faces."""
    place = {name.lower(): i for i, name in enumerate(about.names)}
    if SUCCESS not in place or not len(table):
        return np.ones(len(table), bool)
    seen = table[:, place[SUCCESS]] == 1
    own = seen & frames.followed(seen, table[:, place[FACE]]) if FACE in place else seen
    if not own.any():
        raise Unreadable(f"no face in {len(table)} frames")
    met["frames without a face left out"] += int((~seen).sum())
    met["frames of other faces left out"] += int((seen & ~own).sum())
    for what in [what for what, number in met.items() if not number]:
        del met[what]
    return np.asarray(own)
