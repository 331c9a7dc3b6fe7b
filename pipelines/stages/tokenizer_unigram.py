"""Pieces of a Unigram tokenizer (arXiv 1804.10959), learnt by SentencePiece from counted pieces of text."""

import io
from collections.abc import Iterator, Mapping, Sequence

from pipelines.errors import DataError

_SPACE = "▁"
_HIDDEN = {character: chr(0xF0000 + ord(character)) for character in ("\t", "\n", "\r", "\x00", _SPACE)}
"""What SentencePiece takes for its own signs, or for the end of a line, as private characters."""
_HIDE, _SHOW = str.maketrans(_HIDDEN), str.maketrans({hidden: plain for plain, hidden in _HIDDEN.items()})


def unigram_pieces(counts: Mapping[str, int], alphabet: Sequence[str], size: int) -> list[tuple[str, float]]:
    """At most `size` pieces with their log probabilities, the likely first. Every character of `alphabet` is one;
    pieces that have another character are not learnt from."""
    import sentencepiece

    known = set(alphabet)
    kept = sorted((piece, count) for piece, count in counts.items() if known.issuperset(piece))
    if not kept:
        raise DataError("no text to learn a tokenizer from")
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(kept),
            input_format="tsv",
            model_writer=out,
            model_type="unigram",
            vocab_size=size + 1,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            allow_whitespace_only_pieces=True,
            character_coverage=1.0,
            max_sentence_length=1 << 30,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(f"SentencePiece cannot train {size} pieces: {error}") from None
    learnt = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [(learnt.id_to_piece(i), learnt.get_score(i)) for i in range(1, learnt.get_piece_size())]
    return [(piece.replace(_SPACE, " ").translate(_SHOW), score) for piece, score in pieces]


def _lines(counts: Sequence[tuple[str, int]]) -> Iterator[str]:
    for piece, count in counts:
        yield f"{piece.translate(_HIDE)}\t{count}"
