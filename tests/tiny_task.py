"""A benchmark in miniature, as a task file with its rows."""

import json
from pathlib import Path

LINES = [
    {"question": "Where is Mia? Mia is in the", "options": ["garden", "mill", "barn"], "answer": 0},
    {"question": "Who has the drum? Now", "options": [" Tom", " Ida", " Zoe"], "answer": 2},
    {"question": "What colour is the kite? It is", "options": ["red", " blue", "green"], "answer": 1},
    {"question": "Today Ben", "options": ["is in the mill", "has a cup", "goes to the park now"], "answer": 1},
    {"question": "The", "options": ["end", "drum", "key"], "answer": 0},
]
TASK = """\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: options
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 7}
"""


def write_task(folder: Path, text: str = TASK) -> Path:
    """The path of the task file."""
    path = folder / "tasks" / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (path.parent / "items.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return path
