"""Plan of the demo's posts: the labels of text and picture, and what they really show.

Nearly half of the posts carry their sentiment in one modality alone, so that neither suffices; one in twenty
contradicts itself, as in MVSA, and has to be dropped by the loader; one in twelve shows something other than its
labels say, as in posts labelled by people.
"""

from dataclasses import dataclass

import numpy as np

POSITIVE, NEUTRAL, NEGATIVE = "positive", "neutral", "negative"

PAIRS = {  # (text, image): share of all posts
    (POSITIVE, POSITIVE): 0.14,
    (NEGATIVE, NEGATIVE): 0.14,
    (NEUTRAL, NEUTRAL): 0.23,
    (POSITIVE, NEUTRAL): 0.11,
    (NEGATIVE, NEUTRAL): 0.11,
    (NEUTRAL, POSITIVE): 0.11,
    (NEUTRAL, NEGATIVE): 0.11,
    (POSITIVE, NEGATIVE): 0.025,
    (NEGATIVE, POSITIVE): 0.025,
}
MISLABELLED = 0.08  # share of posts whose labels are not what text and picture show


@dataclass(frozen=True, slots=True)
class Post:
    """One post before it is written: what the label file says, and what text and picture really show."""

    id: str
    labels: tuple[str, str]  # text, image
    shown: tuple[str, str]  # text, image


def plan(count: int, rng: np.random.Generator) -> list[Post]:
    """Draw `count` posts with exact shares of each pair and of wrong labels, ids rising with gaps."""
    ids = 2 + np.cumsum(rng.integers(1, 14, count))  # the official ids have gaps too: never a row number
    pairs = [pair for pair, n in _quota(count).items() for _ in range(n)]
    order = rng.permutation(count)
    wrong = set(rng.permutation(count)[: round(MISLABELLED * count)].tolist())
    posts = []
    for row, (number, place) in enumerate(zip(ids, order, strict=True)):
        labels = pairs[place]
        posts.append(Post(str(number), labels, _mistaken(labels, rng) if row in wrong else labels))
    return posts


def merged(text: str, image: str) -> str | None:
    """MVSA's rule: equal stays, neutral gives way to polar, positive against negative is None."""
    if text == image or image == NEUTRAL:
        return text
    return image if text == NEUTRAL else None


def _quota(count: int) -> dict[tuple[str, str], int]:
    """Whole numbers of posts per pair that add up to `count`; the largest remainders are rounded up."""
    quota = {pair: int(share * count) for pair, share in PAIRS.items()}
    by_remainder = sorted(PAIRS, key=lambda pair: quota[pair] - PAIRS[pair] * count)
    for pair in by_remainder[: count - sum(quota.values())]:
        quota[pair] += 1
    return quota


def _mistaken(labels: tuple[str, str], rng: np.random.Generator) -> tuple[str, str]:
    """Another pair with another verdict, so that the label is wrong for text and picture together."""
    others = [pair for pair in PAIRS if merged(*pair) not in (None, merged(*labels))]
    return others[rng.integers(len(others))]
