"""Numbers as people read them."""

from collections.abc import Sequence

SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def seconds_text(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(number: float | None) -> str:
    """`856k`, `2.1M`; empty for None."""
    if number is None:
        return ""
    for scale, letter in SCALES:
        if abs(number) >= scale:
            figure = number / scale
            return f"{figure:.0f}{letter}" if figure >= 100 else f"{figure:.1f}{letter}"
    return f"{number:.0f}"


def count_text(number: int) -> str:
    """`1,234,567`; `12.3M` from ten millions on."""
    return f"{number:,}" if number < 10_000_000 else short(number)


def size_text(num_bytes: float) -> str:
    """`870 B`, `1.2 MB`."""
    figure = short(num_bytes)
    return f"{figure} B" if figure[-1].isdigit() else f"{figure[:-1]} {figure[-1]}B".replace(" BB", " GB")


def share_text(share: float) -> str:
    """`12.3 %`, `0 %`, `100 %`; neither of these stands for something that only comes near."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def thinned(values: Sequence[float], most: int) -> list[int]:
    """At most so many places of a sequence, first and last among them."""
    if len(values) <= most:
        return list(range(len(values)))
    return sorted({round(place * (len(values) - 1) / (most - 1)) for place in range(most)})
