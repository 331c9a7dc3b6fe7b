"""Job `model`: a language model made elsewhere becomes an artifact like any other, with its tokenizer."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from custom_models.stock import NotFinite, from_stock
from custom_models.stock_fields import NoPlace
from pipelines.data.chat import INFO, TEMPLATE, TOKENIZER
from pipelines.data.sources import fetched
from pipelines.data.template import SPECIAL, Template
from pipelines.errors import DataError
from pipelines.plan.derived import ModelJob
from pipelines.recipe.base import MAKES
from pipelines.recipe.outside import class_of, fault_in, kind_of
from pipelines.recipe.paths import MODEL_FILES, missing_of_model
from pipelines.stages.base import Metrics, StageContext
from pipelines.training.saving import save_model

PROBE = "The miller's dog, aged 12,  said: «Où?»\n\tNothing."


def run(ctx: StageContext) -> Metrics:
    """Read the folder or the Hub's repository, without running any code of it, and write it as our own."""
    assert isinstance(ctx.job.config, ModelJob)
    source = ctx.job.config.model
    if source.hub:
        folder = fetched(source.hub, source.revision, MODEL_FILES)
    else:
        folder = Path(next(path for path in ctx.job.files if path.endswith("/config.json"))).parent
    if missing := missing_of_model(folder):
        raise DataError(f"{source} has no {missing}; what is read is safetensors beside config.json and tokenizer.json")
    if fault := fault_in(source, folder):
        raise DataError(fault)
    _require_use(ctx.job.config, folder)
    try:
        model = from_stock(folder)
    except SafetensorError as error:
        raise DataError(f"{source}: its weights cannot be read ({error}); fetch them again") from None
    except StrictDataclassError as error:
        raise DataError(f"{source}: config.json: {' '.join(str(error).split())}") from None
    except NotFinite as error:
        raise DataError(f"{source}: weights {error}; it is damaged, or its training went wrong") from None
    except (NoPlace, OSError, ValueError) as error:
        reasons = error.reasons if isinstance(error, NoPlace) else [str(error).splitlines()[0]]
        raise DataError(
            "\n".join(f"{source}: {reason} is nothing that our blocks can be" for reason in reasons)
        ) from None
    if class_of(folder) == "BertForMaskedLM":
        model.config.pooler = True  # a classifier made of it has BERT's, drawn anew as its head is
    tokenizer = ctx.workdir / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    info = write_tokenizer(folder, tokenizer, _stop_ids(folder), name=str(source))
    if info["vocab_size"] > model.config.vocab_size:
        raise DataError(
            f"{source}: its tokenizer knows {info['vocab_size']} tokens, its weights {model.config.vocab_size}"
        )
    save_model(model, tokenizer, ctx.output)
    kept = [name for name in ("bos_id", "eos_id", "pad_id", "end_of_turn_id", "mask_id") if name in info]
    return {
        "parameters": model.num_parameters(),
        "class": str(class_of(folder)),
        "vocab_size": info["vocab_size"],
        **{name: info[name] for name in kept},
        "add_bos_token": int(info["add_bos_token"]),
        "chat_template": int(info["chat_template_sha256"] is not None),
        "sentinels": len(info.get("sentinel_ids", ())),
        "changes_text": int(info.get("changes_text", False)),
    }


def _require_use(job: ModelJob, folder: Path) -> None:
    """What `check` cannot see of a model that is not on this machine yet."""
    kind = kind_of(folder)
    for stage, kinds in job.uses.items():
        if kind not in kinds:
            able = " or ".join(MAKES[one] for one in kinds)
            raise DataError(
                f"'{job.model}' is {class_of(folder)}, {MAKES[kind] if kind else 'no language model'}, and stage "
                f"'{stage}' starts from {able}; give it another model"
            )


def write_tokenizer(source: Path, target: Path, stop_ids: set[int], *, name: str) -> dict[str, Any]:
    """Write the tokenizer of `source` as one of ours; the content of info.json. `stop_ids` are those it generates to.

    Without a token for padding it pads with the one that ends a text, and without one that begins a text it has that
    one for it too: what is padding is known by place, never by id. BOS stands where its own encoding or chat template
    puts it, and then everywhere. In a BERT's, [CLS] begins texts and [SEP] ends them. `changes_text` is in info where
    text does not come back as it was, as of a tokenizer without capitals."""
    stock, tokenizer = _both_tokenizers(source, name)
    eos_id = _first(stock.eos_token_id, stock.sep_token_id)
    if eos_id is None:
        raise DataError(f"{name}: its tokenizer has no eos_token and no sep_token, so nothing would ever end")
    bos_id = _first(stock.bos_token_id, stock.cls_token_id, eos_id)
    pad_id = _first(stock.pad_token_id, eos_id)
    spelled = {
        part: str(tokenizer.id_to_token(number)) for part, number in zip(SPECIAL, (bos_id, eos_id, pad_id), strict=True)
    }
    adds_bos = bos_id != eos_id and tokenizer.encode("a").ids[:1] == [bos_id]
    template = _template(stock, tokenizer, spelled, name)
    end_of_turn = eos_id
    if template is not None:
        end_of_turn = tokenizer.token_to_id(template.end_of_turn)
        if template.writes_bos and bos_id != eos_id and not adds_bos:
            adds_bos = True
            _add_bos(tokenizer, spelled["bos_token"], bos_id)
        text = template.source if template.writes_bos or not adds_bos else "{{- bos_token }}" + template.source
        (target / TEMPLATE).write_text(text, encoding="utf-8")
    info = {
        "vocab_size": 1 + max(tokenizer.get_vocab().values()),
        **{"bos_id": bos_id, "eos_id": eos_id, "pad_id": pad_id, "end_of_turn_id": end_of_turn},
        "stop_ids": sorted({end_of_turn, eos_id, *stop_ids}),
        "add_bos_token": adds_bos,
        "chat_template_sha256": None if template is None else hashlib.sha256(text.encode()).hexdigest(),
    }
    info |= _of_objectives(stock, tokenizer)
    if tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids, skip_special_tokens=False) != PROBE:
        info["changes_text"] = True
    if "mask_id" in info:
        spelled["mask_token"] = str(stock.mask_token)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **spelled,
    }
    settings |= {"model_input_names": ["input_ids", "attention_mask"]}
    tokenizer.save(str(target / TOKENIZER))
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (target / INFO).write_text(json.dumps(info, indent=1))
    return info


def _first(*ids: int | None) -> Any:
    return next((number for number in ids if number is not None), None)


def _of_objectives(stock: PreTrainedTokenizerBase, tokenizer: Tokenizer) -> dict[str, Any]:
    """The mask, and T5's tokens that stand for spans, where there are such."""
    spans = {name: number for name, number in tokenizer.get_vocab().items() if re.fullmatch(r"<extra_id_\d+>", name)}
    found: dict[str, Any] = {} if stock.mask_token_id is None else {"mask_id": stock.mask_token_id}
    if spans:
        found["sentinel_ids"] = [spans[name] for name in sorted(spans, key=lambda name: int(name[10:-1]))]
    return found


def _both_tokenizers(source: Path, name: str) -> tuple[PreTrainedTokenizerBase, Tokenizer]:
    """As transformers reads a folder, and the bare one, which must say the same."""
    try:
        stock: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
    except Exception as error:  # the libraries raise anything
        raise DataError(
            f"{name}: its tokenizer cannot be read without its own code or others' packages: {error}"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if stock.encode(PROBE) != tokenizer.encode(PROBE).ids:
        raise DataError(f"{name}: its tokenizer.json and what transformers makes of it give other ids for a text")
    return stock, tokenizer


def _template(
    stock: PreTrainedTokenizerBase, tokenizer: Tokenizer, spelled: dict[str, str], name: str
) -> Template | None:
    source = stock.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if source is None:
        return None
    control = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return Template(source, name=f"{name}: chat template", tokens=control, special=spelled)


def _add_bos(tokenizer: Tokenizer, bos: str, bos_id: int) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )


def _stop_ids(folder: Path) -> set[int]:
    """What its generation ends with, as its own settings say."""
    if not (folder / "generation_config.json").exists():
        return set()
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    return set(stops) if isinstance(stops, list) else set() if stops is None else {stops}
