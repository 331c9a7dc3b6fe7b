"""What is hidden from a model: which tokens, how many, and that nothing but (seed, place) decides."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipelines.data.collate import IGNORED
from pipelines.data.noise import MaskNoise, Noised, NoisedCollator, PrefixNoise, SpanNoise, Vocabulary
from pipelines.data.schedule import InOrder
from pipelines.recipe.spans import noise_lengths

BOS, EOS, PAD, MASK, VOCAB = 0, 1, 2, 3, 100
RNG = np.random.default_rng(0)


def document(length: int) -> np.ndarray:
    return np.array([BOS, *RNG.integers(4, VOCAB, length - 2), EOS], np.uint16)


def vocabulary() -> Vocabulary:
    is_special = np.arange(VOCAB) < 4
    kinds = np.zeros(VOCAB, int)
    return Vocabulary(is_special, np.arange(VOCAB) % 3 == 0, kinds, kinds)  # a third of the tokens begins a word


def masks(**fields: object) -> MaskNoise:
    values = {"mlm_probability": 0.15, "mask_replace_prob": 0.8, "random_replace_prob": 0.1} | fields
    return MaskNoise(seed=5, vocabulary=vocabulary(), mask_id=MASK, **values)


KINDS = {"tokens": {}, "words": {"whole_word_mask": True}, "spans": {"mean_span_length": 3.0}}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_hide_the_share_asked_for_and_never_a_control_token(kind: str) -> None:
    noise, row = masks(**KINDS[kind]), [document(90), document(5), document(45)]
    ids, hidden, replaced = np.concatenate(row), 0, []
    for place in range(200):
        item = noise(row, place)
        places = item["places"]
        assert np.array_equal(item["labels"][places], ids[places]) and (item["labels"][~places] == IGNORED).all()
        assert np.array_equal(item["input_ids"][~places], ids[~places])
        assert (ids[places] > EOS).all() and 1 <= places.sum() <= round(0.15 * 134)
        hidden += places.sum()
        replaced.append(item["input_ids"][places])
        assert item["position_ids"].tolist() == [*range(90), *range(5), *range(45)]
    tokens = np.concatenate(replaced)
    assert not np.isin(tokens, [BOS, EOS, PAD]).any()
    assert hidden / 200 / 134 == pytest.approx(0.15, abs=0.004)
    assert (tokens == MASK).mean() == pytest.approx(0.8, abs=0.03)


def test_of_the_masked_tokens_some_are_random_and_some_stay() -> None:
    row = [document(300)]
    ids = row[0]
    drawn = [masks(mask_replace_prob=0.5, random_replace_prob=0.3)(row, place) for place in range(100)]
    kinds = np.concatenate(
        [
            np.select([now == MASK, now == ids], [0, 1], 2)[item["places"]]
            for item in drawn
            for now in [item["input_ids"]]
        ]
    )
    shares = np.bincount(kinds) / len(kinds)
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_with_any_text_has_at_least_one_target_and_one_without_has_none(kind: str) -> None:
    noise = masks(**KINDS[kind], mlm_probability=0.01)
    assert [noise([document(3)], place)["places"].tolist() for place in range(5)] == [[False, True, False]] * 5
    assert not noise([document(2)], 0)["places"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_drawn_anew_in_each_epoch_and_come_back_for_the_same_place(kind: str) -> None:
    noise, rows = masks(**KINDS[kind]), [[document(60)] for _ in range(4)]
    view = InOrder(rows, lambda places: places % 4, 40, noise)
    first, again, other = view[1], view[1], view[5]  # place 5 is row 1 in the second pass
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["places"], other["places"])
    assert not np.array_equal(first["places"], MaskNoise(**{**noise.__dict__, "seed": 6})(rows[1], 1)["places"])
    # however the run is cut up into micro batches
    one, two = view.__getitems__([0, 1, 2, 3]), [*view.__getitems__([0, 1]), *view.__getitems__([2, 3])]
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a)


def test_whole_words_are_hidden_or_shown_whole() -> None:
    noise, row = masks(whole_word_mask=True, mlm_probability=0.3), [document(60), document(60)]
    ids, documents = np.concatenate(row), np.repeat([0, 1], 60)
    words = vocabulary().word_numbers(ids, documents)
    for place in range(50):
        hidden = noise(row, place)["places"]
        for word in np.unique(words):
            inside = hidden[words == word]
            assert inside.all() or not inside.any()


def test_spans_are_runs_of_the_mean_length_within_documents() -> None:
    noise, row = masks(mean_span_length=4.0, mlm_probability=0.05), [document(2000)]
    lengths = []
    for place in range(60):
        edges = np.flatnonzero(np.diff(noise(row, place)["places"], prepend=False, append=False))
        lengths += (edges[1::2] - edges[::2]).tolist()
    assert np.mean(lengths) == pytest.approx(4.0, abs=0.3) and len(set(lengths)) > 5
    # a span is replaced as one
    item = masks(mean_span_length=30.0, mask_replace_prob=0.5, random_replace_prob=0.5)(row, 0)
    edges = np.flatnonzero(np.diff(item["places"], prepend=False, append=False))
    is_mask = item["input_ids"] == MASK
    pure = [is_mask[a:b].mean() in (0, 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert np.mean(pure) > 0.7  # two may touch


def test_words_are_those_of_byte_level_bpe() -> None:
    texts = ["the miller's cat, in 1987: käse über “alles”  ok\nnew line"] * 3
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=275, special_tokens=["<s>"], initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")
    table = Vocabulary.of(tokenizer, len(tokenizer), [])
    assert table.is_special.nonzero()[0].tolist() == [tokenizer.bos_token_id]
    text = "the miller in 1987: käse, ok\nnew"
    encoded = bpe.encode(text)
    numbers = table.word_numbers(np.array(encoded.ids), np.zeros(len(encoded.ids), int))
    words = [
        bpe.decode([token for token, at in zip(encoded.ids, numbers, strict=True) if at == number])
        for number in range(numbers[-1] + 1)
    ]
    assert words == ["the", " miller", " in", " 1987", ":", " käse", ",", " ok", "\n", "new"]


# --- spans ------------------------------------------------------------------------------------------------------------

SENTINELS = tuple(range(1000, 1100))


def spans(**fields: float) -> SpanNoise:
    values = {"noise_density": 0.15, "mean_noise_span_length": 3.0} | fields
    return SpanNoise(seed=2, sentinel_ids=SENTINELS, eos_id=EOS, decoder_start_id=BOS, **values)


def put_together(source: list[int], target: list[int]) -> list[int]:
    """The text of an input and its target: each sentinel replaced by what the target says after it."""
    assert source.pop() == EOS and target.pop() == EOS
    said: dict[int, list[int]] = {}
    for token in target:
        if token >= SENTINELS[0]:
            last = said.setdefault(token, [])
        else:
            last.append(token)
    assert list(said) == [token for token in source if token >= SENTINELS[0]] == list(SENTINELS[: len(said)])
    return [word for token in source for word in said.get(token, [token])]


@pytest.mark.parametrize("fields", [{}, {"noise_density": 0.5, "mean_noise_span_length": 1.0}, {"noise_density": 0.9}])
def test_input_and_target_give_back_the_text(fields: dict[str, float]) -> None:
    for length in (*range(1, 40), 200):
        text, noise = RNG.integers(4, VOCAB, length), spans(**fields)
        num_noise, num_spans = noise_lengths(length, noise.noise_density, noise.mean_noise_span_length)
        for place in range(3):
            item = noise([text], place)
            assert put_together(item["input_ids"].tolist(), item["labels"].tolist()) == text.tolist()
            assert len(item["labels"]) == num_noise + num_spans + 1
            assert len(item["input_ids"]) == len(item["attention_mask"]) == length - num_noise + num_spans + 1
            assert item["decoder_input_ids"].tolist() == [BOS, *item["labels"][:-1]]


def test_every_token_is_cut_out_equally_often_and_the_edges_too_now_and_then() -> None:
    text, noise = np.arange(4, 44), spans()
    cut = np.bincount(np.concatenate([noise([text], place)["labels"] for place in range(4000)]), minlength=44)
    assert cut[7:41] / 4000 == pytest.approx(np.full(34, 0.15), abs=0.03)
    assert cut[[4, 43]].min() / 4000 > 0.04


def test_longer_rows_never_have_fewer_spans() -> None:
    for density, mean in ((0.15, 3.0), (0.5, 1.0), (0.9, 2.0), (0.01, 10.0)):
        counts = [noise_lengths(length, density, mean) for length in range(1, 600)]
        assert all(a <= b for one, two in pairwise(counts) for a, b in zip(one, two, strict=True))
    assert noise_lengths(512, 0.15, 3.0) == (77, 26)


# --- prefixes ---------------------------------------------------------------------------------------------------------


def test_each_document_has_a_prefix_and_something_to_say_after_it() -> None:
    row, splits = [document(9), document(2), np.array([7])], []
    for place in range(300):
        item = PrefixNoise(seed=1)(row, place)
        parts = np.split(item["prefix_mask"], [9, 11])
        assert parts[1].tolist() == [True, False] and parts[2].tolist() == [True]
        splits.append(int(parts[0].sum()))
        assert parts[0].tolist() == [True] * splits[-1] + [False] * (9 - splits[-1])
        assert np.array_equal(item["labels"], np.where(item["prefix_mask"], IGNORED, np.concatenate(row)))
    assert set(splits) == set(range(1, 9))


def test_batches_are_padded_so_that_nothing_sees_the_padding() -> None:
    batch = NoisedCollator(PAD)([masks()([document(5), document(6)], 0), masks()([document(4)], 1)])
    assert {name: tuple(array.shape) for name, array in batch.items()} == dict.fromkeys(batch, (2, 16))
    assert batch["input_ids"][1, 4:].unique().tolist() == [PAD] and not batch["places"][1, 4:].any()
    assert batch["position_ids"][1].tolist() == [0, 1, 2, 3, *[0] * 12]
    assert str(batch["places"].dtype) == "torch.bool" and (batch["labels"][1, 4:] == IGNORED).all()


def test_a_holdout_is_always_hidden_alike() -> None:
    class Rows(list):
        lengths = np.array([40, 40])

    rows = Noised(Rows([[document(40)], [document(40)]]), masks())
    assert np.array_equal(rows[1]["places"], rows[1]["places"]) and len(rows) == 2
    assert not np.array_equal(rows[0]["places"], rows[1]["places"])
