"""FeatureStore: a folder of hidden states that anybody can open, add to and trust.

    store = FeatureStore.open("store")
    index = store.index("mvsa-single")
    reader = store.reader(store.views("mvsa-single")[0])
    reader.read(17)                                     # (T, D) hidden states of the sample in row 17

Readers see one generation (see manifest.py) and keep seeing it while others publish.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from msa.cache import layout, manifest, recovery, segment
from msa.cache.files import is_full, remove_tree, write_durably
from msa.cache.fingerprint import sha256
from msa.cache.index import Index
from msa.cache.segment import Form, SegmentWriter
from msa.cache.view import View, ViewReader
from msa.errors import StoreError, UnknownNameError
from msa.types import Modality

PARTS = ("index", "views", "manifests", "zarr.json")  # of a store, or of one that was only half made


class FeatureStore:
    """A store on disk, seen at one generation."""

    def __init__(self, path: Path, pinned: manifest.Manifest) -> None:
        self.path = path
        self.manifest = pinned

    @classmethod
    def open(cls, path: str | Path, generation: int | None = None) -> "FeatureStore":
        """Open an existing store. Raises StoreError where there is none, or one of a newer format."""
        path = Path(path)
        try:
            root = layout.read_json(path / "zarr.json")
        except FileNotFoundError:
            raise StoreError(
                f"there is no store at {path}", fix="make one with `msa extract --store PATH`, or name another folder"
            ) from None
        except (ValueError, NotADirectoryError, AssertionError) as error:
            raise StoreError(f"{path} is not a store: {error}", fix="name the folder `msa extract` wrote to") from None
        manifest.check_format(path, root.get("attributes", {}).get("msa_format"))
        return cls(path, manifest.read(path, generation))

    @classmethod
    def create(cls, path: str | Path) -> "FeatureStore":
        """Open a store, making an empty one where the folder is missing or empty."""
        path = Path(path)
        if (path / "zarr.json").exists():
            return cls.open(path)
        if path.exists() and (not path.is_dir() or any(p.name not in PARTS for p in path.iterdir())):
            raise StoreError(f"{path} exists and is not a store", fix="name a new or an empty folder with --store")
        (path / "manifests").mkdir(parents=True, exist_ok=True)
        root = layout.group_metadata({"msa_format": layout.FORMAT})
        for folder in ("index", "views"):
            (path / folder).mkdir(exist_ok=True)
            write_durably(path / folder / "zarr.json", json.dumps(layout.group_metadata({})).encode())
        write_durably(path / "zarr.json", json.dumps(root).encode())  # last: its presence makes the folder a store
        return cls.open(path)

    # reading

    @property
    def datasets(self) -> dict[str, str]:
        """Name -> fingerprint of the newest index of that name, in order of publication."""
        return {about["name"]: fingerprint for fingerprint, about in manifest.in_order(self.manifest["datasets"])}

    def dataset(self, name: str) -> str:
        """The fingerprint behind a name, or behind `name@fingerprint` for an older index."""
        plain, _, wanted = name.partition("@")
        for fingerprint, about in reversed(manifest.in_order(self.manifest["datasets"])):
            if about["name"] == plain and fingerprint.startswith(wanted):
                return fingerprint
        raise UnknownNameError("dataset in this store", name, self.datasets)

    def index(self, name: str) -> Index:
        """The index of a dataset by name, `name@fingerprint`, or fingerprint."""
        known = name if name in self.manifest["datasets"] else self.dataset(name)
        return Index.read(self.path / "index" / known)

    def views(self, name: str) -> list[View]:
        """The views a dataset has hidden states in, in order of publication."""
        fingerprint = name if name in self.manifest["datasets"] else self.dataset(name)
        found = []
        for view_id, about in manifest.in_order(self.manifest["views"]):
            entries = [entry for entry in about["segments"] if entry["dataset"] == fingerprint]
            if entries:
                found.append(View(view_id, fingerprint, self.attributes(view_id), entries))
        return found

    def view(self, dataset: str, modality: Modality, name: str | None = None) -> View:
        """The view of a modality: by backbone name or id, or the newest that holds anything. Raises StoreError."""
        all_of = [view for view in self.views(dataset) if view.modality == modality]
        fit = [v for v in all_of if name is None or v.is_called(name)]
        if not fit:
            known = ", ".join(f"{view.name}@{view.id}" for view in all_of) or "none"
            raise StoreError(
                f"{self.path} has no {modality} view {name or ''} of {dataset}; it has: {known}",
                fix=f"name one of these, or extract it: msa extract --dataset {dataset.partition('@')[0]} "
                f"--{modality} BACKBONE",
            )
        return next((view for view in reversed(fit) if view.samples), fit[-1])

    def attributes(self, view_id: str) -> dict[str, Any]:
        """The provenance of a view."""
        attributes = layout.read_json(self.path / "views" / view_id / "zarr.json")["attributes"]
        assert isinstance(attributes, dict)
        return attributes

    def reader(self, view: View) -> "ViewReader":
        """Random access to the hidden states of a view."""
        samples = self.manifest["datasets"][view.dataset]["samples"]
        return ViewReader(self.path / "views" / view.id / "seg", view, samples)

    # writing

    def add_index(self, index: Index) -> str:
        """Write and publish a corpus; the newest of a name is the one meant by it. Returns its fingerprint."""
        folder = index.write(self.path / "index")
        about = {"name": index.name, "samples": len(index), "files": segment.files(folder)}

        def change(new: manifest.Manifest) -> None:
            new["datasets"][folder.name] = about | {"published": new["generation"] + 1}

        if self.datasets.get(index.name) != folder.name:  # published again, it becomes the newest of its name
            self.manifest = manifest.publish(self.path, change)
        return folder.name

    def add_view(self, view_id: str, attributes: Mapping[str, Any]) -> None:
        """Write a view's provenance, once: whoever comes later finds the first writer's."""
        folder = self.path / "views" / view_id
        (folder / "seg").mkdir(parents=True, exist_ok=True)
        if not (folder / "zarr.json").exists():
            write_durably(folder / "seg" / "zarr.json", json.dumps(layout.group_metadata({})).encode())
            write_durably(folder / "zarr.json", json.dumps(layout.group_metadata(attributes), indent=1).encode())

    def writer(
        self, view_id: str, dataset: str, form: Form, run: Mapping[str, Any], flush_s: float = segment.FLUSH_AFTER_S
    ) -> SegmentWriter:
        """A new private segment; publish what its `seal` returns."""
        folder = self.path / "views" / view_id / "seg" / segment.new_name()
        return SegmentWriter(folder, dataset, form, run, flush_s)

    @contextmanager
    def writing(self, view_id: str, writer: SegmentWriter) -> Iterator[None]:
        """Seal and publish a segment when the block ends, however it ends.

        A full disk costs what was not committed yet; what was, is published if there is room for the few kilobytes
        that takes, and otherwise by the next run.
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
        """Publish what killed runs left committed in a view; returns how many samples that is."""
        folder = self.path / "views" / view_id / "seg"

        def published() -> set[str]:  # read when it is asked for: a pinned generation may be hours old
            views = manifest.read(self.path)["views"]
            return {entry["id"] for entry in views.get(view_id, {"segments": []})["segments"]}

        entries = recovery.adopt(folder, published)
        self.publish(view_id, entries)
        return sum(entry["samples"] for entry in entries)

    def publish(self, view_id: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Make sealed segments visible in a new generation, then forget their journals.

        Two runs may have extracted the same samples: the first to publish has them, the other leaves them out.
        """
        if not entries:
            return
        about = self.path / "views" / view_id / "zarr.json"
        files = {about.name: [about.stat().st_size, sha256(about)]}
        folder = self.path / "views" / view_id / "seg"
        mine = [dict(entry) for entry in entries]

        def change(new: manifest.Manifest) -> None:
            view = new["views"].setdefault(view_id, {"files": files, "segments": []})
            there = [segment.without(folder, entry, segment.taken(folder, view["segments"], entry)) for entry in mine]
            mine[:] = [entry for entry in there if entry]  # as it now lies on disk, should this have to be tried again
            view["segments"] += mine
            view["published"] = new["generation"] + 1

        self.manifest = manifest.publish(self.path, change)
        for entry in mine:
            (folder / entry["id"] / segment.JOURNAL).unlink(missing_ok=True)
        for superfluous in {entry["id"] for entry in entries} - {entry["id"] for entry in mine}:
            remove_tree(folder / superfluous)
