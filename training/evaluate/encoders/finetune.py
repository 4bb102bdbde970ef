"""Fine-tuning: the whole network learns the classes, from an encoder's weights or from none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.vit import VisionTransformer, VitConfig
from training.align.standardise import standardise_input
from training.errors import RunInvalid
from training.evaluate.encoders.preprocessing import as_seen
from training.evaluate.encoders.subjects import Subject, embedding, moments
from training.evaluate.scenes import Progress

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Clock = Callable[[], float]
SUPERVISED = "supervised from scratch, same size"


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a network learns classes; the same for all subjects."""

    epochs: int = 20
    """At most."""
    minutes: float = 5.0
    """Of each subject at most; the learning rate has come down by then."""
    batch: int = 32
    lr: float = 5e-4
    """Peak of AdamW."""
    weight_decay: float = 0.05
    warmup: float = 0.1
    """Share of the training during which the learning rate rises."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A network that knows classes."""

    vit: VisionTransformer
    head: nn.Linear
    epochs: float
    """Done."""
    seconds: float

    @torch.inference_mode()
    def predict(self, tiles: Float32Array, batch: int = 32) -> IntArray:
        """The classes of reflectance tiles.  (n, C, H, W) to (n,)"""
        parts = [tiles[start : start + batch] for start in range(0, len(tiles), batch)]
        found = [self.head(self.vit(torch.from_numpy(as_seen(part)))[0]).argmax(dim=1) for part in parts]
        return torch.cat(found).numpy()


def fresh(config: VitConfig, seed: int, tiles: Float32Array) -> VisionTransformer:
    """A network of this size before any training, its input standardised by the moments of ``tiles``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = VisionTransformer.from_config(config)
    standardise_input(vit.patch_embed, *moments(tiles))
    return vit


def tune(
    vit: VisionTransformer,
    tiles: Float32Array,
    codes: IntArray,
    classes: int,
    how: FineTuning,
    *,
    seed: int,
    clock: Clock,
    progress: Progress,
    name: str = "fine-tuning",
) -> Tuned:
    """Train a copy of a network and a linear head on its class token, all weights free.

    Tiles are turned at random: seen from above, none of the 8 symmetries of the square is special.

    Args:
        vit: where it starts; stays as it is.
        tiles: reflectance.  (n, C, H, W)
        codes: class of each, from 0.  (n,)
        classes: how many there are.
        how: settings.
        seed: of the head, the order and the turns.
        clock: seconds.
        progress: told of each step.
        name: what it is told of.

    Raises:
        RunInvalid: the loss is not finite.
    """
    rng = np.random.default_rng((seed, 0xF7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(vit.config.dim, classes)
    nn.init.zeros_(head.weight)
    net = copy.deepcopy(vit).train().requires_grad_(True)
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=how.lr, weight_decay=how.weight_decay)
    per_epoch = math.ceil(len(tiles) / how.batch)
    steps = how.epochs * per_epoch
    started = clock()
    done, order = 0, np.empty(0, dtype=np.int64)
    while done < steps:
        # Whichever runs out first, epochs or minutes, ends the schedule.
        share = max(done / steps, (clock() - started) / (60 * how.minutes))
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = how.lr * min(share / how.warmup, 0.5 * (1 + math.cos(math.pi * share))) + 1e-6
        if not len(order):
            order = rng.permutation(len(tiles))
        rows, order = order[: how.batch], order[how.batch :]
        x = _turned(torch.from_numpy(as_seen(tiles[rows])), rng)
        loss = F.cross_entropy(head(net(x)[0]), torch.from_numpy(codes[rows]))
        if not torch.isfinite(loss):
            raise RunInvalid(f"{name}: the loss is {float(loss.detach())} at step {done}; lower --lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*net.parameters(), *head.parameters()], 3.0)
        optimizer.step()
        done += 1
        progress(name, done, steps)
    return Tuned(vit=net.eval(), head=head, epochs=done / per_epoch, seconds=clock() - started)


def supervised(tuned: Tuned) -> Subject:
    """A network that was trained on the classes themselves, as a subject for neighbours and probes."""
    return Subject(name=SUPERVISED, kind="supervised", embed=embedding(lambda _: tuned.vit), vit=tuned.vit)


def _turned(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Each tile (B, C, H, W) in one of the 8 symmetries of the square."""
    turned: list[Tensor] = []
    for tile, which in zip(x, rng.integers(8, size=len(x)).tolist(), strict=True):
        quarter = torch.rot90(tile, which % 4, (1, 2))
        turned.append(quarter.flip(2) if which >= 4 else quarter)
    return torch.stack(turned)
