"""Names that come from files and stores: on a terminal, as a folder, in a command to be copied."""

import hashlib
import re
import shlex

FOLDER_CHARACTERS = 100  # every file system takes a name of 255 bytes; a suffix and a time are put after ours

_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_IN_FOLDERS = re.compile(r"[^A-Za-z0-9._+@-]+")


def printable(text: object) -> str:
    r"""Return `text` with control characters, changes of direction and lone surrogates written as escapes (`\x1b`).

    What a file or a store says may hold escape sequences; none of them may reach a terminal.
    """
    return _NOT_PRINTABLE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def shell_command(*words: object) -> str:
    """Return a command to be copied into a shell: words are quoted where a shell would read more than one word in them.

    A stranger's name may hold `$(...)`, spaces or a line end. What a terminal could not show is written as an escape.
    """
    return shlex.join(printable(word) for word in words)


def folder_name(name: str) -> str:
    """Return the name of one folder that stands for `name`: no separator, no leading dot, at most 100 characters.

    Plain names stay as they are. Where something had to be changed, eight digits of the SHA-256 of `name` follow, so
    that two names never share a folder.
    """
    plain = _NOT_IN_FOLDERS.sub("_", name).lstrip(".-")[:FOLDER_CHARACTERS]
    if plain == name and plain:
        return plain
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: FOLDER_CHARACTERS - 9]}-{digits}".lstrip("-")
