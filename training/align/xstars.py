"""Trains the X-STARS encoder: DINO on every image, MSAD on co-located pairs.

``total = DINO + α·MSAD`` (Marsocci & Audebert 2025). One trunk and one patch embedding serve all sensors, which is
possible because each has three bands here. What is random in a step is drawn from (seed, step): see
:class:`training.running.loop.Trainee`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from engine.vit import VisionTransformer
from training.align.dino import DinoHead, DinoLoss, update_teacher
from training.align.msad import ProjectionHead, msad_position
from training.align.views import ViewRanges, multi_crop
from training.data.pairs import PairSource
from training.data.pool import ImagePool
from training.errors import RunInvalid
from training.presets import XstarsPreset
from training.running.checkpoint import load_optimizer, optimizer_tensors
from training.running.loop import StepReport
from training.running.schedules import cosine, warmup_cosine

MODES = ("position", "off")


class XstarsTraining:
    """Student, teacher, heads and optimiser; a :class:`training.running.loop.Trainee`."""

    def __init__(
        self, preset: XstarsPreset, pools: Sequence[ImagePool], sources: Sequence[PairSource], seed: int
    ) -> None:
        if preset.msad not in MODES:
            raise RunInvalid(f"MSAD mode {preset.msad!r} is not one of {', '.join(MODES)}")
        self.preset = preset
        self.pools = pools
        self.sources = sources
        self.seed = seed
        dim = preset.vit.dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.student = VisionTransformer.from_config(preset.vit)
            self.student_head = _head(preset)
            sensors = sorted({name for source in sources for name in source.sensors})
            # ModuleDict keys may hold no dots; sensor names have none.
            self.projections = nn.ModuleDict({name: ProjectionHead(dim, preset.msad_dim) for name in sensors})
        standardise_input(self.student, *_moments(pools, preset.tile_px, seed))
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.student_head).eval().requires_grad_(False)
        self.dino = DinoLoss(
            preset.prototypes,
            student_temperature=preset.student_temperature,
            centre_momentum=preset.centre_momentum,
        )
        self.optimizer = torch.optim.AdamW(_groups([self.student, self.student_head, self.projections]), lr=preset.lr)

    def step(self, index: int, steps: int) -> StepReport:
        """One step on one multi-crop batch and one batch of pairs."""
        preset = self.preset
        rng = np.random.default_rng((self.seed, index))
        lr = self._schedule(index, steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))  # stochastic depth draws from torch's global generator
            dino, teacher_out = self._dino(rng)
            losses = {"dino": dino}
            if preset.msad != "off" and self.sources:
                losses["msad"] = self._msad(rng, index)
            total = dino + preset.msad_weight * losses["msad"] if "msad" in losses else dino
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        if index < preset.freeze_last:
            self.student_head.prototypes.grad = None
        for part in (self.student, self.student_head, self.projections):
            torch.nn.utils.clip_grad_norm_(part.parameters(), preset.clip)
        self.optimizer.step()
        self.dino.update_centre(teacher_out)
        momentum = cosine(index / max(1, steps - 1), start=preset.teacher_momentum, end=1.0)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        shown = {"loss": float(total.detach()), **{name: float(value.detach()) for name, value in losses.items()}}
        return StepReport(losses=shown, lr=lr, images=preset.batch + (2 * preset.pairs if "msad" in losses else 0))

    def _dino(self, rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
        preset = self.preset
        large, small = multi_crop(rng, self.pools, preset, ViewRanges())
        self.student.train()
        student = [self._outputs(self.student, self.student_head, views) for views in (large, small) if views]
        with torch.no_grad():
            teacher = self._outputs(self.teacher, self.teacher_head, large)
        loss: Tensor = self.dino([out for group in student for out in group], teacher, preset.teacher_temperature)
        return loss, teacher

    def _msad(self, rng: np.random.Generator, index: int) -> Tensor:
        preset = self.preset
        # One kind of pair per step: the batch's other pairs are then negatives of the same kind, not easy ones.
        source = self.sources[index % len(self.sources)]
        a, b = source.pairs(rng, preset.pairs, preset.tile_px)
        cls, tokens = self.student(torch.from_numpy(np.concatenate([a, b])))
        heads = [self.projections[sensor] for sensor in source.sensors]
        # The class token, which the daemon compares, is aligned like a patch, and counts as much as all of them.
        return torch.stack([self._aligned(heads, tokens), self._aligned(heads, cls[:, None])]).mean()

    def _aligned(self, heads: Sequence[nn.Module], tokens: Tensor) -> Tensor:
        first, second = tokens.chunk(2)
        return msad_position(
            heads[0](first),
            heads[1](second),
            temperature=self.preset.temperature,
            target_temperature=self.preset.target_temperature,
        )

    def _outputs(self, trunk: nn.Module, head: nn.Module, views: list[Tensor]) -> list[Tensor]:
        cls, _ = trunk(torch.cat(views))
        return list(head(cls).chunk(len(views)))

    def _schedule(self, index: int, steps: int) -> float:
        preset = self.preset
        lr = warmup_cosine(index, steps=steps, warmup=min(preset.warmup, steps // 2), peak=preset.lr, floor=1e-6)
        decay = cosine(index / max(1, steps - 1), start=preset.weight_decay[0], end=preset.weight_decay[1])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay if group["decays"] else 0.0
        return lr

    def weights(self) -> dict[str, Tensor]:
        """The teacher's trunk: what is served (the better one of the two, as in DINO)."""
        return {name: value.detach().clone().contiguous() for name, value in self.teacher.state_dict().items()}

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "student": self.student,
            "student_head": self.student_head,
            "teacher": self.teacher,
            "teacher_head": self.teacher_head,
            "projections": self.projections,
            "dino": self.dino,
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """All state, by name: heads, centre and optimiser too."""
        named = {
            f"{part}.{name}": value
            for part, module in self._modules().items()
            for name, value in module.state_dict().items()
        }
        return {**named, **optimizer_tensors(self.optimizer)}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Take up the state of :meth:`tensors`."""
        for part, module in self._modules().items():
            prefix = part + "."
            module.load_state_dict(
                {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            )
        load_optimizer(self.optimizer, tensors)


@torch.no_grad()
def standardise_input(vit: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
    """Rewrite the patch embedding so that it does to x what it did to ``(x - mean) / std``.

    Reflectance in [-1, 1] is a large constant with little on it, and fresh tokens of it are all alike. A convolution
    absorbs any affine change of its input, so what is served still takes x itself.
    """
    weight, bias = vit.patch_embed.weight, vit.patch_embed.bias
    scale = torch.tensor(std).reshape(1, -1, 1, 1)
    weight /= scale
    if bias is not None:
        bias -= (weight * torch.tensor(mean).reshape(1, -1, 1, 1)).sum(dim=(1, 2, 3))


def _moments(pools: Sequence[ImagePool], tile_px: int, seed: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, every pool counting the same."""
    rng = np.random.default_rng((seed, 0x5D))
    tiles = np.concatenate([pool.tiles(rng, 200, tile_px) for pool in pools]).astype(np.float64)
    return tiles.mean(axis=(0, 2, 3)).tolist(), tiles.std(axis=(0, 2, 3)).tolist()


def _head(preset: XstarsPreset) -> DinoHead:
    return DinoHead(
        preset.vit.dim, hidden=preset.head_hidden, bottleneck=preset.bottleneck, prototypes=preset.prototypes
    )


def _groups(modules: Iterable[nn.Module]) -> list[dict[str, object]]:
    """Biases, norms and position embeddings are not decayed."""
    named = [pair for module in modules for pair in module.named_parameters()]
    decayed = [value for name, value in named if value.ndim > 1 and "pos_" not in name and "cls_token" not in name]
    kept = [value for name, value in named if value.ndim <= 1 or "pos_" in name or "cls_token" in name]
    return [{"params": decayed, "decays": True}, {"params": kept, "decays": False}]
