"""Continual training: a pretrained encoder is adapted to another sensor without losing the first.

Student and EMA teacher start from the pretrained weights. DINO sees only the sensor adapted to. A third copy, frozen
and in eval mode (so without stochastic depth), embeds the other sensor of each pair, and MSAD compares it with what
the student makes of the sensor adapted to (Marsocci & Audebert 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.vit import VitConfig
from training.align.foreign_keys import fitted
from training.align.pretrained import NORMALISATIONS, Pretrained
from training.align.standardise import standardise_input
from training.align.trunk import SensorTrunk
from training.data.pairs import PairSource
from training.data.pool import ImagePool
from training.encoder_presets import physical_sensor
from training.errors import RunInvalid
from training.running.serving import PATCH_EMBEDS


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from, and what it adapts to."""

    pretrained: Pretrained
    adapt_to: str
    """Sensor, as pools name it."""

    def pools(self, pools: Sequence[ImagePool]) -> list[ImagePool]:
        """Those of the sensor adapted to.

        Raises:
            RunInvalid: there is none.
        """
        found = [pool for pool in pools if physical_sensor(pool.sensor) == physical_sensor(self.adapt_to)]
        if not found:
            there = ", ".join(sorted({pool.sensor for pool in pools}))
            raise RunInvalid(f"no images of {self.adapt_to!r} to adapt to; there are images of {there}")
        return found

    def sources(self, sources: Sequence[PairSource]) -> list[PairSource]:
        """The pairs of which one side is of the sensor adapted to.

        Another date of it, or what a coarser sensor would see, counts as the other sensor.
        """
        return [source for source in sources if any(map(self._adapted, source.sensors))]

    def student_side(self, sensors: tuple[str, str]) -> int:
        """Which side of a pair is the sensor adapted to: 0 or 1; the other one is the frozen copy's."""
        exact = [sensor == self.adapt_to for sensor in sensors]
        return (exact if any(exact) else [self._adapted(sensor) for sensor in sensors]).index(True)

    def _adapted(self, sensor: str) -> bool:
        return physical_sensor(sensor) == physical_sensor(self.adapt_to)


@torch.no_grad()
def take_up(trunk: SensorTrunk, start: Start, config: VitConfig) -> None:
    """Give a trunk the pretrained weights, and let its patch embeddings take our input instead of theirs.

    Where each sensor has its own embedding, it starts as the pretrained one of that sensor, or else as the one that
    the weights have for all.

    Raises:
        RunInvalid: names or shapes do not match, or the weights' normalisation is for another number of bands.
    """
    weights = start.pretrained.weights
    shared = {name: value for name, value in weights.items() if not name.startswith(PATCH_EMBEDS)}
    wanted = physical_sensor(start.adapt_to)
    trunk.vit.load_state_dict(fitted(_behind(weights, shared, wanted), config))
    for name, embed in trunk.patch_embeds.items():
        state = fitted(_behind(weights, shared, name), config)
        embed.load_state_dict({end: state[f"patch_embed.{end}"] for end in ("weight", "bias")})
    for embed in trunk.patch_embeds.values() if trunk.patch_embeds else [trunk.vit.patch_embed]:
        assert isinstance(embed, nn.Conv2d)
        _absorb(embed, start.pretrained.normalisation)


def _behind(weights: Mapping[str, Tensor], shared: Mapping[str, Tensor], sensor: str) -> dict[str, Tensor]:
    """The shared weights behind a sensor's own patch embedding, if there is one."""
    prefix = f"{PATCH_EMBEDS}{sensor}."
    own = {name: value for name, value in weights.items() if name.startswith(prefix)}
    return {**shared, **{f"patch_embed.{name.removeprefix(prefix)}": value for name, value in own.items()}}


def _absorb(patch_embed: nn.Conv2d, normalisation: str) -> None:
    """``(r - mean) / std`` of reflectance r = (x + 1) / 2 is ``(x - (2 mean - 1)) / (2 std)``."""
    how = NORMALISATIONS[normalisation]
    if how is None:
        return
    if patch_embed.in_channels != len(how[0]):
        raise RunInvalid(
            f"the normalisation {normalisation!r} is of {len(how[0])} bands and the weights take "
            f"{patch_embed.in_channels}; give --from-input ours, after multiplying it into the patch embedding"
        )
    standardise_input(patch_embed, [2 * m - 1 for m in how[0]], [2 * s for s in how[1]])
