"""Tokenizers of single characters by a table, with the ids of the tokenizer it is made from: several times as fast."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pipelines.data.fast_bpe import CHANGES, OWN_WAYS, Ids, agree
from pipelines.data.tokens import Ragged

UNKNOWN = -1


class FastChars:
    """The table of one tokenizer; made by `of`."""

    def __init__(self, table: np.ndarray, byte_ids: Mapping[int, int], unk_id: int | None):
        self._table, self._byte_ids, self._unk_id = table, byte_ids, unk_id

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "FastChars | None":
        """None where it is another kind of tokenizer."""
        spec = json.loads(tokenizer.to_str())
        model = spec["model"]
        plain = model["type"] == "BPE" and not any(map(model.get, OWN_WAYS)) and not any(map(spec.get, CHANGES))
        if not plain or model["merges"] or spec["pre_tokenizer"] is not None:
            return None
        # A token that is added without being special is looked for in texts, even when control tokens are not.
        if not all(token["special"] for token in spec["added_tokens"]):
            return None
        return cls._of_model(model)

    @classmethod
    def _of_model(cls, model: Mapping[str, Any]) -> "FastChars | None":
        vocabulary, unk_id = model["vocab"], None
        byte_ids = {}
        if model["byte_fallback"]:
            byte_ids = {byte: vocabulary.get(f"<0x{byte:02X}>", UNKNOWN) for byte in range(256)}
        elif model["unk_token"] is not None:
            unk_id = vocabulary.get(model["unk_token"])
        if UNKNOWN in byte_ids.values() or not (byte_ids or unk_id is not None):
            return None
        table = np.full(0x110000, UNKNOWN, np.int32)
        for entry, number in vocabulary.items():
            if len(entry) == 1:
                table[ord(entry)] = number
        return cls(table, byte_ids, unk_id)

    def encode(self, texts: Sequence[str], *, num_threads: int) -> list[Ids]:
        """Ids of each text, without control tokens; in one thread."""
        return [self._encoded(text).tolist() for text in texts]

    def rows(self, texts: Sequence[str], *, num_threads: int) -> Ragged:
        """The same as arrays."""
        found = [self._encoded(text) for text in texts]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return Ragged(np.concatenate([np.zeros(0, np.uint32), *found]), lengths)

    def _encoded(self, text: str) -> np.ndarray:
        ids = self._table[np.frombuffer(text.encode("utf-32-le"), "<u4")]
        unknown = np.flatnonzero(ids == UNKNOWN)
        if len(unknown) and self._unk_id is not None:
            ids[unknown] = self._unk_id
        elif len(unknown):
            said, done = list[Any](), 0
            for place in unknown.tolist():
                said += (ids[done:place], [self._byte_ids[byte] for byte in text[place].encode()])
                done = place + 1
            ids = np.concatenate([*said, ids[done:]])
        return ids.astype(np.uint32)

    def agrees(self, tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
        """Whether these texts, and some of all kinds, get the same ids from the tokenizer itself."""
        return agree(self.encode, tokenizer, texts)
