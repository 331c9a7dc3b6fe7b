"""The tokenizer stage: byte-level BPE over a sample of the data, saved as transformers loads it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipelines.data.chat import INFO, TEMPLATE, TOKENIZER
from pipelines.data.formats import said
from pipelines.data.rows import read_rows
from pipelines.data.template import SPECIAL, Template
from pipelines.errors import DataError
from pipelines.recipe.stages import TokenizerStage
from pipelines.stages.base import Metrics, StageContext

MASK_TOKEN = "<mask>"
REPEATS = 10
"""How often a small dataset may be repeated to reach its share, before the others are cut instead."""
PROBE_CHARACTERS = 1_000_000
"""Text on which a finished tokenizer is measured."""


def run(ctx: StageContext) -> Metrics:
    """Learn merges from the mixture, wrap them with special tokens and a chat template."""
    config = ctx.job.config
    assert isinstance(config, TokenizerStage)
    template = chat_template(Path(next(iter(ctx.job.files))), add_bos_token=config.add_bos_token)
    sample = Sample([(ctx.inputs[role], share) for role, share in ctx.job.mixture], config.max_bytes)
    extra = extra_tokens(config)
    tokenizer = train(iter(sample), vocab_size=config.vocab_size, special_tokens=[*template.tokens, *extra])
    if config.add_bos_token:
        add_bos(tokenizer)
    ctx.output.mkdir(parents=True, exist_ok=True)
    info = save(ctx.output, tokenizer, template, add_bos_token=config.add_bos_token, extra_tokens=extra)
    measures = _measures(tokenizer, sample)
    return {"vocab_size": info["vocab_size"], "vocab_size_asked": config.vocab_size, "bytes": sample.bytes, **measures}


def chat_template(path: Path, *, add_bos_token: bool) -> Template:
    """The template of a file, made to agree with the policy on BOS, so that everyone who renders it gets our ids."""
    source = path.read_text(encoding="utf-8")
    template = Template(source, name=str(path))
    if template.writes_bos and not add_bos_token:
        raise DataError(
            f"{path}: writes the BOS token, but add_bos_token is false; set it to true, or correct the file"
        )
    if add_bos_token and not template.writes_bos:
        return Template("{{- bos_token }}" + source, name=str(path))
    return template


def extra_tokens(config: TokenizerStage) -> list[str]:
    """Special tokens of objectives: the mask, and those that stand for spans."""
    return [MASK_TOKEN] * config.mask_token + [f"<extra_id_{number}>" for number in range(config.num_sentinels)]


def train(texts: Iterator[str], *, vocab_size: int, special_tokens: Sequence[str]) -> Tokenizer:
    """Byte-level BPE: every text can be encoded, and is given back unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(special_tokens) + len(alphabet)
    if vocab_size < smallest:
        raise DataError(
            f"vocab_size {vocab_size} is too small for the 256 bytes and {len(special_tokens)} special tokens; "
            f"give at least {smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special_tokens],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def add_bos(tokenizer: Tokenizer) -> None:
    """For those who encode through transformers: the same BOS as in our own rows."""
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def save(
    folder: Path, tokenizer: Tokenizer, template: Template, *, add_bos_token: bool, extra_tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the folder that AutoTokenizer and ChatRenderer load; returns the content of info.json."""
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in template.tokens}
    end_of_turn, eos = ids[template.end_of_turn], ids[SPECIAL["eos_token"]]
    info = {
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_id": ids[SPECIAL["bos_token"]],
        "eos_id": eos,
        "pad_id": ids[SPECIAL["pad_token"]],
        "end_of_turn_id": end_of_turn,
        "stop_ids": sorted({end_of_turn, eos}),
        "add_bos_token": add_bos_token,
        "chat_template_sha256": hashlib.sha256(template.source.encode()).hexdigest(),
    }
    sentinels = [token for token in extra_tokens if token != MASK_TOKEN]
    if MASK_TOKEN in extra_tokens:
        info["mask_id"] = vocabulary[MASK_TOKEN]
    if sentinels:
        info["sentinel_ids"] = [vocabulary[token] for token in sentinels]
    named = SPECIAL | ({"mask_token": MASK_TOKEN} if MASK_TOKEN in extra_tokens else {})
    settings = named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": [token for token in (*template.tokens, *sentinels) if token not in SPECIAL.values()],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / TOKENIZER))
    (folder / TEMPLATE).write_text(template.source, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (folder / INFO).write_text(json.dumps(info, indent=1))
    return info


class Sample:
    """Texts of several datasets in their shares of bytes: rows evenly spread over each dataset, in its order."""

    def __init__(self, shares: Sequence[tuple[Path, float]], max_bytes: int):
        sizes = {folder: sum(len(text.encode()) for text in _texts(folder)) for folder, _ in shares}
        empty = [str(folder) for folder, size in sizes.items() if not size]
        if empty:
            raise DataError(f"{', '.join(empty)}: no text to learn a tokenizer from")
        wanted = [sizes[folder] / share for folder, share in shares]
        self.bytes = int(min(max_bytes, max(wanted), REPEATS * min(wanted)))
        self.rates = [(folder, self.bytes * share / sizes[folder]) for folder, share in shares]

    def __iter__(self) -> Iterator[str]:
        for folder, rate in self.rates:
            for number, text in enumerate(_texts(folder)):
                for _ in range(int((number + 1) * rate) - int(number * rate)):
                    yield text


def _texts(folder: Path) -> Iterator[str]:
    format = json.loads((folder / INFO).read_text())["format"]
    for batch in read_rows(folder, "train"):
        for row in batch:
            yield from said(format, row)


def _measures(tokenizer: Tokenizer, sample: Sample) -> Metrics:
    """What shows a bad vocabulary: few merges, tokens that are never used, frequent words in many pieces."""
    tokenizer.encode_special_tokens = True
    used: Counter[int] = Counter()
    words: Counter[str] = Counter()
    size = characters = 0
    texts = []
    for text in sample:
        texts.append(text)
        characters += len(text)
        if characters > PROBE_CHARACTERS:
            break
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        used.update(encoding.ids)
        words.update(f" {word}" for word in text.split())
        size += len(text.encode())
    frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:100]]
    pieces = sum(len(tokenizer.encode(word, add_special_tokens=False).ids) for word in frequent)
    plain = tokenizer.get_vocab_size() - len(tokenizer.get_added_tokens_decoder())
    if plain > 512 and pieces > 0.8 * sum(len(word.encode()) for word in frequent):
        raise DataError(
            f"the most frequent words of the text, such as {frequent[:3]}, were not learnt ({pieces} tokens for "
            f"{len(frequent)} words): lower max_bytes or change the mixture"
        )
    return {
        "bytes_per_token": round(size / max(1, used.total()), 4),
        "tokens_per_frequent_word": round(pieces / max(1, len(frequent)), 3),
        "longest_token_bytes": max(map(len, tokenizer.get_vocab(with_added_tokens=False))),
        "unused_share": round(1 - len(used) / plain, 4),
    }
