"""What the corpora share: a natural order, files without their copies, and one error for a folder that does not fit."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msa.annotations.rows import natural
from msa.cache.format import fingerprint
from msa.errors import SourceError
from msa.types import Dropped, Sample, Source


def misplaced(source: Source, root: Path, what: str) -> SourceError:
    """Return the error for raw data that is not where its dataset has it, or laid out in another way."""
    return SourceError(
        f"{source.title} is not at {root}: {what}",
        fix=f"get it from {source.home} (licence: {source.licence}) and name the folder or file that looks like this:\n"
        f"{source.layout}",
    )


def in_order(items: Iterable[Sample | Dropped]) -> Iterator[Sample | Dropped]:
    """Yield the items by natural id, whatever the order in which the file system listed them."""
    return iter(sorted(items, key=lambda item: natural(item.id)))


def files(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return every file below `root` with one of these suffixes, in any case.

    Links to folders are followed, each folder once. Names that begin with a dot are left out: macOS puts a
    `._NAME.wav`, which is no sound, beside every file of an archive it packs.
    """
    paths, seen = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()  # which of two links to a folder counts must not depend on the file system
        paths += [Path(folder, name) for name in names if name[0] != "." and name.lower().endswith(suffixes)]
    return sorted(path for path in paths if path.is_file())


def recordings(
    root: Path,
    source: Source,
    read: Callable[[Path], Sample | None],
    foreign: str,
    suffixes: tuple[str, ...] = (".wav",),
) -> Iterator[Sample | Dropped]:
    """Yield the samples of a dataset whose file names carry id, label and group.

    `read` turns a path into a sample, or into None where the name is none of the corpus: such a file is dropped for
    the reason `foreign`. Mirrors often hold a tree twice, so files with equal bytes count once. A file that gives no
    sample is named by its path below `root`, for its name alone may be that of a sample.
    """
    if not root.is_dir():
        raise misplaced(source, root, "no such folder")
    read_paths = {path: read(path) for path in files(root, suffixes)}
    named = {path: sample for path, sample in read_paths.items() if sample}
    if not named:
        raise misplaced(source, root, f"{len(read_paths)} files of its kind below, none with a name of the corpus")
    others = [Dropped(_below(root, path), foreign) for path in read_paths.keys() - named.keys()]
    return in_order([*others, *_once(root, named)])


def _once(root: Path, named: Mapping[Path, Sample]) -> Iterator[Sample | Dropped]:
    """Yield each recording once, from the shallowest path; two different recordings under one id are an error."""
    contents = _contents(named)
    kept: dict[tuple[int, bytes], Path] = {}
    ids: dict[str, Path] = {}
    for path in sorted(named, key=lambda path: (natural(named[path].id), len(path.parts), path)):
        first, id = kept.setdefault(contents[path], path), named[path].id
        if first is not path:
            yield Dropped(_below(root, path), "duplicate file", f"same bytes as {_below(root, first)}")
        elif id in ids:
            raise SourceError(
                f"{id} is two different recordings: {ids[id]} and {path}", fix="keep the right one, move the other away"
            )
        else:
            ids[id] = path
            yield named[path]


def _contents(named: Mapping[Path, Sample]) -> dict[Path, tuple[int, bytes]]:
    """Return what tells each file's content from the others': most sizes occur once, so few files need to be read.

    Empty files are no copies of one another: each is a recording that was lost, and extraction reports it as such.
    """
    sizes = {path: path.stat().st_size for path in named}
    often = Counter(sizes.values())
    return {
        path: (size, fingerprint.of_file(path) if size and often[size] > 1 else named[path].id.encode())
        for path, size in sizes.items()
    }


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
