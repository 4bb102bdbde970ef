"""Trains the X-STARS encoder: DINO on every image, MSAD on co-located pairs.

``total = DINO + α·MSAD`` (Marsocci & Audebert 2025). One trunk serves all sensors, behind one patch embedding or one
for each: :mod:`training.align.trunk`. What is random in a step is drawn from (seed, step): see
:class:`training.running.loop.Trainee`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from training.align.alignment import Aligned, Alignment, Embedded
from training.align.continual import Start, take_up
from training.align.dino import DinoHead, DinoLoss, update_teacher
from training.align.standardise import moments, pair_moments
from training.align.trunk import SensorTrunk
from training.align.views import Groups, ViewRanges, multi_crop
from training.data.pairs import PairSource
from training.data.pool import ImagePool
from training.encoder_presets import PATCH_EMBEDDINGS, XstarsPreset, physical_sensor
from training.errors import RunInvalid
from training.running.checkpoint import load_optimizer, optimizer_tensors
from training.running.distributed import ALONE, World
from training.running.loop import StepReport
from training.running.precision import Precision, computing, require_precision
from training.running.schedules import cosine, warmup_cosine


class XstarsTraining:
    """Student, teacher, heads and optimiser; a :class:`training.running.loop.Trainee`.

    Over several processes each holds a replica, and shows its part of the views and pairs. They exchange gradients,
    projected tokens (MSAD's negatives are those of the whole batch) and the mean that DINO's centre follows, so a run
    means the same on any number of processes. Networks run in ``precision``; losses, weights, optimiser and teacher
    are FP32.

    With ``start`` it is continual: :mod:`training.align.continual`.

    Raises:
        RunInvalid: the preset's MSAD mode or patch embedding is unknown, the device cannot compute in ``precision``, or
            the weights to start from do not fit.
    """

    def __init__(
        self,
        preset: XstarsPreset,
        pools: Sequence[ImagePool],
        sources: Sequence[PairSource],
        seed: int,
        *,
        world: World = ALONE,
        precision: Precision = "fp32",
        start: Start | None = None,
    ) -> None:
        require_precision(precision, world.device)
        if preset.patch_embedding not in PATCH_EMBEDDINGS:
            raise RunInvalid(f"patch embedding {preset.patch_embedding!r} is not one of {', '.join(PATCH_EMBEDDINGS)}")
        if start is not None:
            pools, sources = start.pools(pools), start.sources(sources)
        self.start = start
        self.preset = preset
        self.pools = pools
        self.sources = sources
        self.seed = seed
        self.world = world
        self.precision = precision
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sensors = [name for source in sources for name in source.sensors]
            physical = [pool.sensor for pool in pools] + [physical_sensor(name) for name in sensors]
            self.student = SensorTrunk.fresh(preset, list(dict.fromkeys(physical)))
            self.student_head = _head(preset)
            self.alignment = Alignment(sensors, preset, world, precision)
        if start is None:
            seen = pair_moments(sources, preset.tile_px, seed)
            for pool in pools:
                seen[pool.sensor] = moments([pool], preset.tile_px, seed)
            self.student.standardise(seen, moments(pools, preset.tile_px, seed))
        else:
            take_up(self.student, start, preset.vit)
        self.dino = DinoLoss(
            preset.prototypes,
            student_temperature=preset.student_temperature,
            centre_momentum=preset.centre_momentum,
        )
        for module in (self.student, self.student_head, self.alignment, self.dino):
            module.to(world.device)
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.frozen = None if start is None else copy.deepcopy(self.teacher)
        self.teacher_head = copy.deepcopy(self.student_head).eval().requires_grad_(False)
        # Heads without a gradient belong to no optimiser: it would decay them.
        self.learning = [self.student, self.student_head, *([self.alignment] if self.alignment.learns else [])]
        self.optimizer = torch.optim.AdamW(_groups(self.learning), lr=preset.lr)

    def step(self, index: int, steps: int) -> StepReport:
        """One step on one multi-crop batch and one batch of pairs."""
        preset, world = self.preset, self.world
        rng = np.random.default_rng((self.seed, index))
        lr = self._schedule(index, steps)
        self.student.train()
        with self._depth_seeded(index):
            dino, teacher_mean = self._dino(rng, index)
            aligned = self._msad(rng, index) if preset.msad != "off" and self.sources else None
            # DINO's part is this process's rows'; MSAD's is the whole batch's, with a gradient to this process's rows.
            total = dino
            if aligned is not None and self.alignment.learns:
                total = total + preset.msad_weight * aligned.loss
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        if self.student.patch_embeds and world.size > 1:
            # A process whose rows lack a sensor adds nothing to that sensor's gradient, but must say so.
            for value in self.student.patch_embeds.parameters():
                value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        world.sum_gradients(value for part in self.learning for value in part.parameters())
        if index < preset.freeze_last:
            self.student_head.prototypes.grad = None
        for part in self.learning:
            torch.nn.utils.clip_grad_norm_(part.parameters(), preset.clip)
        self.optimizer.step()
        summed = world.summed(torch.cat([dino.detach().reshape(1), teacher_mean]))
        self.dino.update_centre(summed[1:])
        momentum = cosine(index / max(1, steps - 1), start=preset.teacher_momentum, end=1.0)
        update_teacher(self.teacher, self.student, momentum)
        update_teacher(self.teacher_head, self.student_head, momentum)
        return self._report(float(summed[0]), aligned, lr)

    def _report(self, dino: float, aligned: Aligned | None, lr: float) -> StepReport:
        preset = self.preset
        if aligned is None:
            return StepReport(losses={"loss": dino, "dino": dino}, lr=lr, images=preset.batch)
        msad = float(aligned.loss.detach())
        total = dino + preset.msad_weight * msad if self.alignment.learns else dino
        return StepReport(
            losses={"loss": total, "dino": dino, "msad": msad},
            lr=lr,
            images=preset.batch + 2 * preset.pairs,
            measures=aligned.measures,
        )

    def _dino(self, rng: np.random.Generator, index: int) -> tuple[Tensor, Tensor]:
        """This process's part of DINO's loss and of the mean of the teacher's outputs, (K,)."""
        preset = self.preset
        own = self.world.share(preset.batch)
        large, small = multi_crop(rng, self.pools, preset, ViewRanges(), index=index, own=own, device=self.world.device)
        student = [self._outputs(self.student, self.student_head, views) for views in (large, small) if views]
        with torch.no_grad():
            teacher = self._outputs(self.teacher, self.teacher_head, large)
        share = (own.stop - own.start) / preset.batch
        loss: Tensor = self.dino([out for group in student for out in group], teacher, preset.teacher_temperature)
        return share * loss, share * torch.cat(teacher).mean(dim=0)

    def _msad(self, rng: np.random.Generator, index: int) -> Aligned:
        preset = self.preset
        # One kind of pair per step: the batch's other pairs are then negatives of the same kind, not easy ones.
        source = self.sources[index % len(self.sources)]
        pixels = source.pairs(rng, preset.pairs, preset.tile_px)
        own = self.world.share(preset.pairs)
        tiles = [torch.from_numpy(np.ascontiguousarray(side[own])).to(self.world.device) for side in pixels]
        with torch.set_grad_enabled(self.alignment.learns):
            a, b = self._embedded(source.sensors, tiles)
            aligned: Aligned = self.alignment(a, b, own, rng)
            return aligned

    def _embedded(self, sensors: tuple[str, str], tiles: Sequence[Tensor]) -> list[Embedded]:
        """Both sides of this process's pairs: by the student, or one of them by the frozen copy."""
        sides = list(zip(sensors, tiles, strict=True))
        with computing(self.precision, self.world.device):
            if self.frozen is None or self.start is None:
                cls, tokens = self.student(sides)
                parts = list(zip(cls.chunk(2), tokens.chunk(2), strict=True))
            else:
                mine = self.start.student_side(sensors)
                with torch.no_grad():
                    other = self.frozen([sides[1 - mine]])
                adapted = self.student([sides[mine]])
                parts = [adapted, other] if mine == 0 else [other, adapted]
        return [
            Embedded(sensor=sensor, cls=cls, tokens=tokens)
            for sensor, (cls, tokens) in zip(sensors, parts, strict=True)
        ]

    def _outputs(self, trunk: nn.Module, head: nn.Module, views: list[Groups]) -> list[Tensor]:
        with computing(self.precision, self.world.device):
            cls, _ = trunk([group for view in views for group in view])
            return list(head(cls).chunk(len(views)))

    @contextmanager
    def _depth_seeded(self, index: int) -> Iterator[None]:
        """Stochastic depth draws from torch's global generators: seeded by step, so that a resumed run repeats it, and
        by rank, so that processes drop different paths."""
        device = self.world.device
        seed = int(np.random.default_rng((self.seed, index, self.world.rank, 0xD0)).integers(2**62))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

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
        return self.teacher.served()

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "student": self.student,
            "student_head": self.student_head,
            "teacher": self.teacher,
            "teacher_head": self.teacher_head,
            "alignment": self.alignment,
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
