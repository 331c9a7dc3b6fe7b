"""Whether models, what trains them, and their tokenizers fit each other."""

from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import KeyPath
from pipelines.recipe.base import OutsideModel
from pipelines.recipe.evaluation import EvaluateStage, TaskConfig
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.kinds import ARCHITECTURES, BY_OBJECTIVE, architecture_of, outside_start
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.outline import UNKNOWN, Fault, Outline, given
from pipelines.recipe.own_model import GIVEN, OwnModel, UnfitSource, classes_of, modules_of, settings_of
from pipelines.recipe.peft import differences
from pipelines.recipe.spans import noise_lengths
from pipelines.recipe.stages import PpoStage, PretrainStage, TokenizerStage
from pipelines.recipe.training import FromModelStage, StageConfig, TrainStage
from pipelines.recipe.words import did_you_mean


def find_wrong_models(outline: Outline, recipe_path: Path) -> Iterator[Fault]:
    """Faults of chapter `model`, and of what stages do with models."""
    if isinstance(outline.model, OwnModel):
        yield from _own_model(outline.model, recipe_path)
    elif outline.model is not None:
        yield from _router_losses(outline.model, outline)
    for name, stage in outline.stages.items():
        at = ("stages", name)
        if isinstance(stage, TrainStage):
            yield from _adapters(at, stage, outline)
        if isinstance(stage, PretrainStage | FinetuneStage):
            yield from _random_start(at, stage, outline)
            yield from _architecture(at, stage, outline)
        if isinstance(stage, PretrainStage):
            yield from _objective_tokens(at, stage, outline)
    yield from _tokenizers(outline)


def _random_start(at: KeyPath, stage: PretrainStage | FinetuneStage, outline: Outline) -> Iterator[Fault]:
    if given(stage, "model") is None and not outline.has_model:
        yield Fault(at, "starts from random weights, so the recipe needs the chapter model", at_key=True)


def _own_model(model: OwnModel, recipe_path: Path) -> Iterator[Fault]:
    """Whether the file holds the classes, and the configuration the settings. Nothing of it is run."""
    python, name = given(model, "python"), given(model, "class_name")
    if not python or not name:
        return
    try:
        classes = classes_of(modules_of((recipe_path.resolve().parent / python).resolve()))
    except UnfitSource as error:
        yield Fault(("model", "python"), str(error))
        return
    for wanted in (name, f"{model.stem}ForCausalLM"):
        if wanted not in classes:
            known = [other for other in classes if other.endswith("Config")] if wanted == name else list(classes)
            hint = did_you_mean(wanted, known)
            yield Fault(("model", "class"), f"there is no class {wanted} in {python}{hint}")
            return
    settings = settings_of(name, classes)
    for setting in model.model_extra or {}:
        if setting in GIVEN:
            yield Fault(("model", setting), "is given by the tokenizer; take it out", at_key=True)
        elif setting not in settings:
            yield Fault(("model", setting), f"is no setting of {name}{did_you_mean(setting, settings)}", at_key=True)


def _router_losses(model: ModelConfig, outline: Outline) -> Iterator[Fault]:
    """The losses that keep a router in balance are pretraining's; where there is none, nothing reads their weights."""
    is_known = set(outline.stages) == set(outline.stage_names)
    pretrained = [name for name, stage in outline.stages.items() if isinstance(stage, PretrainStage)]
    if not is_known or not given(model, "num_experts") or any(not outside_start(name, outline) for name in pretrained):
        return
    for field in ("router_aux_loss_coef", "router_z_loss_coef"):
        if given(model, field) not in (UNKNOWN, ModelConfig.model_fields[field].default):
            message = "is a loss of pretrain alone, and no pretrain stage trains this model"
            yield Fault(("model", field), f"{message}; remove it, or pretrain first")


def _architecture(at: KeyPath, stage: PretrainStage | FinetuneStage, outline: Outline) -> Iterator[Fault]:
    """Whether the objective, or the task, is one for the transformer that is trained."""
    architecture = architecture_of(stage, outline)
    if architecture is None:
        return
    if isinstance(stage, PretrainStage):
        objective = given(stage, "objective")
        fitting = [name for name, kind in BY_OBJECTIVE.items() if kind == ARCHITECTURES[architecture]]
        if objective and objective not in fitting:
            message = f"{objective} is no objective for an {architecture}; choose {' or '.join(fitting)}"
            yield Fault((*at, "objective"), message.replace("an decoder", "a decoder"))
        return
    task = given(stage, "task")
    unfit = {"classification": "encoder_decoder", "seq2seq": "encoder"}.get(task) if task else None
    if unfit == architecture:
        able = "an encoder or a decoder" if task == "classification" else "an encoder_decoder or a decoder"
        yield Fault((*at, "task"), f"{task} is done by {able}, and this is an {architecture}")
    wanted = {"classification": "labelled", "seq2seq": "pairs"}.get(task) if task else None
    for name in given(stage, "data") or ():
        has = given(outline.data.get(name), "format")
        if wanted and has in ("labelled", "pairs") and has != wanted:
            yield Fault((*at, "data", name), f"{task} needs {wanted} data, but '{name}' is {has}")


def _adapters(at: KeyPath, stage: TrainStage, outline: Outline) -> Iterator[Fault]:
    """An adapter is trained on with its own settings, or merged."""
    if not isinstance(stage, FromModelStage):
        return
    parent = given(stage, "model")
    before, after = given(outline.stages.get(parent) if parent else None, "peft"), given(stage, "peft")
    if before and after and (changed := differences(before, after)):
        message = (
            f"goes on from the adapter of stage '{parent}', which has other settings ({', '.join(changed)}); give both "
            "the same, or leave peft out here to merge it and train all weights"
        )
        yield Fault((*at, "peft"), message)


def _tokenizers(outline: Outline) -> Iterator[Fault]:
    """A tokenizer for every model, the same along the line of its weights and for what scores its words."""
    known = [name for name, stage in outline.stages.items() if isinstance(stage, TokenizerStage)]
    whole = set(outline.stages) == set(outline.stage_names)
    for name, stage in outline.stages.items():
        at = ("stages", name)
        own = given(stage, "tokenizer") if isinstance(stage, PretrainStage | FinetuneStage) else None
        if isinstance(stage, PretrainStage | FinetuneStage) and own is None and given(stage, "model") is None:
            if not known and whole:
                yield Fault(at, "needs a stage tokenizer, and the recipe has none", at_key=True)
            elif len(known) > 1:
                names = ", ".join(known)
                yield Fault(
                    at, f"there are several tokenizer stages ({names}); say which by `tokenizer: `", at_key=True
                )
        parent = given(stage, "model") if isinstance(stage, PretrainStage) and own else None
        inherited = _tokenizer_of(parent, outline) if parent else None
        if inherited and inherited != own:
            whose = str(parent) if isinstance(parent, OutsideModel) else f"of stage '{parent}'"
            message = f"the model {whose} has learnt the ids of '{inherited}', not of '{own}'"
            yield Fault((*at, "tokenizer"), message)
        yield from _tokenizers_of_rewards(at, stage, outline)


def _tokenizers_of_rewards(at: KeyPath, stage: StageConfig, outline: Outline) -> Iterator[Fault]:
    if isinstance(stage, PpoStage):
        policies = [given(stage, "model")]
        judges = [((*at, "reward_funcs"), given(stage, "reward_funcs"))]
    elif isinstance(stage, EvaluateStage):
        policies = list(given(stage, "models") or ())
        tasks = [
            (index, task) for index, task in enumerate(given(stage, "tasks") or ()) if isinstance(task, TaskConfig)
        ]
        judges = [((*at, "tasks", index, "reward_funcs"), given(task, "reward_funcs")) for index, task in tasks]
    else:
        return
    for where, judge in judges:
        theirs = _tokenizer_of(judge, outline)
        for policy in policies:
            ours = _tokenizer_of(policy, outline)
            if theirs and ours and theirs != ours:
                yield Fault(where, f"reward model '{judge}' reads tokenizer '{theirs}', but '{policy}' writes '{ours}'")


def _tokenizer_of(name: object, outline: Outline, seen: tuple[object, ...] = ()) -> str | None:
    """The tokenizer stage of a model, where it is certain."""
    if isinstance(name, OutsideModel):
        return str(name)
    stage = outline.stages.get(name) if isinstance(name, str) and name not in seen else None
    if not isinstance(stage, PretrainStage | FromModelStage):
        return None
    if own := given(stage, "tokenizer"):
        return own
    if given(stage, "model") is not None:
        return _tokenizer_of(given(stage, "model"), outline, (*seen, name))
    known = [name for name, config in outline.stages.items() if isinstance(config, TokenizerStage)]
    return known[0] if len(known) == 1 else None


def _objective_tokens(at: KeyPath, stage: PretrainStage, outline: Outline) -> Iterator[Fault]:
    """Whether the tokenizer has what the objective puts in the place of text."""
    objective, name = given(stage, "objective"), _tokenizer_of(at[-1], outline)
    tokenizer = outline.stages.get(name) if name else None
    has_mask, sentinels = given(tokenizer, "mask_token"), given(tokenizer, "num_sentinels")
    if objective == "masked_lm" and has_mask is False:
        yield Fault((*at, "objective"), f"masked_lm needs a mask token; write mask_token: true in stages.{name}")
    length = given(stage, "max_length") or given(outline.model, "max_position_embeddings")
    density, mean = given(stage, "noise_density"), given(stage, "mean_noise_span_length")
    if objective == "span_corruption" and length and density and mean and sentinels is not UNKNOWN:
        _, needed = noise_lengths(length, density, mean)
        if needed > sentinels:
            yield Fault(
                (*at, "objective"),
                f"span_corruption needs {needed} sentinels for rows of {length} tokens, and the tokenizer has "
                f"{sentinels}; write num_sentinels: {needed} in stages.{name}",
            )
