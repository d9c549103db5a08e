"""Made folders of datasets, and what their samples are by id and by reason."""

from collections import Counter
from pathlib import Path

from msa.extract.datasets import emodb, tess
from msa.types import Dropped, Sample


def touch(root: Path, *names: str) -> Path:
    """Files whose content is their own name, so that no two are copies of each other."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return root


def pairs(root: Path, rows: list[str], annotators: int, end: str = "\n") -> Path:
    """An MVSA tree with these `ID<TAB>text,image...` rows, each with its two files."""
    for row in rows:
        touch(root, *(f"data/{row.split(chr(9))[0]}.{suffix}" for suffix in ("txt", "jpg")))
    header = "\t".join(["ID", *["text,image"] * annotators])
    (root / "labelResultAll.txt").write_bytes("".join(line + end for line in [header, *rows]).encode())
    return root


def kept(found) -> dict[str, Sample]:
    return {item.id: item for item in found if isinstance(item, Sample)}


def reasons(found) -> Counter:
    return Counter(item.reason for item in found if isinstance(item, Dropped))


def written(tmp_path: Path, text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def tree(name: str, root: Path) -> Path:
    """A small tree of a corpus, with names whose natural order is not their order as strings."""
    root.mkdir(parents=True, exist_ok=True)
    if name == "mvsa":
        return pairs(root, [f"{i}\t" + "\t".join(["positive,neutral"] * 3) for i in (10, 9, 100)], 3)
    if name == "mvsa-single":
        return pairs(root, [f"{i}\tneutral,neutral" for i in (10, 9, 100)], 1)
    if name == "tess":
        return touch(root, *(f"a/{s}AF_{w}_{e}.wav" for s in "OY" for w in ("back", "bite") for e in tess.LABELS))
    if name == "ravdess":
        return touch(root, *(f"Actor_0{a}/03-01-0{e}-01-01-01-0{a}.wav" for a in (1, 2) for e in range(1, 9)))
    if name == "emodb":
        return touch(root, *(f"wav/{s}a01{e}a.wav" for s in ("03", "10") for e in emodb.LABELS))
    if name == "clips":
        return touch(root, "clip10.wav", "clip9.mp4", "clip100.mp4")
    path = root / "mine.csv"
    path.write_text("id,label,text\nclip10,positive,x\nclip9,negative,y\n", "utf-8")
    return path
