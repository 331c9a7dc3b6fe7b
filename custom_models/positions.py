"""Where tokens are: rotary angles and their scaling, sinusoids, and biases of attention logits by distance."""
# mypy: no-strict-optional

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from transformers import Cache

from .configuration import TransformerConfig


def rope_angles(position_ids: Tensor, config: TransformerConfig, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, (rows, tokens, 1, size), to be shared by all layers; size is how many
    dimensions of a head they turn. The first half of the sines is negative, as `rotate` takes them.

    Computed from nothing but the positions: a stored table would have to survive meta devices and bf16 casts.
    """
    size, theta = round(config.head_dim * config.partial_rotary_factor), config.rope_theta
    steps = torch.arange(0, size, 2, device=position_ids.device, dtype=torch.float32) / size
    frequencies, factor = 1.0 / theta**steps, 1.0
    if config.rope_scaling_type == "linear":  # arXiv 2306.15595
        frequencies = frequencies / config.rope_scaling_factor
    elif config.rope_scaling_type == "yarn":
        slowed = yarn_share(steps, theta=theta, original_length=config.original_max_position_embeddings)
        frequencies = slowed * (1.0 / (config.rope_scaling_factor * theta**steps)) + (1 - slowed) * frequencies
        factor = 0.1 * math.log(config.rope_scaling_factor) + 1.0  # arXiv 2309.00071, 3.4: on queries and keys alike
    angles = position_ids[..., None, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    return cos.to(dtype), sin.to(dtype)


def yarn_share(steps: Tensor, *, theta: float, original_length: int) -> Tensor:
    """How far each frequency theta^-step is slowed down, 0 to 1 (arXiv 2309.00071, 3.2): not where it turns 32 times or
    more within the original length, wholly where it turns once or less, both rounded to whole frequencies."""
    size = 2 * len(steps)
    most, least = (
        size * math.log(original_length / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (32, 1)
    )
    low, high = max(math.floor(most), 0), min(math.ceil(least), size - 1)
    width = high - low if high != low else 0.001
    return ((torch.arange(len(steps), device=steps.device) - low) / width).clamp(0, 1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + n / 2) of the first n dimensions of `states`, (rows, tokens, heads, head_dim), by its
    position's angle; n is the width of `cos` and `sin`, and the other dimensions stay."""
    size = cos.shape[-1]
    if size < states.shape[-1]:
        return torch.cat((rotate(states[..., :size], cos, sin), states[..., size:]), dim=-1)
    swapped = states.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(states * cos, swapped, sin)


def sinusoids(position_ids: Tensor, *, size: int, dtype: torch.dtype) -> Tensor:
    """The 2017 Transformer's positions (arXiv 1706.03762, 3.5), (rows, tokens, size): sines and cosines in turn."""
    steps = torch.arange(0, size, 2, device=position_ids.device, dtype=torch.float32) / size
    angles = position_ids[..., None].float() / 10_000.0**steps
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(dtype)


# --- biases -----------------------------------------------------------------------------------------------------------


class PositionBias(nn.Module, ABC):
    """What is added to attention logits for the distance between two tokens, shared by all layers.

    The distance is that of their places in the row (and the cache): padding moves both, and within a packed document
    it is also the distance of their positions. Other documents and padding are the mask's."""

    def __init__(self, config: TransformerConfig, *, is_causal: bool):
        super().__init__()
        self.config, self.is_causal = config, is_causal

    @abstractmethod
    def bias(self, distances: Tensor) -> Tensor:
        """(heads, queries, keys) of `distances`, (queries, keys): the key's place minus the query's."""

    def forward(
        self, mask: Tensor | None, inputs_embeds: Tensor, past_key_values: Cache | None = None, *, layer_idx: int = 0
    ) -> Tensor:
        """The additive mask of a layer, (rows or 1, heads, queries, keys), of the one it has without a bias: True or 0
        where a token is seen; None where causality says it all, or nothing is hidden."""
        kernel = self.config._attn_implementation
        if kernel not in ("sdpa", "eager"):
            raise ValueError(
                f"position_embedding {self.config.position_embedding} is not supported with {kernel}, which takes no "
                "bias; use sdpa or eager"
            )
        num_queries, device, dtype = inputs_embeds.shape[1], inputs_embeds.device, inputs_embeds.dtype
        num_past, num_keys, first_key = 0, num_queries, 0
        if past_key_values is not None:
            num_past = past_key_values.get_seq_length()
            num_keys, first_key = past_key_values.get_mask_sizes(num_queries, layer_idx)
        places = torch.arange(num_queries, device=device) + num_past
        distances = (torch.arange(num_keys, device=device) + first_key)[None] - places[:, None]
        bias = self.bias(distances).to(dtype)[None]
        if mask is None:
            mask = distances <= 0 if self.is_causal else torch.ones_like(distances, dtype=torch.bool)
        if mask.dtype == torch.bool:
            return torch.where(mask, bias, torch.finfo(dtype).min)
        return mask + bias


class Alibi(PositionBias):
    """Logits fall linearly with distance, in each head with its own slope (arXiv 2108.12409)."""

    def bias(self, distances: Tensor) -> Tensor:
        slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=distances.device)
        return -slopes[:, None, None] * distances.abs()


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads. Where n is no power of two, those of the power below, then every second one
    of the power above, as in the code of arXiv 2108.12409."""
    power = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes + [2 ** (-4 * (2 * head + 1) / power) for head in range(num_heads - power)]


class RelativeBias(PositionBias):
    """T5's learned bias of each head for each bucket of distances (arXiv 1910.10683, 2.1)."""

    def __init__(self, config: TransformerConfig, *, is_causal: bool):
        super().__init__(config, is_causal=is_causal)
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.relative_attention_bias.role = "bias"  # type: ignore[assignment]  # for initialisers

    def bias(self, distances: Tensor) -> Tensor:
        buckets = relative_buckets(
            distances,
            num_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
            is_causal=self.is_causal,
        )
        return self.relative_attention_bias(buckets).permute(2, 0, 1)


def relative_buckets(distances: Tensor, *, num_buckets: int, max_distance: int, is_causal: bool) -> Tensor:
    """The bucket of each distance: one for each of the near ones, then wider and wider ones up to `max_distance`, from
    where on all share the last. Without causality half the buckets are for keys after the query."""
    offset = torch.zeros_like(distances)
    if is_causal:
        distances = (-distances).clamp(min=0)
    else:
        num_buckets //= 2
        offset, distances = (distances > 0) * num_buckets, distances.abs()
    num_near = num_buckets // 2
    log = torch.log(distances.clamp(min=1).float() / num_near) / math.log(max_distance / num_near)
    far = (num_near + (log * (num_buckets - num_near)).long()).clamp(max=num_buckets - 1)
    return offset + torch.where(distances < num_near, distances, far)


BIASES: dict[str, type[PositionBias]] = {"alibi": Alibi, "relative_bias": RelativeBias}


def build_position_bias(config: TransformerConfig, *, is_causal: bool) -> PositionBias | None:
    """None where the configuration's positions are no bias."""
    kind = BIASES.get(config.position_embedding)
    return kind(config, is_causal=is_causal) if kind else None
