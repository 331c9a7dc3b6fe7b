"""Rows of text become memory-mapped ids, and ids become batches."""
