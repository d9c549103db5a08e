"""Values of a JSON file with their places in it; a value of another type than asked for is refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from msa.cache.format import limits
from msa.errors import StoreError
from msa.fuse.files import refuse, short
from msa.types import Modality

MAX_JSON = 2**24  # bytes of run.json and of metrics.json: some thousand times what they have
MAX_TEXT = 4096  # characters
MAX_WHOLE = 2**63
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of characters


@dataclass(frozen=True)
class Node:
    """A value out of a JSON file, and where it stands; what is not of the kind asked for is a ConfigError."""

    file: Path
    place: str  # such as data.task.classes
    value: Any

    @classmethod
    def read(cls, path: Path) -> "Node":
        """Read a JSON object. Raises FileNotFoundError where there is no such file, else ConfigError."""
        try:
            return cls(path, "", limits.parse(path, limits.read_bytes(path, MAX_JSON)))
        except StoreError as error:
            refuse(path, error.what.removeprefix(limits.DAMAGED).removeprefix(f"{path}: "))

    def __getitem__(self, name: str) -> "Node":
        """Return a member. Raises ConfigError where it is missing."""
        members = self.members()
        if name not in members:
            self.refuse(f"lacks {name!r}")
        return members[name]

    def members(self) -> dict[str, "Node"]:
        """Of an object: its members by name."""
        if not isinstance(self.value, dict):
            self._expected("an object")
        members = {}
        for name, value in self.value.items():
            if _NO_TEXT.search(name) or len(name) > MAX_TEXT:
                self.refuse(f"has a member called {short(name)}")
            members[name] = Node(self.file, f"{self.place}.{name}".lstrip("."), value)
        return members

    def member(self, name: str, default: Any) -> "Node":
        """Return a member, or `default` where an older file lacks it."""
        return self.members().get(name, Node(self.file, f"{self.place}.{name}".lstrip("."), default))

    def elements(self) -> list["Node"]:
        """Return the elements of a list."""
        if not isinstance(self.value, list | tuple):
            self._expected("a list")
        return [Node(self.file, f"{self.place}[{i}]", value) for i, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or len(self.value) > MAX_TEXT or _NO_TEXT.search(self.value):
            self._expected("a text without control characters")
        return self.value

    def texts(self) -> tuple[str, ...]:
        return tuple(element.text() for element in self.elements())

    def number(self) -> float:
        """Return a number, infinity and NaN included."""
        if type(self.value) is not float and (type(self.value) is not int or abs(self.value) >= MAX_WHOLE):
            self._expected("a number")
        return float(self.value)

    def number_or_none(self) -> float | None:
        """Return a number, or None for null: what could not be measured."""
        return None if self.value is None else self.number()

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self._expected("true or false")
        return self.value

    def modality(self) -> Modality:
        if self.value not in [*Modality]:
            self._expected(f"one of {', '.join(Modality)}")
        return Modality(self.value)

    def whole(self, least: int = 0, below: int = MAX_WHOLE) -> int:
        """Return a whole number of at least `least`."""
        if type(self.value) is not int or not least <= self.value < below:
            self._expected(f"a whole number from {least} to {below - 1}")
        return self.value

    def by_modality(self) -> dict[Modality, "Node"]:
        """Of an object: its members by modality."""
        return {Node(self.file, self.place, name).modality(): member for name, member in self.members().items()}

    def only(self, names: Sequence[str]) -> None:
        """Refuse an object with members of other names."""
        if unknown := [name for name in self.members() if name not in names]:
            self.refuse(f"has {unknown[0]!r}, known: {', '.join(names)}")

    def refuse(self, what: str) -> NoReturn:
        """Raise the ConfigError that says where this stands."""
        refuse(self.file, f"{self.place or 'it'} {what}")

    def _expected(self, kind: str) -> NoReturn:
        self.refuse(f"is {short(self.value)}, expected {kind}")
