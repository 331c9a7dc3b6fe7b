"""What lies near what in an embedding matrix: neighbours, similarity, analogies, isotropy, a map, and an export.

The vector of a word is the mean of the vectors of its pieces, as the tokenizer cuts it inside a text: for byte-level
BPE that adds no space of its own, the form with a leading space.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipelines.errors import DataError
from pipelines.recipe.word_files import Analogy

Array = NDArray[np.float64]
AT_A_TIME = 64
"""Rows of a product with all words, or all rows of a matrix, that are held at a time."""


class WordVectors:
    """An embedding matrix with its tokenizer."""

    def __init__(self, matrix: NDArray[np.floating], tokenizer: Tokenizer):
        """`matrix` is (vocabulary, size); rows beyond the tokenizer's vocabulary are padding and left out."""
        self.matrix = np.asarray(matrix, dtype=np.float64)[: tokenizer.get_vocab_size()]
        self.tokenizer = tokenizer

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of each word inside a text. Raises DataError for a word that has none."""
        forms = [" " + word if self._needs_space else word for word in words]
        found = [one.ids for one in self.tokenizer.encode_batch(forms, add_special_tokens=False)]
        for word, ids in zip(words, found, strict=True):
            if not ids:
                raise DataError(f"the tokenizer makes nothing of the word {word!r}; leave it out")
        return found

    def vectors(self, words: Sequence[str]) -> Array:
        """(words, size): the mean of each word's pieces."""
        return np.array([self.matrix[ids].mean(0) for ids in self.pieces(words)]).reshape(-1, self.matrix.shape[1])

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Words that are one entry of the vocabulary: each entry that, read as a word, is cut into itself alone."""
        ids = sorted(set(range(len(self.matrix))) - set(self.tokenizer.get_added_tokens_decoder()))
        texts = [text.strip() for text in self.tokenizer.decode_batch([[token] for token in ids])]
        asked = [(token, text) for token, text in zip(ids, texts, strict=True) if any(map(str.isalnum, text))]
        cut = self.pieces([text for _, text in asked])
        return tuple(text for (token, text), found in zip(asked, cut, strict=True) if found == [token])

    def neighbours(self, words: Sequence[str], *, count: int = 10) -> list[list[tuple[str, float]]]:
        """(word, cosine) of the words of the vocabulary nearest to each word, itself left out; nearest first."""
        names = np.array(self.vocabulary, dtype=object)
        cosines = _units(self.vectors(words)) @ self._vocabulary_units.T
        found = []
        for word, row in zip(words, cosines, strict=True):
            order = [place for place in np.argsort(-row, kind="stable")[: count + 1] if names[place] != word][:count]
            found.append([(str(names[place]), float(row[place])) for place in order])
        return found

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """The cosine of each pair of words."""
        left, right = (_units(self.vectors([pair[side] for pair in pairs])) for side in (0, 1))
        return (left * right).sum(1)

    def analogies(self, questions: Sequence[Analogy]) -> list[str]:
        """For (a, b, c, _) the word nearest to b - a + c on unit vectors, none of the three (3CosAdd, Levy and Goldberg
        2014). It is chosen among the words of the vocabulary and those of all questions."""
        names = list(dict.fromkeys([*self.vocabulary, *(word for question in questions for word in question)]))
        place = {name: number for number, name in enumerate(names)}
        units = _units(self.vectors(names))
        asked = np.array([[place[word] for word in question[:3]] for question in questions])
        found: list[str] = []
        for start in range(0, len(asked), AT_A_TIME):
            a, b, c = asked[start : start + AT_A_TIME].T
            cosines = (units[b] - units[a] + units[c]) @ units.T
            for inputs in (a, b, c):
                cosines[np.arange(len(a)), inputs] = -np.inf
            found += [names[number] for number in cosines.argmax(1)]
        return found

    @cached_property
    def _needs_space(self) -> bool:
        """Whether a word inside a text begins with a space that the tokenizer does not put there by itself."""
        cut = self.tokenizer.pre_tokenizer
        return cut is not None and cut.pre_tokenize_str("word")[-1][0] != cut.pre_tokenize_str("a word")[-1][0]

    @cached_property
    def _vocabulary_units(self) -> Array:
        return _units(self.vectors(self.vocabulary))


def mean_cosine(matrix: Array) -> float:
    """The expected cosine of two rows drawn at random: the mean over all pairs, exactly, not over a sample of them.

    Near 0 where directions are spread evenly; near 1 where all rows point one way (arXiv 1909.00512).
    """
    units = _units(matrix)
    count = len(units)
    if count < 2:
        raise ValueError(f"{count} rows make no pair")
    total, own = (units.sum(0) ** 2).sum(), (units**2).sum()
    return float((total - own) / (count * (count - 1)))


def isotropy(matrix: Array) -> float:
    """min Z(c) / max Z(c), from 0 to 1, where Z(c) is the sum of exp(c . row) over rows (arXiv 1702.01417).

    c runs over the eigenvectors of matrix' matrix. Their sign is free, and Z depends on it: both are taken.
    """
    _, directions = np.linalg.eigh(matrix.T @ matrix)
    logs = []
    for start in range(0, directions.shape[1], AT_A_TIME):
        values = matrix @ directions[:, start : start + AT_A_TIME]
        logs += [_log_sum_exp(values), _log_sum_exp(-values)]
    found = np.concatenate(logs)
    return float(np.exp(found.min() - found.max()))


@dataclass(frozen=True)
class Plane:
    """Vectors in two dimensions."""

    points: Array
    """(vectors, 2)"""
    explained: tuple[float, float]
    """Share of the variance that lies along each axis."""


def plane(vectors: Array) -> Plane:
    """The first two principal components, by singular value decomposition; the largest entry of an axis is positive."""
    centred = vectors - vectors.mean(0)
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    points, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    kept = min(2, len(sizes))
    points[:, :kept] = (left * sizes * signs)[:, :kept]
    if total := (sizes**2).sum():
        shares[:kept] = sizes[:kept] ** 2 / total
    return Plane(points, (float(shares[0]), float(shares[1])))


def write_word2vec(path: Path, words: Sequence[str], vectors: NDArray[np.floating]) -> None:
    """Write word2vec's text format: `count size`, then a line per word; numbers keep all digits of a float32.

    White space inside a word, and the backslash, are written as `\\uXXXX`: readers cut at spaces.
    """
    if len(words) != len(vectors) or not all(words):
        raise ValueError(f"{len(words)} words for {len(vectors)} vectors: each needs one, and none may be empty")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(words)} {np.shape(vectors)[1]}\n")
        for word, vector in zip(words, vectors, strict=True):
            numbers = " ".join(f"{value:.9g}" for value in vector.tolist())
            file.write(f"{escaped(word)} {numbers}\n")


def escaped(word: str) -> str:
    """A word without spaces, of which `unescaped` makes the same again."""
    return "".join(f"\\u{ord(char):04x}" if char == "\\" or char.isspace() else char for char in word)


def unescaped(word: str) -> str:
    """A word of an exported file, as the tokenizer has it."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), word)


def _units(vectors: Array) -> Array:
    """Rows of length 1; a row of zeros stays one, and is at cosine 0 from all."""
    sizes = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, sizes, out=np.zeros_like(vectors), where=sizes > 0)


def _log_sum_exp(values: Array) -> Array:
    """Over rows."""
    highest = values.max(0)
    return highest + np.log(np.exp(values - highest).sum(0))
