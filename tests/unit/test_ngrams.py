"""The n-gram model: its probabilities against their definition, what a word is, and what it tells apart."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.cleaning.kernels import joined
from pipelines.cleaning.ngrams import UNSEEN, NgramModel

START = "<start>"


def perplexities(model: NgramModel, *texts: str) -> list[float]:
    return model.perplexities(*joined(texts)).tolist()


class SlowModel:
    """Interpolated Kneser-Ney from the definitions alone, of texts whose words stand between spaces."""

    def __init__(self, texts: Sequence[str]):
        rows = [[START, *text.split()] for text in texts]
        grams = {size: Counter(self._grams(rows, size)) for size in (2, 3)}
        self.times = {3: grams[3], 2: Counter[tuple[str, ...]](), 1: Counter[tuple[str, ...]]()}
        for gram in grams[3]:
            self.times[2][gram[1:]] += 1
        for gram, count in grams[2].items():
            if gram[0] == START:  # what begins a text follows nothing
                self.times[2][gram] = count
            self.times[1][gram[1:]] += 1
        self.kept = {size: {gram for gram, count in grams[size].items() if count > 1} for size in (2, 3)}

    @staticmethod
    def _grams(rows: Sequence[list[str]], size: int) -> list[tuple[str, ...]]:
        found = [tuple(row[at : at + size]) for row in rows for at in range(len(row) - size + 1)]
        return [gram for gram in found if START not in gram[1:]]

    def discount(self, size: int) -> float:
        counts = Counter(self.times[size].values())
        return min(max(counts[1] / max(counts[1] + 2 * counts[2], 1), 0.1), 0.9)

    def probability(self, word: str, context: tuple[str, ...]) -> float:
        if not context:
            total, kinds = sum(self.times[1].values()), len(self.times[1])
            own = max(self.times[1][word,] - self.discount(1), 0) / total
            return own + self.discount(1) * kinds / total / UNSEEN
        size = len(context) + 1
        total = sum(count for gram, count in self.times[size].items() if gram[:-1] == context)
        if not total:
            return self.probability(word, context[1:])
        shares = {
            gram[-1]: (count - self.discount(size)) / total
            for gram, count in self.times[size].items()
            if gram[:-1] == context and gram in self.kept[size]
        }
        return shares.get(word, 0.0) + (1 - sum(shares.values())) * self.probability(word, context[1:])

    def perplexity(self, text: str) -> float:
        words = [START, *text.split()]
        nats = [
            -math.log(self.probability(words[at], tuple(words[max(0, at - 2) : at]))) for at in range(1, len(words))
        ]
        return math.exp(sum(nats) / len(nats))


def some_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [f"w{'abcdefghij'[number]}" for number in range(10)]
    return [" ".join(rng.choices(words, weights=range(1, 11), k=rng.randrange(1, 9))) for _ in range(count)]


def test_perplexity_is_what_its_definition_says() -> None:
    texts = some_texts(60, seed=1)
    model, slow = NgramModel.of([texts[:20], texts[20:]]), SlowModel(texts)
    asked = [*some_texts(30, seed=2), *texts[:10], "wa unknown wb", "unknown", "wc"]
    for text, found in zip(asked, perplexities(model, *asked), strict=True):
        assert found == pytest.approx(slow.perplexity(text), rel=1e-3), text


def test_the_slow_model_gives_probabilities() -> None:
    slow = SlowModel(some_texts(60, seed=1))
    words = [word for (word,) in slow.times[1]]
    for context in ((), ("wa",), ("wb", "wj"), (START,), (START, "wc")):
        known = sum(slow.probability(word, context) for word in words)
        rest = (UNSEEN - len(words)) * slow.probability("unknown", context)
        assert known + rest == pytest.approx(1)


def test_words_are_the_same_in_other_cases_numbers_and_quotes() -> None:
    model = NgramModel.of([["The miller's dog, aged 12, said: no - never... 10 times"] * 3])
    first, *others = perplexities(
        model,
        "The miller's dog, aged 12, said: no - never... 10 times",
        "the MILLER’S dog ,\n\naged 345, said : no – never…  7 times".replace("…", "..."),
        "the miller's cat, aged 12, said: no - never... 10 times",
    )
    assert others[0] == first < others[1]


def test_chinese_characters_are_words() -> None:
    model = NgramModel.of([["我们今天去市场买菜。", "我们明天去市场看书。"] * 4])
    near, far = perplexities(model, "我们今天去市场看书。", "书看场市去天明们我。")
    assert near < far / 10


def test_texts_without_words_are_infinitely_strange_and_an_empty_reference_knows_nothing() -> None:
    model = NgramModel.of([["a b c"], []])
    assert perplexities(model, "", " \n\t", "a") == [math.inf, math.inf, pytest.approx(perplexities(model, "a")[0])]
    assert perplexities(NgramModel.of([]), "some words") == [pytest.approx(UNSEEN, rel=0.01)]


def test_a_text_is_judged_alone_and_a_saved_model_is_the_same(tmp_path: Path) -> None:
    texts = some_texts(40, seed=3)
    model = NgramModel.of([texts])
    model.save(tmp_path / "model.npz")
    again = NgramModel.load(tmp_path / "model.npz")
    assert perplexities(again, *texts) == [perplexities(model, text)[0] for text in texts]
    assert np.array_equal(NgramModel.of([texts[:7], texts[7:]]).table, model.table)
