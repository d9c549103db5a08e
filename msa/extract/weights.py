"""From the name of weights to files on this disk, and the hash that identifies them.

`hf:FOLDER` is used as it lies; `hf:ORG/NAME` and `timm:NAME` come from the hub's cache, or from the hub when they
are not there yet; `timm:NAME@CHECKPOINT` is one file; `pyfeat:FOLDER` has two, which on the hub lie in a repository
each. The cache is asked first, so a second run needs no network, and where there is none the refusal comes at once
with the way round it.
"""

import errno
import hashlib
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from msa.errors import BackboneError
from msa.extract import hub
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.transformers_folder import AGAIN, BESIDE, deciding, missing
from msa.names import printable, shell_command
from msa.types import Modality

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
    if lacking := missing(folder, spec.modality):
        raise BackboneError(
            f"{folder} has no {lacking}",
            fix="name a folder made by `hf download ORG/NAME --local-dir FOLDER` or by save_pretrained",
        )
    return Weights(folder, revision, sha256(deciding(folder, spec.modality)))


def _snapshot(repo: str, revision: str | None, modality: Modality) -> Path:
    """Return the folder of a repository in the hub's cache, downloaded unless it is there already."""
    from huggingface_hub import snapshot_download

    folder = hub.cached(repo, revision, "config.json")
    if folder and not missing(folder, modality):
        return folder
    with hub.reached(repo, hub.carried(repo, f"--{modality} hf:{hub.short(repo)}")):
        held = hub.listed(repo, revision)
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

    if folder := hub.cached(repo, revision, name):
        return folder / name
    with hub.reached(repo, hub.carried(repo, f"--image {repo.replace('/', ':')}@{hub.short(repo)}/{name}")):
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
    from huggingface_hub import hf_hub_download

    for name in names:
        if folder := hub.cached(repo, revision, name):
            return folder / name
    download = " and ".join(
        f"`{shell_command('hf', 'download', source, files[0], '--local-dir', 'faces')}`"
        for source, files in (READER, FINDER)
    )
    local = f"run {download}, carry that folder here and name it (`--face pyfeat:faces`), or use `--face none`"
    with hub.reached(repo, fix=f"where there is a network {local}"):
        held = hub.listed(repo, revision)
        name = next((name for name in names if name in held), names[0])
        return Path(hf_hub_download(repo, name, revision=revision))
