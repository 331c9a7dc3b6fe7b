"""A stage's config and launch settings -> TrainingArguments and TRL's configs, their defaults set explicitly."""

import math
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments
from trl import DPOConfig, RewardConfig, SFTConfig

from pipelines.data.schedule import key
from pipelines.errors import MachineError
from pipelines.recipe.base import Duration
from pipelines.recipe.stages import DpoStage, RewardStage, SftStage
from pipelines.recipe.training import TrainStage
from pipelines.stages.base import LaunchSettings
from pipelines.training.exact import ARGUMENTS

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def num_steps(duration: Duration, *, rows: int, tokens_per_row: float, global_batch_size: int) -> int:
    """Optimizer steps of a run, rounded up; a last batch is filled from the next pass over the rows.

    `rows` is one epoch (of a mixture: all rows of all datasets), `tokens_per_row` the mean of real tokens, without
    padding, in the proportions of the mixture."""
    if duration.unit == "steps":
        return int(duration.amount)
    if duration.unit == "epochs":
        return max(1, math.ceil(round(rows * duration.amount, 6) / global_batch_size))
    return max(1, math.ceil(duration.amount / (tokens_per_row * global_batch_size)))


def micro_batch_size(global_batch_size: int, launch: LaunchSettings) -> int:
    """Sequences per forward pass and process; MachineError unless processes and micro batches divide the global one."""
    share, rest = divmod(global_batch_size, launch.num_processes)
    if rest:
        raise MachineError(
            f"global_batch_size {global_batch_size} does not divide over {launch.num_processes} processes; change one "
            "of them"
        )
    micro = launch.micro_batch_size or share
    if share % micro:
        raise MachineError(
            f"a process has {share} of {global_batch_size} sequences a step, which micro_batch_size {micro} does not "
            "divide; change launch.micro_batch_size"
        )
    return micro


def training_arguments(
    config: TrainStage, launch: LaunchSettings, *, output_dir: Path, max_steps: int, seed: int
) -> TrainingArguments:
    """For a plain `transformers.Trainer`: pretrain, finetune and ppo."""
    common = _common(config, launch, output_dir=output_dir, max_steps=max_steps, seed=seed)
    return _settled(
        TrainingArguments(**common, activation_checkpointing=launch.activation_checkpointing), config, launch
    )


def sft_config(config: SftStage, launch: LaunchSettings, *, output_dir: Path, max_steps: int, seed: int) -> SFTConfig:
    """Our rows have ids and labels already, so nothing is prepared, cut, packed or templated."""
    arguments = SFTConfig(
        **_common(config, launch, output_dir=output_dir, max_steps=max_steps, seed=seed),
        gradient_checkpointing=launch.activation_checkpointing,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        padding_free=False,
        completion_only_loss=False,
        assistant_only_loss=False,
        router_aux_loss_coef=0.0,
        loss_type="nll",
    )
    return _settled(arguments, config, launch)


def reward_config(
    config: RewardStage, launch: LaunchSettings, *, output_dir: Path, max_steps: int, seed: int
) -> RewardConfig:
    """Our rows have ids already; rows that are too long were dropped or cut, and counted, before."""
    arguments = RewardConfig(
        **_common(config, launch, output_dir=output_dir, max_steps=max_steps, seed=seed),
        gradient_checkpointing=launch.activation_checkpointing,
        max_length=None,
        disable_dropout=False,
        center_rewards_coefficient=config.center_rewards_coefficient or None,
    )
    return _settled(arguments, config, launch)


def dpo_config(config: DpoStage, launch: LaunchSettings, *, output_dir: Path, max_steps: int, seed: int) -> DPOConfig:
    """TRL's name for the sigmoid loss with label smoothing is `robust` (arXiv 2403.00409)."""
    loss = "robust" if config.loss_type == "sigmoid" and config.label_smoothing else config.loss_type
    arguments = DPOConfig(
        **_common(config, launch, output_dir=output_dir, max_steps=max_steps, seed=seed),
        gradient_checkpointing=launch.activation_checkpointing,
        max_length=None,
        padding_free=False,
        disable_dropout=True,
        precompute_ref_log_probs=False,
        sync_ref_model=False,
        use_weighting=False,
        router_aux_loss_coef=0.0,
        f_divergence_type="reverse_kl",
        loss_type=[loss],
        loss_weights=None,
        label_smoothing=config.label_smoothing,
        beta=config.beta,
    )
    return _settled(arguments, config, launch)


def _common(
    config: TrainStage, launch: LaunchSettings, *, output_dir: Path, max_steps: int, seed: int
) -> dict[str, Any]:
    micro = micro_batch_size(config.global_batch_size, launch)
    return {
        **ARGUMENTS,
        "output_dir": str(output_dir),
        "max_steps": max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.global_batch_size // (micro * launch.num_processes),
        "learning_rate": config.learning_rate,
        "max_grad_norm": config.max_grad_norm,
        "seed": key(seed, "trainer") % 2**31,
        "bf16": config.mixed_precision == "bf16",
        "fp16": False,
        "use_cpu": launch.device == "cpu",
        "average_tokens_across_devices": True,
        "label_smoothing_factor": 0.0,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,  # rows are memory-mapped: a worker process costs more than it saves
        "dataloader_pin_memory": launch.device != "cpu",
        "dataloader_drop_last": False,
        "use_liger_kernel": False,
        "torch_compile": False,
    }


def _settled(arguments: Arguments, config: TrainStage, launch: LaunchSettings) -> Arguments:
    """Refuse what would compute another batch than the recipe's."""
    if arguments.world_size != launch.num_processes:
        raise MachineError(
            f"the launch settings ask for {launch.num_processes} processes and {arguments.world_size} are running; "
            "start the stage with the line that `run` prints"
        )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # Trainer would split batches over all GPUs it sees, without being asked
    return arguments
