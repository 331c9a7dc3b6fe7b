"""A small PPO run for tests: 64 token ids, prompts of different lengths, a reward that counts tokens divisible by 4."""

import json
from pathlib import Path

import torch
from transformers import TrainingArguments

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.training.exact import ARGUMENTS, Exact
from pipelines.training.optim import OptimSettings
from pipelines.training.ppo import ActorCritic, PPOSettings, PPOTrainer
from pipelines.training.rollouts import PromptRows

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
    **changes,
) -> PPOTrainer:
    """A trainer whose checkpoints go to `folder`, one after each rollout."""
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
            checkpoint_every=1,
            optim=OptimSettings(learning_rate=learning_rate, lr_scheduler_type="constant"),
            record=record or folder,
        ),
    )
