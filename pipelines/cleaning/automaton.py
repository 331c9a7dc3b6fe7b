"""Many words looked for at once: the automaton of Aho and Corasick (1975), over bytes."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit


class Automaton(NamedTuple):
    """Where each byte leads from each state, (states, 256), uint8; and which words have ended there: a bit for each
    group, (states,), uint64."""

    moves: np.ndarray
    ended: np.ndarray


def automaton(groups: Sequence[Sequence[str]], *, ignore_case: bool = False) -> Automaton:
    """Finds the words of all groups, whose bit is their place in `groups`. `ignore_case` is about ASCII, and wants
    words in small letters."""
    children: list[dict[int, int]] = [{}]
    ended = [0]
    for bit, words in enumerate(groups):
        for word in words:
            state = 0
            for byte in word.encode():
                if byte not in children[state]:
                    children[state][byte] = len(children)
                    children.append({})
                    ended.append(0)
                state = children[state][byte]
            ended[state] |= 1 << bit
    moves = np.zeros((len(children), 256), np.int64)
    waiting = deque([(0, 0)])
    while waiting:  # shorter states first: what one falls back to is finished before it
        state, shorter = waiting.popleft()
        ended[state] |= ended[shorter]
        moves[state] = moves[shorter] if state else 0
        for byte, child in children[state].items():
            waiting.append((child, int(moves[state, byte])))
            moves[state, byte] = child
    if ignore_case:
        moves[:, ord("A") : ord("Z") + 1] = moves[:, ord("a") : ord("z") + 1]
    if len(moves) > 256:
        raise ValueError("an automaton of more than 256 states needs a wider type")
    return Automaton(moves.astype(np.uint8), np.array(ended, np.uint64))


@njit(cache=True, nogil=True)
def lines_with(data, starts, moves, ended, found):
    """Where the lines begin that have a word, into `found`; returns how many. It is called again with more room where
    they are more than fit."""
    count = 0
    for text in range(len(starts) - 1):
        state, line, is_open = 0, starts[text], True
        for place in range(starts[text], starts[text + 1]):
            byte = data[place]
            state = moves[state, byte]
            if byte == 10:
                line, is_open = place + 1, True
            elif is_open and ended[state]:
                if count < len(found):
                    found[count] = line
                count, is_open = count + 1, False
    return count


@njit(cache=True, nogil=True)
def words_in(data, starts, moves, ended, found):
    """Which groups each text has a word of, their bits together, into `found`, (texts,), uint64."""
    for text in range(len(starts) - 1):
        state, bits = 0, np.uint64(0)
        for place in range(starts[text], starts[text + 1]):
            state = moves[state, data[place]]
            bits |= ended[state]
        found[text] = bits
