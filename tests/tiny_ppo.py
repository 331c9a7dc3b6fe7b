"""A small PPO run for tests: 64 token ids, prompts of different lengths, a reward that counts tokens divisible by 4."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training_jobs
from transformers import TrainingArguments

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.plan.jobs import Input
from pipelines.recipe.stages import PpoStage
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.exact import ARGUMENTS, Exact
from pipelines.training.inputs import reward_model, tokens_of
from pipelines.training.optim import OptimSettings
from pipelines.training.ppo import ActorCritic, PPOSettings, PPOTrainer
from pipelines.training.rollouts import PromptRows
from pipelines.training.saving import save_model

VOCAB, STOP, PAD = 64, 1, 2


def decoder(seed: int = 0, **changes) -> DecoderForCausalLM:
    torch.manual_seed(seed)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    return DecoderForCausalLM(DecoderConfig(vocab_size=VOCAB, pad_token_id=PAD, **settings | changes)).eval()


def prompts(count: int = 24, seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def table(folder: Path, rows: list[list[int]], split: str = "train") -> TokenTable:
    folder.mkdir(parents=True, exist_ok=True)
    writer = TokenWriter(folder, format="prompt", vocab_size=VOCAB)
    columns = [json.dumps({"number": number}) for number in range(len(rows))]
    writer.append(split, {"prompt_ids": rows, "columns": columns, "prompt": [[] for _ in rows]})
    writer.close()
    return TokenTable.open(folder, split)


def count_fours(prompts, completions, columns) -> list[float]:
    """Share of tokens divisible by four: something a policy can learn in seconds."""
    return [sum(token % 4 == 0 for token in row) / len(row) for row in completions]


def settings(**changes) -> PPOSettings:
    given = {"rollout_batch_size": 16, "num_ppo_epochs": 2, "max_completion_length": 6, "kl_coef": 0.02}
    return PPOSettings(stop_ids=(STOP,), pad_id=PAD, **given | changes)


def trainer(
    folder: Path,
    *,
    rollouts: int = 2,
    micro: int = 8,
    global_batch: int = 8,
    world: int = 1,
    reward=count_fours,
    learning_rate: float = 1e-3,
    model: DecoderForCausalLM | None = None,
    record: Path | None = None,
    rows: list[list[int]] | None = None,
    checkpoint_every: int = 1,
    **changes,
) -> PPOTrainer:
    """A trainer whose checkpoints go to `folder`, unless told otherwise one after each rollout."""
    chosen, policy = settings(**changes), model or decoder()
    steps = rollouts * chosen.num_ppo_epochs * chosen.rollout_batch_size // global_batch
    args = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=global_batch // (micro * world),
        max_steps=steps,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        max_grad_norm=1.0,
        **ARGUMENTS,
    )
    reference = decoder()
    reference.load_state_dict(policy.state_dict())
    return PPOTrainer(
        model=ActorCritic(policy, temperature=chosen.temperature),
        reference=reference,
        reward=reward,
        settings=chosen,
        args=args,
        rows=PromptRows([table(folder / "prompts", rows or prompts())], most_tokens=32),
        exact=Exact(
            seed=7,
            checkpoint_every=checkpoint_every,
            optim=OptimSettings(learning_rate=learning_rate, lr_scheduler_type="constant"),
            record=record or folder,
        ),
    )


# --- the stage --------------------------------------------------------------------------------------------------------

STORY = {"person": "Anna", "object": "ball", "length": 3}


def prompt_tokens(folder: Path, *, rows: int = 24, held_out: int = 8, longest: int = 12) -> Path:
    rng = np.random.default_rng(11)
    made = [
        {
            "prompt_ids": [training_jobs.BOS, *rng.integers(4, training_jobs.VOCAB, rng.integers(2, longest)).tolist()],
            "columns": json.dumps({**STORY, "number": number}),
            "prompt": [],
        }
        for number in range(rows + held_out)
    ]
    return training_jobs.tokens_folder(folder, "prompt", made[:rows], made[rows:])


def stage_config(**fields: Any) -> PpoStage:
    values = {
        "kind": "ppo",
        "model": "base",
        "data": "prompts",
        "reward_funcs": "judge",
        "duration": "3 rollouts",
        "rollout_batch_size": 16,
        "global_batch_size": 8,
        "num_ppo_epochs": 2,
        "max_completion_length": 8,
        "learning_rate": 3e-3,
    }
    return PpoStage.model_validate(values | fields)


def context(root: Path, *, launch: LaunchSettings | None = None, **fields: Any) -> StageContext:
    """A ppo job in `root`/job, with everything it reads; a reward model unless `reward_funcs` names a function."""
    if not (root / "prompts").exists():
        prompt_tokens(root / "prompts")
    ctx = training_jobs.context(root, "dpo", root / "prompts", launch=launch)
    inputs, facts = dict(ctx.inputs), dict(ctx.job.inputs)
    if fields.get("reward_funcs", "judge") == "judge":
        inputs["reward_model"] = judge_folder(root)
        facts["reward_model"] = Input(job="judge", fingerprint="f" * 64)
    job = ctx.job.model_copy(update={"name": "ppo", "stage": "ppo", "config": stage_config(**fields), "inputs": facts})
    return replace(ctx, job=job, inputs=inputs)


def judge_folder(root: Path) -> Path:
    """A reward model with the base model's body and random opinions."""
    folder, base = root / "judge", root / "base"
    if not folder.exists():
        model = reward_model(base, seed=3)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(4))
        save_model(model, tokens_of(base).folder, folder)
    return folder


def main() -> None:
    """`python tests/tiny_ppo.py task.json`: the stage, in this process or in one of several."""
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ctx = context(
        Path(task["root"]), launch=LaunchSettings(num_processes=world, threads=1, **task["launch"]), **task["fields"]
    )
    metrics = training_jobs.run(ctx)
    if int(os.environ.get("RANK", "0")) == 0:
        (ctx.workdir / "metrics.json").write_text(json.dumps({**metrics, "world_size": world}))


if __name__ == "__main__":
    main()
