"""From a recipe to ordered jobs, and what they will cost."""
