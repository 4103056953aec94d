"""Train a bundled model: `python training/train.py dense` or `python training/train.py moe`."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from export import export
from model import Network, Shape
from tokens import Corpus
from torch import Tensor, nn
from torch.optim import Optimizer

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "src" / "flexinfer" / "data"


@dataclass(frozen=True)
class Recipe:
    """One model: its shape, its name and how long it learns."""

    name: str
    file: str
    shape: Shape
    steps: int
    schedule: int  # steps after which the rate would be zero
    rows: int = 8
    rate: float = 4e-3
    warmup: int = 40
    decay: float = 0.6  # share of the schedule, at its end, in which the rate falls
    dropout: float = 0.1
    balance: float = 0.01
    seed: int = 1616


RECIPES = {
    "dense": Recipe(
        "Shakespeare 4M",
        "shakespeare.gguf",
        Shape("llama", 6, 256, 512, 4, 2, vocabulary=1024, context=512),
        steps=550,  # more of them only learn the seen text by heart
        schedule=1100,
    ),
    "moe": Recipe(
        "Shakespeare MoE of 4M",
        "shakespeare-moe.gguf",
        Shape("qwen3moe", 4, 256, 64, 4, 2, vocabulary=1024, context=512, experts=16, used=4),
        steps=350,
        schedule=350,
    ),
}


def optimizers(network: Network, recipe: Recipe) -> list[Optimizer]:
    """Muon for the matrices inside, AdamW for embedding, norms and routers."""
    inside: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        matrix = weight.dim() == 2 and "embedding" not in name and "router" not in name
        (inside if matrix else rest).append(weight)
    return [
        torch.optim.Muon(inside, lr=recipe.rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_at(recipe: Recipe, step: int) -> float:
    """Factor of the rate: up, level, then down in a straight line."""
    left = (recipe.schedule - step) / (recipe.schedule * recipe.decay)
    return min(1.0, (step + 1) / recipe.warmup, left)


def loss_of(network: Network, rows: Tensor) -> Tensor:
    """Mean of -log p of the next token, in nats."""
    logits = network(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


@torch.no_grad()
def measure(network: Network, rows: Tensor) -> float:
    """Loss on unseen text, in nats a token."""
    network.eval()
    losses = [loss_of(network, part) * len(part) for part in torch.split(rows, 8)]
    network.train()
    return float(sum(losses)) / len(rows)


def report(recipe: Recipe, network: Network, corpus: Corpus, step: int, began: float) -> str:
    """One line of JSON: progress, loss on unseen text, CPU seconds, the experts' use."""
    loss = measure(network, corpus.measure_rows())
    line: dict[str, object] = {
        "step": step,
        "unseen_nats_per_token": round(loss, 4),
        "unseen_bits_per_character": round(loss / math.log(2) / corpus.unseen_characters, 4),
        "cpu_seconds": round(time.process_time() - began),
    }
    if network.routers():
        loads = torch.stack([router.load for router in network.routers()])
        line["expert_share_min_max"] = [round(float(x), 4) for x in (loads.min(), loads.max())]
    return json.dumps(line)


def save(recipe: Recipe, network: Network, corpus: Corpus, data: Path, build: Path) -> None:
    """The packaged file in `data`, and in `build` the exact weights for `check.py`."""
    for folder in (data, build):
        folder.mkdir(parents=True, exist_ok=True)
    export(network, corpus.tokenizer, data / recipe.file, recipe.name, "q8_0")
    torch.save(network.state_dict(), build / f"{recipe.file}.pt")


def learn(recipe: Recipe, network: Network, rows: Tensor, steppers: list[Optimizer]) -> float:
    """One step; gives the loss before it."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(network, rows)
    spread = sum((router.balance for router in network.routers()), torch.zeros(()))
    torch.autograd.backward(loss + recipe.balance * spread)
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for stepper in steppers:
        stepper.step()
        stepper.zero_grad()
    return loss.item()


def train(recipe: Recipe, data: Path, build: Path, every: int) -> None:
    """Learn for `recipe.steps`; what there is is written every `every` steps and at the end."""
    torch.manual_seed(recipe.seed)
    began = time.process_time()
    corpus = Corpus(HERE / "shakespeare.txt", recipe.shape.vocabulary, recipe.shape.context)
    network = Network(recipe.shape, recipe.dropout)
    steppers, batches = optimizers(network, recipe), corpus.batches(recipe.rows, recipe.seed)
    for step in range(recipe.steps):
        for group in (group for stepper in steppers for group in stepper.param_groups):
            group["lr"] = recipe.rate * rate_at(recipe, step)
        loss = learn(recipe, network, next(batches), steppers)
        if step % 20 == 0:
            print(json.dumps({"step": step, "loss": round(loss, 4)}), flush=True)
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            print(report(recipe, network, corpus, step + 1, began), flush=True)
            save(recipe, network, corpus, data, build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--steps", type=int, help="fewer for a quick try")
    parser.add_argument("--every", type=int, default=100, help="steps between two exports")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA, help="where the GGUF file goes")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build" / "training")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = RECIPES[given.model]
    train(replace(recipe, steps=given.steps or recipe.steps), given.data, given.build, given.every)


if __name__ == "__main__":
    main()
