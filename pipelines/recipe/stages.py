"""Chapter `stages`: what each kind of stage needs to know, and nothing about how it does it."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipelines.recipe.base import (
    ArtifactKind,
    Bare,
    Bytes,
    CausalLMRef,
    Consumes,
    Duration,
    LocalFile,
    Section,
    TokenizerRef,
)
from pipelines.recipe.data import (
    ChatMixture,
    PreferenceMixture,
    PromptMixture,
    Reads,
    TextMixture,
    TokenizerMixture,
)

# Mirrors the keys of `pipelines.rewards.REWARDS`, which recipes name; a contract test keeps the two equal.
REWARD_FUNCTIONS = ("village_story",)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class StageConfig(Section):
    """What every stage has."""

    produces: ClassVar[ArtifactKind]
    version: ClassVar[int] = 1
    """Raise it when the same config would now give another result: every old artifact of this kind turns stale."""
    draws: ClassVar[bool] = False
    """Whether the kind draws random numbers, so that the seed decides its result."""


class TokenizerStage(StageConfig):
    """Train a tokenizer on the text of datasets."""

    produces = ArtifactKind.TOKENIZER
    kind: Literal["tokenizer"]
    algorithm: Literal["byte_level_bpe"] = "byte_level_bpe"
    """byte_level_bpe knows all 256 bytes, so every text can be encoded and given back unchanged."""
    vocab_size: Annotated[int, Field(ge=260, le=10_000_000)]
    """Entries, special tokens included."""
    data: TokenizerMixture
    """Datasets to learn from; shares are of bytes."""
    chat_template: Annotated[str, LocalFile()] = "chatml"
    """A file in recipes/chat_templates (without .jinja), or a path relative to the recipe."""
    add_bos_token: bool = True
    """Start every document and conversation with the BOS token, in training, generation and evaluation alike."""
    max_bytes: Bytes = 500_000_000
    """Most text to learn from: counts of the trainer overflow on huge corpora."""


def _refuse_fp16(value: Any) -> Any:
    if value == "fp16":
        raise ValueError(
            "fp16 needs a loss scaler whose infinite gradients are normal, and here a non-finite gradient stops the "
            "run; use bf16, or no"
        )
    return value


class TrainStage(StageConfig):
    """Fields that every training stage shares."""

    draws = True
    duration: Duration
    """`600M tokens`, `2 epochs`, `300 steps`; ppo also `300 rollouts`."""
    global_batch_size: PositiveInt
    """Sequences (pairs, completions) per optimizer step over all processes, on whatever machine."""
    max_length: PositiveInt | None = None
    """Longest sequence in tokens. Default: the model's max_position_embeddings."""
    learning_rate: PositiveFloat
    """Peak learning rate; with muon that of the matrices inside blocks."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw (arXiv 1711.05101), or muon for matrices with adamw for embeddings, norms and heads."""
    adamw_learning_rate: PositiveFloat | None = None
    """With muon: peak rate of embeddings, norms and heads. Default: 0.15 times learning_rate."""
    adam_beta1: Fraction = 0.9
    """Decay of the first moment."""
    adam_beta2: Fraction = 0.999
    """Decay of the second moment."""
    adam_epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    muon_momentum: Fraction = 0.95
    """Momentum of muon."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of matrices and embeddings; norms and biases have none."""
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd"] = "linear"
    """Shape of the learning rate after the warm-up; wsd: constant, then a linear decay over the last decay_steps."""
    warmup_steps: NonNegativeFloat = 0
    """Steps of linear warm-up; below 1 it is a share of all steps."""
    decay_steps: PositiveFloat | None = None
    """wsd only: steps of the final decay; below 1 a share of all steps. Default: 0.2."""
    min_lr_rate: Fraction = 0.0
    """Learning rate at the end, as a share of the peak (linear, cosine, wsd)."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Clip the gradient's global norm to this; 0 turns clipping off."""
    mixed_precision: Annotated[Literal["no", "bf16"], BeforeValidator(_refuse_fp16)] = "no"
    """bf16 computes in bfloat16 over float32 master weights."""
    seed: int | None = None
    """This stage's own seed. Default: the recipe's."""

    def faults(self) -> Iterator[str]:
        for name in ("warmup_steps", "decay_steps"):
            steps = getattr(self, name)
            if steps is not None and steps >= 1 and steps != int(steps):
                yield f"{name}: {steps} is neither whole steps nor a share below 1"
        if self.adamw_learning_rate is not None and self.optimizer != "muon":
            yield "adamw_learning_rate belongs to optimizer: muon; adamw uses learning_rate"
        if self.decay_steps is not None and self.lr_scheduler_type != "wsd":
            yield "decay_steps belongs to lr_scheduler_type: wsd"
        if self.min_lr_rate and self.lr_scheduler_type in ("constant", "inverse_sqrt"):
            yield f"min_lr_rate has no meaning with lr_scheduler_type: {self.lr_scheduler_type}"


def _no_rollouts(duration: Duration) -> Duration:
    return duration.only("tokens", "steps", "epochs")


def _no_tokens(duration: Duration) -> Duration:
    return duration.only("steps", "epochs")


class PretrainStage(TrainStage):
    """Train the model of chapter `model` on text, from random weights unless `model` names a stage."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["pretrain"]
    objective: Literal["causal_lm"] = "causal_lm"
    """What is predicted: causal_lm, the next token."""
    duration: Annotated[Duration, AfterValidator(_no_rollouts)]
    model: CausalLMRef | None = None
    """A stage to go on from; null starts from random weights."""
    tokenizer: TokenizerRef | None = None
    """A tokenizer stage. Default: the only one."""
    data: TextMixture
    """Text datasets; shares are of tokens."""
    packing: Literal["whole", "split"] = "whole"
    """whole: documents are packed into rows unbroken (one longer than max_length is cut into rows of its own);
    split: documents fill rows to the brim and are cut at the edges. Documents never see each other."""


Overlong = Literal["drop", "truncate"]


class FromModelStage(TrainStage):
    """A training stage that starts from another stage's weights."""

    model: CausalLMRef
    """The stage whose weights this one starts from."""
    duration: Annotated[Duration, AfterValidator(_no_tokens)]
    overlong: Overlong = "drop"
    """A row longer than max_length is dropped and counted, or its end is cut off and counted."""
    max_dropped: Fraction = 0.01
    """Share of rows that may be dropped before the stage stops."""


class SftStage(FromModelStage):
    """Supervised fine-tuning on conversations (trl.SFTTrainer)."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["sft"]
    data: ChatMixture
    """Chat datasets; shares are of examples."""
    assistant_only_loss: bool = True
    """Train on assistant tokens and their end token only, else on the whole conversation."""


class RewardStage(FromModelStage):
    """Train a reward model on preference pairs (trl.RewardTrainer)."""

    produces = ArtifactKind.REWARD_MODEL
    kind: Literal["reward"]
    data: PreferenceMixture
    """Preference datasets; shares are of pairs."""
    center_rewards_coefficient: NonNegativeFloat = 0.0
    """Weight of the squared sum of a pair's rewards, which keeps their mean at zero (arXiv 2312.09244, eq. 2)."""


class DpoStage(FromModelStage):
    """Direct preference optimisation (trl.DPOTrainer, arXiv 2305.18290); `model` is also the frozen reference."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["dpo"]
    data: PreferenceMixture
    """Preference datasets; shares are of pairs."""
    beta: PositiveFloat = 0.1
    """How strongly the policy is held to the reference."""
    loss_type: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """sigmoid is DPO's own; ipo: arXiv 2310.12036; hinge: arXiv 2305.10425."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Assumed share of flipped labels (sigmoid only)."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.label_smoothing and self.loss_type != "sigmoid":
            yield f"label_smoothing has no meaning with loss_type: {self.loss_type}"


RewardFunc = Annotated[str, Consumes(ArtifactKind.REWARD_MODEL, or_function=True)]
"""A reward stage, or a function of pipelines/rewards.py."""


class PpoStage(FromModelStage):
    """Proximal policy optimisation (arXiv 1707.06347) against a reward model or function; the trainer is our own."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["ppo"]
    duration: Annotated[Duration, AfterValidator(lambda duration: duration.only("rollouts"))]
    data: PromptMixture
    """Prompt datasets; shares are of prompts."""
    reward_funcs: RewardFunc
    """A reward stage, or a function named in pipelines/rewards.py."""
    rollout_batch_size: PositiveInt
    """Completions sampled per rollout, over all processes."""
    num_ppo_epochs: PositiveInt = 4
    """Passes over each rollout."""
    max_completion_length: PositiveInt
    """Most new tokens of a completion."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the same distribution is sampled and scored."""
    kl_coef: NonNegativeFloat = 0.05
    """Weight of the per-token KL penalty against the frozen reference."""
    cliprange: PositiveFloat = 0.2
    """Clip range of the probability ratio (eq. 7)."""
    cliprange_value: PositiveFloat = 0.2
    """Clip range of the value's change."""
    vf_coef: NonNegativeFloat = 0.1
    """Weight of the value loss."""
    gamma: Fraction = 1.0
    """Discount."""
    lam: Fraction = 0.95
    """Lambda of generalised advantage estimation (arXiv 1506.02438)."""
    whiten_rewards: bool = False
    """Scale rewards to unit variance within a rollout, keeping their mean."""
    missing_eos_penalty: NonNegativeFloat = 0.0
    """Subtracted from the score of a completion that does not end."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.overlong != "drop":
            yield "overlong: truncate has no meaning for ppo: a prompt without its end asks something else; use drop"
        if self.rollout_batch_size % self.global_batch_size:
            yield (
                f"rollout_batch_size ({self.rollout_batch_size}) must be a multiple of global_batch_size "
                f"({self.global_batch_size})"
            )


def _bare_task(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TaskConfig(Section):
    """One benchmark: a name of lm-eval or of recipes/tasks, or one of ours: bits_per_byte, reward, embeddings."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]*$")]
    """The task's name."""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    """Worked examples put before each question."""
    limit: PositiveInt | None = None
    """Use only the first items."""
    data: Annotated[str | None, Reads(("text", "prompt"))] = None
    """bits_per_byte: a text dataset; reward: a prompt dataset; each with a holdout."""
    reward_funcs: RewardFunc | None = None
    """reward: a reward stage, or a function of pipelines/rewards.py."""
    max_completion_length: PositiveInt = 64
    """reward: most new tokens of a completion."""
    temperature: NonNegativeFloat = 1.0
    """reward: sampling temperature; 0 is greedy."""
    words: Annotated[tuple[Annotated[str, Field(pattern=r"^\S(.*\S)?$")], ...], Bare] = ()
    """embeddings: words whose neighbours are listed, and that are drawn as a map."""
    pairs: Annotated[str | None, LocalFile()] = None
    """embeddings: a file of word pairs scored by people, relative to the recipe; a line is `old<tab>new<tab>1.58`."""
    analogies: Annotated[str | None, LocalFile()] = None
    """embeddings: a file of analogies, relative to the recipe; a line is `man king woman queen`."""

    def faults(self) -> Iterator[str]:
        if self.name in ("bits_per_byte", "reward") and self.data is None:
            yield f"task {self.name} needs data: the dataset whose holdout it scores"
        if self.name == "reward" and self.reward_funcs is None:
            yield "task reward needs reward_funcs: a reward stage or a function of pipelines/rewards.py"
        if self.name not in ("bits_per_byte", "reward") and self.data is not None:
            yield f"data: belongs to the tasks bits_per_byte and reward, not to {self.name}"
        if self.name in ("bits_per_byte", "reward", "embeddings") and self.num_fewshot:
            yield f"num_fewshot: belongs to benchmarks that ask questions, not to {self.name}"
        if self.name != "reward":
            for field in ("reward_funcs", "max_completion_length", "temperature"):
                if getattr(self, field) != type(self).model_fields[field].default:
                    yield f"{field}: belongs to the task reward, not to {self.name}"
        if self.name != "embeddings":
            for field in ("words", "pairs", "analogies"):
                if getattr(self, field) != type(self).model_fields[field].default:
                    yield f"{field}: belongs to the task embeddings, not to {self.name}"
        elif self.limit is not None:
            yield "limit: has no meaning for embeddings, which asks every line of its files; leave it out"
        if len(set(self.words)) < len(self.words):
            yield f"words: '{next(word for word in self.words if self.words.count(word) > 1)}' is named twice; keep one"


class EvaluateStage(StageConfig):
    """Score models on benchmarks: one job per model."""

    produces = ArtifactKind.SCORES
    draws = True
    kind: Literal["evaluate"]
    models: Annotated[tuple[str, ...], Bare, Field(min_length=1), Consumes(ArtifactKind.CAUSAL_LM)]
    """Stages to score, all on the same prompts."""
    tasks: Annotated[tuple[Annotated[TaskConfig, BeforeValidator(_bare_task)], ...], Bare, Field(min_length=1)]
    """Benchmarks: names, or {name, num_fewshot, limit, ...}."""
    apply_chat_template: bool = False
    """Put each prompt into a user turn of the chat template."""
    seed: int | None = None
    """This stage's own seed. Default: the recipe's."""


AnyStage = Annotated[
    TokenizerStage | PretrainStage | SftStage | RewardStage | DpoStage | PpoStage | EvaluateStage,
    Field(discriminator="kind"),
]
STAGE_KINDS = ("tokenizer", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate")
