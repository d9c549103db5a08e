"""Runs as a stranger may hand them over: one value, one file or one name changed at random."""

import json
import os
import random
import shutil
from pathlib import Path

VALUES = (
    *(None, True, False, 0, -1, 1, 10**9, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "text", "x" * 5000, "\x1b[2J", "\ud800", "../../x", "\0", "1e9", "cmsta", "hcl"),
    *([], {}, [[]], [1], ["x"], {"x": 1}, [None] * 3, {"text": {}}, [10**9] * 4),
)
FILES = ("run.json", "metrics.json", "predictions.csv", "history.csv", "normalisation.safetensors", "head.safetensors")


def paths(value, place=()):
    """Every place in a JSON value."""
    yield place
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(item, (*place, name))


def changed(value, place, new):
    """A copy of a JSON value with another one at a place; `new` is KeyError to leave it out."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1 and new is KeyError:
        del copy[place[0]]
    else:
        copy[place[0]] = changed(value[place[0]], place[1:], new) if place[1:] else new
    return copy


def file_of(folder: Path, name: str) -> Path:
    return next(folder.glob("seeds/*/head.safetensors")) if name == "head.safetensors" else folder / name


def mutate(folder: Path, rng: random.Random) -> str:
    """Change a copy of a run in one way, and say in which."""
    name = rng.choice(("run.json", "run.json", "run.json", "metrics.json", "metrics.json", *FILES))
    path = file_of(folder, name)
    if name.endswith(".json") and rng.random() < 0.8:
        value = json.loads(path.read_text())
        place = rng.choice([one for one in paths(value) if one])
        new = KeyError if rng.random() < 0.25 else rng.choice(VALUES)
        path.write_text(json.dumps(changed(value, place, new)))
        return f"{name} {'.'.join(map(str, place))} = {str(new)[:40]!r}"
    data = bytearray(path.read_bytes())
    way = rng.choice(("cut", "flip", "flip", "grow", "gone", "fifo", "folder", "link", "device", "empty", "deep"))
    if way in ("cut", "empty"):
        path.write_bytes(data[: rng.randrange(max(len(data), 1)) if way == "cut" else 0])
    elif way == "flip":
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    elif way == "grow":
        path.write_bytes(data + rng.randbytes(50))
    elif way == "deep":
        path.write_text('{"a":' * 100_000)
    else:
        path.unlink()
        if way == "fifo":
            os.mkfifo(path)
        elif way == "folder":
            path.mkdir()
        elif way == "link":
            path.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", "nowhere", ".")))
        elif way == "device":
            path.symlink_to("/dev/zero")
    return f"{name}: {way}"


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))
