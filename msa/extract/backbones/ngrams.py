"""Hashed n-grams and the VADER lexicon, no weights.

Paper    https://ojs.aaai.org/index.php/ICWSM/article/view/14550 (lexicon)
         https://arxiv.org/abs/0902.2206 (hashing: Weinberger et al., 2009)
Weights  none; the lexicon is that of vaderSentiment, MIT
Differs  VADER's rules are not applied: what they look at - negation, intensifiers, capitals, exclamation marks -
         stands beside the valence, and a head learns what to make of it. The lexicon is English; the n-grams are not.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.encoders import library_versions, rows
from msa.types import Modality

# links, user names, words with their apostrophes and #, one Chinese character, runs of ! and ?, any other sign
TOKEN = re.compile(
    r"https?://\S+|@\w+|[\u4e00-\u9fff]|#?[^\W\u4e00-\u9fff]+(?:['’\-][^\W\u4e00-\u9fff]+)*|[!?]+|[^\w\s]"
)
NEGATION_REACH = 3  # words, as in VADER
VALENCE = 4.0  # the lexicon's scale is -4 .. 4
COLUMNS = (
    "valence", "positive", "negative", "in_lexicon", "negated", "negation", "intensifier",
    "capitals", "exclamation", "question", "emoji", "hashtag", "link", "user",
)  # fmt: skip

SPECS = {
    "words": BackboneSpec(
        modality=Modality.TEXT,
        options={"dims": 256, "max_length": 128},
        about={"dims": "columns that the n-grams are hashed into", "max_length": "words and signs; longer text is cut"},
        licence="MIT",
        source="https://ojs.aaai.org/index.php/ICWSM/article/view/14550",
    ),
}


@dataclass
class Ngrams(Backbone):
    """The lexicon in hand. Of the `dim` columns the first `dims` are hashed; `columns` names the others."""

    lexicon: Mapping[str, float]
    emojis: Mapping[str, str]  # sign -> its name in words
    boosters: Mapping[str, float]
    negations: frozenset[str]
    dims: int
    max_length: int
    dtype: str
    versions: Mapping[str, str]
    columns: tuple[str, ...] = COLUMNS

    @property
    def dim(self) -> int:  # type: ignore[override]  # read only here
        return self.dims + len(COLUMNS)

    def encode(self, clips: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into one row per word, link, emoticon or sign, each (words, dim); at most `max_length`."""
        return rows((self._describe(self.split(clip)[: self.max_length]) for clip in clips), self.dtype)

    def split(self, text: str) -> list[str]:
        """Return the tokens of a text, at least one; emoticons that the lexicon knows stay whole."""
        tokens: list[str] = []
        for chunk in text.split():
            tokens += [chunk] if chunk.lower() in self.lexicon else TOKEN.findall(chunk)
        return tokens or [text]

    def _describe(self, tokens: list[str]) -> np.ndarray:
        table = np.zeros((len(tokens), self.dim))
        for i, token in enumerate(tokens):
            before = tokens[i - 1].lower() if i else "^"
            for gram in grams(token.lower(), before):
                place, sign = _hash(gram)
                table[i, place % self.dims] += sign
            table[i, self.dims :] = self._lexical(tokens, i)
        table[:, : self.dims] /= np.linalg.norm(table[:, : self.dims], axis=1, keepdims=True).clip(1e-9)
        return table

    def _lexical(self, tokens: list[str], i: int) -> list[float]:
        token, word = tokens[i], tokens[i].lower().lstrip("#")
        valence = self.valence(token)
        before = {other.lower() for other in tokens[max(i - NEGATION_REACH, 0) : i]}
        return [
            valence,
            max(valence, 0.0),
            max(-valence, 0.0),
            float(word in self.lexicon or token in self.emojis),
            float(any(self._negates(other) for other in before)),
            float(self._negates(word)),
            self.boosters.get(word, 0.0),
            float(token.isupper() and len(token) > 1),
            min(token.count("!"), 4) / 4,  # VADER counts no more than four
            min(token.count("?"), 4) / 4,
            float(token in self.emojis),
            float(token.startswith("#")),
            float(token.startswith("http")),
            float(token.startswith("@")),
        ]

    def valence(self, token: str) -> float:
        """Return -1 to 1: of a word or emoticon its own value, of an emoji the mean of the words that name it."""
        named = self.emojis.get(token, "").split() or [token.lower().lstrip("#")]
        known = [self.lexicon[word] for word in named if word in self.lexicon]
        return sum(known) / len(known) / VALENCE if known else 0.0

    def _negates(self, word: str) -> bool:
        return word in self.negations or word.endswith(("n't", "n’t"))


def load(spec: BackboneSpec, weights: Weights, device: str) -> Ngrams:
    """Read VADER's lexicon and word lists from its package."""
    from vaderSentiment import vaderSentiment as vader

    analyzer = vader.SentimentIntensityAnalyzer()
    return Ngrams(
        analyzer.lexicon,
        analyzer.emojis,
        vader.BOOSTER_DICT,
        frozenset(vader.NEGATE),
        spec.options["dims"],
        spec.options["max_length"],
        spec.dtype,
        library_versions("vaderSentiment"),
    )


def grams(word: str, before: str) -> Iterator[str]:
    """Yield the word, the pair with the one before, and its 3- to 5-letter pieces between boundary signs."""
    yield f"w {word}"
    yield f"b {before} {word}"
    edged = f"<{word[:64]}>"  # a word of 10,000 letters is not one
    for n in (3, 4, 5):
        yield from (f"c {edged[i : i + n]}" for i in range(len(edged) - n + 1))


@lru_cache(maxsize=1 << 16)
def _hash(gram: str) -> tuple[int, int]:
    """Return a place and a sign, the same in every process, unlike hash()."""
    import xxhash

    number = xxhash.xxh64_intdigest(gram.encode("utf-8", "replace"))
    return number >> 1, 1 if number & 1 else -1
