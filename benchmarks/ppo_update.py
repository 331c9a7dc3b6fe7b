"""Seconds of one PPO update: ours, a plain loop with a separate value model and whole-sequence logits, and TRL 1.12's.

32 episodes, 64 prompt and 32 new tokens, 4 passes, 1M parameters, a reward model of the same size, fp32 on the CPU.
TRL dropped its PPO in 1.13, and 1.12 cannot be installed beside ours; put it into a folder of its own:

    pip install --no-deps --target /tmp/trl112 trl==1.12.0
    python benchmarks/ppo_update.py --trl112 /tmp/trl112

The rounds of the candidates alternate, so that whatever else the machine does meets them all. Prints one JSON object.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from torch import Tensor
from transformers import TrainingArguments

from custom_models import DecoderConfig, DecoderForCausalLM, DecoderForSequenceClassification

EPISODES, PROMPT, NEW, PASSES, VOCAB, PAD = 32, 64, 32, 4, 1024, 2
NEVER = VOCAB  # a stop token that is never drawn: every completion has all its tokens
RATE = 1e-4


def config() -> DecoderConfig:
    return DecoderConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=PAD,
        eos_token_id=1,
        num_labels=1,
    )


def models() -> tuple[DecoderForCausalLM, DecoderForCausalLM, DecoderForSequenceClassification]:
    """Policy, its frozen copy, and a reward model."""
    torch.manual_seed(0)
    policy = DecoderForCausalLM(config())
    return policy, copy.deepcopy(policy).eval(), DecoderForSequenceClassification(config()).eval()


def prompts(count: int) -> Tensor:
    return torch.randint(3, VOCAB, (count, PROMPT), generator=torch.Generator().manual_seed(1))


def ours(updates: int) -> list[float]:
    """Seconds of each update of our trainer, from asking for the rollout to the last optimizer step."""
    from pipelines.training.exact import ARGUMENTS, Exact
    from pipelines.training.optim import OptimSettings
    from pipelines.training.ppo import ActorCritic, PPOSettings, PPOTrainer
    from pipelines.training.scoring import RewardModel

    class Prompts(list):
        sizes = (EPISODES,)

    policy, reference, reward = models()
    settings = PPOSettings(
        rollout_batch_size=EPISODES, num_ppo_epochs=PASSES, max_completion_length=NEW, stop_ids=(NEVER,), pad_id=PAD
    )
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=EPISODES,
            max_steps=updates * PASSES,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            **ARGUMENTS,
        )
        trainer = PPOTrainer(
            model=ActorCritic(policy, temperature=1.0),
            reference=reference,
            reward=RewardModel(reward, PAD),
            settings=settings,
            args=args,
            rows=Prompts((row.tolist(), {}) for row in prompts(EPISODES)),
            exact=Exact(
                seed=0,
                checkpoint_every=10**9,
                optim=OptimSettings(learning_rate=RATE, lr_scheduler_type="constant"),
                record=Path(folder),
            ),
        )
        trainer.train()
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    ends = [0.0] + [line["seconds"] for line in lines if line["step"] % PASSES == 0]
    return [after - before for before, after in itertools.pairwise(ends)]


def plain(updates: int) -> list[float]:
    """The same algorithm as one would write it: a value model of its own, logits and values of whole sequences."""
    policy, reference, reward = models()
    critic = DecoderForSequenceClassification(config())
    parameters = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    seconds, ids = [], prompts(EPISODES)
    for _ in range(updates):
        start = time.perf_counter()
        _plain_update(policy, critic, reference, reward, optimizer, parameters, ids)
        seconds.append(time.perf_counter() - start)
    return seconds


def _plain_update(policy, critic, reference, reward, optimizer, parameters, prompts: Tensor) -> None:
    with torch.no_grad():
        policy.eval()
        ids = policy.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=NEW,
            do_sample=True,
            top_k=0,
            eos_token_id=None,
            pad_token_id=PAD,
        )
        policy.train()
        old, old_values, frozen = _logps(policy, ids), _values(critic, ids), _logps(reference, ids)
        rewards = -0.05 * (old - frozen)
        rewards[:, -1] += reward(ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
        advantages, following = torch.zeros_like(rewards), torch.zeros(len(ids))
        for turn in reversed(range(NEW)):
            after = old_values[:, turn + 1] if turn + 1 < NEW else 0.0
            following = rewards[:, turn] + after - old_values[:, turn] + 0.95 * following
            advantages[:, turn] = following
        returns = advantages + old_values
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    for _ in range(PASSES):
        ratio, values = (_logps(policy, ids) - old).exp(), _values(critic, ids)
        actor = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)).mean()
        near = old_values + (values - old_values).clamp(-0.2, 0.2)
        value = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2).mean()
        (actor + 0.1 * value).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _logps(model: DecoderForCausalLM, ids: Tensor) -> Tensor:
    logits = model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, PROMPT - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None]).squeeze(-1)


def _values(critic: DecoderForSequenceClassification, ids: Tensor) -> Tensor:
    hidden = critic.model(ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    return critic.score(hidden)[:, PROMPT - 1 : -1, 0]


def trl112(updates: int) -> list[float]:
    """TRL 1.12's trainer, whose folder comes first on PYTHONPATH; seconds between the starts of its updates."""
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__.startswith("1.12"), trl.__version__
    words = {f"t{number}": number for number in range(VOCAB)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(tokenizer_models.WordLevel(words, unk_token="t0")), eos_token="t1", pad_token="t2"
    )
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            moments.append(time.perf_counter())

    policy, reference, reward = models()
    rows = Dataset.from_dict({"input_ids": prompts(EPISODES).tolist()})
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=EPISODES,
                local_rollout_forward_batch_size=EPISODES,
                num_ppo_epochs=PASSES,
                num_mini_batches=1,
                response_length=NEW,
                total_episodes=EPISODES * updates,
                num_sample_generations=0,
                temperature=1.0,
                learning_rate=RATE,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=DecoderForSequenceClassification(config()),
            train_dataset=rows,
            eval_dataset=rows,
            callbacks=[Clock()],
        )
        start = time.perf_counter()
        trainer.train()
    return [after - before for before, after in zip([start, *moments], moments, strict=False)]


CANDIDATES: dict[str, Callable[[int], list[float]]] = {"ours": ours, "plain": plain, "trl112": trl112}


def measure(name: str, given: argparse.Namespace) -> float:
    """Median seconds of an update in a process of its own, the first left out."""
    path = os.pathsep.join([*([given.trl112] if name == "trl112" else []), str(Path(__file__).parents[1])])
    command = [sys.executable, __file__, "--only", name, "--updates", str(given.updates)]
    command += ["--threads", str(given.threads), "--clock", given.clock]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(given.threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1])[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is not quiet")
    parser.add_argument("--trl112", metavar="FOLDER", help="where trl 1.12 was installed with pip --target")
    parser.add_argument("--only", choices=CANDIDATES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.clock == "cpu":
        time.perf_counter = time.process_time  # every candidate's clock, that of metrics.jsonl too
    if given.only:
        print(json.dumps(CANDIDATES[given.only](given.updates)))
        return
    names = ["ours", "plain", *(["trl112"] if given.trl112 else [])]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            seconds[name].append(measure(name, given))
    best = {name: min(values) for name, values in seconds.items()}
    ratios = {f"ratio_to_{name}": round(best["ours"] / best[name], 3) for name in names[1:]}
    parameters = sum(p.numel() for p in DecoderForCausalLM(config()).parameters())
    print(json.dumps({**{n: round(s, 4) for n, s in best.items()}, **ratios, "parameters": parameters, "all": seconds}))


if __name__ == "__main__":
    main()
