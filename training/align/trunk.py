"""One vision transformer for all sensors, behind one patch embedding or one for each sensor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.vit import Block, VisionTransformer
from training.align.standardise import standardise_input
from training.encoder_presets import XstarsPreset, physical_sensor
from training.errors import RunInvalid

Moments = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel."""
Groups = Sequence[tuple[str, Tensor]]
"""Tiles by the sensor that took them: sensor name and (n, C, H, W)."""


class SensorTrunk(nn.Module):
    """A vision transformer whose first layer may differ from sensor to sensor.

    Sensors that see the ground in unlike ways (radar, near infrared, colour) share a trunk but hardly a filter. Names
    that differ only by date or by simulated coarseness are one sensor: :func:`physical_sensor`.
    """

    def __init__(self, vit: VisionTransformer, sensors: Sequence[str] = ()) -> None:
        """A trunk around ``vit``; with ``sensors``, each starts with a copy of its patch embedding."""
        super().__init__()
        self.vit = vit
        # ModuleDict keys may hold no dots; sensor names have none.
        self.patch_embeds = nn.ModuleDict({name: copy.deepcopy(vit.patch_embed) for name in sensors})
        if sensors:
            # Nobody would train it: the first sensor's stands in its place wherever one network is asked for.
            vit.patch_embed = self.patch_embeds[sensors[0]]  # type: ignore[assignment]

    @classmethod
    def fresh(cls, preset: XstarsPreset, sensors: Sequence[str]) -> SensorTrunk:
        """As a run from scratch starts: weights from torch's generator, and quiet residual paths if the preset asks."""
        vit = VisionTransformer.from_config(preset.vit)
        if preset.quiet_residuals:
            quiet_residuals(vit)
        return cls(vit, sensors if preset.patch_embedding == "per-sensor" else ())

    def forward(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """Embed tiles of several sensors, in the order of the groups: ``cls`` (B, D) and ``tokens`` (B, N, D).

        Raises:
            RunInvalid: a sensor has no patch embedding.
        """
        out: tuple[Tensor, Tensor] = self.vit.encode(torch.cat([self._patch_embed(name)(x) for name, x in groups]))
        return out

    def standardise(self, moments: Mapping[str, Moments], pooled: Moments) -> None:
        """Have each patch embedding see what it was made for, by its own sensor's moments or else by the pooled."""
        if not self.patch_embeds:
            standardise_input(self.vit.patch_embed, *pooled)
        for name, embed in self.patch_embeds.items():
            assert isinstance(embed, nn.Conv2d)
            standardise_input(embed, *moments.get(name, pooled))

    def served(self) -> dict[str, Tensor]:
        """Weights of one network, that of the first sensor, and beside it ``patch_embeds.<sensor>.*`` of all."""
        return {
            name.removeprefix("vit."): value.detach().cpu().clone().contiguous()
            for name, value in self.state_dict().items()
        }

    def _patch_embed(self, sensor: str) -> nn.Module:
        if not self.patch_embeds:
            return self.vit.patch_embed
        name = physical_sensor(sensor)
        if name not in self.patch_embeds:
            raise RunInvalid(f"no patch embedding of {name!r}; this run has those of {', '.join(self.patch_embeds)}")
        return self.patch_embeds[name]


@torch.no_grad()
def quiet_residuals(vit: VisionTransformer) -> None:
    """Let every residual path add nothing at first, so that a fresh network passes its patches on as they are.

    As in SkipInit and LayerScale (De & Smith 2020; Touvron et al. 2021) at a factor of 0: a deep network then starts
    to learn like a shallow one.
    """
    for block in vit.blocks:
        assert isinstance(block, Block)
        block.attn.proj.weight.zero_()
        block.mlp[2].weight.zero_()  # type: ignore[operator]
