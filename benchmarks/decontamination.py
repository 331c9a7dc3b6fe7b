"""Decontamination: MB/s of one core, planted questions that are found, and documents that are taken for others.

    python benchmarks/decontamination.py                                    words that are made here
    python benchmarks/decontamination.py --data folder --questions a.jsonl  real text (.txt, .txt.gz, .jsonl.gz with
                                                                            `text`), real questions (.jsonl, .jsonl.gz)

Documents are 500 words each. A third of the questions are planted, one each in a document of its own: in capitals, with
other punctuation and line ends. What is found in documents without one is shown, since the text may have it. Seconds
are of the processor. Prints one JSON object.
"""

import argparse
import gzip
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning.contamination import Ngrams, plain
from pipelines.cleaning.overlap import Judge

WORDS, BATCH = 500, 256
SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of texts, or one")
    parser.add_argument(
        "--questions", type=Path, nargs="+", default=[], help="files of JSON lines; all texts of a line"
    )
    parser.add_argument("--number", type=int, default=20_000, help="questions, where none are given")
    parser.add_argument("--size", type=int, default=50, help="MB of text; what there is comes again in another order")
    options = parser.parse_args()
    rng = random.Random(0)
    made = [f"{chr(97 + number % 26)}{number}" for number in range(50_000)]
    questions = [texts for path in options.questions for texts in _questions(path)]
    questions = questions or [[" ".join(rng.choices(made, k=rng.randint(6, 60)))] for _ in range(options.number)]
    words = list(_words(options.data)) if options.data else made
    documents = list(_documents(words, options.size * 1_000_000, rng, in_order=bool(options.data)))
    print(json.dumps(_measured(documents, questions, rng), indent=1, ensure_ascii=False))


def _measured(documents: list[str], questions: list[list[str]], rng: random.Random) -> dict[str, Any]:
    Ngrams.of([["compiles " * 20]], [0], size=13, few=1).hits(["so it does"])
    before = time.process_time()
    ngrams = Ngrams.of(questions, [0] * len(questions), size=13, few=10)
    building = time.process_time() - before
    asked = [number for number in range(0, len(questions), 3) if not ngrams.is_short[number]][: len(documents)]
    places = rng.sample(range(len(documents)), len(asked))
    for place, number in zip(places, asked, strict=True):
        text = (
            max(questions[number], key=lambda text: len(text.split()))
            .upper()
            .replace(" ", rng.choice([" ", ", ", "\n", " – "]))
        )
        documents[place] = f"{documents[place]}\n{text}?"
    before, parts = time.process_time(), []
    for start in range(0, len(documents), BATCH):
        hits = ngrams.hits(documents[start : start + BATCH])
        parts.append(hits._replace(text=hits.text + start))
    seconds = time.process_time() - before
    whole = type(parts[0])(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    judge = Judge.of(ngrams, whole, max_documents=10, min_share=np.zeros(len(questions)))
    matches = judge.matches(whole)
    found, common = (set(one.tolist()) for one in (matches.question, judge.only_common(whole, matches.question)))
    others = ~np.isin(matches.document, places)
    size = sum(len(text.encode()) for text in documents)
    return {
        "questions": len(questions),
        "too_short": int(ngrams.is_short.sum()),
        "ngrams": len(ngrams),
        "building_seconds": round(building, 2),
        "documents": len(documents),
        "MB": round(size / 1e6, 1),
        "MB_per_second": round(size / 1e6 / seconds, 1),
        "planted": len(asked),
        "planted_found": len(found & {*asked}),
        "planted_taken_for_phrases": len(common & {*asked}),
        "other_documents_found": len(np.unique(matches.document[others])),
        "in_other_documents": [
            {"question": max(questions[number], key=len)[:200], "shared": _shared(documents[document], begin, end)}
            for document, number, begin, end in list(
                zip(*(column[others].tolist() for column in matches), strict=True)
            )[:SHOWN]
        ],
    }


def _shared(document: str, begin: int, end: int) -> str:
    return plain(document).encode()[begin:end].decode()


def _questions(path: Path) -> Iterator[list[str]]:
    for line in _text(path).splitlines():
        values = json.loads(line).values()
        yield [text for value in values for text in (value if isinstance(value, list) else [value])
               if isinstance(text, str)]  # fmt: skip


def _words(path: Path) -> Iterator[str]:
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.name.endswith((".txt", ".txt.gz")):
            yield from _text(file).split()
        elif file.name.endswith((".jsonl", ".jsonl.gz")):
            yield from (word for line in _text(file).splitlines() for word in json.loads(line).get("text", "").split())


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def _documents(words: list[str], size: int, rng: random.Random, *, in_order: bool) -> Iterator[str]:
    """So many bytes; real text is in order the first time."""
    written = place = 0
    while written < size:
        some = words[place : place + WORDS] if in_order and place < len(words) else rng.choices(words, k=WORDS)
        text = " ".join(some)
        place += WORDS
        written += len(text)
        yield text


if __name__ == "__main__":
    main()
