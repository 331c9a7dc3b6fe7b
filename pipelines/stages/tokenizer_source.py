"""Finished tokenizers: of the Hub at a commit, of a folder, or a file of ranks as tiktoken has it."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from pipelines.data.chat import TOKENIZER
from pipelines.data.cuts import pattern
from pipelines.data.fast_bpe import PROBES, bytes_of_characters
from pipelines.data.sources import fetched
from pipelines.data.template import SPECIAL
from pipelines.errors import DataError
from pipelines.recipe.paths import TOKENIZER_FILES
from pipelines.recipe.tokenizer import Reference
from pipelines.stages.tokenizer_measures import round_trip_failures

MOST_RANKS = 10_000_000
"""As many as a vocabulary may have entries."""
PROBE = "The miller's dog, aged 12,  said: «Où?»\n\tNothing."


@dataclass(frozen=True)
class Finished:
    """A tokenizer made elsewhere, with what it calls its control tokens."""

    tokenizer: Tokenizer
    special: dict[str, str] = field(default_factory=dict)
    """bos_token, eos_token, pad_token and mask_token, as far as it has them."""
    chat_template: str | None = None


def finished(reference: Reference) -> Finished:
    """Read one, without running any code of it. DataError where it cannot be."""
    if reference.hub:
        return _from_folder(fetched(reference.hub, reference.revision, TOKENIZER_FILES), str(reference))
    path = Path(reference.path or "")
    if reference.pre_tokenizer is not None:
        return Finished(from_ranks(path, reference.pre_tokenizer))
    return _from_folder(path, str(reference))


def adopted(found: Finished, tokens: Sequence[str]) -> Tokenizer:
    """The same tokenizer with these control tokens, new ones behind its own entries, and none that it adds itself."""
    tokenizer = found.tokenizer
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return tokenizer


def changes_text(tokenizer: Tokenizer) -> bool:
    """Whether some text does not come back as it was."""
    tokenizer.encode_special_tokens = True
    return bool(round_trip_failures(tokenizer, [PROBE, *PROBES]))


def named(found: Finished) -> dict[str, str]:
    """What begins, ends and pads texts: its own tokens, as [CLS] and [SEP] of a BERT, or ours where it has none."""
    return {name: found.special.get(name, token) for name, token in SPECIAL.items()}


def _from_folder(folder: Path, name: str) -> Finished:
    if not (folder / TOKENIZER).is_file():
        raise DataError(f"{name} has no {TOKENIZER}, which is what is read of a tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{name}: {TOKENIZER} cannot be read: {str(error).splitlines()[0]}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if not any((folder / other).is_file() for other in ("tokenizer_config.json", "config.json")):
        return Finished(tokenizer)
    from transformers import AutoTokenizer

    try:
        stock = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the libraries raise anything
        raise DataError(
            f"{name}: its tokenizer cannot be read without its own code or others' packages: {error}"
        ) from None
    if stock.encode(PROBE, add_special_tokens=False) != tokenizer.encode(PROBE, add_special_tokens=False).ids:
        raise DataError(f"{name}: its tokenizer.json and what transformers makes of it give other ids for a text")
    given = {
        "bos_token": stock.bos_token or stock.cls_token,
        "eos_token": stock.eos_token or stock.sep_token,
        "pad_token": stock.pad_token,
        "mask_token": stock.mask_token,
    }
    template = stock.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    return Finished(tokenizer, {name: str(token) for name, token in given.items() if token}, template)


def from_ranks(path: Path, cut: str) -> Tokenizer:
    """Byte-level BPE of a .tiktoken file: lines of a token in base64 and its rank, which is its id."""
    ranks = _ranks(path)
    characters = {byte: character for character, byte in bytes_of_characters().items()}
    spelled = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1 and (pair := _last_merge(token, rank, ranks)) is not None:
            merges.append((spelled[pair[0]], spelled[pair[1]]))
    # Tokens that no merge makes are found whole, as tiktoken finds them.
    whole = len(merges) + 256 < len(ranks)
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern(cut)), "isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            spelled, rank = line.split()
            token = base64.b64decode(spelled, validate=True)
            is_new = token not in ranks
            ranks[token] = int(rank)
        except (ValueError, binascii.Error):
            raise DataError(f"{path}:{number}: needs a token in base64, a space and its rank") from None
        if not 0 <= ranks[token] < MOST_RANKS:
            raise DataError(f"{path}:{number}: a rank is from 0 to {MOST_RANKS - 1:,}, and this is {ranks[token]:,}")
        if not is_new:
            raise DataError(f"{path}:{number}: gives a second rank to one token; remove one of both lines")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(set(ranks.values())) != len(ranks):
        fault = f"lacks {len(missing)} of the 256 bytes" if missing else "gives one rank to two tokens"
        raise DataError(f"{path}: {fault}, so it is no byte-level BPE")
    return ranks


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that a token is made of when only earlier tokens are known; None where it takes more than two."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        best, place = min((ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1))
        if best >= rank:
            return None
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]
