"""What work on data costs: figures that were measured, by which `plan` tells bytes, time and disk before anything runs.

One core of an AMD EPYC, English prose, with

    python benchmarks/data_rates.py text.txt --megabytes 12

Rates are bytes a second of one core, threads added up. They say the order of magnitude on another machine and another
text: of the same text, one run took up to half as long again as another."""

from collections.abc import Mapping
from typing import NamedTuple

MB = 1e6
PART_BYTES = 64 << 20
"""Of input that one worker takes at a time; `data/shards.py` says it too, and a contract test keeps them equal."""
KINDS = ("data", "clean", "tokenizer", "tokens")
"""Of jobs that are told here."""

# --- data -------------------------------------------------------------------------------------------------------------

DATA_START_SECONDS = 0.1
READ: Mapping[str, float] = {
    ".arrow": 90 * MB,
    ".csv": 54 * MB,
    ".htm": 2.6 * MB,
    ".html": 2.6 * MB,
    ".json": 70 * MB,
    ".jsonl": 60 * MB,
    ".md": 85 * MB,
    ".parquet": 60 * MB,
    ".tsv": 54 * MB,
    ".txt": 85 * MB,
    "hub": 60 * MB,
}
"""Ending of a file -> unpacked bytes: read, brought into form, counted, hashed for the holdout, written."""
UNPACK: Mapping[str, float] = {".bz2": 20 * MB, ".gz": 245 * MB, ".zst": 600 * MB}
RATIO: Mapping[str, float] = {".bz2": 3.7, ".gz": 2.7, ".zst": 2.8, ".parquet": 1.6}
"""Unpacked bytes for a packed one, where a look into the file says nothing."""
TEXT_SHARE: Mapping[str, float] = {".htm": 0.3, ".html": 0.3}
"""Bytes of text for an unpacked byte; of pages it was small ones with a menu of 40 entries. 1 for all others."""
ROW_BYTES = 1_000
"""Of a row, where nothing says how many there are."""
ROWS_PER_TEXT = 0.42
"""Bytes of parquet files (zstd) for a byte of text."""
HUB_FILE_BYTES = 500_000_000
"""Of a file of the Hub that a worker holds while it reads it: what `datasets` cuts its files to, at most."""
FILTER: Mapping[str, float] = {
    "repair": 25 * MB,
    "bad_characters": 210 * MB,
    "unwrap": 60 * MB,
    "lines": 34 * MB,
    "length": 1e4 * MB,
    "gopher_quality": 1e4 * MB,
    "gopher_repetition": 1e4 * MB,
    "fineweb": 1e4 * MB,
    "personal_data": 60 * MB,
    "language": 33 * MB,
    "perplexity": 67 * MB,
}
"""Bytes of text, without what filters measure together. Of repair it is text with signs outside ASCII; plain text goes
through it four times as fast. Of unwrap it is wrapped text; of lines that are paragraphs 200 to 500 MB/s.
Of perplexity `benchmarks/quality_filters.py` tells the rate."""
CLASSIFIED = 3.7e10
"""Of the filter `classifier`: parameters times tokens, a second of one core; from the table of docs/data.md."""
MEASURE: Mapping[str, float] = {"shape": 92 * MB, "repetition": 72 * MB}
"""What is measured once for all filters that ask for it."""
MEASURED_BY: Mapping[str, tuple[str, ...]] = {
    "length": ("shape",),
    "gopher_quality": ("shape",),
    "personal_data": ("shape",),
    "gopher_repetition": ("repetition",),
    "fineweb": ("shape", "repetition"),
}


class Track(NamedTuple):
    """Rows of a track of the built-in world; bytes of text, bytes on the disk and seconds for each."""

    train: int
    holdout: int
    text: float
    disk: float
    seconds: float


BUILTIN: Mapping[str, Track] = {
    "text": Track(30_000, 1_000, 232, 43, 2.0e-4),
    "chat": Track(4_000, 400, 203, 41, 2.3e-4),
    "preferences": Track(1_500, 300, 340, 69, 3.2e-4),
    "prompts": Track(2_000, 400, 53, 8.2, 2.6e-5),
    "reviews": Track(12_000, 400, 122, 30, 3.3e-5),
    "sentiment": Track(4_000, 800, 87, 22, 3.4e-5),
    "translation": Track(8_000, 800, 59, 22, 3.7e-5),
    "web": Track(4_000, 200, 947, 162, 1.0e-3),
}

# --- cleaning ---------------------------------------------------------------------------------------------------------

CLEAN_START_SECONDS = 1.0
DEDUPLICATE, SPANS, DECONTAMINATE = 25 * MB, 60 * MB, 44 * MB
"""Bytes of text, with reading and writing; `python benchmarks/dedup.py` and `benchmarks/decontamination.py`."""
SIGNATURE_BYTES, SPANS_DISK = 512, 1.8
"""On the disk while the job runs: of each row, and for each byte of text."""

# --- tokenizers and tokens --------------------------------------------------------------------------------------------

TOKENIZER_START_SECONDS = 0.7
TOKENS_START_SECONDS = 0.3
LEARN: Mapping[str, float] = {
    "byte_level_bpe": 2.9 * MB,
    "bpe": 4.8 * MB,
    "unigram": 1.3 * MB,
    "wordpiece": 3.8 * MB,
    "word": 5.4 * MB,
    "char": 22 * MB,
    "byte": 70 * MB,
}
"""Bytes of text, from 1.5 to 12 MB, with what is measured for the report. More text goes faster: it brings fewer words
that are new."""
ENCODE: Mapping[str, float] = {
    "byte_level_bpe": 9.8 * MB,
    "bpe": 3.8 * MB,
    "unigram": 3.0 * MB,
    "wordpiece": 4.3 * MB,
    "word": 5.3 * MB,
    "char": 3.6 * MB,
    "byte": 7.3 * MB,
}
TOKENIZER_BYTES, ENTRY_BYTES = 5_000, 65
"""Of a tokenizer's files: whatever its size, and for each entry."""
VOCAB_SIZE = 50_000
"""Of a tokenizer made elsewhere that is not here yet."""
_BYTES_PER_TOKEN: Mapping[int, float] = {
    **{256: 1.0, 300: 1.5, 512: 2.2, 1_024: 2.8, 2_048: 3.3, 4_096: 3.6},
    **{8_192: 3.9, 16_384: 4.2, 32_768: 4.4, 65_536: 4.5},
}
"""Entries -> bytes of English prose."""


def bytes_per_token(algorithm: str, vocab_size: int) -> float:
    """What a token of such a tokenizer says."""
    if algorithm in ("byte", "char"):
        return 1.0
    sizes = sorted(_BYTES_PER_TOKEN)
    low = max([size for size in sizes if size <= vocab_size], default=sizes[0])
    high = min([size for size in sizes if size >= vocab_size], default=sizes[-1])
    way = (vocab_size - low) / (high - low) if low < high else 0.0
    return _BYTES_PER_TOKEN[low] + way * (_BYTES_PER_TOKEN[high] - _BYTES_PER_TOKEN[low])


class TokenLayout(NamedTuple):
    """What a format's token table holds beside its ids."""

    tokens_per_row: int
    """Control tokens."""
    bytes_per_row: int
    """Offsets and numbers, eight bytes each."""
    mask: int = 0
    """Bytes for each token."""
    text: float = 0.0
    """Bytes for each byte of text, which is kept beside its ids."""


TOKENS: Mapping[str, TokenLayout] = {
    "text": TokenLayout(2, 16),
    "chat": TokenLayout(12, 24, mask=1),
    "preference": TokenLayout(16, 24),
    "prompt": TokenLayout(8, 24, text=2.0),
    "labelled": TokenLayout(0, 32),
    "pairs": TokenLayout(0, 16),
}
