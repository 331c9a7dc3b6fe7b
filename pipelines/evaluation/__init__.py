"""Scores: lm-eval in process, and what lm-eval does not measure."""
