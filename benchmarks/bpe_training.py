"""How fast tokenizers are learnt: the tokenizer stage's byte-level BPE against tokenizers' own trainer.

    python benchmarks/bpe_training.py --data FOLDER --size 32M --pairs 3

Prints one JSON object, in megabytes for each second of processor time, in one process with one thread. `ratio` is the
stage's way (a sample drawn from the data artifact's rows, then trained) over the bare trainer with the text in memory;
both must give the same file. SentencePiece's own BPE (which is not of bytes) stands there for comparison."""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import documents, measured, num_bytes_of, write_repeated
from tokens_stage import data_stage

SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>")


def stage(dataset: Path, vocab_size: int) -> tuple[float, str]:
    """(processor seconds, the tokenizer as JSON)"""
    from pipelines.recipe.stages import TokenizerStage
    from pipelines.stages.tokenizer_families import train
    from pipelines.stages.tokenizer_sample import Sample

    config = TokenizerStage(kind="tokenizer", data={"text": 1.0}, vocab_size=vocab_size)
    started = time.process_time()
    trained = train(config, Sample([(dataset, 1.0)], config.max_bytes), SPECIAL)
    return time.process_time() - started, trained.to_str()


def bare(dataset: Path, vocab_size: int) -> tuple[float, str]:
    """(processor seconds, the tokenizer as JSON) of tokenizers alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = _texts(dataset)
    started = time.process_time()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return time.process_time() - started, tokenizer.to_str()


def sentencepiece_bpe(dataset: Path, vocab_size: int) -> float:
    """Processor seconds."""
    import io

    import sentencepiece

    lines = [line for text in _texts(dataset) for line in text.split("\n") if line]
    started = time.process_time()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=io.BytesIO(),
        model_type="bpe",
        vocab_size=vocab_size,
        num_threads=1,
        minloglevel=2,
    )
    return time.process_time() - started


def _texts(dataset: Path) -> list[str]:
    from pipelines.stages.tokenizer_sample import texts_of

    return list(texts_of(dataset))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text file or a folder of .txt or .txt.gz")
    parser.add_argument("--size", default="8M", help="bytes of text")
    parser.add_argument("--vocab-size", type=int, default=8_192)
    parser.add_argument("--pairs", type=int, default=1)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    seconds: dict[str, list[float]] = {"stage": [], "bare": [], "sentencepiece": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = write_repeated(list(documents(options.data)), folder / "text.txt", options.size)
        dataset, _ = measured(data_stage, text, folder / "data", 1)
        size = num_bytes_of(dataset) / 1e6
        for pair in range(options.pairs):
            made: dict[str, Any] = {}
            for who in sorted((stage, bare), key=lambda work: work.__name__, reverse=bool(pair % 2)):
                (spent, made[who.__name__]), _ = measured(who, dataset, options.vocab_size)
                seconds[who.__name__].append(spent)
            if made["stage"] != made["bare"]:
                raise SystemExit("the stage's tokenizer is not the bare trainer's")
        seconds["sentencepiece"].append(measured(sentencepiece_bpe, dataset, options.vocab_size)[0])
    ratios = [b / a for a, b in zip(seconds["stage"], seconds["bare"], strict=True)]
    speeds = {name: round(size / statistics.median(values), 2) for name, values in seconds.items()}
    report = {"mb": round(size, 1), "vocab_size": options.vocab_size, "ratio": round(statistics.median(ratios), 3)}
    print(json.dumps(report | {"ratios": [round(ratio, 3) for ratio in ratios], "mb_per_cpu_second": speeds}))


if __name__ == "__main__":
    main()
