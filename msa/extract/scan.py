"""Scan a dataset on disk into its index: every sample with label, split and input digests, and what was left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

from msa import catalog
from msa.annotations import splits
from msa.cache.format import fingerprint
from msa.cache.index import Index
from msa.cache.write.dataset_index import Corpus, Inputs, index_of
from msa.config import taking, with_settings
from msa.errors import SourceError
from msa.extract.media import decode
from msa.names import printable
from msa.types import Dropped, Modality, Raw, Sample


@dataclass(frozen=True)
class Scan:
    """The index of a dataset, and where the raw material of each of its rows is."""

    index: Index
    raws: Sequence[Mapping[Modality, Raw]]
    remark: str = ""  # shown to the user: what is not as expected
    unreadable: Sequence[tuple[str, Modality, str]] = ()  # id, modality and path of files that are missing or empty

    def rows(self, modality: Modality) -> list[int]:
        """Return the rows of the index that have raw material of a modality here, ascending."""
        return [row for row, raw in enumerate(self.raws) if modality in raw]

    def paths(self, modality: Modality) -> dict[str, Path]:
        """Return id -> the file of a modality, of the samples that have one."""
        raws = {self.index.ids[row]: self.raws[row][modality].path for row in self.rows(modality)}
        return {id: path for id, path in raws.items() if path is not None}

    @property
    def modalities(self) -> list[Modality]:
        """The modalities that have raw material."""
        return [m for m in Modality if any(m in raw for raw in self.raws)]


def scan(
    dataset: str,
    root: Path,
    *,
    settings: Sequence[str] = (),
    split_file: Path | None = None,
    seed: int = 42,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Read a dataset's labels and hash its raw material; nothing is decoded but text.

    Args:
        dataset: its name.
        root: where it is.
        settings: `name=value` pairs of the dataset's Config, or of how splits are drawn.
        split_file: names the samples of each split; the rest is left out.
        seed: of the random split.
        advance: called with (done, total) as files are hashed.
    """
    module = catalog.load("dataset", dataset)
    drawing, own = taking(splits.Config(), settings)
    config = with_settings(module.Config(), own, f"setting of {dataset}", drawing)
    items = [_written(item) for item in module.samples(root, config)]
    corpus = Corpus(
        name=_name(module, dataset, root),
        task=module.TASK or module.task(root, config),
        source=module.SOURCE,
        samples=[item for item in items if isinstance(item, Sample)],
        dropped=[item for item in items if isinstance(item, Dropped)],
        settings=asdict(config),
        labels=module.decided(root, config).sentence if hasattr(module, "decided") else "",
    )
    corpus = corpus.split_by(split_file).kept(root)
    samples = corpus.samples
    lost: list[tuple[str, Modality, str]] = []
    inputs = [_inputs(sample, i, len(samples), advance, lost) for i, sample in enumerate(samples)]
    index = index_of(corpus, inputs, split_file, seed, drawing)
    return Scan(index, [sample.raw for sample in samples], unreadable=lost)


def _written(item: Sample | Dropped) -> Sample | Dropped:
    """Return the item with names that a store can hold: a dropped file whose name is not UTF-8 is shown by escapes.

    Raises SourceError where a sample is called so.
    """
    if isinstance(item, Dropped):
        if (item.id + item.detail).isprintable():
            return item
        return replace(item, id=printable(item.id), detail=printable(item.detail))
    for what, name in (("id", item.id), ("group", item.group), ("label", item.label)):
        try:
            str(name).encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                f"the {what} {printable(name)} of a sample is no valid Unicode text", fix="rename it in UTF-8"
            ) from error
    return item


def of_store(index: Index) -> Scan:
    """Return the scan of a dataset that is in a store without raw material: its texts can be extracted again."""
    raws: list[dict[Modality, Raw]] = [{Modality.TEXT: Raw(text=text)} if text else {} for text in index.text]
    files = (
        "--root PATH" if index.name in catalog.names("dataset") else "--dataset table --root FILE, of your own table,"
    )
    return Scan(
        index,
        raws,
        remark=f"{index.name} is taken from the store, which has its texts and no other raw material: "
        f"only text can be extracted ({files} reads the dataset's files)",
    )


def _inputs(
    sample: Sample,
    done: int,
    total: int,
    advance: Callable[[int, int], None],
    lost: list[tuple[str, Modality, str]],
) -> Inputs:
    """Hash the raw material of a sample; a file that cannot be read is appended to `lost`."""
    advance(done, total)
    digests: dict[Modality, bytes] = {}
    text, encoding = "", ""
    for modality, raw in sample.raw.items():
        try:
            if modality is Modality.TEXT:
                text, encoding = decode.read_text(raw)
                digests[modality] = fingerprint.of_text(text)
            else:
                digests[modality] = fingerprint.of_file(decode.existing(raw), raw.start, raw.end)
        except (OSError, decode.MediaError):  # extraction will meet it again and record why; it equals no other
            digests[modality] = fingerprint.of_text(f"unreadable {modality} of {sample.id}")
            if raw.path is not None:
                lost.append((sample.id, modality, str(raw.path)))
    return Inputs(digests, text, encoding)


def _name(module: ModuleType, dataset: str, root: Path) -> str:
    return str(module.name(root)) if hasattr(module, "name") else dataset
