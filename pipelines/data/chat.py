"""Text and conversations into ids, in one place: training, generation, reward scoring and evaluation all ask here."""

import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from pipelines.data.fast_bpe import FastBpe
from pipelines.data.fast_chars import FastChars
from pipelines.data.rows import batches
from pipelines.data.template import SPECIAL, Message, Piece, Template
from pipelines.data.tokens import Ragged
from pipelines.errors import ArtifactError, DataError

TOKENIZER, TEMPLATE, INFO = "tokenizer.json", "chat_template.jinja", "info.json"

Ids = list[int]


class ChatRenderer:
    """The tokenizer of an artifact with its chat template and its policy on BOS.

    What people say never becomes a control token, whatever it spells; the template's own tokens always do.
    """

    MANY = 256
    """Texts of a batch from which on the faster engine is made; so many passages of them it must give the same ids."""
    PASSAGE = 2_048
    """Characters."""

    AT_ONCE = 1 << 18
    """Characters, about: what tokenizers keeps of each token takes a hundred bytes, and more than caches hold is slow.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None, info: dict[str, Any], *, name: str = TEMPLATE):
        self.tokenizer, self.info, self._source, self._name = tokenizer, info, template, name
        # Special tokens in text are plain characters; this library knows no other way to say so.
        self.tokenizer.encode_special_tokens = True
        self.bos_id: int = info["bos_id"]
        self.eos_id: int = info["eos_id"]
        self.pad_id: int = info["pad_id"]
        self.end_of_turn_id: int = info["end_of_turn_id"]
        self.stop_ids: list[int] = info["stop_ids"]
        self.vocab_size: int = info["vocab_size"]
        self._control = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
        self.add_bos_token: bool = info["add_bos_token"]
        self.changes_text: bool = info.get("changes_text", False)
        self._fast: FastBpe | FastChars | Literal[False] | None = None
        """The faster engine, or False where it would give other ids; found out with the first batch worth it."""

    @classmethod
    def load(cls, folder: Path) -> "ChatRenderer":
        """From a tokenizer artifact, or a model's folder: both hold the same files."""
        folder = Path(folder)
        missing = [name for name in (TOKENIZER, INFO) if not (folder / name).is_file()]
        if missing:
            raise ArtifactError(f"{folder}: {', '.join(missing)} missing; make the tokenizer again")
        info = json.loads((folder / INFO).read_text())
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        file = folder / TEMPLATE
        if not file.is_file() and info.get("chat_template_sha256"):
            raise ArtifactError(f"{folder}: {TEMPLATE} missing; make the tokenizer again")
        template = file.read_text(encoding="utf-8") if file.is_file() else None
        return cls(tokenizer, template, info, name=str(folder / TEMPLATE))

    def check_again(self) -> None:
        """Let the next batch that is worth it prove anew that the faster engine gives the tokenizer's own ids."""
        self._fast = None

    @property
    def has_template(self) -> bool:
        """A tokenizer made elsewhere may have no words for conversations."""
        return self._source is not None

    @cached_property
    def template(self) -> Template:
        """Made when a conversation comes: plain text needs none."""
        if self._source is None:
            raise DataError(f"{self._name}: the tokenizer has no chat template, so it has no words for conversations")
        spelled = {number: token for token, number in self._control.items()}
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        special = {name: spelled.get(number, SPECIAL[name]) for name, number in ids.items()}
        template = Template(self._source, name=self._name, tokens=self._control, special=special)
        if self._control.get(template.end_of_turn) != self.end_of_turn_id:
            raise ArtifactError(
                f"{self._name}: ends a turn with {template.end_of_turn}, which is not what info.json says"
            )
        return template

    # --- plain text

    def encode_text(self, text: str) -> Ids:
        """Plain text: no BOS, no EOS, no control tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_texts(self, texts: Sequence[str]) -> list[Ids]:
        """The same for many, on all cores."""
        return self._encoded(texts)

    def document(self, text: str) -> Ids:
        """A document to train on: BOS by the tokenizer's policy, the text, EOS."""
        return [*self._bos, *self.encode_text(text), self.eos_id]

    def documents(self, texts: Sequence[str]) -> Ragged:
        """The same for many, on all cores."""
        fast = self._engine(texts)
        rows = fast.rows(texts, num_threads=_threads()) if fast else Ragged.of(self._encoded(texts))
        return rows.between(self._bos, self.eos_id)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; control tokens are left out or spelled."""
        return self.tokenizer.decode([int(token) for token in ids], skip_special_tokens=skip_special)

    # --- conversations

    def conversation(self, messages: Sequence[Message]) -> tuple[Ids, list[int]]:
        """(ids, assistant mask): a mask of 1 is on what the assistant says and on the token that ends its turn."""
        return self.conversations([messages])[0]

    def conversations(self, many: Sequence[Sequence[Message]]) -> list[tuple[Ids, list[int]]]:
        """The same for many, on all cores."""
        return self._assembled([self.template.pieces(messages) for messages in many])

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """Ids after which the assistant speaks; for messages that end with the user."""
        return self.prompts([messages])[0]

    def prompts(self, many: Sequence[Sequence[Message]]) -> list[Ids]:
        """The same for many, on all cores."""
        for messages in many:
            if messages[-1]["role"] == "assistant":
                raise DataError("a prompt ends with the assistant's turn; it must end with the user's")
        return [ids for ids, _ in self._assembled([self.template.pieces(messages) for messages in many])]

    def pair(
        self, prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]
    ) -> tuple[Ids, Ids, Ids]:
        """(prompt, chosen, rejected) ids; prompt + chosen are the ids of that whole conversation, ended."""
        return self.pairs([(prompt, chosen, rejected)])[0]

    def pairs(
        self, many: Sequence[tuple[Sequence[Message], Sequence[Message], Sequence[Message]]]
    ) -> list[tuple[Ids, Ids, Ids]]:
        """The same for many, on all cores."""
        prompts = self.prompts([prompt for prompt, _, _ in many])
        sides = [[*prompt, *side] for prompt, *both in many for side in both]
        whole = [ids for ids, _ in self.conversations(sides)]
        rows = []
        for number, prompt_ids in enumerate(prompts):
            chosen, rejected = whole[2 * number], whole[2 * number + 1]
            start = len(prompt_ids)
            assert chosen[:start] == prompt_ids == rejected[:start], "a prompt is not how its conversation begins"
            rows.append((prompt_ids, chosen[start:], rejected[start:]))
        return rows

    @property
    def _bos(self) -> Ids:
        return [self.bos_id] if self.add_bos_token else []

    def _assembled(self, rows: Sequence[Sequence[Piece]]) -> list[tuple[Ids, list[int]]]:
        texts = list({piece.text: None for pieces in rows for piece in pieces if not piece.is_token})
        encoded = dict(zip(texts, self._encoded(texts), strict=True))
        assembled = []
        for pieces in rows:
            ids, mask = list(self._bos), [0] * len(self._bos)
            for piece in pieces:
                new = [self._control[piece.text]] if piece.is_token else encoded[piece.text]
                ids += new
                mask += [int(piece.is_trained)] * len(new)
            assembled.append((ids, mask))
        return assembled

    def _encoded(self, texts: Sequence[str]) -> list[Ids]:
        if fast := self._engine(texts):
            return fast.encode(texts, num_threads=_threads())
        found: list[Ids] = []
        for batch in batches(texts, size=len, most=self.MANY, total=self.AT_ONCE):
            found += [one.ids for one in self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
        return found

    def _engine(self, texts: Sequence[str]) -> FastBpe | FastChars | None:
        if self._fast is None and (len(texts) >= self.MANY or sum(map(len, texts)) >= self.MANY * self.PASSAGE):
            made = _fast(self.tokenizer.to_str())
            passages = (text[at : at + self.PASSAGE] for text in texts for at in range(0, len(text), self.PASSAGE))
            shown = list(islice(passages, self.MANY))
            self._fast = made if made is not None and made.agrees(self.tokenizer, shown) else False
        return self._fast or None


@lru_cache(maxsize=1)
def _fast(tokenizer: str) -> FastBpe | FastChars | None:
    """Made once for all that ask for the same."""
    made = Tokenizer.from_str(tokenizer)
    made.encode_special_tokens = True
    return FastBpe.of(made) or FastChars.of(made)


def _threads() -> int:
    """As many as tokenizers itself would take."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() in ("false", "off", "no", "n", "f", "0"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
