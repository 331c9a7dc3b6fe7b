"""Pairs of a source and a target as rows for an encoder-decoder, or for a decoder, and batches of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.data.collate import IGNORED, Batch, RowCount, gather, padded, places_of, tensors
from pipelines.data.tokens import TokenTable
from pipelines.recipe.training import Overlong


class SourceTargetRows:
    """`source eos` for the encoder and `target eos` to be said by the decoder, of several tables.

    `max_length` bounds each side. A source that is cut still ends with eos; a target that is cut does not, since
    nobody should learn to stop there."""

    def __init__(self, tables: Sequence[TokenTable], *, eos_id: int, max_length: int, overlong: Overlong):
        self._tables, self._max_length, self._eos = tables, max_length, [eos_id]
        selected = [self._select(table, overlong) for table in tables]
        self._places, self.counts = places_of([rows for rows, _ in selected]), [count for _, count in selected]
        sides = [
            np.minimum(gather([table.lengths(side) + 1 for table in tables], self._places), max_length)
            for side in ("source_ids", "target_ids")
        ]
        self.lengths: np.ndarray = sides[0] + sides[1]
        """Real tokens of both sides."""
        self.longest: np.ndarray = np.maximum(*sides)

    @property
    def sizes(self) -> list[int]:
        return [count.rows_used for count in self.counts]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """input_ids (source tokens,) and labels (target tokens,)."""
        number, place = self._places[row]
        table, limit = self._tables[number], self._max_length
        source, target = table.ids("source_ids", place), table.ids("target_ids", place)
        return {
            "input_ids": np.concatenate([source[: limit - 1], self._eos]).astype(np.int64),
            "labels": np.concatenate([target, self._eos])[:limit].astype(np.int64),
        }

    def _select(self, table: TokenTable, overlong: Overlong) -> tuple[np.ndarray, RowCount]:
        too_long = np.maximum(table.lengths("source_ids"), table.lengths("target_ids")) + 1 > self._max_length
        # Cut, a source must keep a token.
        used = ~too_long if overlong == "drop" else np.full(len(table), self._max_length > 1)
        return np.flatnonzero(used), _count(used, too_long)


class SourceTargetCollator:
    """input_ids and attention_mask, (rows, source tokens); labels, (rows, target tokens), -100 where padded."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        ids, mask = padded([row["input_ids"] for row in rows], self.pad_id)
        labels, _ = padded([row["labels"] for row in rows], IGNORED)
        return tensors({"input_ids": ids, "attention_mask": mask, "labels": labels})


class JoinedRows:
    """`[bos] source sep target eos` in one row for a decoder, which is trained on the target and its eos only.

    Rows are like those of conversations, so ChatCollator takes them. A row that is too long loses the end of its
    target, and is dropped where not a token of the target is left."""

    def __init__(
        self,
        tables: Sequence[TokenTable],
        *,
        bos_id: int | None,
        sep_id: int,
        eos_id: int,
        max_length: int,
        overlong: Overlong,
    ):
        self._tables, self._max_length = tables, max_length
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

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """input_ids and labels, (tokens,); the labels of the prompt are -100."""
        number, place = self._places[row]
        table = self._tables[number]
        prompt = np.concatenate([self._bos, table.ids("source_ids", place), self._sep])
        ids = np.concatenate([prompt, table.ids("target_ids", place), self._eos])[: self._max_length].astype(np.int64)
        return {"input_ids": ids, "labels": np.where(np.arange(len(ids)) < len(prompt), IGNORED, ids)}

    def _prompts(self, table: TokenTable) -> np.ndarray:
        return table.lengths("source_ids") + len(self._bos) + 1

    def _whole(self, table: TokenTable) -> np.ndarray:
        return self._prompts(table) + table.lengths("target_ids") + 1

    def _select(self, table: TokenTable, overlong: Overlong) -> tuple[np.ndarray, RowCount]:
        too_long = self._whole(table) > self._max_length
        used = ~too_long if overlong == "drop" else self._prompts(table) < self._max_length
        return np.flatnonzero(used), _count(used, too_long)


def _count(used: np.ndarray, too_long: np.ndarray) -> RowCount:
    return RowCount(
        rows_in=len(used),
        rows_used=int(used.sum()),
        dropped_overlong=int((~used).sum()),
        truncated=int((used & too_long).sum()),
    )
