"""Pretraining on mixtures: what the recipe says of them is what the run takes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_recipe import chain, planned
from training_jobs import VOCAB, context, run, tokens_folder

from pipelines.errors import DataError
from pipelines.recipe.stages import PretrainStage
from pipelines.stages.base import StageContext
from pipelines.training.ledger import step_of
from pipelines.training.sentinel import read_metrics


def tables(root: Path, **rows: int) -> list[Path]:
    """Documents of twelve tokens, so that a row of 24 holds two."""
    rng = np.random.default_rng(0)
    found = []
    for name, count in rows.items():
        made = [{"input_ids": [0, *rng.integers(4, VOCAB, 10).tolist(), 1], "num_bytes": 30} for _ in range(count)]
        found.append(tokens_folder(root / name, "text", made))
    return found


def mixed(ctx: StageContext, shares: list[tuple[float, ...]], caps: list[float | None], **fields: Any) -> StageContext:
    """The job with these shares in its phases, and with these caps."""
    inputs = dict(ctx.job.inputs)
    for number, (found, cap) in enumerate(zip(shares, caps, strict=True)):
        changed = {"share": found[0], "later_shares": found[1:], "max_epochs": cap}
        inputs[f"data.{number}"] = inputs[f"data.{number}"].model_copy(update=changed)
    config = PretrainStage.model_validate_json(json.dumps(ctx.job.config.model_dump(mode="json") | fields))
    return dataclasses.replace(ctx, job=ctx.job.model_copy(update={"inputs": inputs, "config": config}))


def test_phases_and_caps_decide_what_is_taken(tmp_path: Path) -> None:
    ctx = context(tmp_path, "pretrain", tables(tmp_path, web=100, books=20), max_length=24, duration="20 steps")
    phases = [{"start": 0.75, "data": {"web": 0.5, "books": 0.5}}]
    ctx = mixed(ctx, [(1.0, 0.5), (0.0, 0.5)], [None, 1.5], data="web", phases=phases, max_epochs={"books": 1.5})
    metrics = run(ctx)
    # 120 rows of web, then 40 in halves; but books have 10 rows, and 15 are the most
    assert metrics["source_books_epochs"] == 1.5 and metrics["source_web_epochs"] == pytest.approx((120 + 25) / 50)
    assert metrics["source_web_documents_cut"] == 0
    drawn = json.loads((ctx.record / "mixture.json").read_text())
    assert (drawn["unit"], drawn["steps"], drawn["roles"]) == ("tokens", 20, ["data.0", "data.1"])
    assert drawn["phases"] == [{"start": 0.0, "planned": [1.0, 0.0]}, {"start": 0.75, "planned": [0.5, 0.5]}]
    starts, tokens = zip(*((part["start"], part["drawn"]) for part in drawn["parts"]), strict=True)
    assert [part["phase"] for part in drawn["parts"]] == [0, 1, 1]
    assert starts[:2] == (0.0, 0.75) and 0.9 < starts[2] < 1.0  # where books are at their cap
    assert tokens[0] == [120 * 24, 0] and tokens[2][1] == 0 and np.sum(tokens, axis=0).tolist() == [145 * 24, 15 * 24]
    folders = {f"data.{number}": tmp_path / name for number, name in enumerate(("web", "books"))}
    for folder in folders.values():
        write_texts(folder)
    roles = {**folders, "tokenizer": tmp_path / "tokenizer"}
    seen = {step: step_of(ctx.job, roles, folders, max_length=24, step=step) for step in (1, 15, 16, 20)}
    assert {piece.data for step in (1, 15) for piece in seen[step].pieces} == {"web"}
    assert sum(piece.data == "books" for piece in seen[16].pieces) == 2 * 4  # four rows of eight, two documents each
    assert len(seen[20].pieces) == 16 and seen[20].epochs == {"web": 2.9, "books": 1.5}
    assert all(piece.text == f"{piece.data} {piece.document}" for step in seen.values() for piece in step.pieces)
    with pytest.raises(DataError, match="has the steps 1 to 20"):
        step_of(ctx.job, roles, folders, max_length=24, step=21)


def write_texts(folder: Path) -> None:
    """A data artifact's rows beside the tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = json.loads((folder / "meta.json").read_text())["splits"]["train"]["rows"]
    texts = pa.table({"text": [f"{folder.name} {number}" for number in range(count)]})
    pq.write_table(texts, folder / "train-00000.parquet", row_group_size=7)


def test_a_phase_without_a_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ctx = context(tmp_path, "pretrain", tables(tmp_path, web=100, books=20), max_length=24, duration="4 steps")
    phases = [{"start": start, "data": "books"} for start in (0.1, 0.5, 0.99)]
    run(mixed(ctx, [(1.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 1.0)], [None, None], data="web", phases=phases))
    said = [line for line in capsys.readouterr().out.splitlines() if "no step" in line]
    assert said == [
        f"note: no step falls into the phase from {start} of the run on: it has 4" for start in ("0", "0.99")
    ]


def test_shares_by_size(tmp_path: Path) -> None:
    """Tokens as 9 to 1; at temperature 2 as 3 to 1."""
    ctx = context(tmp_path, "pretrain", tables(tmp_path, web=180, books=20), max_length=24, duration="10 steps")
    for temperature, wanted in ((1, 8), (2, 20)):
        tempered = mixed(ctx, [(0.5,), (0.5,)], [None, None], sampling_temperature=temperature, data=["web", "books"])
        tempered = dataclasses.replace(tempered, workdir=tmp_path / str(temperature))
        for folder in (tempered.output, tempered.checkpoints, tempered.record):
            folder.mkdir(parents=True)
        assert run(tempered)["source_books_epochs"] == wanted / 10
        (phase,) = json.loads((tempered.record / "mixture.json").read_text())["phases"]
        assert phase["planned"] == pytest.approx([1 - wanted / 80, wanted / 80])


def test_a_length_warmup_has_the_same_tokens(tmp_path: Path) -> None:
    (table,) = tables(tmp_path, web=80)
    losses = []
    for name, more in (("plain", {}), ("short", {"length_warmup": {"start": 4, "until": 0.5}})):
        ctx = context(tmp_path / name, "pretrain", table, max_length=24, duration="8 steps", **more)
        metrics = run(ctx)
        assert metrics["tokens"] == 8 * 8 * 24
        losses.append([line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")])
    assert losses[0][0] != losses[1][0]


def test_names_and_order_do_not_decide_but_shares_phases_and_caps_do(tmp_path: Path) -> None:
    def fingerprint(**fields: Any) -> str:
        recipe = chain()
        recipe["stages"]["pretrain"] |= fields
        return planned(tmp_path, recipe).by_name["pretrain"].fingerprint

    plain = fingerprint()
    assert fingerprint(data=["tales", "more"]) == fingerprint(data=["more", "tales"]) == plain
    late = [{"start": "50%", "data": {"tales": 0.1, "more": 0.9}}]
    changed = [
        fingerprint(phases=late),
        fingerprint(phases=[{"start": 0.6, "data": {"tales": 0.1, "more": 0.9}}]),
        fingerprint(phases=[{"start": 0.5, "data": "more"}]),
        fingerprint(max_epochs={"more": 4}),
        fingerprint(max_epochs={"tales": 4}),
        fingerprint(sampling_temperature=2),
        fingerprint(length_warmup={"start": 16, "until": "20%"}),
    ]
    assert len({plain, *changed}) == 8
    assert fingerprint(phases=[{"start": 0.5, "data": {"more": 0.9, "tales": 0.1}}]) == changed[0]
    only_later = planned(tmp_path, chain() | {"stages": chain()["stages"] | {"pretrain": later_only()}})
    inputs = only_later.by_name["pretrain"].inputs
    assert {item.job: (item.share, item.later_shares) for item in inputs.values() if item.share is not None} == {
        "tokens-tales": (1.0, (0.0,)),
        "tokens-more": (0.0, (1.0,)),
    }


def later_only() -> dict[str, Any]:
    return chain()["stages"]["pretrain"] | {"data": "tales", "phases": [{"start": 0.5, "data": "more"}]}
