"""Random changes to a small honest store, as a stranger might make them: links, JSON, sizes, pipes, journals, claims.

Every link points at a canary: a tree beside the store that must stay as it is.
"""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c

from msa.cache.format.manifest import checksum

STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "x" * 100_000, "../../../canary", "/canary", "a\0b", "..", "object", "\x1b[2J", "\ud800", "2", "-1"),
    *([], {}, [[]], [-1, 4], [2**40, 2**40], ["x"], [None], {"": ""}, {"name": "numcodecs.pickle"}, {"\x1b[1m": 1}),
)
NAMES = (
    *("data", "data/c", "data/c/0", "data/c/0/0", "journal.jsonl", "zarr.json", "seg", "c", "0", "sample", "counts"),
    *(".tmp-0123", ".tmp-x.json", "at-work~20200101-000000-deadbeef", "latest.json", "99999999.json", "lock", "tags"),
    *(
        "20200101-000000-deadbeef",
        ".claim~h~1~0.0~20200101-000000-deadbeef",
        ".claim~~~~",
        ".claim~../..",
        "tags/t.json",
    ),
    *("x\x1b[2J", "n" * 250, "..data", "0123456789abcdef", "index", "views", "manifests", "a\nb", "x.partial"),
)
DEEP = 100_000


def canary(folder: Path) -> None:
    """Make the tree that nothing may touch; it looks like parts of a store: code that follows a link goes on."""
    for name in ("thesis.tex", "c/0/0", "data/c/0/0", "seg/20200101-000000-deadbeef/journal.jsonl", "zarr.json", "0/0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"years of work: {name}")
    for name in ("00000001.json", "t.json", ".tmp-old", "at-work~x", ".tmp-tree/file", "empty/.tmp-1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"generation": 1}')
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (1e9, 1e9))


def seen(folder: Path) -> list[tuple[str, int, int, str]]:
    """Everything that can be told of a tree: names, modes, times and contents."""
    found = []
    for path in sorted([folder, *folder.rglob("*")]):
        about = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found.append((str(path), about.st_mode, about.st_mtime_ns, hashlib.sha256(data).hexdigest()))
    return found


def mutate(store: Path, target: Path, chance: random.Random) -> list[str]:
    """Change a store in one to four places; return what was done. In half of the cases the manifest is made to fit."""
    done = []
    for _ in range(chance.randint(1, 4)):
        change = chance.choice(CHANGES)
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, IndexError):
            done.append(f"{change.__name__.strip('_')} {change(store, target, chance)}")
    if chance.random() < 0.5:
        with suppress(Exception):  # what cannot be made to fit any more is left as it is
            refit(store)
            done.append("refit")
    return done


def refit(store: Path) -> None:
    """Let the newest manifest name the sizes and hashes of the files that are there, and have the right checksum."""
    path = max((store / "manifests").glob("[0-9]*.json"))
    about = json.loads(path.read_bytes())
    homes = [(store / "index" / f, entry["files"]) for f, entry in about["datasets"].items()]
    for view, entry in about["views"].items():
        homes.append((store / "views" / view, entry["files"]))
        for part in entry["segments"]:
            homes.append((store / "views" / view / "seg" / part["id"], part["files"]))
            homes.append((store / "views" / view / "seg" / part.get("data_of", ""), part.get("data_files", {})))
    for folder, files in homes:
        for name in files:
            if (
                (folder / name).is_file()
                and not (folder / name).is_symlink()
                and (folder / name).stat().st_size < 2**24
            ):
                data = (folder / name).read_bytes()
                files[name] = [len(data), hashlib.sha256(data).hexdigest()]
    about["checksum"] = checksum(about)
    path.write_text(json.dumps(about))


def _link(store: Path, target: Path, chance: random.Random) -> str:
    """A link in the place of something."""
    path = chance.choice(_all(store))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    path.symlink_to(_to(target, chance))
    return str(path.relative_to(store))


def _new_link(store: Path, target: Path, chance: random.Random) -> str:
    path = chance.choice(_folders(store)) / chance.choice(NAMES)
    path.symlink_to(_to(target, chance))
    return str(path.relative_to(store))


def _value(store: Path, target: Path, chance: random.Random) -> str:
    """A strange value somewhere in a JSON file."""
    path = chance.choice(_json(store))
    whole = json.loads(path.read_bytes())
    places = list(_places(whole))
    if not places:
        return "nothing"
    holder, key = chance.choice(places)
    if chance.random() < 0.15 and isinstance(holder, dict):
        holder[str(chance.choice(NAMES))] = holder.pop(key)
    else:
        holder[key] = chance.choice(STRANGE)
    if path.parent.name == "manifests" and chance.random() < 0.8:
        whole["checksum"] = checksum(whole)
    path.write_text(json.dumps(whole))
    return f"{path.relative_to(store)} {key}"


def _array(store: Path, target: Path, chance: random.Random) -> str:
    """Strange numbers in a small array, with the right CRC."""
    path = chance.choice([p for p in store.rglob("c/0*") if p.is_file() or (p / "0").is_file()])
    path = path / "0" if path.is_dir() else path
    data = bytearray(path.read_bytes()[:-4])
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(max(1, len(data) // 8)) * 8
        data[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", chance.randbytes(8)])
    path.write_bytes(bytes(data) + google_crc32c.value(bytes(data)).to_bytes(4, "little"))
    return str(path.relative_to(store))


def _deep(store: Path, target: Path, chance: random.Random) -> str:
    path = chance.choice(_json(store))
    path.write_text(chance.choice(["[", '{"a":']) * DEEP)
    return str(path.relative_to(store))


def _pipe(store: Path, target: Path, chance: random.Random) -> str:
    path = chance.choice([p for p in _all(store) if p.is_file()])
    path.unlink()
    os.mkfifo(path)
    return str(path.relative_to(store))


def _size(store: Path, target: Path, chance: random.Random) -> str:
    """A file that is cut, longer, of holes, empty, or has a byte changed."""
    path = chance.choice([p for p in _all(store) if p.is_file() and not p.is_symlink()])
    size = path.stat().st_size
    how = chance.choice(["cut", "longer", "holes", "empty", "byte"])
    if how == "byte":
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    else:
        new = {"cut": chance.randrange(size + 1), "longer": size + chance.randint(1, 10**6), "holes": 2**40, "empty": 0}
        os.truncate(path, new[how])
    return f"{how} {path.relative_to(store)}"


def _extra(store: Path, target: Path, chance: random.Random) -> str:
    """A file or folders that do not belong there."""
    path = chance.choice(_folders(store)) / chance.choice(NAMES)
    if chance.random() < 0.3:
        path = Path(*[path, *"d" * chance.choice([3, 40, 200])])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if chance.random() < 0.5 else path.write_text("{}")
    return str(path.relative_to(store))[:80]


def _gone(store: Path, target: Path, chance: random.Random) -> str:
    path = chance.choice(_all(store))
    if chance.random() < 0.5:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return str(path.relative_to(store))
    path.rename(chance.choice(_folders(store)) / chance.choice(NAMES))
    return f"moved {path.relative_to(store)}"


def _journal(store: Path, target: Path, chance: random.Random) -> str:
    """What a dead writer seems to have left."""
    view = chance.choice([p for p in (store / "views").iterdir() if p.is_dir()])
    dataset = chance.choice([p.name for p in (store / "index").iterdir() if p.is_dir()])
    name = chance.choice(
        ["20200101-000000-deadbeef", ".claim~h~1~0.0~20200101-000000-deadbeef", ".claim~a~b~c~../../x"]
    )
    folder = view / "seg" / name.replace("/", "_")
    folder.mkdir()
    form = {"width": 8, "dtype": "float32", "chunk": 16, "shard": 64}
    with suppress(Exception):
        form["width"] = json.loads((view / "zarr.json").read_bytes())["attributes"]["dim"]
    shard = bytes(chance.randrange(100))
    digest = hashlib.sha256(shard).hexdigest()
    header: dict[str, Any] = {
        "dataset": dataset,
        "form": form,
        "run": {},
        "writer": {"host": "h", "pid": 1, "started": 1.0},
    }
    number = chance.choice([0, 0, 0, 1, -1, 0.5, "../..", "/canary", "0", 10**30, 2**31, True, None])
    sample = chance.choice([0, 1, -1, 10**9, 2**31, "0", 1.5, None])
    row = [sample, chance.choice([0, 0, -1, 2**60]), chance.choice([1, 1, 0, 2**40]), "00" * 16, {}]
    failure = {"sample": sample, "digest": "00" * 16, "stage": "decode", "reason": "\x1b[2Jx"}
    line: dict[str, Any] = {"samples": [row], "failures": [failure], "shard": number, "rows": 1, "sha256": digest}
    for one in (header, line):
        if chance.random() < 0.4:
            holder, key = chance.choice(list(_places(one)))
            holder[key] = chance.choice(STRANGE)
    how = chance.choice(["plain", "plain", "c", "data", "shard", "file", "journal", "deep", "torn", "borrowed", "long"])
    home = folder / "data" / "c" / "0"
    home.mkdir(parents=True)
    (home / "0").write_bytes(shard)
    for path in {"c": [home.parent], "data": [home.parents[1]], "shard": [home], "file": [home / "0"]}.get(how, []):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(_to(target, chance))
    if how == "borrowed":
        header["data_of"] = chance.choice(["../../../../canary", "20200101-000000-deadbeef", 3])
    text = json.dumps(header) + "\n" + json.dumps(line) + "\n"
    text = {"deep": '{"a":' * DEEP, "torn": text[: chance.randrange(len(text))], "long": text * 2000}.get(how, text)
    journal = folder / "journal.jsonl"
    journal.symlink_to(_to(target, chance)) if how == "journal" else journal.write_text(text)
    old = time.time() - 10**6
    for path in (journal, folder):
        os.utime(path, (old, old), follow_symlinks=False)
    return f"{how} {number} {name}"


def _note(store: Path, target: Path, chance: random.Random) -> str:
    """A note of batches at work, of a dead process."""
    view = chance.choice([p for p in (store / "views").iterdir() if p.is_dir()])
    path = view / "at-work~20200101-000000-deadbeef"
    head = {"writer": {"host": "h", "pid": 1, "started": 1.0}, "dataset": next((store / "index").glob("?" * 16)).name}
    lines = [head, [chance.choice(STRANGE), [chance.choice(STRANGE)]]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(path, (1, 1))
    return "at-work"


CHANGES: tuple[Callable[[Path, Path, random.Random], str], ...] = (
    *(_link, _link, _link, _new_link, _new_link, _value, _value, _value, _value, _array, _deep, _pipe, _size, _extra),
    *(_gone, _journal, _journal, _journal, _note),
)  # fmt: skip


def _to(target: Path, chance: random.Random) -> Path:
    inside = [".", "thesis.tex", "c", "data", "seg", "zarr.json", "data/c/0/0", "not-there", "t.json"]
    return target / chance.choice(inside)


def _all(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if not p.is_symlink())


def _folders(store: Path) -> list[Path]:
    return [store, *(p for p in _all(store) if p.is_dir())]


def _json(store: Path) -> list[Path]:
    return [p for p in _all(store) if p.suffix == ".json" and p.is_file() and p.stat().st_size < 2**24]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of everything in a JSON value."""
    found: list[tuple[Any, Any]] = []
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    for key in keys:
        found += [(value, key), *_places(value[key])]
    return found
