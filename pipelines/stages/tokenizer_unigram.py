"""Pieces of a Unigram tokenizer (arXiv 1804.10959), learnt by SentencePiece from counted pieces of text."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.errors import DataError

_SPACE = "▁"
_HIDDEN = {character: chr(0xF0000 + ord(character)) for character in ("\t", "\n", "\r", "\x00", _SPACE)}
"""What SentencePiece takes for its own signs, or for the end of a line, as private characters."""
_SETTINGS: dict[str, Any] = {
    "input_format": "tsv",
    "model_type": "unigram",
    "hard_vocab_limit": False,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "split_by_whitespace": False,
    "split_by_unicode_script": False,
    "split_by_number": False,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 1.0,
    "max_sentence_length": 1 << 30,
    "unk_id": 0,
    "bos_id": -1,
    "eos_id": -1,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
}
"""Pieces as they come, one thread: with several, sums of floats depend on their number."""
FREQUENT, CANDIDATES = 200_000, 1_000_000
"""Most pieces that candidates are looked for in, and most candidates."""
LONGEST, LONGEST_PIECE = 16, 64
"""Characters of a candidate (as SentencePiece's own limit), and of a piece that is looked into."""
_HIDE, _SHOW = str.maketrans(_HIDDEN), str.maketrans({hidden: plain for plain, hidden in _HIDDEN.items()})


def unigram_pieces(counts: Mapping[str, int], alphabet: Sequence[str], size: int) -> list[tuple[str, float]]:
    """At most `size` pieces with their log probabilities, the likely first. Pieces of text that have a character which
    is not in `alphabet` are not learnt from; every character of the others is a piece."""
    import sentencepiece

    known = set(alphabet)
    kept = sorted((piece, count) for piece, count in counts.items() if known.issuperset(piece))
    if not kept:
        raise DataError("no text to learn a tokenizer from")
    out = io.BytesIO()
    with TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds.tsv"
        seeds.write_text("".join(f"{piece}\t{count}\n" for piece, count in _candidates(kept)), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(f"{piece.translate(_HIDE)}\t{count}" for piece, count in kept),
                model_writer=out,
                vocab_size=size + 1,
                seed_sentencepieces_file=str(seeds),
                **_SETTINGS,
            )
        except (RuntimeError, OSError) as error:
            raise DataError(f"SentencePiece cannot train {size} pieces: {error}") from None
    learnt = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [(learnt.id_to_piece(i), learnt.get_score(i)) for i in range(1, learnt.get_piece_size())]
    return [(piece.replace(_SPACE, " ").translate(_SHOW), score) for piece, score in pieces]


def _candidates(counts: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Parts of pieces with their counts, those first that cover most text. SentencePiece would look for its own among
    repeated strings of lines that it takes for different ones, and pass over a word that is always a piece alone."""
    frequent = sorted(counts, key=lambda item: (-item[1], item[0]))[:FREQUENT]
    found: Counter[str] = Counter()
    for piece, count in frequent:
        hidden = piece[:LONGEST_PIECE].translate(_HIDE).replace(" ", _SPACE)
        for start in range(len(hidden) - 1):
            for stop in range(start + 2, min(len(hidden), start + LONGEST) + 1):
                found[hidden[start:stop]] += count
    repeated = [(part, count) for part, count in found.items() if count > 1]
    return sorted(repeated, key=lambda item: (-item[1] * len(item[0]), item[0]))[:CANDIDATES]
