"""Which text is worth training on: quality filters, duplicates, and what benchmarks ask."""
