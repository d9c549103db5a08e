"""From the name of weights to files on this disk, and the hash that identifies them.

`hf:FOLDER` is used as it lies; `hf:ORG/NAME` and `timm:NAME` come from the hub's cache, or from the hub when they
are not there yet; `timm:NAME@CHECKPOINT` is one file; `pyfeat:FOLDER` has two, which on the hub lie in a repository
each. The cache is asked first, so a second run needs no network, and where there is none the refusal comes at once
with the way round it.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from msa.errors import BackboneError
from msa.extract.backbone import BackboneSpec, Weights
from msa.names import printable, shell_command
from msa.types import Modality

AGAIN = "get the folder again: `hf download ORG/NAME --local-dir FOLDER`, or save_pretrained, makes a whole one"
CONNECT_S = 3.0  # how long the hub may take to answer at all
TENSORS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENISER: tuple[str, ...] = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    # read by tokenizers of few families: BERTweet, PhoBERT, LUKE, RoCBert, GPT-NeoX-Japanese, Marian, FSMT, Mistral
    *("bpe.codes", "entity_vocab.json", "word_shape.json", "word_pronunciation.json", "emoji.json", "dict.txt"),
    *("source.spm", "target.spm", "target_vocab.json", "vocab-src.json", "vocab-tgt.json", "normalizer.json"),
    *("byte_maps.json", "prophetnet.tokenizer", "tokenizer.model.*", "tekken.json"),
)
# What decides the numbers beside the tensors and config.json; a speech model's vocabulary, for one, does not
BESIDE = {
    Modality.TEXT: TOKENISER,
    Modality.AUDIO: ("preprocessor_config.json", "processor_config.json"),
}
MAX_JSON = 2**26  # bytes of a configuration or an index: the largest known have 2 MB
MAX_TOKENIZER = 2**28  # bytes of a tokenizer.json: the largest known have 35 MB
SMALL = 2**26  # bytes: files below are hashed without a look at their holes
# py-feat's two networks: the repository, and what the file may be called, the name of today first
READER = ("py-feat/face_multitask_v2", ("face_multitask_v28.safetensors",))
FINDER = ("py-feat/retinaface_r34", ("model.safetensors", "retinaface_r34.safetensors"))


def resolve(spec: BackboneSpec) -> Weights:
    """Find, or fetch, the files that `spec.weights` names, and hash all that decide the numbers."""
    kind, _, name = spec.weights.partition(":")
    if not spec.weights:
        return Weights(None, None, sha256([]))
    if kind == "hf":
        return _transformers(name, spec)
    if kind == "timm":
        return _timm(name, spec)
    if kind == "pyfeat":
        return _faces(name, spec)
    raise BackboneError(
        f"unknown kind of weights: {spec.weights!r}",
        fix="name them hf:ORG/NAME, hf:FOLDER, timm:NAME, timm:NAME@CHECKPOINT or pyfeat:FOLDER",
    )


def sha256(files: Iterable[Path]) -> str:
    """Return the hash of one file, as `sha256sum` prints it, or of the sorted names and hashes of several."""
    digests = {path.name: _digest(path) for path in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        _refuse_holes(path, file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local(name: str) -> Path:
    """Return a name as a path of this machine, which need not exist."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise BackboneError(
            f"{printable(name)[:100]!r} begins with the name of no user here", fix="write the path in full"
        ) from error


def _refuse_holes(path: Path, handle: int) -> None:
    """Refuse a file that is mostly holes: it takes no room on the disk, and hours to hash. Weights have none."""
    size = os.fstat(handle).st_size
    if size < SMALL:
        return
    written = end = 0
    try:
        while end < size and written < size // 2:
            begin = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, begin, os.SEEK_HOLE)
            written += end - begin
    except OSError as error:
        if error.errno != errno.ENXIO:  # a file system that cannot tell; ENXIO: nothing but a hole is left
            return
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    if written < size // 2:
        raise BackboneError(f"{path} claims {size:,} bytes, {written:,} of which were ever written", fix=AGAIN)


# transformers: a folder


def _transformers(name: str, spec: BackboneSpec) -> Weights:
    folder, revision = _local(name), None
    if not os.path.isdir(folder):
        folder = _snapshot(name, spec.revision, spec.modality)
        revision = folder.name  # the cache calls a snapshot's folder after its commit
    if missing := _missing(folder, spec.modality):
        raise BackboneError(
            f"{folder} has no {missing}",
            fix="name a folder made by `hf download ORG/NAME --local-dir FOLDER` or by save_pretrained",
        )
    return Weights(folder, revision, sha256(deciding(folder, spec.modality)))


def deciding(folder: Path, modality: Modality) -> list[Path]:
    """List the files of a transformers folder that decide its hidden states: configuration, one set of tensors, and
    tokeniser or feature extractor. A folder copied from the hub with more in it hashes the same.
    """
    return sorted({folder / "config.json", *tensors(folder), *beside(folder, modality)})


def beside(folder: Path, modality: Modality) -> list[Path]:
    """List the files of a tokeniser or feature extractor. Raises BackboneError for what is no file, such as a pipe."""
    named = sorted(path for path in folder.iterdir() if any(fnmatch(path.name, like) for like in BESIDE[modality]))
    return [_regular(path) for path in named]


def tensors(folder: Path) -> list[Path]:
    """List the tensor files transformers would read: safetensors before pickles, an index with its shards."""
    for path in (folder / name for name in TENSORS):
        if not path.exists():
            continue
        if _regular(path).suffix == ".json":
            return [path, *(folder / shard for shard in _shards(path))]
        return [path]
    return []


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index of tensors lists."""
    listed = json_object(index).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names:
        raise BackboneError(f"{index} lists no files of tensors", fix=AGAIN)
    if outside := next(
        (name for name in names if name != Path(name).name or not fnmatch(name, f"*{_ending(index)}")), ""
    ):
        raise BackboneError(
            f"{index} lists {printable(outside)[:100]!r}, which is no *{_ending(index)} beside it", fix=AGAIN
        )
    return names


def _ending(index: Path) -> str:
    return ".safetensors" if "safetensors" in index.name else ".bin"


def _regular(path: Path) -> Path:
    """Return the path of a file, or of a link to one. Raises BackboneError for others: a pipe would block for ever."""
    if path.is_file():
        return path
    what = "a link to nothing" if not path.exists() else "a folder" if path.is_dir() else "no regular file"
    raise BackboneError(f"{path} is {what}", fix=AGAIN)


def json_object(path: Path, limit: int | None = None) -> dict[str, Any]:
    """Read the JSON object in a file of a checkpoint. Raises BackboneError where there is none within `limit` bytes."""
    limit = MAX_JSON if limit is None else limit
    if (size := _regular(path).stat().st_size) > limit:
        raise BackboneError(f"{path} has {size:,} bytes, at most {limit:,} are read", fix=AGAIN)
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise BackboneError(f"{path} is nested too deeply", fix=AGAIN) from error
    except ValueError as error:  # also what is not UTF-8, and numbers of thousands of digits
        raise BackboneError(f"{path} is not JSON: {printable(error)[:200]}", fix=AGAIN) from error
    if not isinstance(content, dict):
        raise BackboneError(f"{path} holds a JSON {type(content).__name__}, expected an object", fix=AGAIN)
    return content


def _missing(folder: Path, modality: Modality) -> str:
    """Return what a folder lacks to be loaded, in words; "" when it is complete."""
    present = tensors(folder)
    absent = [path.name for path in [folder / "config.json", *present] if not path.is_file()]
    absent += [] if present else ["model.safetensors or pytorch_model.bin"]
    absent += (
        []
        if beside(folder, modality)
        else [{Modality.TEXT: "tokenizer files"}.get(modality, "preprocessor_config.json")]
    )
    return ", ".join(absent)


def _snapshot(repo: str, revision: str | None, modality: Modality) -> Path:
    """Return the folder of a repository in the hub's cache, downloaded unless it is there already."""
    from huggingface_hub import HfApi, snapshot_download

    folder = _cached(repo, revision, "config.json")
    if folder and not _missing(folder, modality):
        return folder
    with _hub(repo, _carried(repo, f"--{modality} hf:{_short(repo)}")):
        held = {file.rfilename for file in HfApi().model_info(repo, revision=revision, timeout=10).siblings or []}
        wanted = ["config.json", *BESIDE[modality]]
        pickles_only = not held & {"model.safetensors", "model.safetensors.index.json"}
        wanted += ["pytorch_model*.bin", "pytorch_model.bin.index.json"] if pickles_only else ["model*.safetensors*"]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=[f for f in held if _top(f, wanted)]))


def _top(name: str, likes: list[str]) -> bool:
    return "/" not in name and any(fnmatch(name, like) for like in likes)


# timm: a file


def _timm(name: str, spec: BackboneSpec) -> Weights:
    name, _, checkpoint = name.partition("@")
    if not checkpoint:
        path = _file(f"timm/{name}", spec.revision, "model.safetensors")
        return Weights(path, path.parent.name, sha256([path]))
    path = _local(checkpoint)
    if not os.path.isfile(path):
        raise BackboneError(
            f"{path} is no file" if os.path.exists(path) else f"there is no checkpoint {path}",
            fix=f"check the path after @ in timm:{name}@{checkpoint}",
        )
    return Weights(path, None, sha256([path]))


def _file(repo: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    if folder := _cached(repo, revision, name):
        return folder / name
    with _hub(repo, _carried(repo, f"--image {repo.replace('/', ':')}@{_short(repo)}/{name}")):
        return Path(hf_hub_download(repo, name, revision=revision))


# py-feat: two files


def _faces(name: str, spec: BackboneSpec) -> Weights:
    from msa.extract.encoders.face import require_pyfeat

    require_pyfeat()  # before 250 MB are fetched for it, and before other modalities take their hours
    files = face_files(name, spec.revision)
    if os.path.isdir(_local(name)):
        return Weights(files[0].parent, None, sha256(files))
    return Weights(files[0].parent, "+".join(file.parent.name for file in files), sha256(files))


def face_files(name: str, revision: str | None) -> tuple[Path, Path]:
    """Return the network that reads a face and the one that finds it, from a folder or from their two repositories.

    `revision` is a commit of each, joined by `+`.
    """
    folder = _local(name)
    if not os.path.isdir(folder) and name != READER[0]:
        raise BackboneError(
            f"{name!r} is neither a folder here nor {READER[0]}", fix="check the path after `pyfeat:`, or leave it out"
        )
    commits = revision.split("+") if revision else [None, None]
    reader, finder = (
        _held(folder, *repo) if os.path.isdir(folder) else _fetched(*repo, commit)
        for repo, commit in zip((READER, FINDER), commits, strict=True)
    )
    return reader, finder


def _held(folder: Path, repo: str, names: tuple[str, ...]) -> Path:
    if path := next((folder / name for name in names if (folder / name).is_file()), None):
        return path
    raise BackboneError(
        f"{folder} has no {' or '.join(names)}",
        fix=f"run `{shell_command('hf', 'download', repo, names[0], '--local-dir', folder)}`",
    )


def _fetched(repo: str, names: tuple[str, ...], revision: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    for name in names:
        if folder := _cached(repo, revision, name):
            return folder / name
    download = " and ".join(
        f"`{shell_command('hf', 'download', source, files[0], '--local-dir', 'faces')}`"
        for source, files in (READER, FINDER)
    )
    local = f"run {download}, carry that folder here and name it (`--face pyfeat:faces`), or use `--face none`"
    with _hub(repo, fix=f"where there is a network {local}"):
        held = {file.rfilename for file in HfApi().model_info(repo, revision=revision, timeout=10).siblings or []}
        name = next((name for name in names if name in held), names[0])
        return Path(hf_hub_download(repo, name, revision=revision))


# the hub


def _cached(repo: str, revision: str | None, name: str) -> Path | None:
    """Return the cached snapshot of a repository that holds the file `name`; asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repo, name, revision=revision)
    except HFValidationError as error:
        raise BackboneError(
            f"{repo!r} is neither a folder here nor a name on the hub", fix="check the path after `hf:`"
        ) from error
    return Path(path).parent if isinstance(path, str) else None


def _carried(repo: str, local: str) -> str:
    """Return the fix where the hub cannot be reached, for a repository that is one folder, named as `local` says."""
    return (
        f"where there is a network run `{shell_command('hf', 'download', repo, '--local-dir', _short(repo))}`, "
        f"carry the folder here and name it (`{local}`), or use `--preset classic`, which needs no weights"
    )


@contextmanager
def _hub(repo: str, fix: str) -> Iterator[None]:
    """Raise BackboneError at once where the hub cannot be reached, and for any error of it in the block."""
    from huggingface_hub import constants, get_session

    def refusal(why: str, first: str = "") -> BackboneError:
        return BackboneError(f"the weights of {repo} cannot be had: {why}", fix=first + fix)

    if constants.HF_HUB_OFFLINE:
        raise refusal("no folder here, not in the hub's cache, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE, or ")
    try:  # one request of our own: the client would repeat its own for 23 s per file
        get_session().head(constants.ENDPOINT, timeout=CONNECT_S)
    except Exception as error:  # the client has changed its transport, and so its error classes, before
        raise refusal(f"{constants.ENDPOINT} does not answer ({error})") from error
    try:
        yield
    except Exception as error:
        raise refusal(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def _short(repo: str) -> str:
    return repo.rpartition("/")[2]
