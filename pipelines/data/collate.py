"""Rows of ids from token tables, each row accounted for, and batches of them: padded on the right, never cut here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.data.packing import Packing, Segment
from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.recipe.training import Overlong

IGNORED = -100
"""The label of a token that is not trained on."""
MULTIPLE = 8
"""Rows are padded to a multiple of this: matrix units like it, and padding changes no result."""

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class RowCount:
    """What became of one dataset's rows: rows_in == rows_used + all that were dropped."""

    rows_in: int
    rows_used: int
    dropped_overlong: int = 0
    """Longer than max_length (with truncate: even the prompt is)."""
    dropped_untrained: int = 0
    """Nothing to learn: no trained token, or chosen and rejected alike, within max_length."""
    truncated: int = 0
    """Used, but with their end cut off."""

    @property
    def dropped(self) -> int:
        return self.dropped_overlong + self.dropped_untrained

    def check(self, dataset: str, *, max_dropped: float, max_length: int) -> "RowCount":
        """Raise DataError when more rows are dropped than the recipe allows, or none is left."""
        if self.rows_used and self.dropped / self.rows_in <= max_dropped:
            return self
        limit = f"allowed are {max_dropped:.2%}" if self.rows_used else "none is left"
        more = ", or raise max_dropped" if self.rows_used else ""
        raise DataError(
            f"{dataset}: {self.dropped} of {self.rows_in} rows dropped ({self.dropped_overlong} longer than max_length "
            f"{max_length}, {self.dropped_untrained} without anything to train on), {limit}; raise max_length, set "
            f"overlong: truncate{more}"
        )

    def metrics(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


# --- text -----------------------------------------------------------------------------------------------------------


class PackedRows:
    """Rows of packed documents, over several tables numbered through."""

    def __init__(self, parts: Sequence[tuple[TokenTable, Packing]]):
        self._parts = list(parts)
        self.sizes = [len(packing) for _, packing in self._parts]
        self._starts = np.cumsum([0, *self.sizes])
        self.lengths = np.concatenate([_row_lengths(packing) for _, packing in self._parts])
        """Real tokens of every row."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> list[np.ndarray]:
        """The row's documents, or pieces of them, each a run of ids."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        table = self._parts[number][0]
        return [table.ids("input_ids", document)[a:b] for document, a, b in self.segments(row)[1]]

    def segments(self, row: int) -> tuple[int, list[Segment]]:
        """(table, what the row holds of its documents)."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, self._parts[number][1][row - int(self._starts[number])]

    def num_cut(self, number: int) -> int:
        """Documents of a table that stand in more than one piece."""
        documents = self._parts[number][1].documents
        return int((np.bincount(documents) > 1).sum()) if len(documents) else 0


def _row_lengths(packing: Packing) -> np.ndarray:
    ends = np.concatenate([[0], np.cumsum(packing.stops - packing.starts)])
    return np.diff(ends[packing.offsets]).astype(np.int64)


class PackedCollator:
    """Positions restart with every document, whose first token nothing predicts; so no attention mask is needed."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Sequence[np.ndarray]]) -> Batch:
        length = padded_length(max(sum(map(len, row)) for row in rows))
        ids = np.full((len(rows), length), self.pad_id, np.int64)
        labels = np.full((len(rows), length), IGNORED, np.int64)
        positions = np.zeros((len(rows), length), np.int64)  # each padded place a document of its own
        for number, row in enumerate(rows):
            start = 0
            for document in row:
                end = start + len(document)
                ids[number, start:end] = document
                labels[number, start + 1 : end] = document[1:]
                positions[number, start:end] = np.arange(len(document))
                start = end
        return tensors({"input_ids": ids, "labels": labels, "position_ids": positions})


# --- conversations --------------------------------------------------------------------------------------------------


class ChatRows:
    """Conversations of several tables that fit, or are cut to fit."""

    def __init__(
        self, tables: Sequence[TokenTable], *, max_length: int, overlong: Overlong, assistant_only: bool = True
    ):
        self._tables, self._max_length, self._assistant_only = tables, max_length, assistant_only
        selected = [self._select(table, overlong) for table in tables]
        self._places, self.counts = places_of([rows for rows, _ in selected]), [count for _, count in selected]
        self.lengths = np.minimum(gather([table.lengths("input_ids") for table in tables], self._places), max_length)
        self.longest = self.lengths
        """What the row is padded by, for grouping."""

    @property
    def sizes(self) -> list[int]:
        return [count.rows_used for count in self.counts]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        number, place = self._places[row]
        table, limit = self._tables[number], self._max_length
        ids = np.asarray(table.ids("input_ids", place)[:limit], np.int64)
        if not self._assistant_only:
            return {"input_ids": ids, "labels": ids}
        return {"input_ids": ids, "labels": np.where(table.ids("assistant_mask", place)[:limit], ids, IGNORED)}

    def _select(self, table: TokenTable, overlong: Overlong) -> tuple[np.ndarray, RowCount]:
        too_long = table.lengths("input_ids") > self._max_length
        trained = np.fromiter((self._trains(table, row) for row in range(len(table))), bool, len(table))
        fits = ~too_long if overlong == "drop" else np.ones(len(table), bool)
        used = fits & trained
        count = RowCount(
            rows_in=len(table),
            rows_used=int(used.sum()),
            dropped_overlong=int((~fits).sum()),
            dropped_untrained=int((fits & ~trained).sum()),
            truncated=int((used & too_long).sum()),
        )
        return np.flatnonzero(used), count

    def _trains(self, table: TokenTable, row: int) -> bool:
        """Whether any token but the first, which nothing predicts, is trained on."""
        if not self._assistant_only:
            return len(table.ids("input_ids", row)) > 1
        return bool(table.ids("assistant_mask", row)[1 : self._max_length].any())


class ChatCollator:
    """Rows of input_ids and labels. The first label is masked, because nothing predicts it."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        ids, mask = padded([row["input_ids"] for row in rows], self.pad_id)
        labels, _ = padded([row["labels"] for row in rows], IGNORED)
        labels[:, 0] = IGNORED
        return tensors({"input_ids": ids, "attention_mask": mask, "labels": labels})


# --- pairs ----------------------------------------------------------------------------------------------------------


class PairRows:
    """Preference pairs of several tables that fit, or whose completions are cut to fit."""

    def __init__(self, tables: Sequence[TokenTable], *, max_length: int, overlong: Overlong):
        self._tables, self._max_length = tables, max_length
        selected = [self._select(table, overlong) for table in tables]
        self._places, self.counts = places_of([rows for rows, _ in selected]), [count for _, count in selected]
        chosen, rejected = (
            np.minimum(gather([_pair_lengths(table, side) for table in tables], self._places), max_length)
            for side in ("chosen_ids", "rejected_ids")
        )
        self.lengths = chosen + rejected
        """Real tokens of both sides, the prompt counted twice as it is computed twice."""
        self.longest = np.maximum(chosen, rejected)

    @property
    def sizes(self) -> list[int]:
        return [count.rows_used for count in self.counts]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """prompt_ids, and chosen_ids and rejected_ids without it."""
        number, place = self._places[row]
        table = self._tables[number]
        prompt = np.asarray(table.ids("prompt_ids", place), np.int64)
        room = self._max_length - len(prompt)
        sides = {side: np.asarray(table.ids(side, place)[:room], np.int64) for side in ("chosen_ids", "rejected_ids")}
        return {"prompt_ids": prompt, **sides}

    def _select(self, table: TokenTable, overlong: Overlong) -> tuple[np.ndarray, RowCount]:
        prompts = table.lengths("prompt_ids")
        longest = np.maximum(_pair_lengths(table, "chosen_ids"), _pair_lengths(table, "rejected_ids"))
        too_long = longest > self._max_length
        fits = ~too_long if overlong == "drop" else prompts < self._max_length
        differs = np.fromiter((self._differs(table, row) for row in range(len(table))), bool, len(table))
        used = fits & differs
        count = RowCount(
            rows_in=len(table),
            rows_used=int(used.sum()),
            dropped_overlong=int((~fits).sum()),
            dropped_untrained=int((fits & ~differs).sum()),
            truncated=int((used & too_long).sum()),
        )
        return np.flatnonzero(used), count

    def _differs(self, table: TokenTable, row: int) -> bool:
        room = max(0, self._max_length - len(table.ids("prompt_ids", row)))
        chosen, rejected = (table.ids(side, row)[:room] for side in ("chosen_ids", "rejected_ids"))
        return len(chosen) > 0 and len(rejected) > 0 and not np.array_equal(chosen, rejected)


def _pair_lengths(table: TokenTable, side: str) -> np.ndarray:
    return table.lengths("prompt_ids") + table.lengths(side)


class PairCollator:
    """Chosen rows, then rejected rows: input_ids, attention_mask, and for dpo completion_mask and reference scores."""

    def __init__(self, pad_id: int, *, with_completion_mask: bool):
        self.pad_id, self.with_completion_mask = pad_id, with_completion_mask

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        sides = [(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
        ids, mask = padded([np.concatenate(side) for side in sides], self.pad_id)
        batch = tensors({"input_ids": ids, "attention_mask": mask})
        if self.with_completion_mask:
            masks = [np.repeat([0, 1], [len(prompt), len(completion)]) for prompt, completion in sides]
            batch |= tensors({"completion_mask": padded(masks, 0)[0]})
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in rows[0]:
                batch[name] = torch.tensor([float(row[name]) for row in rows])
        return batch


class RewardCollator(PairCollator):
    """Also takes chosen_ids and rejected_ids that hold their prompt, as TRL's own rows do."""

    def __init__(self, pad_id: int):
        super().__init__(pad_id, with_completion_mask=False)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        return super().__call__([{"prompt_ids": np.zeros(0, np.int64), **row} for row in rows])


# --- arrays ---------------------------------------------------------------------------------------------------------


def padded_length(length: int) -> int:
    """Rounded up to a multiple of MULTIPLE."""
    return -(-length // MULTIPLE) * MULTIPLE


def padded(rows: Sequence[Any], value: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, tokens) filled with `value` on the right, and 1 where a token is."""
    length = padded_length(max(map(len, rows)))
    filled = np.full((len(rows), length), value, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return filled, mask


def tensors(arrays: Mapping[str, np.ndarray]) -> Batch:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def places_of(selected: Sequence[np.ndarray]) -> np.ndarray:
    """(table, row) of the rows that are used, of all tables one after the other."""
    kept = [np.stack([np.full(len(rows), number), rows], axis=1) for number, rows in enumerate(selected)]
    return np.concatenate(kept).astype(np.int64)


def gather(columns: Sequence[np.ndarray], places: np.ndarray) -> np.ndarray:
    """The numbers at (table, row)."""
    result = np.zeros(len(places), np.int64)
    for number, column in enumerate(columns):
        chosen = places[:, 0] == number
        result[chosen] = column[places[chosen, 1]]
    return result
