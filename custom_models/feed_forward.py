"""Feed-forwards: activations, and the projections around them."""
# mypy: no-strict-optional

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import GATED, TransformerConfig


def squared_relu(states: Tensor) -> Tensor:
    """Primer's activation (arXiv 2109.08668)."""
    return F.relu(states).square()


def tanh_gelu(states: Tensor) -> Tensor:
    return F.gelu(states, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": tanh_gelu,
    "gelu": tanh_gelu,
    "gelu_exact": F.gelu,
    "relu": F.relu,
    "relu2": squared_relu,
}


class FeedForward(nn.Module):
    """Two projections with an activation between them; where gated (arXiv 2002.05202), a third scales its output."""

    def __init__(self, config: TransformerConfig, intermediate_size: int | None = None):
        """`intermediate_size`: where it is not the configuration's."""
        super().__init__()
        width = intermediate_size or config.intermediate_size
        self.activation = ACTIVATIONS[config.feed_forward]
        self.gate_proj = None
        if config.feed_forward in GATED:
            self.gate_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=config.mlp_bias)
        self.down_proj.role = "residual"  # type: ignore[assignment]  # for initialisers

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(hidden_states)))
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))
