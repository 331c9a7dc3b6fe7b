"""What a job will cost, before it runs: parameters, arithmetic, bytes, time and disk. Rough on purpose, and instant."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.plan.jobs import Job, Plan
from pipelines.recipe.model import GATED, ModelConfig
from pipelines.recipe.own_model import OwnModel
from pipelines.recipe.root import AnyModel
from pipelines.recipe.stages import TokenizerStage
from pipelines.recipe.training import FromModelStage, TrainStage

_CHECKPOINTS = 3
"""Two are kept, and a third is being written."""
_STATES = 3
"""Weights and two moments."""


@dataclass(frozen=True)
class Estimate:
    """None where it depends on data that is not there yet."""

    parameters: int | None = None
    tokens: int | None = None
    """To train on, or that a tokens job makes."""
    flops: float | None = None
    basis: str | None = None
    """How the following is known; of a dataset whose size nobody knows yet, that."""
    bytes_in: int | None = None
    """Read from the disk, or fetched."""
    unpacked_bytes: int | None = None
    text_bytes: int | None = None
    rows: int | None = None
    core_seconds: float | None = None
    """Of one core: the work, however many share it."""
    wall_seconds: float | None = None
    """On as many workers as the launch chapter has; None on a cluster."""
    disk_bytes: int | None = None
    """While it runs."""
    kept_bytes: int | None = None
    """Of them, what stays."""

    def known(self) -> dict[str, Any]:
        """What is known, as JSON."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: round(value, 3) if name.endswith("_seconds") else value for name, value in values.items()}


def estimate(plan: Plan, job: Job, epoch_tokens: int | None = None) -> Estimate:
    """The estimate of a training job; nothing for others. `epoch_tokens`: what it trains on once, if that is known."""
    config, model = job.config, plan.recipe.model
    if not isinstance(config, TrainStage) or model is None or _is_outside(plan, job):
        return Estimate()
    tokens = _tokens(config, config.max_length or model.max_position_embeddings, epoch_tokens)
    if isinstance(model, OwnModel):  # nobody knows its size before it is built
        return Estimate(tokens=tokens)
    tokenizers = [stage for stage in plan.recipe.stages.values() if isinstance(stage, TokenizerStage)]
    sizes = [stage.vocab_size for stage in tokenizers if stage.vocab_size is not None]
    if len(sizes) < len(tokenizers):  # known once the tokenizer is there
        return Estimate(tokens=tokens)
    vocab_size = max(sizes, default=0)
    size = parameters(model, vocab_size)
    kept = 4 * _trained(config, model, size)
    return Estimate(
        parameters=size,
        tokens=tokens,
        flops=6.0 * active_parameters(model, vocab_size) * tokens if tokens else None,
        disk_bytes=kept * (_CHECKPOINTS * _STATES + 1),
        kept_bytes=kept,
    )


def _trained(config: TrainStage, model: ModelConfig, size: int) -> int:
    """Weights that a stage keeps: all, or those of adapters on every linear layer of the blocks, at most. A
    classifier's head is left out: it is small, and how many labels there are is known with the data."""
    peft = config.peft if isinstance(config, FromModelStage) else None
    return min(size, adapter_parameters(model, peft.r)) if peft else size


def adapter_parameters(model: ModelConfig, rank: int) -> int:
    """Weights of adapters on every linear layer of the blocks: rank times (inputs + outputs)."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    head = model.head_dim or hidden // heads
    key_value = model.num_key_value_heads or heads
    wide = model.intermediate_size or model.default_intermediate_size
    queries = (3 if model.attention_output_gate else 2) * (hidden + heads * head)
    feed_forward = (3 if model.feed_forward in GATED else 2) * (hidden + wide)
    attention = queries + 2 * (hidden + key_value * head)
    layers = model.num_hidden_layers * (attention + feed_forward)
    if model.architecture == "encoder_decoder":
        layers += model.num_hidden_layers * attention  # to the encoder
        layers += (model.num_encoder_layers or model.num_hidden_layers) * (attention + feed_forward)
    return rank * layers


def _is_outside(plan: Plan, job: Job) -> bool:
    """Whether its weights come from a model made elsewhere, whose size is known once it is here."""
    while "model" in job.inputs:
        job = plan.by_name[job.inputs["model"].job]
    return job.kind == "model"


def parameters(model: ModelConfig, vocab_size: int) -> int:
    """All weights, head and all experts included; norms and biases are left out as too small to matter."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    head = model.head_dim or hidden // heads
    key_value = model.num_key_value_heads or heads
    attention = hidden * head * (2 * heads + 2 * key_value + (heads if model.attention_output_gate else 0))
    feed_forward = _feed_forward(model)
    if model.num_experts is not None:
        feed_forward *= model.num_experts + model.num_shared_experts
        feed_forward += hidden * model.num_experts  # the router
    stacks, layers = _stacks(model), model.num_hidden_layers * (attention + feed_forward)
    if model.architecture == "encoder_decoder":
        layers += model.num_hidden_layers * attention  # to the encoder
        layers += (model.num_encoder_layers or model.num_hidden_layers) * (attention + feed_forward)
    embeddings = (vocab_size * _tables(model) + model.type_vocab_size * stacks) * hidden
    if model.position_embedding == "learned":
        embeddings += model.max_position_embeddings * hidden * stacks
    elif model.position_embedding == "relative_bias":
        embeddings += model.relative_attention_num_buckets * heads * stacks
    return layers + embeddings + (hidden * hidden if model.head_transform else 0)


def embedding_parameters(model: AnyModel | None, vocab_size: int) -> int | None:
    """What so many entries cost, in embeddings and in a head of its own; None where there is no model of our blocks."""
    return vocab_size * _tables(model) * model.hidden_size if isinstance(model, ModelConfig) else None


def _stacks(model: ModelConfig) -> int:
    return 2 if model.architecture == "encoder_decoder" else 1


def _tables(model: ModelConfig) -> int:
    """Arrays with a row for each entry."""
    return (1 if model.share_embeddings else _stacks(model)) + (0 if model.tie_word_embeddings else 1)


def active_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Those that a token meets: all but the experts that are not its own."""
    idle = 0 if model.num_experts is None else model.num_experts - model.num_experts_per_tok
    return parameters(model, vocab_size) - model.num_hidden_layers * idle * _feed_forward(model)


def _feed_forward(model: ModelConfig) -> int:
    """Weights of one feed-forward, or one expert."""
    width = model.moe_intermediate_size or model.intermediate_size or model.default_intermediate_size
    return model.hidden_size * width * (3 if model.feed_forward in GATED else 2)


def _tokens(config: TrainStage, length: int, epoch_tokens: int | None) -> int | None:
    duration = config.duration
    if duration.unit == "epochs" and epoch_tokens is not None:
        return int(duration.amount * epoch_tokens)
    if duration.unit == "tokens":
        return int(duration.amount)
    if duration.unit == "steps":
        return int(duration.amount) * config.global_batch_size * length
    return None
