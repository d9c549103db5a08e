"""Generate a small MVSA-Single and a small TESS, so that every command can be tried without a dataset.

Both have the official layout and are read by the ordinary loaders. Nothing in them is real: the other modules of this
folder fill sentences into templates, draw pictures and synthesise voices.
"""

import hashlib
import json
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from msa.demo import pictures, posts, sentences, voices
from msa.errors import ConfigError, SourceError

RECIPE = "made_by_msa_demo.json"  # beside the data: marks it as artificial and states its arguments
CLIPS = len(voices.WORDS) * len(voices.MOODS) * len(voices.SPEAKERS)  # the most that the word list allows


def make(folder: Path, posts: int = 400, clips: int = 210, seed: int = 0) -> None:
    """Write `folder`/mvsa_single with `posts` posts and `folder`/tess with `clips` clips.

    The same arguments give the same bytes, with the same numpy and Pillow. An existing dataset is kept if it was made
    from the same arguments by the same code, replaced if not, and refused if the demo did not make it.
    """
    if posts < 1 or not 1 <= clips <= CLIPS:
        raise ConfigError(
            f"{posts} posts and {clips} clips are not a possible demo dataset",
            fix=f"ask for at least 1 post and between 1 and {CLIPS} clips",
        )
    for root in (folder / "mvsa_single", folder / "tess"):
        _refuse_foreign(root)
    _once(folder / "mvsa_single", {"posts": posts, "seed": seed}, lambda into: write_posts(into, posts, seed))
    _once(folder / "tess", {"clips": clips, "seed": seed}, lambda into: write_clips(into, clips, seed))


def write_posts(root: Path, count: int, seed: int) -> None:
    """Write `count` posts in the layout of MVSA-Single under `root`."""
    (root / "data").mkdir()
    lines = ["ID\ttext,image"]
    for post in posts.plan(count, generator(seed, "posts")):
        text, image = post.shown
        sentence = sentences.sentence(text, generator(seed, "text", post.id))
        (root / "data" / f"{post.id}.txt").write_text(sentence + "\n", "utf-8", newline="\n")
        picture = pictures.draw(image, generator(seed, "image", post.id))
        picture.save(root / "data" / f"{post.id}.jpg", quality=88)
        lines.append(f"{post.id}\t{','.join(post.labels)}")
    (root / "labelResultAll.txt").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")


def write_clips(root: Path, count: int, seed: int) -> None:
    """Write `count` clips in the layout of TESS under `root`, every mood and speaker of a word before the next."""
    takes = product(voices.WORDS, voices.MOODS, voices.SPEAKERS)
    for word, emotion, speaker in islice(takes, count):
        name = f"{speaker}_{word}_{emotion}"
        (root / f"{speaker}_{emotion}").mkdir(exist_ok=True)
        samples = voices.speak(speaker, word, emotion, generator(seed, "voice", name))
        with wave.open(str(root / f"{speaker}_{emotion}" / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(samples.itemsize)
            file.setframerate(voices.RATE)
            file.writeframes(samples.tobytes())


def generator(seed: int, *about: str) -> np.random.Generator:
    """Return a random generator for one object, so that it does not depend on what was generated before."""
    digest = hashlib.sha256("/".join((str(seed), *about)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not (root / RECIPE).is_file():
        raise SourceError(
            f"{root} exists and was not made by the demo ({RECIPE} is not in it)",
            fix="name another folder: the demo never overwrites other data",
        )


def _once(root: Path, arguments: dict[str, int], write: Callable[[Path], None]) -> None:
    """Make the dataset at `root`, completely or not at all, unless it exists already."""
    recipe = json.dumps({"artificial": True, "corpus": root.name, **arguments, "code": _code()}, indent=2) + "\n"
    if root.exists() and (root / RECIPE).read_text("utf-8") == recipe:
        return
    with _replacing(root) as fresh:
        write(fresh)
        (fresh / RECIPE).write_text(recipe, "utf-8", newline="\n")


@contextmanager
def _replacing(root: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `root` at the end; an error changes nothing."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-", suffix=".partial") as beside:
        fresh = Path(beside, root.name)
        fresh.mkdir()
        yield fresh
        if root.exists():
            root.rename(Path(beside, "old"))
        fresh.rename(root)


def _code() -> str:
    """Return a hash of the modules of this folder: data made by another version is made again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
