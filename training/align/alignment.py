"""MSAD in a training: the projection heads, and the loss of one batch of pairs over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.align.msad import MODES, ProjectionHead, matched, msad_compat, msad_dense, msad_position
from training.encoder_presets import XstarsPreset
from training.errors import RunInvalid
from training.running.distributed import World
from training.running.precision import Precision, computing


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """This process's tiles of one sensor, embedded."""

    sensor: str
    cls: Tensor
    """(n, D)"""
    tokens: Tensor
    """(n, N, D)"""


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """What MSAD says of a batch of pairs; the same in all processes."""

    loss: Tensor
    """Of the whole batch; its gradient reaches what this process computed."""
    measures: Mapping[str, float]
    """``msad_accuracy``: how many tiles of the batch find their own partner by their tokens; ``class_accuracy``: by
    their class tokens. Chance is 1 / pairs."""


class Alignment(nn.Module):
    """A projection head for each sensor or one for all, and MSAD in one of its modes.

    Raises:
        RunInvalid: the preset's mode is unknown.
    """

    def __init__(self, sensors: Iterable[str], preset: XstarsPreset, world: World, precision: Precision) -> None:
        super().__init__()
        if preset.msad not in MODES:
            raise RunInvalid(f"MSAD mode {preset.msad!r} is not one of {', '.join(MODES)}")
        self.preset = preset
        self.world = world
        self.precision = precision
        names = sorted(set(sensors))
        heads = [ProjectionHead(preset.vit.dim, preset.msad_dim) for _ in names[: 1 if preset.shared_head else None]]
        # ModuleDict keys may hold no dots; sensor names have none. A shared head stands under every name.
        self.heads = nn.ModuleDict({name: heads[0 if preset.shared_head else i] for i, name in enumerate(names)})

    @property
    def learns(self) -> bool:
        """Whether the loss has a gradient."""
        return self.preset.msad in ("position", "dense")

    def forward(self, a: Embedded, b: Embedded, own: slice, rng: np.random.Generator) -> Aligned:
        """MSAD over all processes' pairs.

        Args:
            a: this process's tiles of one sensor.
            b: its tiles of the other one, over the same ground.
            own: their places among ``preset.pairs``.
            rng: draws the tokens of ``dense``; alike in all processes.
        """
        preset = self.preset
        if preset.msad == "compat":
            with torch.no_grad():
                u, v = (self._project(side.sensor, side.tokens, own, unit=False) for side in (a, b))
                return Aligned(loss=msad_compat(u, v), measures={"msad_accuracy": float(matched(u, v))})
        warmth = {"temperature": preset.temperature, "target_temperature": preset.target_temperature}
        measures: dict[str, float] = {}
        losses: list[Tensor] = []
        if preset.class_share < 1:
            if preset.msad == "dense":
                u, v = self._sampled(a, b, own, rng)
                losses.append((1 - preset.class_share) * msad_dense(u, v, **warmth))
                u, v = u[:, None], v[:, None]
            else:
                u, v = (self._project(side.sensor, side.tokens, own) for side in (a, b))
                losses.append((1 - preset.class_share) * msad_position(u, v, **warmth))
            measures["msad_accuracy"] = float(matched(u, v))
        if preset.class_share > 0:
            u, v = (self._project(side.sensor, side.cls[:, None], own) for side in (a, b))
            losses.append(preset.class_share * msad_position(u, v, **warmth))
            measures["class_accuracy"] = float(matched(u, v))
        return Aligned(loss=torch.stack(losses).sum(), measures=measures)

    def _project(self, sensor: str, tokens: Tensor, own: slice, *, unit: bool = True) -> Tensor:
        """Every process's tokens in the common space.  (pairs, N, msad_dim)"""
        places = torch.arange(own.start, own.stop, device=tokens.device)
        return self.world.whole(self._head(sensor, tokens, unit=unit), places, self.preset.pairs)

    def _head(self, sensor: str, tokens: Tensor, *, unit: bool = True) -> Tensor:
        with computing(self.precision, self.world.device):
            out: Tensor = self.heads[sensor](tokens, unit=unit)
            return out

    def _sampled(self, a: Embedded, b: Embedded, own: slice, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The same sampled tokens of both sensors, from all processes.  (M, msad_dim) each"""
        per_tile = a.tokens.shape[1]
        total = self.preset.pairs * per_tile
        chosen = np.sort(rng.choice(total, min(self.preset.dense_tokens, total), replace=False))
        mine = (chosen >= own.start * per_tile) & (chosen < own.stop * per_tile)
        device = a.tokens.device
        places = torch.from_numpy(np.flatnonzero(mine)).to(device)
        rows = torch.from_numpy(chosen[mine] - own.start * per_tile).to(device)
        u, v = (
            self.world.whole(self._head(side.sensor, side.tokens.flatten(0, 1)[rows]), places, len(chosen))
            for side in (a, b)
        )
        return u, v
