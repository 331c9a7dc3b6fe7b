"""The tokenizer stage: a tokenizer trained on a sample of the data, or taken over, saved as transformers loads it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from pipelines.data.chat import INFO, TEMPLATE, TOKENIZER
from pipelines.data.template import SPECIAL, Template
from pipelines.errors import DataError
from pipelines.recipe.stages import TokenizerStage
from pipelines.recipe.tokenizer import SWEPT
from pipelines.stages.base import Metrics, StageContext
from pipelines.stages.tokenizer_families import UNK_TOKEN, train
from pipelines.stages.tokenizer_measures import (
    HELD_OUT_CHARACTERS,
    PROBE_BYTES,
    measured,
    require_control_apart,
    require_frequent_words,
    require_round_trip,
)
from pipelines.stages.tokenizer_sample import Sample, held_out

MASK_TOKEN = "<mask>"
MEASURES = "tokenizer.json"
"""What the report shows, in the artifact's record."""


def run(ctx: StageContext) -> Metrics:
    """Learn from the mixture, wrap with control tokens and a chat template; or the same around a finished tokenizer."""
    config = ctx.job.config
    assert isinstance(config, TokenizerStage)
    ctx.output.mkdir(parents=True, exist_ok=True)
    if config.source is not None:
        return _take_over(ctx, config)
    template = chat_template(_template_file(ctx), add_bos_token=config.add_bos_token)
    extra = extra_tokens(config, template)
    sample = Sample([(ctx.inputs[role], share) for role, share in ctx.job.mixture], config.max_bytes)
    tokenizer = train(config, sample, [*template.tokens, *extra])
    if config.add_bos_token:
        add_bos(tokenizer)
    info = save(
        ctx.output,
        tokenizer,
        template,
        add_bos_token=config.add_bos_token,
        extra_tokens=extra,
        changes_text=not config.keeps_text,
    )
    _say(config, sample, info["vocab_size"])
    require_control_apart(tokenizer, [*template.tokens, *extra])
    shown = list(sample.part(PROBE_BYTES))
    if config.keeps_text:
        require_round_trip(tokenizer, shown)
    words = require_frequent_words(tokenizer, shown) if config.algorithm in SWEPT else {}
    sources = {role: held_out(ctx.inputs[role], HELD_OUT_CHARACTERS) for role, _ in ctx.job.mixture}
    facts = measured(tokenizer, shown, sources)
    write_measures(ctx.record, facts | {"asked": config.vocab_size, "algorithm": config.algorithm})
    return {
        "vocab_size": info["vocab_size"],
        "vocab_size_asked": config.vocab_size or info["vocab_size"],
        "bytes": sample.bytes,
        "bytes_available": sample.available,
        **{name: facts[name] for name in ("bytes_per_token", "tokens_per_word", "unused_share", "rare_share")},
        **words,
        "round_trip_failures": facts["failures"],
    }


def _say(config: TokenizerStage, sample: Sample, size: int) -> None:
    """What was asked for and is not so, with both numbers."""
    if sample.bytes >= config.max_bytes and sample.available > sample.bytes:
        print(f"note: learnt from {sample.bytes:,} of {sample.available:,} bytes (max_bytes)", flush=True)
    if config.vocab_size is None or size == config.vocab_size:
        return
    if size > config.vocab_size:
        raise DataError(f"the vocabulary has {size} entries, and vocab_size is {config.vocab_size}; raise vocab_size")
    print(f"note: vocab_size {config.vocab_size}, but the text gave only {size} entries", flush=True)


def write_measures(record: Path, facts: Mapping[str, Any]) -> None:
    record.mkdir(parents=True, exist_ok=True)
    (record / MEASURES).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def _template_file(ctx: StageContext) -> Path:
    """It comes before the files of a tokenizer that is taken over."""
    return Path(next(iter(ctx.job.files)))


def chat_template(
    path: Path,
    *,
    add_bos_token: bool,
    source: str | None = None,
    special: Mapping[str, str] = SPECIAL,
    tokens: Sequence[str] | None = None,
) -> Template:
    """The template of a file, or `source`, made to agree with the policy on BOS, so that everyone who renders it gets
    our ids."""
    source = path.read_text(encoding="utf-8") if source is None else source
    template = Template(source, name=str(path), special=special, tokens=tokens)
    if template.writes_bos and not add_bos_token:
        raise DataError(
            f"{path}: writes the BOS token, but add_bos_token is false; set it to true, or correct the file"
        )
    if add_bos_token and not template.writes_bos:
        return Template("{{- bos_token }}" + source, name=str(path), special=special, tokens=tokens)
    return template


def extra_tokens(config: TokenizerStage, template: Template, mask_token: str = MASK_TOKEN) -> list[str]:
    """Control tokens beside the template's: those of objectives, the recipe's own, and those kept free."""
    reserved = [f"<|reserved_{number}|>" for number in range(config.num_reserved)]
    sentinels = [f"<extra_id_{number}>" for number in range(config.num_sentinels)]
    extra = [*[mask_token] * config.mask_token, *sentinels, *config.special_tokens, *reserved]
    for number, token in enumerate(extra):
        if token in template.tokens or token in extra[:number]:
            whose = "of the chat template" if token in template.tokens else "that the tokenizer has"
            raise DataError(f"special_tokens: '{token}' is a token {whose} already; remove it")
    return extra


def add_bos(tokenizer: Tokenizer, bos: str = SPECIAL["bos_token"]) -> None:
    """For those who encode through transformers: the same BOS as in our own rows."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def _take_over(ctx: StageContext, config: TokenizerStage) -> Metrics:
    from pipelines.stages.tokenizer_source import adopted, changes_text, finished, named

    assert config.source is not None
    found = finished(config.source)
    special = named(found)
    own = found.chat_template if config.source.own_chat_template else None
    if config.source.own_chat_template and own is None:
        raise DataError(f"{config.source} brings no chat template; remove own_chat_template")
    tokens = None
    if own is not None:
        tokens = [*special.values(), *(token.content for token in found.tokenizer.get_added_tokens_decoder().values())]
    template = chat_template(
        _template_file(ctx), add_bos_token=config.add_bos_token, source=own, special=special, tokens=tokens
    )
    mask_token = found.special.get("mask_token", MASK_TOKEN)
    extra = extra_tokens(config, template, mask_token)
    tokenizer = adopted(found, [*template.tokens, *extra])
    if config.add_bos_token:
        add_bos(tokenizer, special["bos_token"])
    info = save(
        ctx.output,
        tokenizer,
        template,
        add_bos_token=config.add_bos_token,
        extra_tokens=extra,
        changes_text=changes_text(tokenizer),
        special=special,
        mask_token=mask_token,
    )
    require_control_apart(tokenizer, {*template.tokens, *extra} - {*found.special.values()})
    return {"vocab_size": info["vocab_size"], "changes_text": int(info.get("changes_text", False))}


def save(
    folder: Path,
    tokenizer: Tokenizer,
    template: Template,
    *,
    add_bos_token: bool,
    extra_tokens: Sequence[str] = (),
    changes_text: bool = False,
    special: Mapping[str, str] = SPECIAL,
    mask_token: str = MASK_TOKEN,
) -> dict[str, Any]:
    """Write the folder that AutoTokenizer and ChatRenderer load; returns the content of info.json."""
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in template.tokens}
    end_of_turn, eos = ids[template.end_of_turn], ids[special["eos_token"]]
    info = {
        "vocab_size": 1 + max(vocabulary.values()),
        "bos_id": ids[special["bos_token"]],
        "eos_id": eos,
        "pad_id": ids[special["pad_token"]],
        "end_of_turn_id": end_of_turn,
        "stop_ids": sorted({end_of_turn, eos}),
        "add_bos_token": add_bos_token,
        "chat_template_sha256": hashlib.sha256(template.source.encode()).hexdigest(),
    }
    sentinels = [token for token in extra_tokens if re.fullmatch(r"<extra_id_\d+>", token)]
    named = dict(special)
    if mask_token in extra_tokens:
        info["mask_id"] = vocabulary[mask_token]
        named["mask_token"] = mask_token
    if sentinels:
        info["sentinel_ids"] = [vocabulary[token] for token in sentinels]
    if UNK_TOKEN in vocabulary:
        named["unk_token"] = UNK_TOKEN
    if changes_text:
        info["changes_text"] = True
    others = [token for token in (*template.tokens, *extra_tokens) if token not in named.values()]
    settings = named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": others,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / TOKENIZER))
    (folder / TEMPLATE).write_text(template.source, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (folder / INFO).write_text(json.dumps(info, indent=1))
    return info
