"""A mixture-of-experts layer, forward and backward, against loops over its experts.

    python benchmarks/moe_layer.py --rounds 20

`masked`: each expert takes all tokens, and a weight of nought hides those that did not choose it. `gathered`: each
takes its tokens by index and adds what comes of them, as transformers' own loop does. All have the same weights and
router, and run in turns in one process. `products` is no layer: the matrix products that each expert's tokens need,
forward and backward, and nothing else, which is the least that any of them could take. Prints one JSON object; times in
milliseconds."""

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
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
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
    layer.to(options.device, dtype)
    states = torch.randn(1, options.tokens, options.hidden_size).to(options.device, dtype)
    atol = 1e-5 if dtype == torch.float32 else 1e-2
    forwards = {"ours": layer, "masked": partial(masked, layer), "gathered": partial(gathered, layer)}
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(options.rounds + 2):
        for name, forward in forwards.items():
            torch.testing.assert_close(forward(states), layer(states), atol=atol, rtol=10 * atol)
            synchronize(options.device)
            start = time.perf_counter()
            forward(states).square().mean().backward()
            synchronize(options.device)
            if number >= 2:  # the first rounds are for warming up
                times[name].append(1e3 * (time.perf_counter() - start))
        synchronize(options.device)
        start = time.perf_counter()
        products(layer, states)
        synchronize(options.device)
        if number >= 2:
            times.setdefault("products", []).append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratios = {f"ratio_to_{name}": medians["ours"] / medians[name] for name in ("masked", "gathered", "products")}
    figures = {**ratios, **medians, "threads": torch.get_num_threads()}
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(json.dumps({"device": where} | {name: round(value, 3) for name, value in figures.items()}))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def masked(layer: SparseFeedForward, states: Tensor) -> Tensor:
    """Every expert on all tokens, with a weight of nought where a token did not choose it."""
    _, weights, chosen = layer.router(states)
    experts, output = layer.experts, torch.zeros_like(states)
    for number in range(len(experts.up_proj)):
        share = (weights * (chosen == number)).sum(dim=-1, keepdim=True)
        gate = experts.activation(F.linear(states, experts.gate_proj[number]))
        output = output + share * F.linear(gate * F.linear(states, experts.up_proj[number]), experts.down_proj[number])
    return output.to(states.dtype)


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
        output.index_add_(0, tokens, (update * weights[tokens, which, None]).to(flat.dtype))
    return output.view_as(states)


@torch.no_grad()
def products(layer: SparseFeedForward, states: Tensor) -> None:
    """Three matrices for each expert: what its tokens are multiplied with, and for each two gradients."""
    _, _, chosen = layer.router(states)
    counts = torch.bincount(chosen.flatten(), minlength=len(layer.experts.up_proj)).tolist()
    for number, count in enumerate(counts):
        for name in ("gate_proj", "up_proj", "down_proj"):
            matrix = getattr(layer.experts, name)[number]
            tokens, gradient = (matrix.new_ones(count, size) for size in matrix.shape[::-1])
            tokens @ matrix.T
            gradient @ matrix
            gradient.T @ tokens


if __name__ == "__main__":
    main()
