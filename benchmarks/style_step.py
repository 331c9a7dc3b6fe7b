"""One training step of each style against transformers' own class of the same size and the same weights.

    python benchmarks/style_step.py --threads 2

A step is forward, loss, backward, clipping and optimizer, with the losses and the optimizer of `pretrain`. Both models
get the same batches and take their steps in turns in one process; after each pair their losses are compared. Prints one
JSON object for each style, and for bert one more with our logits of masked tokens alone, as `pretrain` computes them
and transformers' class cannot. `ratio` is the median over pairs of our seconds by theirs: 1 is equal, less is faster.
`cpu_ratio` is the same of processor time, which other work on the machine disturbs less."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from custom_models.stock import to_stock
from pipelines.data.collate import IGNORED, PackedCollator
from pipelines.recipe.model import STYLE_ARCHITECTURES, ModelConfig
from pipelines.training.inputs import Tokens, fresh_model
from pipelines.training.losses import aligned_outputs_loss, causal_outputs_loss, target_loss
from pipelines.training.optim import OptimSettings, build_optimizer

Batch = dict[str, Tensor]
Loss = Callable[[dict[str, Tensor], Tensor], Tensor]
PAD, BOS, EOS, FIRST = 0, 1, 2, 3
WARM_UP = 2
STYLES = ["llama", "gpt2", "bert", "t5"]


def masked_loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Of logits of every place, which is what transformers' class computes, or of the places with a label alone."""
    is_few = outputs["logits"].ndim == 2
    return target_loss(outputs["logits"], labels[labels != IGNORED] if is_few else labels)


LOSSES: dict[str, Loss] = {
    "decoder": causal_outputs_loss,
    "encoder": masked_loss,
    "encoder_decoder": aligned_outputs_loss,
}


@dataclass
class Stepper:
    """A model with its optimizer."""

    model: PreTrainedModel
    loss: Loss
    is_bf16: bool = False

    def __post_init__(self) -> None:
        self.model.config.use_cache = False  # as a trainer sets it
        self.model.train()
        self.optimizer = build_optimizer(self.model, OptimSettings(learning_rate=1e-4))
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def step(self, batch: Batch) -> float:
        """The loss before the step; its time is noted."""
        cpu, started = time.process_time(), time.perf_counter()
        device = self.model.device
        inputs = {name: part.to(device) for name, part in batch.items()}
        labels = inputs.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=self.is_bf16):
            outputs = self.model(**inputs)
        loss = self.loss(outputs, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        value = loss.item()
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - cpu)
        return value


def batches(architecture: str, options: argparse.Namespace) -> Callable[[int], Batch]:
    """step -> what `pretrain` gives such a model: rows of documents, masked tokens, or a source and a target."""

    def batch(number: int) -> Batch:
        rng, shape = np.random.default_rng(number), (options.batch, options.tokens)
        ids = rng.integers(FIRST, options.vocab_size, shape)
        if architecture == "decoder":
            return PackedCollator(PAD)([np.array_split(row, options.documents) for row in ids])
        if architecture == "encoder":
            labels = np.where(rng.random(shape) < 0.15, ids, IGNORED)
            return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        targets = rng.integers(FIRST, options.vocab_size, (options.batch, max(1, options.tokens // 4)))
        starts = np.full((options.batch, 1), PAD)
        arrays = {
            "input_ids": ids,
            "attention_mask": np.ones(shape, np.int64),
            "decoder_input_ids": np.concatenate([starts, targets[:, :-1]], axis=1),
            "labels": targets,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return batch


def models(style: str, options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Ours, and transformers' with the same weights."""
    config = ModelConfig(
        architecture=STYLE_ARCHITECTURES.get(style, "decoder"),
        style=style,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        max_position_embeddings=options.tokens,
    )
    # The model's section and ids alone decide a model; no tokenizer is asked.
    tokens = Tokens(None, Path(), options.vocab_size, PAD, BOS, EOS, ())  # type: ignore[arg-type]
    ours = fresh_model(config, tokens, seed=0)
    theirs = to_stock(ours)
    return ours.to(options.device), theirs.to(options.device)


def measure(style: str, options: argparse.Namespace, *, places: bool = False) -> dict[str, Any]:
    """`places`: for an encoder, our logits of masked tokens alone."""
    architecture = STYLE_ARCHITECTURES.get(style, "decoder")
    ours, theirs = models(style, options)
    loss = LOSSES[architecture]
    steppers = {name: Stepper(one, loss, options.bf16) for name, one in (("ours", ours), ("theirs", theirs))}
    make = batches(architecture, options)
    for pair in range(WARM_UP + options.pairs):
        batch, losses = make(pair), {}
        for name in sorted(steppers, reverse=bool(pair % 2)):  # who comes first changes: the machine may drift
            few = {"places": batch["labels"] != IGNORED} if places and name == "ours" else {}
            losses[name] = steppers[name].step(batch | few)
        if abs(losses["ours"] - losses["theirs"]) > (1e-2 if options.bf16 else 1e-3) * losses["theirs"]:
            raise SystemExit(f"{style}: not the same model: {losses}")
    ratios = ratios_of(*(stepper.seconds for stepper in steppers.values()))
    cpu_ratios = ratios_of(*(stepper.cpu_seconds for stepper in steppers.values()))
    quarters = statistics.quantiles(ratios, n=4)
    medians = {name: statistics.median(stepper.seconds[WARM_UP:]) for name, stepper in steppers.items()}
    return {
        "style": style,
        "logits": "of masked tokens" if places else "all",
        "stock": type(theirs).__name__,
        "attention": [model.config._attn_implementation for model in (ours, theirs)],
        "parameters": ours.num_parameters(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "precision": "bf16" if options.bf16 else "fp32",
        "threads": torch.get_num_threads(),
        "pairs": options.pairs,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(quarters[0], 3), round(quarters[2], 3)],
        "cpu_ratio": round(statistics.median(cpu_ratios), 3),
        **{f"{name}_ms_per_step": round(1000 * median, 1) for name, median in medians.items()},
    }


def ratios_of(ours: list[float], theirs: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours[WARM_UP:], theirs[WARM_UP:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=STYLES)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=256, help="of a row; a t5 reads these and writes a quarter more")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--documents", type=int, default=1, help="in each row; more than one for llama and gpt2 alone")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    if options.documents > 1 and (other := {"bert", "t5"} & set(options.styles)):
        parser.error(f"transformers keeps no packed documents apart in {', '.join(sorted(other))}; name other --styles")
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    for style in options.styles:
        for places in (False, True) if STYLE_ARCHITECTURES.get(style) == "encoder" else (False,):
            print(json.dumps(measure(style, options, places=places)), flush=True)


if __name__ == "__main__":
    main()
