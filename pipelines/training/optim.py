"""Optimizers and learning rate schedules: which parameters are decayed, which are Muon's, and lr at every step."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pipelines.errors import MachineError
from pipelines.recipe.training import TrainStage

ADAMW_SHARE = 0.15
"""With muon, the default rate of everything else as a share of learning_rate."""


@dataclass(frozen=True)
class OptimSettings:
    """What decides the updates, beside the gradients."""

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    adamw_learning_rate: float | None = None
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    muon_momentum: float = 0.95
    weight_decay: float = 0.0
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0
    decay_steps: float | None = None
    min_lr_rate: float = 0.0

    @classmethod
    def of(cls, config: TrainStage) -> "OptimSettings":
        """The fields of the same names."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})


# --- schedules: factor of the peak learning rate at an optimizer step, counted from 0 ---------------------------------


@dataclass(frozen=True)
class Span:
    """The steps of a run, in numbers."""

    total: int
    warmup: int
    decay: int
    min_rate: float

    def progress(self, step: int) -> float:
        """0 when the warm-up ends, 1 when the run does."""
        return min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))


def _constant(step: int, span: Span) -> float:
    return 1.0


def _linear(step: int, span: Span) -> float:
    return span.min_rate + (1 - span.min_rate) * (1 - span.progress(step))


def _cosine(step: int, span: Span) -> float:
    return span.min_rate + (1 - span.min_rate) * 0.5 * (1 + math.cos(math.pi * span.progress(step)))


def _inverse_sqrt(step: int, span: Span) -> float:
    """1 at the end of the warm-up, then falling with the root of the steps (arXiv 1706.03762)."""
    return math.sqrt(max(1, span.warmup) / max(1, span.warmup, step))


def _wsd(step: int, span: Span) -> float:
    """Warm-up, stable, decay: constant until the last `decay` steps, then linear (arXiv 2404.06395)."""
    left = (span.total - step) / max(1, span.decay)
    return span.min_rate + (1 - span.min_rate) * min(1.0, max(0.0, left))


SCHEDULES: Mapping[str, Callable[[int, Span], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
    "wsd": _wsd,
}


def lr_factor(step: int, settings: OptimSettings, total_steps: int) -> float:
    """Share of the peak at an optimizer step, counted from 0: a linear warm-up from 0, then the schedule's shape."""
    warmup = _steps(settings.warmup_steps, total_steps)
    decay = _steps(0.2 if settings.decay_steps is None else settings.decay_steps, total_steps)
    if step < warmup:
        return step / warmup
    span = Span(total=total_steps, warmup=warmup, decay=min(decay, total_steps - warmup), min_rate=settings.min_lr_rate)
    return SCHEDULES[settings.lr_scheduler_type](step, span)


def lr_at(step: int, settings: OptimSettings, total_steps: int) -> float:
    """Learning rate at an optimizer step, counted from 0 (with muon: of its matrices)."""
    return settings.learning_rate * lr_factor(step, settings, total_steps)


def _steps(value: float, total_steps: int) -> int:
    """A number below 1 is a share of all steps."""
    return math.ceil(round(value * total_steps, 6)) if value < 1 else int(value)  # 0.07 * 100 is above 7


def build_scheduler(optimizer: torch.optim.Optimizer, settings: OptimSettings, total_steps: int) -> LambdaLR:
    """One factor for every group."""
    if not any(lr_factor(step, settings, total_steps) for step in range(min(2, total_steps))):
        raise MachineError(
            f"a run of {total_steps} step has no step with a learning rate, as it starts its warm-up from 0; set "
            "warmup_steps: 0, or a longer duration"
        )
    warmup = _steps(settings.warmup_steps, total_steps)
    if warmup > total_steps:
        print(
            f"note: the warm-up takes {warmup:,} steps, and the run has {total_steps:,}: the learning rate never gets "
            f"to its peak, only to {lr_factor(total_steps - 1, settings, total_steps):.2g} of it",
            flush=True,
        )
    return LambdaLR(optimizer, lambda step: lr_factor(step, settings, total_steps))


# --- optimizers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """Every trainable parameter, in exactly one place."""

    hidden_matrices: list[nn.Parameter]
    """2-D weights inside blocks, and stacks of them: experts."""
    other_decayed: list[nn.Parameter]
    """Embeddings (of tokens, positions, segments, distances), heads and whatever else has two dimensions or more."""
    not_decayed: list[nn.Parameter]
    """Norms and biases."""


def parameter_groups(model: nn.Module) -> Groups:
    """Sort the trainable parameters; a tied one counts once."""
    outside = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    outside |= {id(weight) for head in _heads(model) for weight in head.parameters()}
    groups = Groups([], [], [])
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            groups.not_decayed.append(parameter)
        elif parameter.ndim in (2, 3) and id(parameter) not in outside and min(parameter.shape[-2:]) > 1:
            groups.hidden_matrices.append(parameter)
        else:
            groups.other_decayed.append(parameter)
    return groups


def _heads(model: nn.Module) -> list[nn.Module]:
    """What reads the last hidden states: the output embeddings, a score, a value, and what stands before them."""
    get_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = get_head()
    named = [getattr(model, name, None) for name in ("score", "value_head", "lm_head", "head_transform", "pooler")]
    return [module for module in (head, *named) if isinstance(module, nn.Module)]


def _adamw(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    groups = parameter_groups(model)
    decayed = groups.hidden_matrices + groups.other_decayed
    return _adamw_of(decayed, groups.not_decayed, settings, settings.learning_rate)


def _muon(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    groups = parameter_groups(model)
    if not groups.hidden_matrices:
        return _adamw(model, settings)
    rate = settings.adamw_learning_rate
    rate = ADAMW_SHARE * settings.learning_rate if rate is None else rate
    muon = Muon(
        groups.hidden_matrices,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.muon_momentum,
    )
    return Together([muon, _adamw_of(groups.other_decayed, groups.not_decayed, settings, rate)])


def _adamw_of(
    decayed: list[nn.Parameter], plain: list[nn.Parameter], settings: OptimSettings, rate: float
) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in decayed + plain),
    )


OPTIMIZERS: Mapping[str, Callable[[nn.Module, OptimSettings], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "muon": _muon,
}


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimizer by name, over all trainable parameters; its first group has `learning_rate`."""
    optimizer = OPTIMIZERS[settings.optimizer](model, settings)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if len(held) != len(set(held)) or set(held) != wanted:
        raise RuntimeError("the optimizer does not hold every trainable parameter exactly once")
    return optimizer


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz, matrices of one shape together; in a stack of experts (experts, rows,
    columns) each by itself.

    Not `torch.optim.Muon`: that iterates in bfloat16 whatever the weights are, and turns the last bits that another
    batch split leaves into loss differences of 4e-5. In float32 they stay below 1e-6."""

    TURNS = 5

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append((parameter, parameter.grad))
            for shape, pairs in shapes.items():
                parameters, gradients = [list(column) for column in zip(*pairs, strict=True)]
                momenta = [self._momentum(parameter) for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
                matrices = torch.stack(nesterov).float()
                updates = list(orthogonal(matrices.flatten(0, -3), self.TURNS).view_as(matrices).unbind())
                scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonal(matrices: Tensor, turns: int) -> Tensor:
    """Singular values of each matrix (count, rows, columns) brought close to 1 (kellerjordan.github.io/posts/muon)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(turns):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x.mT if tall else x


class Together(torch.optim.Optimizer):
    """Several optimizers that step as one. The groups are the members' own, so a scheduler drives them all."""

    def __init__(self, members: list[torch.optim.Optimizer]):
        self.members = members
        super().__init__([group for member in members for group in member.param_groups], {})
        self._relink()

    def _relink(self) -> None:  # load_state_dict of a member replaces its group objects
        self.param_groups = [group for member in self.members for group in member.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self._relink()
