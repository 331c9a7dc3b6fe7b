"""What may identify somebody, replaced: e-mail and IP addresses, telephone numbers, keys of services."""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.cleaning.automaton import automaton, words_in
from pipelines.cleaning.kernels import joined
from pipelines.recipe.quality import PersonalData

EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
PHONE = re.compile(
    r"(?<![\w+.-])(?:\+[1-9]\d{0,2}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,5}){2,4}|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4})"
    r"(?![\w-])"
)
"""International with its plus sign, or American with its separators: bare digits are more often something else."""
IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]*:)(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:.])")
KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[^-]{0,8192}-----END (?:[A-Z]+ )?PRIVATE KEY-----"
    r"|(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,90}|hf_[A-Za-z]{34}"
    r"|sk-(?:[a-z]+-)?[A-Za-z0-9_-]{32,200}|xox[abprs]-[A-Za-z0-9-]{10,80}|AIza[A-Za-z0-9_-]{35}"
    r"|glpat-[A-Za-z0-9_-]{20})(?![A-Za-z0-9])"
)
"""Keys that say whose they are (AWS, GitHub, Hugging Face, OpenAI, Anthropic, Slack, Google, GitLab), and PEM."""
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""What is given out of IPv6 (RFC 4291, 2.4)."""
_KEY_SIGNS = ("PRIVATE KEY", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_", "sk-", "xox",
              "AIza", "glpat-")  # fmt: skip
_AUTOMATON = automaton([_KEY_SIGNS, ["@"], [":"], ["."], ["+", "-", ".", "("]])
"""What the patterns of keys, of e-mail, IPv6 and IPv4 addresses and of telephone numbers cannot do without, in this
order."""


class _Step(NamedTuple):
    digits: int
    """That there must be."""
    needed: int
    """Bit of _AUTOMATON."""
    pattern: re.Pattern[str]
    replacement: Callable[[re.Match[str]], str]
    brought: int
    """Bits of _AUTOMATON that stand in the placeholder."""


class Replacer:
    """Puts placeholders in texts. What a pattern cannot do without is looked for first: most texts have none."""

    def __init__(self, config: PersonalData):
        kinds = (
            (0, KEY, config.key, _any),
            (0, EMAIL, config.email, _any),
            (1, IPV6, config.ip_address, _is_public),
            (4, IPV4, config.ip_address, _is_public),
            (7, PHONE, config.phone, _any),
        )
        self._steps = [
            _Step(digits, 1 << bit, pattern, _replacement(placeholder, is_meant), _signs(*joined([placeholder]))[0])
            for bit, (digits, pattern, placeholder, is_meant) in enumerate(kinds)
            if placeholder is not None
        ]

    def __call__(self, texts: Sequence[str], data: np.ndarray, starts: np.ndarray, digits: Sequence[int]) -> list[str]:
        """`data` and `starts` are `kernels.joined(texts)`; `digits`: how many each text has."""
        return [self._replaced(*shown) for shown in zip(texts, digits, _signs(data, starts), strict=True)]

    def _replaced(self, text: str, digits: int, signs: int) -> str:
        for step in self._steps:
            if digits >= step.digits and signs & step.needed:
                text, count = step.pattern.subn(step.replacement, text)
                signs |= step.brought if count else 0
        return text


def _signs(data: np.ndarray, starts: np.ndarray) -> list[int]:
    """Of each text, the bits of _AUTOMATON."""
    found = np.empty(len(starts) - 1, np.uint64)
    words_in(data, starts, *_AUTOMATON, found)
    return [int(bits) for bits in found]


def _replacement(placeholder: str, is_meant: Callable[[str], bool]) -> Callable[[re.Match[str]], str]:
    return lambda match: placeholder if is_meant(match[0]) else match[0]


def _any(found: str) -> bool:
    return True


def _is_public(found: str) -> bool:
    """Version numbers, times of day and names in programs look like addresses; those of no network anybody can reach
    harm nobody."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or address in GLOBAL_UNICAST)
