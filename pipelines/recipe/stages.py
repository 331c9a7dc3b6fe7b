"""Chapter `stages`: what each kind of stage needs to know, and nothing about how it does it."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipelines.recipe.base import (
    ArtifactKind,
    Duration,
    LanguageModelRef,
    TokenizerRef,
)
from pipelines.recipe.data import (
    ChatMixture,
    PreferenceMixture,
    PromptMixture,
    TextMixture,
)
from pipelines.recipe.evaluation import EvaluateStage, RewardFunc
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.mixture import Caps, LengthWarmup, PhasesField, faults_of
from pipelines.recipe.tokenizer import TokenizerStage
from pipelines.recipe.training import Fraction, FromModelStage, TrainStage, no_rollouts


class PretrainStage(TrainStage):
    """Train the model of chapter `model` on text, from random weights unless `model` names a stage."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["pretrain"]
    objective: Literal["causal_lm", "prefix_lm", "masked_lm", "span_corruption"] = "causal_lm"
    """What is predicted. Decoder: causal_lm, the next token; prefix_lm, the next token after a prefix that sees itself
    in both directions (arXiv 1910.10683, 3.2.1). Encoder: masked_lm, tokens behind masks (arXiv 1810.04805).
    Encoder_decoder: span_corruption, the spans that were cut out (arXiv 1910.10683, 3.1.4)."""
    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """masked_lm: share of tokens to be guessed, drawn anew in each epoch."""
    mask_replace_prob: Fraction = 0.8
    """masked_lm: share of those that the mask token replaces."""
    random_replace_prob: Fraction = 0.1
    """masked_lm: share of those that a random token replaces; the rest stays what it is."""
    whole_word_mask: bool = False
    """masked_lm: draw whole words, so that no piece tells of the others."""
    noise_density: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """span_corruption: share of tokens that are cut out."""
    mean_noise_span_length: Annotated[float, Field(ge=1.0)] = 3.0
    """span_corruption, and masked_lm with spans: mean tokens of a span."""
    span_mask: bool = False
    """masked_lm: draw spans of mean_noise_span_length (arXiv 1907.10529)."""
    duration: Annotated[Duration, AfterValidator(no_rollouts)]
    model: LanguageModelRef | None = None
    """A stage to go on from, or {hub: org/name} or {path: folder}; null starts from random weights."""
    tokenizer: TokenizerRef | None = None
    """A tokenizer stage. Default: the only one."""
    data: TextMixture
    """Text datasets; shares are of tokens."""
    phases: PhasesField = ()
    """Other mixtures from some moment on, for example [{start: 80%, data: {books: 1}}]: better data at the end."""
    sampling_temperature: PositiveFloat | None = None
    """Shares by size in place of those of `data`: proportional to tokens^(1 / temperature) (arXiv 1907.05019).
    1 takes datasets as large as they are, more lifts the small ones."""
    max_epochs: Caps = Field(default_factory=dict)
    """Most passes over a dataset, {books: 4}; after them the others share its part."""
    length_warmup: LengthWarmup | None = None
    """Short contexts first, for example {start: 64, until: 20%}."""
    packing: Literal["whole", "split"] = "whole"
    """whole: documents are packed into rows unbroken (one longer than max_length is cut into rows of its own);
    split: documents fill rows to the brim and are cut at the edges. Documents never see each other.
    span_corruption packs nothing: each document is cut into rows of its own."""

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from faults_of(self.data, self.phases, self.sampling_temperature, self.max_epochs)
        if self.length_warmup and self.max_length and self.length_warmup.start >= self.max_length:
            yield f"length_warmup: starts at {self.length_warmup.start}, and max_length is {self.max_length}"
        for objectives, fields in _OF_OBJECTIVES.items():
            for field in fields if self.objective not in objectives else ():
                if getattr(self, field) != type(self).model_fields[field].default:
                    yield f"{field} belongs to {' and '.join(objectives)}, and objective is {self.objective}"
        if self.mask_replace_prob + self.random_replace_prob > 1:
            yield (
                f"mask_replace_prob ({self.mask_replace_prob:g}) and random_replace_prob "
                f"({self.random_replace_prob:g}) must not be more than 1 together"
            )
        if self.span_mask and self.whole_word_mask:
            yield "span_mask and whole_word_mask exclude each other; choose one"
        if self.objective == "masked_lm" and not self.span_mask and self.mean_noise_span_length != 3.0:
            yield "mean_noise_span_length needs span_mask: true"


_OF_OBJECTIVES = {
    ("masked_lm",): ("mlm_probability", "mask_replace_prob", "random_replace_prob", "whole_word_mask", "span_mask"),
    ("span_corruption",): ("noise_density",),
    ("span_corruption", "masked_lm"): ("mean_noise_span_length",),
    ("causal_lm", "prefix_lm", "masked_lm"): ("packing",),
    ("causal_lm",): ("length_warmup",),
}


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

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.peft is not None and self.peft.quantization != "none":
            yield "peft: quantization: 4bit is for language models, and a reward model has a head of its own; use none"


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
        yield from self._refuse_lora_dropout()
        if self.label_smoothing and self.loss_type != "sigmoid":
            yield f"label_smoothing has no meaning with loss_type: {self.loss_type}"


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
        yield from self._refuse_lora_dropout()
        if self.overlong != "drop":
            yield "overlong: truncate has no meaning for ppo: a prompt without its end asks something else; use drop"
        if self.rollout_batch_size % self.global_batch_size:
            yield (
                f"rollout_batch_size ({self.rollout_batch_size}) must be a multiple of global_batch_size "
                f"({self.global_batch_size})"
            )


AnyStage = Annotated[
    TokenizerStage | PretrainStage | FinetuneStage | SftStage | RewardStage | DpoStage | PpoStage | EvaluateStage,
    Field(discriminator="kind"),
]
STAGE_KINDS = ("tokenizer", "pretrain", "finetune", "sft", "reward", "dpo", "ppo", "evaluate")
