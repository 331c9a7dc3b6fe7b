"""How weights start, by the name of the source of each rule."""
# mypy: no-strict-optional

import math
from collections.abc import Callable

from torch import Tensor, nn
from transformers import initialization as init

from .configuration import TransformerConfig
from .layers import Head
from .moe import Experts, Router

ENDS = ("down_proj",)
"""Of experts, what a sublayer ends with, before it is added to the residual stream."""


def initialise(module: nn.Module, config: TransformerConfig) -> None:
    """Draw the weights of one module anew, after transformers' own initialisation, which comes from the inside out: a
    normal with `initializer_range`, biases zero, norms one. Weights that were loaded stay.

    Transformers passes over modules of custom code that have no parameters of their own, so what a projection is for
    stands at the projection: its `role`."""
    if isinstance(module, Router | Experts):
        for weight in module.parameters(recurse=False):
            init.normal_(weight, std=config.initializer_range)
    if config.initializer == "normal":
        return
    draw = INITIALIZERS[config.initializer]
    if isinstance(module, nn.Embedding):
        draw(module.weight, getattr(module, "role", "embedding"), config)
    elif isinstance(module, nn.Linear):
        usual = "head" if isinstance(module, Head) else "projection"
        draw(module.weight, getattr(module, "role", usual), config)
    elif isinstance(module, Router | Experts):
        for name, weight in module.named_parameters(recurse=False):
            draw(weight, "residual" if name in ENDS else "projection", config)


def _gpt2(weight: Tensor, role: str, config: TransformerConfig) -> None:
    """Radford 2019, 2.3: a normal with `initializer_range`, smaller by the root of the number of sublayers where one
    ends."""
    depth = math.sqrt(2 * config.num_hidden_layers) if role == "residual" else 1.0
    init.normal_(weight, std=config.initializer_range / depth)


def _small_init(weight: Tensor, role: str, config: TransformerConfig) -> None:
    """arXiv 1910.05895, 2.2: sqrt(2 / (5 hidden_size)); with GPT-NeoX's (arXiv 2204.06745, 2.1) ends of sublayers:
    2 / (layers sqrt(hidden_size))."""
    ends = 2 / (config.num_hidden_layers * math.sqrt(config.hidden_size))
    init.normal_(weight, std=ends if role == "residual" else math.sqrt(2 / (5 * config.hidden_size)))


def _xavier_uniform(weight: Tensor, role: str, config: TransformerConfig) -> None:
    """Glorot and Bengio 2010, eq. 16, for projections; embeddings and head are those of the 2017 Transformer's code: a
    normal with 1 / sqrt(hidden_size), meant to be used with `scale_embeddings`."""
    if role in ("embedding", "head"):
        init.normal_(weight, std=config.hidden_size**-0.5)
        return
    bound = math.sqrt(6 / (weight.shape[-2] + weight.shape[-1]))
    init.uniform_(weight, -bound, bound)


def _t5(weight: Tensor, role: str, config: TransformerConfig) -> None:
    """Mesh TensorFlow's (arXiv 1910.10683): projections a normal with 1 / sqrt(inputs), T5's bias with
    1 / sqrt(hidden_size), embeddings 1.

    T5 divides queries by sqrt(head_dim) in their weights; where attention divides instead (`attention_scaling` other
    than 1), they are not. It also divides tied logits by sqrt(hidden_size) (`scale_head`); without that, tied
    embeddings start that much smaller, and `scale_embeddings` brings back what the first layer sees."""
    std = weight.shape[-1] ** -0.5
    small = (config.tie_word_embeddings and not getattr(config, "scale_head", False)) or config.scale_embeddings
    if role == "query" and config.attention_scaling == 1:
        std *= config.head_dim**-0.5
    elif role == "bias" or (role == "embedding" and small):
        std = config.hidden_size**-0.5
    elif role == "embedding":
        std = 1.0
    init.normal_(weight, std=std)


INITIALIZERS: dict[str, Callable[[Tensor, str, TransformerConfig], None]] = {
    "gpt2": _gpt2,
    "small_init": _small_init,
    "xavier_uniform": _xavier_uniform,
    "t5": _t5,
}
