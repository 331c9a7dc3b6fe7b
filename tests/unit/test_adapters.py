"""Low-rank adapters: trained alone on frozen weights, saved alone, and the same model wherever they are read."""

import gc
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_ppo
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from tiny_subject import tiny_model
from training_jobs import MODEL, causal_lm_folder, context, random_tokens, run
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pipelines.errors import ArtifactError, DataError, MachineError, Stopped
from pipelines.evaluation.subject import Request, Subject
from pipelines.plan.estimate import adapter_parameters
from pipelines.plan.jobs import Input
from pipelines.recipe.peft import PeftConfig
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.store import durable
from pipelines.training.adapters import NAME, add_adapter, check_base, num_trainable, save_adapter
from pipelines.training.exact import ExactTrainerMixin
from pipelines.training.inputs import causal_lm, reward_model, starting_lm, tokens_of, trained_classifier
from pipelines.training.ppo import PPOTrainer
from pipelines.training.sentinel import read_metrics

PEFT = {"r": 4, "lora_alpha": 8}
IDS = torch.arange(4, 36).reshape(2, 16)
FORMATS = {"sft": "chat", "dpo": "preference", "reward": "preference"}


def job(root: Path, kind: str, *, start: StageContext | None = None, **fields) -> StageContext:
    """A job from the base model in `root`, or from what the job `start` made."""
    fields = {"peft": PEFT, **fields}
    if kind == "ppo":
        ctx = tiny_ppo.context(root, **fields)
    else:
        table = root / f"{FORMATS[kind]}-rows"
        if not table.exists():
            random_tokens(table, FORMATS[kind])
        ctx = context(root, kind, table, **fields)
    ctx = replace(ctx, workdir=root / f"job-{kind}-{len(list(root.glob('job-*')))}")
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True)
    return ctx if start is None else after(ctx, start)


def after(ctx: StageContext, start: StageContext) -> StageContext:
    inputs, facts = {**ctx.inputs, "model": start.output}, dict(ctx.job.inputs)
    if start.job.base:
        inputs["model.base"] = start.inputs.get("model.base", start.inputs["model"])
        facts["model.base"] = Input(job="base", fingerprint=start.job.base.fingerprint)
    return replace(ctx, inputs=inputs, job=ctx.job.model_copy(update={"inputs": facts}))


def read(ctx: StageContext) -> torch.nn.Module:
    return causal_lm(ctx.output, tokens_of(ctx.output), base=ctx.inputs.get("model.base", ctx.inputs["model"])).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def losses(ctx: StageContext) -> list[float]:
    return [line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")]


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"use_rslora": True, "lora_dropout": 0.1}])
@pytest.mark.parametrize("tied", [True, False])
def test_merged_it_is_what_peft_computes_and_the_base_is_untouched(tmp_path: Path, tied: bool, changes: dict) -> None:
    base = causal_lm_folder(tmp_path / "base", MODEL.model_copy(update={"tie_word_embeddings": tied}))
    before = durable.digest(base / "model.safetensors")
    ctx = job(tmp_path, "sft", peft={**PEFT, **changes}, learning_rate=1e-2, duration="20 steps")
    metrics = run(ctx)
    assert durable.digest(base / "model.safetensors") == before
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ctx.output)
    merged, started = logits(read(ctx)), logits(AutoModelForCausalLM.from_pretrained(base))
    assert torch.allclose(merged, logits(theirs), atol=1e-5)
    assert not torch.allclose(merged, started, atol=1e-2) and metrics["final_loss"] < metrics["first_loss"]


def test_the_folder_holds_the_adapter_the_tokenizer_and_the_name_of_its_base(tmp_path: Path, monkeypatch) -> None:
    ctx = job(tmp_path, "sft")
    metrics = run(ctx)
    names = {path.name for path in ctx.output.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json", "info.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    stored = load_file(ctx.output / "adapter_model.safetensors")
    assert metrics["trainable_parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert 10 * metrics["trainable_parameters"] < 3 * metrics["parameters"]
    assert json.loads((ctx.output / "base.json").read_text())["fingerprint"] == ctx.job.inputs["model"].fingerprint
    # From inside an artifact the base is found by the relative path between two artifacts of a store.
    store = tmp_path / "store"
    (store / "sft-0" / "output").parent.mkdir(parents=True)
    ctx.output.rename(store / "sft-0" / "output")
    (store / tmp_path.name).mkdir()
    (tmp_path / "base").rename(store / tmp_path.name / "base")
    monkeypatch.chdir(store / "sft-0" / "output")
    found = AutoPeftModelForCausalLM.from_pretrained(".")
    base = store / tmp_path.name / "base"
    ours = causal_lm(store / "sft-0" / "output", tokens_of(base), base=base)
    assert torch.allclose(logits(found), logits(ours), atol=1e-5)


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo"])
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    start = job(tmp_path, "sft", learning_rate=1e-2)
    run(start)
    peft = {**PEFT, "lora_dropout": 0.2 if kind in ("sft", "reward") else 0.0}
    whole, halved = (job(tmp_path, kind, start=start, peft=peft) for _ in range(2))
    run(whole)
    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainerMixin if kind != "ppo" else PPOTrainer, "step_metrics", stop_at(4))
        with pytest.raises(Stopped):
            run(halved)
    (checkpoint,) = halved.checkpoints.glob("checkpoint-*")
    held = load_file(checkpoint / "model.safetensors")
    assert held and all(f".{NAME}." in name or name.startswith(("score.", "value_head.")) for name in held)
    run(halved)
    assert digest_of(whole) == digest_of(halved) and losses(whole) == losses(halved)


def stop_at(step: int):
    def metrics(self, number: int) -> dict[str, float]:
        self._stop = self._stop or number == step
        return {}

    return metrics


def test_dropout_of_the_adapter_is_a_function_of_the_step(tmp_path: Path) -> None:
    runs = [job(tmp_path, "sft", peft={**PEFT, "lora_dropout": rate}) for rate in (0.0, 0.3, 0.3)]
    for ctx in runs:
        run(ctx)
    none, some, again = map(losses, runs)
    assert some == again != none


def test_checkpointed_activations_change_nothing(tmp_path: Path) -> None:
    plain, saving = job(tmp_path, "sft"), job(tmp_path, "sft")
    saving = replace(saving, launch=LaunchSettings(threads=1, activation_checkpointing=True))
    run(plain)
    run(saving)
    assert losses(plain) == pytest.approx(losses(saving), abs=1e-6)


def test_it_is_scored_as_what_it_is(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    config = PeftConfig(r=4)
    model = causal_lm(base, tokens_of(base))
    add_adapter(model, config, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    save_adapter(model, config, tmp_path / "out", base=base, fingerprint="f", tokenizer_folder=base)
    subject = Subject.load(tmp_path / "out", base=base)
    request = Request(IDS[0, :-1].tolist(), IDS[0, -1:].tolist())
    ((score, _),) = subject.log_likelihoods([request])
    assert score == pytest.approx(float(logits(model)[0].log_softmax(-1)[-2, IDS[0, -1]]), abs=1e-5)
    ((without, _),) = Subject.load(base).log_likelihoods([request])
    assert abs(score - without) > 1e-2


@pytest.mark.parametrize("start_peft", [PEFT, None])
def test_dpo_starts_at_ln_2_from_whatever_it_starts(tmp_path: Path, start_peft: dict | None) -> None:
    sft = job(tmp_path, "sft", peft=start_peft, learning_rate=1e-2)
    run(sft)
    dpo = job(tmp_path, "dpo", start=sft, learning_rate=1e-2)
    run(dpo)
    assert losses(dpo)[0] == pytest.approx(math.log(2), abs=1e-6) and min(losses(dpo)) < 0.69
    base = dpo.inputs.get("model.base", sft.output)
    started, ended = starting_lm(dpo, tokens_of(sft.output)), causal_lm(dpo.output, tokens_of(dpo.output), base=base)
    assert not torch.allclose(logits(started), logits(ended), atol=1e-3)


def test_sft_reward_dpo_and_ppo_through_adapters(tmp_path: Path) -> None:
    sft = job(tmp_path, "sft", learning_rate=1e-2)
    run(sft)
    judge = job(tmp_path, "reward", start=sft, learning_rate=1e-2, duration="20 steps")
    assert run(judge)["final_loss"] < math.log(2)
    dpo = job(tmp_path, "dpo", start=sft)
    run(dpo)
    ppo = job(tmp_path, "ppo", start=dpo)
    base = sft.inputs["model"]
    ppo = replace(ppo, inputs={**ppo.inputs, "reward_model": judge.output, "reward_model.base": base})
    metrics = run(ppo)
    assert metrics["first_kl"] == pytest.approx(0, abs=1e-6) and metrics["last_kl"] > 0
    assert metrics["trainable_parameters"] * 3 < metrics["parameters"]
    assert len({digest_of(ctx) for ctx in (sft, dpo, ppo)}) == 3
    assert all(json.loads((ctx.output / "base.json").read_text())["artifact"] == tmp_path.name for ctx in (sft, ppo))


def digest_of(ctx: StageContext) -> str:
    return durable.digest(ctx.output / "adapter_model.safetensors")


def test_a_reward_model_is_saved_with_its_head(tmp_path: Path) -> None:
    ctx = job(tmp_path, "reward", duration="20 steps", learning_rate=1e-2)
    run(ctx)
    base = ctx.inputs["model"]
    body = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    theirs, ours = PeftModel.from_pretrained(body, ctx.output), trained_classifier(ctx.output, base)
    assert torch.allclose(logits(theirs), logits(ours), atol=1e-5)
    saved = load_file(ctx.output / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(ours.score.weight, saved) and not torch.equal(saved, reward_model(base, seed=7).score.weight)


def test_ppo_s_reference_is_the_adapter_it_started_from(tmp_path: Path) -> None:
    sft = job(tmp_path, "sft", learning_rate=1e-2)
    run(sft)
    whole = job(tmp_path, "ppo", start=sft, peft=None)  # a copy of all weights is the reference
    thin = job(tmp_path, "ppo", start=sft)
    kl = [[line["kl"] for line in read_metrics(ctx.record / "metrics.jsonl")] for ctx in (whole, thin) if run(ctx)]
    assert kl[0][0] == pytest.approx(0, abs=1e-6) == kl[1][0]
    assert kl[1][-1] > 1e-5


def test_without_peft_an_adapter_is_merged_and_all_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sft = job(tmp_path, "sft", learning_rate=1e-2)
    run(sft)
    full = job(tmp_path, "sft", start=sft, peft=None, learning_rate=1e-9)
    metrics = run(full)
    assert "note: the adapter of model is merged into its base, and all weights are trained" in capsys.readouterr().out
    assert metrics["trainable_parameters"] == metrics["parameters"] and metrics["merged_adapter"] == "model"
    again = AutoModelForCausalLM.from_pretrained(full.output)
    assert torch.allclose(logits(again), logits(read(sft)), atol=1e-5)


def test_pretrain_merges_an_adapter_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sft = job(tmp_path, "sft", learning_rate=1e-2)
    run(sft)
    ctx = context(
        tmp_path / "more", "pretrain", random_tokens(tmp_path / "text", "text"), model="sft", learning_rate=1e-9
    )
    facts = {**ctx.job.inputs, "model": sft.job.inputs["model"].model_copy(update={"job": "sft"})}
    inputs = {**ctx.inputs, "model": sft.output, "model.base": sft.inputs["model"]}
    ctx = replace(ctx, inputs=inputs, job=ctx.job.model_copy(update={"model": None, "inputs": facts}))
    metrics = run(ctx)
    assert "note: the adapter of sft is merged into its base, and all weights are trained" in capsys.readouterr().out
    assert metrics["merged_adapter"] == "sft" and metrics["trainable_parameters"] == metrics["parameters"]
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(ctx.output)), logits(read(sft)), atol=1e-5)


def test_going_on_continues_the_adapter_itself(tmp_path: Path) -> None:
    sft = job(tmp_path, "sft", learning_rate=1e-2)
    run(sft)
    more = job(tmp_path, "sft", start=sft)
    started = starting_lm(more, tokens_of(more.inputs["model"]))
    assert torch.allclose(logits(started), logits(read(sft)), atol=1e-5)
    assert num_trainable(started) == sum(
        tensor.numel() for tensor in load_file(sft.output / "adapter_model.safetensors").values()
    )


def test_layers_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path) -> None:
    ctx = job(tmp_path, "sft", peft={"target_modules": ["q_proj", "query"]})
    with pytest.raises(DataError, match=r"no linear layer query; it has down_proj, .*q_proj"):
        run(ctx)
    model = causal_lm(ctx.inputs["model"], tokens_of(ctx.inputs["model"]))
    add_adapter(model, PeftConfig(target_modules=("v_proj", "q_proj")), 1)
    adapted = {name.split(".")[-4] for name, part in model.named_parameters() if part.requires_grad}
    assert adapted == {"q_proj", "v_proj"}


def test_four_bits_without_a_gpu_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="quantization: 4bit needs a GPU"):
        run(job(tmp_path, "sft", peft={"quantization": "4bit"}))


def test_another_base_is_refused(tmp_path: Path) -> None:
    for name, digest in (("one", "a" * 64), ("two", "b" * 64)):
        causal_lm_folder(tmp_path / name / "output")
        durable.write_json(tmp_path / name / durable.MANIFEST, {"digest": digest})
    ctx = job(tmp_path, "sft")
    ctx = replace(ctx, inputs={**ctx.inputs, "model": tmp_path / "one" / "output"})
    run(ctx)
    check_base(ctx.output, tmp_path / "one" / "output")
    with pytest.raises(ArtifactError, match="was trained on another base"):
        causal_lm(ctx.output, tokens_of(ctx.output), base=tmp_path / "two" / "output")


def test_the_plan_knows_how_much_an_adapter_trains(tmp_path: Path) -> None:
    ctx = job(tmp_path, "sft")
    model = starting_lm(ctx, tokens_of(ctx.inputs["model"]))
    assert adapter_parameters(MODEL, PEFT["r"]) == num_trainable(model)


@pytest.mark.parametrize(("kind", "peft", "copies"), [("dpo", PEFT, 1), ("ppo", PEFT, 2), ("ppo", None, 3)])
def test_no_second_copy_of_the_base_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, peft: dict | None, copies: int
) -> None:
    """ppo also holds the reward model; without peft its reference is a copy, which shows that the census finds one."""
    sft = job(tmp_path, "sft", learning_rate=1e-2)
    run(sft)
    gc.collect()
    before, seen = {id(part) for part in gc.get_objects() if isinstance(part, torch.nn.Parameter)}, []

    def census(self, number: int) -> dict[str, float]:
        gc.collect()
        alive = [p for p in gc.get_objects() if isinstance(p, torch.nn.Parameter) and id(p) not in before]
        held = {p.untyped_storage().data_ptr(): p.numel() for p in alive}
        seen.append(sum(held.values()))
        return {}

    monkeypatch.setattr(ExactTrainerMixin if kind == "dpo" else PPOTrainer, "step_metrics", census)
    ctx = job(tmp_path, kind, start=sft, peft=peft)
    run(ctx)
    size = read(sft).num_parameters()
    assert seen and copies * size <= max(seen) < (copies + 0.5) * size
