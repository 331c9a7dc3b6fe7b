"""How much span corruption cuts out of a row: by this the recipe is checked and the rows are cut."""


def noise_lengths(length: int, noise_density: float, mean_noise_span_length: float) -> tuple[int, int]:
    """(tokens that are cut out, spans that they form) of a row of `length` >= 1 tokens (arXiv 1910.10683, 3.1.4).

    At least one of each, and as a rule a token stays between two spans. Neither shrinks as rows grow, so the longest
    row has the most spans."""
    tokens = max(1, min(round(length * noise_density), length - 1))
    return tokens, max(1, min(round(tokens / mean_noise_span_length), length - tokens))
