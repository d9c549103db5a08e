"""FeatureStore: open a store, read its indices and views, add to it.

    store = FeatureStore.open("store")
    index = store.index("mvsa-single")
    reader = store.reader(store.views("mvsa-single")[0])
    reader.read(17)                                     # (T, D) hidden states of the sample in row 17

Readers see one generation (see format/generations.py) and keep seeing it while others publish.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msa.cache import interop
from msa.cache.format import attributes, generations, layout, limits, local_files, tags
from msa.cache.format.files import is_full
from msa.cache.format.manifest import DatasetEntry, FileEntry, Files, Manifest, SegmentEntry, in_order
from msa.cache.index import Index
from msa.cache.read.view import View, ViewReader
from msa.cache.storage import site as remote
from msa.cache.write import publish as publishing
from msa.cache.write import recovery, segment
from msa.cache.write.segment import Form, SegmentWriter
from msa.errors import StoreError, UnknownNameError
from msa.names import shell_command
from msa.types import Modality

if TYPE_CHECKING:
    import dask.array
    import numpy as np

    from msa.cache.storage.mirror import Blocks

PARTS = ("index", "views", "manifests", "zarr.json")  # of a store, or of one whose making was interrupted
_TRIES = 5  # at adding a dataset that other processes collect at the same time


class FeatureStore:
    """A store, pinned to one generation.

    Of a remote store, `path` is the folder of its local mirror, which `blocks` fills as files are read.
    """

    def __init__(self, path: Path, pinned: Manifest, blocks: "Blocks | None" = None) -> None:
        self.path = path
        self.manifest = pinned
        self.blocks = blocks

    @property
    def where(self) -> str:
        """The folder or the address, for messages."""
        return str(self.blocks.site if self.blocks else self.path)

    @property
    def address(self) -> str:
        """The absolute folder or the address, as runs record it."""
        return str(self.blocks.site if self.blocks else self.path.resolve())

    @classmethod
    def open(cls, path: str | Path, generation: int | str | None = None) -> "FeatureStore":
        """Open an existing store at its newest generation, or at one that a number or a tag names.

        `path` is a folder or an address: s3://, gs://, http(s)://. Raises StoreError where there is no store, or one of
        a newer format.
        """
        if remote.is_url(path):
            return cls._open_elsewhere(str(path), generation)
        path = Path(path)
        try:
            root = limits.read_json(path / "zarr.json")
        except FileNotFoundError:
            if (path / "manifests").is_dir():
                raise StoreError(
                    f"damaged store: {path / 'zarr.json'} is missing",
                    fix=f"write it again: {shell_command('msa', 'cache', 'repair', path)}",
                ) from None
            raise StoreError(
                f"there is no store at {path}",
                fix="say where it is: --store PATH or MSA_STORE; or make one: `msa extract --dataset NAME --root PATH`",
            ) from None
        except (ValueError, NotADirectoryError, AssertionError) as error:
            raise StoreError(f"{path} is not a store: {error}", fix="name the folder `msa extract` wrote to") from None
        attributes.check_root(path, root)
        return cls(path, generations.read(path, None if generation is None else tags.generation_of(path, generation)))

    @classmethod
    def _open_elsewhere(cls, url: str, generation: int | str | None) -> "FeatureStore":
        from msa.cache.storage.mirror import Blocks

        site = remote.connect(url)
        remote.check_root(site)
        if isinstance(generation, str) and not generation.isdecimal():
            raise StoreError(f"{site}: a tag names nothing there", fix="name the generation by its number, or pull")
        pinned = generations.read(site, None if generation is None else int(generation))
        blocks = Blocks(site, pinned)
        return cls(blocks.root, pinned, blocks)

    @classmethod
    def create(cls, path: str | Path) -> "FeatureStore":
        """Open a store; make an empty one where the folder is missing or empty."""
        if remote.is_url(path):
            raise StoreError(
                f"{remote.shown(str(path))} is no folder, and hidden states are written to folders alone",
                fix="write to a folder (after `msa cache pull`, to add to what is there) and `msa cache push` it",
            )
        path = Path(path)
        if (path / "zarr.json").exists():
            return cls.open(path)
        if path.exists() and (not path.is_dir() or not set(local_files.listed(path, path)) <= {*PARTS}):
            raise StoreError(f"{path} exists and is not a store", fix="name a new or an empty folder with --store")
        root = layout.group_metadata({"msa_format": layout.FORMAT})
        with generations.writable(path):
            local_files.make_folder(path, path)
            local_files.make_folder(path, path / "manifests")
            for folder in ("index", "views"):
                local_files.make_folder(path, path / folder)
                local_files.write(path, path / folder / "zarr.json", json.dumps(layout.group_metadata({})).encode())
            local_files.write(path, path / "zarr.json", json.dumps(root).encode())  # last: it makes the folder a store
        return cls.open(path)

    # reading

    @property
    def datasets(self) -> dict[str, str]:
        """Map each name to the fingerprint of the newest index of that name, in order of publication."""
        return {entry.name: fingerprint for fingerprint, entry in in_order(self.manifest.datasets)}

    def dataset(self, name: str) -> str:
        """Return the fingerprint of the newest index of a name, or of the one that `name@fingerprint` names.

        Raises UnknownNameError.
        """
        plain, _, wanted = name.partition("@")
        for fingerprint, entry in reversed(in_order(self.manifest.datasets)):
            if entry.name == plain and fingerprint.startswith(wanted):
                return fingerprint
        raise UnknownNameError("dataset in this store", name, self.datasets)

    def index(self, name: str) -> Index:
        """Return the index of a dataset, by name, `name@fingerprint`, or fingerprint."""
        fingerprint = name if name in self.manifest.datasets else self.dataset(name)
        entry = self.manifest.datasets[fingerprint]
        index = Index.read(self._fetched(layout.index_path(fingerprint), entry.files))
        if (index.name, len(index)) != (entry.name, entry.samples):
            raise StoreError(
                f"damaged store: index/{fingerprint} has {len(index)} samples and is called {index.name!r}, "
                f"the manifest says {entry.samples} and {entry.name!r}",
                fix="run `msa cache verify`, and then `msa cache repair`",
            )
        return index

    def views(self, name: str) -> list[View]:
        """Return the views that hold anything of a dataset, in order of publication."""
        fingerprint = name if name in self.manifest.datasets else self.dataset(name)
        return [
            View(view_id, fingerprint, self.attributes(view_id), segments)
            for view_id, entry in in_order(self.manifest.views)
            if (segments := entry.of(fingerprint))
        ]

    def view(self, dataset: str, modality: Modality, name: str | None = None) -> View:
        """Return the view of a modality, by backbone name or id, by default the newest with hidden states.

        Raises StoreError.
        """
        all_of = [view for view in self.views(dataset) if view.modality == modality]
        fit = [v for v in all_of if name is None or v.is_called(name)]
        if not fit:
            known = ", ".join(f"{view.name}@{view.id}" for view in all_of) or "none"
            raise StoreError(
                f"{self.where} has no {modality} view {name or ''} of {dataset}; it has: {known}",
                fix="name one of these, or extract it: "
                + shell_command("msa", "extract", "--dataset", dataset.partition("@")[0], f"--{modality}", "BACKBONE"),
            )
        return next((view for view in reversed(fit) if view.samples), fit[-1])

    def attributes(self, view_id: str) -> dict[str, Any]:
        """Return the provenance of a view."""
        folder = self._fetched(layout.view_path(view_id), self.manifest.views[view_id].files)
        return attributes.of_view(folder / "zarr.json")

    def reader(self, view: View) -> "ViewReader":
        """Return a reader of the hidden states of a view."""
        samples = self.manifest.datasets[view.dataset].samples
        return ViewReader(self.path / layout.segments_path(view.id), view, samples, self.blocks)

    def tables(self, view_id: str, entry: SegmentEntry) -> Path:
        """Return the folder of a published segment, with its tables and attributes on this disk."""
        return self._fetched(layout.segment_path(view_id, entry.id), entry.files)

    def _fetched(self, name: str, files: Files) -> Path:
        """Return the folder `name` of the store; of a remote store, after its small files were mirrored."""
        folder = self.path / name
        if self.blocks:
            self.blocks.files(folder, files)
        return folder

    # as numpy, dask and torch: see interop.py

    def states(self, dataset: str, modality: str, view: str | None = None) -> "interop.States":
        """Return a mapping from id to hidden states (T, D) of a modality, which reads on access.

        `view` names a backbone, here and in the methods below; default: the newest view. Raises StoreError and
        UnknownNameError.
        """
        return interop.states(self, dataset, modality, view)

    def numpy(
        self, dataset: str, modality: str, view: str | None = None, split: str | None = None
    ) -> "tuple[np.ndarray, np.ndarray]":
        """Read all hidden states of a modality: values (sum T, D) and offsets (n + 1,) int64.

        Sample i of the index, or of one split, is `values[offsets[i]:offsets[i + 1]]`; empty where it has none.
        """
        return interop.as_numpy(self, dataset, modality, view, split)

    def dask(
        self, modality: str, dataset: str | None = None, view: str | None = None, split: str | None = None
    ) -> "dask.array.Array":
        """Return the same values (sum T, D) as a dask array in the order on disk, one chunk for each shard.

        For statistics over more than fits into memory. `dataset` may be omitted where the store holds one.
        """
        return interop.as_dask(self, modality, dataset, view, split)

    def torch(
        self,
        dataset: str,
        modalities: Sequence[str] | None = None,
        split: str | None = None,
        views: Mapping[str, str] | None = None,
    ) -> "interop.Samples":
        """Return the labelled samples of a dataset, or of a split, as a map-style torch dataset with a `collate`.

        Items are dicts of tensors, (T, D) float32 per modality: see `interop.Samples`. `views` names backbones by
        modality; default: the newest views.
        """
        return interop.as_torch(self, dataset, modalities, split, views or {})

    # writing

    def add_index(self, index: Index) -> str:
        """Write and publish an index, which becomes the newest of its name; return its fingerprint.

        Raises StoreError where a reader would refuse it; nothing is written then.
        """
        index.check()  # before its names are hashed
        missed = 0
        while True:
            try:
                folder = self._add_index(index)
            except FileNotFoundError:  # collected while its files were hashed
                if (missed := missed + 1) == _TRIES:
                    raise
                continue
            if publishing.appears((folder / "zarr.json").exists):  # else it was collected at this moment
                return folder.name

    def _add_index(self, index: Index) -> Path:
        is_new = not (self.path / layout.index_path(index.fingerprint)).exists()  # also where `repair` set it aside
        with generations.writable(self.path):
            folder = index.write(self.path / "index")
            while not _touch(self.path, folder / "zarr.json"):
                folder = index.write(self.path / "index")
        files = segment.files(self.path, folder)

        def change(old: Manifest) -> Manifest:
            if FeatureStore(self.path, old).datasets.get(index.name) == folder.name and not is_new:
                raise publishing.Unchanged
            entry = DatasetEntry(index.name, len(index), files, published=old.generation + 1)
            return old.with_dataset(folder.name, entry)

        try:  # published again, an older one becomes the newest of its name
            self.manifest = generations.publish(self.path, change)
        except publishing.Unchanged:
            self.manifest = generations.read(self.path)
        return folder

    def add_view(self, view_id: str, provenance: Mapping[str, Any]) -> None:
        """Write the provenance of a view, unless an earlier writer has.

        Raises StoreError where a reader would refuse it; nothing is written then.
        """
        refuse_view(provenance)
        folder = self.path / layout.view_path(view_id)
        local_files.make_folder(self.path, folder / "seg")  # first: gc takes it away before the rest
        if not local_files.lstat(self.path, folder / "seg" / "zarr.json"):
            local_files.write(self.path, folder / "seg" / "zarr.json", json.dumps(layout.group_metadata({})).encode())
        about = json.dumps(layout.group_metadata(provenance), indent=1).encode()
        while not _touch(self.path, folder / "zarr.json"):
            local_files.write(self.path, folder / "zarr.json", about)

    def writer(
        self, view_id: str, dataset: str, form: Form, run: Mapping[str, Any], flush_s: float = segment.FLUSH_AFTER_S
    ) -> SegmentWriter:
        """Return a writer of a new segment; publish what its `seal` returns.

        Args:
            view_id: The view it belongs to.
            dataset: Fingerprint of the index its row numbers refer to.
            form: Width, dtype and cut of its data.
            run: Describes the process: device, versions.
            flush_s: Seconds after which buffered samples are committed.
        """
        folder = self.path / layout.segment_path(view_id, segment.new_name())
        return SegmentWriter(folder, dataset, form, run, flush_s)

    @contextmanager
    def writing(self, view_id: str, writer: SegmentWriter) -> Iterator[None]:
        """Seal and publish a segment when the block ends, also after an error.

        A full disk loses the samples that were not committed. The committed ones are published if there is room for
        the few kilobytes of the manifest, otherwise by the next run.
        """
        full = False
        try:
            yield
            writer.flush()
        except OSError as error:
            if full := is_full(error):
                writer.discard()
            raise
        finally:
            with suppress(OSError) if full else nullcontext():
                self.publish(view_id, [entry for entry in [writer.seal()] if entry])

    def recover(self, view_id: str) -> int:
        """Publish what killed runs left committed in a view; return how many samples that is."""
        # read on demand: a pinned generation may be hours old
        entries = recovery.adopt(self.path, view_id, lambda: generations.read(self.path))
        return sum(entry.samples for entry in self._publish(view_id, entries))

    def publish(self, view_id: str, entries: Sequence[SegmentEntry]) -> list[SegmentEntry]:
        """Make sealed segments visible in a new generation, then forget their journals.

        Two runs may have extracted the same samples: the first to publish keeps them, the other leaves them out.
        Return what was published. Raises StoreError where the dataset was removed from the store meanwhile.
        """
        made = self._publish(view_id, entries)
        if gone := {entry.dataset for entry in entries} - set(self.manifest.datasets):
            raise StoreError(
                f"{self.path}: {', '.join(sorted(gone))} was removed from the store while hidden states were written",
                fix="run the same command again if it was removed by mistake; what was written for it is given up",
            )
        return made

    def _publish(self, view_id: str, entries: Sequence[SegmentEntry]) -> list[SegmentEntry]:
        """Publish what can be; return the entries of what now lies on disk."""
        if not entries:
            return []
        about = self.path / layout.view_path(view_id) / "zarr.json"
        publishing.appears(about.exists)  # gc puts it back when it meets this publication
        files = {about.name: FileEntry(about.stat().st_size, limits.sha256(about))}
        folder = self.path / layout.segments_path(view_id)
        written = list(entries)

        def change(old: Manifest) -> Manifest:
            # rewritten in place, should this be called again
            written[:], new = publishing.add_segments(folder, old, view_id, files, written)
            return new

        try:
            self.manifest = generations.publish(self.path, change)
        except publishing.Unchanged:
            self.manifest, written = generations.read(self.path), []
        lost = {entry.id for entry in written if not publishing.keeps_data(folder, entry)}
        if lost:  # collected at this moment: see maintain/gc.py
            self.manifest = generations.publish(self.path, lambda old: old.without_segments(lost))
        written = [entry for entry in written if entry.id not in lost]
        for entry in written:
            segment.close(folder / entry.id)
        for superfluous in {entry.id for entry in entries} - {entry.id for entry in written}:
            with suppress(FileNotFoundError):
                local_files.remove_tree(self.path, folder / superfluous)
        return written


def refuse_view(provenance: Mapping[str, Any]) -> None:
    """Raise StoreError where a reader would refuse the attributes of a view."""
    with limits.writing(f"a view called {str(provenance.get('backbone'))[:60]!r}"):
        attributes.check_view("its zarr.json", limits.as_read("its zarr.json", provenance))


def _touch(store: Path, path: Path) -> bool:
    """Return whether a file is there, and make it new: gc spares what is about to be used again."""
    try:
        local_files.touch(store, path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # another user's file, or a read-only disk: gc does not work there either
    return True
