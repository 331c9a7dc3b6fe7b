"""Labelled texts and pairs of texts as rows for a classifier or a regressor, and batches of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.data.collate import Batch, RowCount, gather, padded, places_of, tensors
from pipelines.data.labels import Label
from pipelines.data.tokens import TokenTable
from pipelines.recipe.training import Overlong


class LabelledRows:
    """`[bos] text [eos]`, or with a pair `[bos] text [sep] pair [eos]`, of several tables, that fit or are cut to fit.

    An encoder calls them cls, sep and sep; without `bos_id` a row starts with its text. What is cut is the end of the
    longer of the two texts, as transformers' `longest_first` does it."""

    def __init__(
        self,
        tables: Sequence[TokenTable],
        *,
        label_names: Sequence[str],
        bos_id: int | None,
        sep_id: int,
        eos_id: int,
        max_length: int,
        overlong: Overlong,
    ):
        """`label_names`: the classes in the order of their numbers; none for regression. Other names are refused by
        `pipelines.data.labels.check_labels`, before rows are made."""
        self._tables, self._max_length = tables, max_length
        self._numbers = {name: number for number, name in enumerate(label_names)}
        self._bos, self._sep, self._eos = ([] if bos_id is None else [bos_id]), [sep_id], [eos_id]
        selected = [self._select(table, overlong) for table in tables]
        self._places, self.counts = places_of([rows for rows, _ in selected]), [count for _, count in selected]
        self.lengths = np.minimum(gather([self._whole(table) for table in tables], self._places), max_length)
        self.longest = self.lengths
        """What the row is padded by, for grouping."""

    @property
    def sizes(self) -> list[int]:
        return [count.rows_used for count in self.counts]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """input_ids and token_type_ids (0 on the first text and its marks, 1 on the second and its end), both
        (tokens,); labels: a class's number, 1.0 for every class that applies (names,), or the number to predict."""
        number, place = self._places[row]
        table = self._tables[number]
        text, pair = table.ids("text_ids", place), table.ids("pair_ids", place)
        kept_text, kept_pair = kept_lengths(len(text), len(pair), self._room(len(pair) > 0))
        first = np.concatenate([self._bos, text[:kept_text], self._sep if len(pair) else self._eos])
        second = np.concatenate([pair[:kept_pair], self._eos if len(pair) else []])
        return {
            "input_ids": np.concatenate([first, second]).astype(np.int64),
            "token_type_ids": np.repeat([0, 1], [len(first), len(second)]),
            "labels": self._target(table.value("label", place)),
        }

    def _target(self, label: Label) -> Any:
        if isinstance(label, list):
            target = np.zeros(len(self._numbers), np.float32)
            target[[self._numbers[name] for name in label]] = 1.0
            return target
        return self._numbers[label] if isinstance(label, str) else label

    def _room(self, has_pair: Any) -> Any:
        """Tokens that are left for the texts, of one row or of many."""
        return self._max_length - len(self._bos) - 1 - has_pair

    def _whole(self, table: TokenTable) -> np.ndarray:
        pairs = table.lengths("pair_ids")
        return table.lengths("text_ids") + pairs + len(self._bos) + 1 + (pairs > 0)

    def _select(self, table: TokenTable, overlong: Overlong) -> tuple[np.ndarray, RowCount]:
        has_pair = table.lengths("pair_ids") > 0
        too_long = self._whole(table) > self._max_length
        # Cut, each text must keep a token.
        used = ~too_long if overlong == "drop" else self._room(has_pair) >= 1 + has_pair
        count = RowCount(
            rows_in=len(table),
            rows_used=int(used.sum()),
            dropped_overlong=int((~used).sum()),
            truncated=int((used & too_long).sum()),
        )
        return np.flatnonzero(used), count


def kept_lengths(text: int, pair: int, room: int) -> tuple[int, int]:
    """Tokens that two texts keep when tokens go one by one from the longer of them (from the pair, where both are
    equally long) until both fit into `room`."""
    kept_pair = min(pair, max(room // 2, room - text))
    return min(text, room - kept_pair), kept_pair


class LabelledCollator:
    """input_ids and attention_mask, (rows, tokens); labels, (rows,) int64 for one class, (rows, names) float32 for
    several, (rows,) float32 for regression; token_type_ids, (rows, tokens), for models that take them."""

    def __init__(self, pad_id: int, *, with_token_type_ids: bool):
        self.pad_id, self.with_token_type_ids = pad_id, with_token_type_ids

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        ids, mask = padded([row["input_ids"] for row in rows], self.pad_id)
        batch = tensors({"input_ids": ids, "attention_mask": mask})
        if self.with_token_type_ids:
            batch |= tensors({"token_type_ids": padded([row["token_type_ids"] for row in rows], 0)[0]})
        targets = np.array([row["labels"] for row in rows])
        is_class = np.issubdtype(targets.dtype, np.integer)
        return batch | {"labels": torch.from_numpy(targets.astype(np.int64 if is_class else np.float32))}
