"""Untrusted names from files and stores, made safe for terminals, folders and shell commands."""

import hashlib
import re
import shlex

FOLDER_CHARACTERS = 100  # file systems allow 255 bytes; a suffix and a time are appended

_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_IN_FOLDERS = re.compile(r"[^A-Za-z0-9._+@-]+")


def printable(text: object) -> str:
    r"""Return `text` with control characters, direction marks and lone surrogates written as escapes (`\x1b`).

    Text from files and stores can contain escape sequences, which must not reach a terminal.
    """
    return _NOT_PRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def shell_command(*words: object) -> str:
    """Return a command that is safe to copy into a shell.

    Words are quoted where needed: an untrusted name can contain `$(...)`, spaces or line ends. Control characters are
    written as escapes.
    """
    return shlex.join(printable(word) for word in words)


def folder_name(name: str) -> str:
    """Return a folder name for `name`: no separator, no leading dot, at most 100 characters.

    Plain names stay unchanged. A changed name ends with eight digits of the SHA-256 of `name`, so that two names do not
    share a folder.
    """
    plain = _NOT_IN_FOLDERS.sub("_", name).lstrip(".-")[:FOLDER_CHARACTERS]
    if plain == name and plain:
        return plain
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: FOLDER_CHARACTERS - 9]}-{digits}".lstrip("-")
