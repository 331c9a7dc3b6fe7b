"""What `make plan` counts on for data: how fast files are read, filters judge, tokenizers learn and encode.

    python benchmarks/data_rates.py text.txt --megabytes 12

`text.txt` is any text in UTF-8 whose paragraphs are parted by empty lines. Prints one JSON object. Rates are megabytes
a second of one core (processor time of all threads): of unpacked files for reading, of text for the rest. `start`:
seconds that tokenizer and tokens jobs take before that. Then bytes on the disk for each byte of text, and bytes for a
token. The figures of pipelines/plan/rates.py come from here."""

import argparse
import bz2
import csv
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.cleaning.quality import Quality
from pipelines.data.blocks import unpacked
from pipelines.data.microworld import TRACKS, generate
from pipelines.plan.jobs import DataJob, Input, Job, TokensJob
from pipelines.recipe import quality
from pipelines.recipe.data import Dataset
from pipelines.recipe.stages import TokenizerStage
from pipelines.stages import data, tokenizer, tokens
from pipelines.stages.base import StageContext

TEMPLATE = Path(__file__).parents[1] / "recipes" / "chat_templates" / "chatml.jinja"
DOCUMENT_BYTES = 2_000
FEW = 8
FILTERS = ("repair", "bad_characters", "lines", "length", "gopher_quality", "gopher_repetition", "fineweb")
FAMILIES = ("byte_level_bpe", "bpe", "unigram", "wordpiece", "word", "char", "byte")
SIZES = (4_096, 8_192, 16_384, 32_768)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, nargs="?", help="default: the built-in world's, which is simpler than any")
    parser.add_argument("--megabytes", type=float, default=8.0)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8") if arguments.text else _world()
    texts = list(_documents(text, int(arguments.megabytes * 1e6)))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        found: dict[str, Any] = {"documents": len(texts), "bytes": _size(texts)}
        found |= {"read": _reading(texts, Path(folder)), "unpack": _unpacking(texts, Path(folder))}
        found |= {"filter": _filters(texts), "builtin": _builtin(Path(folder))}
        found |= _tokenizers(texts, Path(folder))
    print(json.dumps(found, indent=1))


def _world() -> str:
    return "\n\n".join(record["text"] for record in generate("text", "train"))


def _documents(text: str, most: int) -> Iterator[str]:
    document: list[str] = []
    size = total = 0
    for paragraph in text.split("\n\n"):
        document.append(" ".join(paragraph.split()))
        size += len(paragraph)
        if size >= DOCUMENT_BYTES:
            yield "\n\n".join(document)
            total, size, document = total + size, 0, []
        if total >= most:
            return


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _rate(size: int, work: Callable[[], Any]) -> float:
    """Megabytes a second of processor time."""
    start = time.process_time()
    work()
    return round(size / (time.process_time() - start) / 1e6, 2)


# --- reading ----------------------------------------------------------------------------------------------------------


def _reading(texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """The whole data job, without filters."""
    found: dict[str, Any] = {}
    for name, (files, settings) in _files(texts, folder).items():
        size = sum(file.stat().st_size for file in files)
        output = folder / f"out-{name}"
        found[name] = {
            "rate": _rate(
                size,
                lambda files=files, output=output, settings=settings: _run(
                    output, {"files": tuple(map(str, files)), "max_dropped": 1.0, **settings}, files
                ),
            )
        }
        text = json.loads((output / "output" / "info.json").read_text())["bytes"]
        rows = sum(file.stat().st_size for file in (output / "output").glob("*.parquet"))
        found[name] |= {"text_per_byte": round(text / size, 3), "disk_per_text": round(rows / max(1, text), 3)}
    return found


def _run(output: Path, dataset: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
    job = Job(
        name="data-x",
        stage="x",
        config=DataJob(dataset=Dataset.model_validate(dataset)),
        seed=None,
        files={str(file): "0" for file in files},
    )
    data.run(StageContext(job=job, inputs={}, workdir=output))


def _files(texts: Sequence[str], folder: Path) -> dict[str, tuple[list[Path], dict[str, Any]]]:
    rows = [{"text": text} for text in texts]
    made: dict[str, tuple[list[Path], dict[str, Any]]] = {}

    def add(name: str, content: str, **settings: Any) -> None:
        path = folder / f"rows-{name.replace(' ', '-')}.{name.split()[0]}"
        path.write_text(content, encoding="utf-8")
        made[name] = [path], settings

    add("jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    add("json", json.dumps(rows))
    add("txt line", "\n".join(text.replace("\n", " ") for text in texts), separator="line")
    add("md line", "\n".join(text.replace("\n", " ") for text in texts), separator="line")
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        path = folder / f"rows.{name}"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([["text"], *([text] for text in texts)])
        made[name] = [path], {}
    pages = folder / "pages"
    pages.mkdir()
    for number, text in enumerate(texts[:400]):
        (pages / f"{number}.html").write_text(_page(text), encoding="utf-8")
    made["html"] = sorted(pages.iterdir()), {}
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink:
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    made |= {"parquet": ([folder / "rows.parquet"], {}), "arrow": ([folder / "rows.arrow"], {})}
    turns = [{"prompt": text[: len(text) // 4], "completion": text[len(text) // 4 :]} for text in texts]
    add("jsonl chat", "".join(json.dumps(row) + "\n" for row in turns), format="chat")
    return made


def _page(text: str) -> str:
    menu = "".join(f'<li class="menu-item"><a href="/section/{n}.html">Section {n}</a></li>' for n in range(40))
    body = "".join(f"<p>{paragraph}</p>" for paragraph in text.split("\n\n"))
    head = f"<html><head><title>A page</title></head><body><nav><ul>{menu}</ul></nav>"
    return f"{head}<article>{body}</article><footer>{menu}</footer></body></html>"


def _unpacking(texts: Sequence[str], folder: Path) -> dict[str, Any]:
    raw = "\n".join(texts).encode()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
    found = {}
    for suffix, compress in pack.items():
        path = folder / f"rows.txt{suffix}"
        path.write_bytes(compress(raw))
        rate = _rate(len(raw), lambda path=path: sum(map(len, unpacked(path))))
        found[suffix] = {"rate": rate, "ratio": round(len(raw) / path.stat().st_size, 2)}
    return found


def _builtin(folder: Path) -> dict[str, Any]:
    found = {}
    for track in TRACKS:
        rows = TRACKS[track].train + TRACKS[track].holdout
        start = time.process_time()
        _run(folder / track, {"builtin": f"microworld/{track}"})
        seconds = time.process_time() - start
        info = json.loads((folder / track / "output" / "info.json").read_text())
        disk = sum(file.stat().st_size for file in (folder / track / "output").glob("*.parquet"))
        per_row = {"bytes": info["bytes"] / rows, "disk": disk / rows, "milliseconds": 1e3 * seconds / rows}
        found[track] = {"rows": rows} | {name: round(value, 3) for name, value in per_row.items()}
    return found


# --- filters and tokenizers -------------------------------------------------------------------------------------------


def _filters(texts: Sequence[str]) -> dict[str, float]:
    some = texts[: len(texts) // 2]
    found = {}
    named = {kind: (kind,) for kind in (*FILTERS, "personal_data", "language")}
    for name, kinds in {**named, **quality.PRESETS}.items():
        values = tuple({"kind": kind} | ({"keep": ("en",)} if kind == "language" else {}) for kind in kinds)
        judge = Quality(quality.Quality.model_validate({"filters": values}))
        judge(texts[:5])  # compiles
        batches = [some[at : at + 512] for at in range(0, len(some), 512)]
        found[name] = _rate(_size(some), lambda judge=judge, batches=batches: [judge(batch) for batch in batches])
    return found


def _tokenizers(texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """The whole tokenizer job and the whole tokens job: what more text costs, and what none would."""
    made = []
    for number, part in enumerate((texts[: len(texts) // FEW], texts)):
        path = folder / f"part-{number}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
        _run(folder / f"part-{number}", {"files": (str(path),)}, [path])
        made.append((folder / f"part-{number}" / "output", _size(part)))
    learning, encoding, lengths = {}, {}, {}
    sizes = [(family, None if family in ("char", "byte") else 8_192) for family in FAMILIES]
    for family, size in [*sizes, *(("byte_level_bpe", size) for size in SIZES if size != 8_192)]:
        name = f"{family} {size}" if size else family
        values = {"kind": "tokenizer", "algorithm": family, "data": "x"} | ({"vocab_size": size} if size else {})
        config, learnt, encoded = TokenizerStage.model_validate(values), [], []
        for number, (rows, _) in enumerate(made):
            workdir, given = folder / f"{name}-{number}", {str(TEMPLATE): "0"}
            learnt.append(_stage(tokenizer, config, {"data.0": rows}, workdir, given))
        for number, (rows, _) in enumerate(made):
            inputs, workdir = {"dataset": rows, "tokenizer": learnt[-1][0]}, folder / f"tokens-{name}-{number}"
            encoded.append(_stage(tokens, TokensJob(format="text"), inputs, workdir, {}))
        bytes_of = [size for _, size in made]
        learning[name] = _marginal(bytes_of, [seconds for _, _, seconds in learnt])
        encoding[name] = _marginal(bytes_of, [seconds for _, _, seconds in encoded])
        lengths[name] = encoded[-1][1]["bytes_per_token"]
    return {"learn": learning, "encode": encoding, "bytes_per_token": lengths}


def _marginal(sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    rate = (sizes[1] - sizes[0]) / (seconds[1] - seconds[0])
    return {"rate": round(rate / 1e6, 2), "start": round(seconds[0] - sizes[0] / rate, 2)}


def _stage(
    stage: Any, config: Any, inputs: Mapping[str, Path], workdir: Path, files: dict[str, str]
) -> tuple[Path, Mapping[str, Any], float]:
    """(output folder, metrics, seconds of processor time)"""
    shares = {role: 1.0 if role.startswith("data.") else None for role in inputs}
    references = {role: Input(job=role, fingerprint="0", share=share) for role, share in shares.items()}
    job = Job(name="x", stage="x", config=config, seed=None, files=files, inputs=references)
    context = StageContext(job=job, inputs=inputs, workdir=workdir)
    start = time.process_time()
    metrics = stage.run(context)
    return context.output, metrics, time.process_time() - start


if __name__ == "__main__":
    main()
