"""The hub of weights: its cache on this disk, and the hub itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msa.errors import BackboneError
from msa.names import shell_command

CONNECT_S = 3.0  # how long the hub may take to answer at all


def cached(repo: str, revision: str | None, name: str) -> Path | None:
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


def carried(repo: str, local: str) -> str:
    """Return the fix where the hub cannot be reached, for a repository that is one folder, named as `local` says."""
    return (
        f"where there is a network run `{shell_command('hf', 'download', repo, '--local-dir', short(repo))}`, "
        f"carry the folder here and name it (`{local}`), or use `--preset classic`, which needs no weights"
    )


@contextmanager
def reached(repo: str, fix: str) -> Iterator[None]:
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


def short(repo: str) -> str:
    return repo.rpartition("/")[2]


def listed(repo: str, revision: str | None) -> set[str]:
    """Return the names of the files of a repository on the hub."""
    from huggingface_hub import HfApi

    return {file.rfilename for file in HfApi().model_info(repo, revision=revision, timeout=10).siblings or []}
