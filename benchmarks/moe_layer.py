"""A mixture-of-experts layer, forward and backward, against loops over its experts.

    python benchmarks/moe_layer.py --rounds 20

`masked`: each expert takes all tokens, and a weight of nought hides those that did not choose it. `gathered`: each
takes its tokens by index and adds what comes of them, as transformers' own loop does. All have the same weights and
router, and run in turns in one process. Prints one JSON object; times in milliseconds."""

import argparse
import json
import statistics
import time
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from custom_models.configuration import DecoderConfig
from custom_models.moe import SparseFeedForward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--moe-intermediate-size", type=int, default=512)
    parser.add_argument("--num-experts", type=int, default=8)
    parser.add_argument("--num-experts-per-tok", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = DecoderConfig(
        hidden_size=options.hidden_size,
        num_experts=options.num_experts,
        num_experts_per_tok=options.num_experts_per_tok,
        moe_intermediate_size=options.moe_intermediate_size,
    )
    layer = SparseFeedForward(config)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    states = torch.randn(1, options.tokens, options.hidden_size)
    forwards = {"ours": layer, "masked": partial(masked, layer), "gathered": partial(gathered, layer)}
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(options.rounds + 2):
        for name, forward in forwards.items():
            torch.testing.assert_close(forward(states), layer(states), atol=1e-5, rtol=1e-4)
            start = time.perf_counter()
            forward(states).square().mean().backward()
            if number >= 2:  # the first rounds are for warming up
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratios = {f"ratio_to_{name}": medians["ours"] / medians[name] for name in ("masked", "gathered")}
    figures = {**ratios, **medians, "threads": torch.get_num_threads()}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def masked(layer: SparseFeedForward, states: Tensor) -> Tensor:
    """Every expert on all tokens, with a weight of nought where a token did not choose it."""
    _, weights, chosen = layer.router(states)
    experts, output = layer.experts, torch.zeros_like(states)
    for number in range(len(experts.up_proj)):
        share = (weights * (chosen == number)).sum(dim=-1, keepdim=True)
        gate = experts.activation(F.linear(states, experts.gate_proj[number]))
        output = output + share * F.linear(gate * F.linear(states, experts.up_proj[number]), experts.down_proj[number])
    return output


def gathered(layer: SparseFeedForward, states: Tensor) -> Tensor:
    """Every expert on the tokens that chose it."""
    _, weights, chosen = layer.router(states)
    flat, weights, chosen = states.flatten(0, 1), weights.flatten(0, 1), chosen.flatten(0, 1)
    experts, output = layer.experts, torch.zeros_like(flat)
    for number in range(len(experts.up_proj)):
        tokens, which = (chosen == number).nonzero(as_tuple=True)
        mine = flat[tokens]
        gate = experts.activation(F.linear(mine, experts.gate_proj[number]))
        update = F.linear(gate * F.linear(mine, experts.up_proj[number]), experts.down_proj[number])
        output.index_add_(0, tokens, update * weights[tokens, which, None])
    return output.view_as(states)


if __name__ == "__main__":
    main()
