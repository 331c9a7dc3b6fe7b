"""Block `peft` of a training stage: low-rank adapters on frozen weights, in the words of the library peft."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.recipe.base import Bare, Section

SHAPE = ("r", "lora_alpha", "target_modules", "use_dora", "use_rslora")
"""What two adapters must share for one to go on from the other."""


class PeftConfig(Section):
    """LoRA (arXiv 2106.09685): each chosen linear layer learns a product of two thin matrices beside its weights."""

    r: PositiveInt = 16
    """Rank: columns of one thin matrix, rows of the other."""
    lora_alpha: PositiveInt = 32
    """The product is scaled by lora_alpha / r (use_rslora: by the root of r)."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout of what the thin matrices read; not in dpo and ppo."""
    target_modules: Annotated[tuple[str, ...], Bare, Field(min_length=1)] = ("all-linear",)
    """all-linear (of the blocks, not the head), or the last parts of their names: q_proj, v_proj."""
    use_dora: bool = False
    """Learn the length of each weight column apart from its direction (arXiv 2402.09353)."""
    use_rslora: bool = False
    """Scale by the root of the rank, so that high ranks learn as fast as low ones (arXiv 2312.03732)."""
    quantization: Literal["none", "4bit"] = "none"
    """4bit holds the frozen weights in four bits (QLoRA, arXiv 2305.14314); needs a GPU and bitsandbytes."""

    def faults(self) -> Iterator[str]:
        if "all-linear" in self.target_modules and len(self.target_modules) > 1:
            yield "target_modules: all-linear stands alone; remove the other names, or it"
        for name in sorted({name for name in self.target_modules if self.target_modules.count(name) > 1}):
            yield f"target_modules: '{name}' is named twice"


def differences(before: PeftConfig, after: PeftConfig) -> list[str]:
    """`r: 8 -> 16` of everything that keeps an adapter from being trained on with other settings."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in SHAPE]
    return [
        f"{name}: {_shown(old)} -> {_shown(new)}" for name, old, new in pairs if _comparable(old) != _comparable(new)
    ]


def _comparable(value: object) -> object:
    return sorted(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
