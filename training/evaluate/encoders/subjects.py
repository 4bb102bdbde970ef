"""What is judged: encoders of bundles and runs, their projection heads, and the controls beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.bundle import ModelBundle
from engine.embed import unit_rows
from engine.vit import VisionTransformer, VitConfig
from training.align.msad import ProjectionHead
from training.align.standardise import standardise_input
from training.encoder_presets import physical_sensor
from training.errors import RunInvalid
from training.evaluate.encoders.preprocessing import as_seen
from training.presets import HELD_OUT_EVENTS
from training.running.runfolder import RunFolder
from training.running.serving import PATCH_EMBEDS, build_encoder

Float32Array = npt.NDArray[np.float32]
Kind = Literal["encoder", "heads", "supervised", "control"]
Embeddings = Mapping[str, Float32Array]
"""By how they were made, rows of any norm.  (n, D) each"""
Embed = Callable[[Float32Array, str, Sequence[str]], Embeddings]
"""Reflectance tiles (n, C, H, W) of a sensor, and which ways are wanted; a control has a way of its own."""

WAYS = ("cls", "tokens", "places")
"""Class token; mean of the patch tokens; all patch tokens in their places, each of norm 1."""
CHECKPOINT = "checkpoint.safetensors"
HEADS = ("alignment.heads.", "projections.")
"""Before a sensor's name in a checkpoint: as runs write it now, and as they did."""
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that turns tiles into points."""

    name: str
    kind: Kind
    embed: Embed
    vit: VisionTransformer | None = None
    """Of encoders: in eval mode, with the weights as they are served; of the first sensor, where they differ."""
    of_sensor: Callable[[str], VisionTransformer] | None = None
    """The same of a sensor, where they differ."""
    sensors: frozenset[str] | None = None
    """Which it can embed; None: all."""
    facts: Mapping[str, Any] | None = None
    held_out_events: tuple[str, ...] | None = None
    """Event blocks that it was not trained on; None: it was trained on nothing."""

    def network(self, sensor: str) -> VisionTransformer | None:
        """The network that a sensor's tiles go through; None of controls without one."""
        return self.vit if self.of_sensor is None else self.of_sensor(sensor)

    def takes(self, *sensors: str) -> bool:
        """Whether it can embed all of these."""
        if self.sensors is None:
            return True
        wanted = sensors if self.kind == "heads" else tuple(map(physical_sensor, sensors))
        return set(wanted) <= self.sensors


def of_bundle(bundle: ModelBundle, family: str) -> Subject:
    """A bundle's encoder of a family.

    Raises:
        BundleError: it has none.
    """
    vit = bundle.encoder(family).eval()
    facts = {"bundle": bundle.name, "model": bundle.model_id, "vit": vit_facts(vit.config)}
    return Subject(
        name=bundle.name,
        kind="encoder",
        embed=embedding(lambda _: vit),
        vit=vit,
        facts=facts,
        held_out_events=HELD_OUT_EVENTS,
    )


def of_run(path: Path, name: str | None = None, start: Path | None = None) -> Subject:
    """The encoder of a finished run of ``vigie train xstars``, with weights as a bundle would hold them.

    Args:
        path: the run.
        name: what it is called; else its folder.
        start: the run that it continued. A sensor that it was not shown again keeps the patch embedding of that run.

    Raises:
        RunInvalid: it is not finished, or of another kind.
    """
    run = RunFolder.open(path, "xstars")
    vit = build_encoder(run)
    own = sensors_of(run)
    before = None if start is None or own is None else RunFolder.open(start, "xstars")

    @cache
    def by_sensor(sensor: str) -> VisionTransformer:
        if before is None or own is None or sensor in own:
            return build_encoder(run, sensor)
        adapted = build_encoder(run)
        adapted.patch_embed.load_state_dict(build_encoder(before, sensor).patch_embed.state_dict())
        return adapted

    preset = run.config["preset"]
    facts = {
        "preset": preset["name"],
        "msad": preset["msad"],
        "seed": run.config.get("seed"),
        "steps": run.config.get("steps"),
        "seconds": run.config.get("seconds"),
        "vit": vit_facts(vit.config),
    }
    return Subject(
        name=name or path.name,
        kind="encoder",
        embed=embedding(by_sensor),
        vit=vit,
        of_sensor=by_sensor,
        sensors=own if own is None or before is None else own | (sensors_of(before) or frozenset()),
        facts=facts,
        held_out_events=tuple(preset["held_out_events"]),
    )


def sensors_of(run: RunFolder) -> frozenset[str] | None:
    """The sensors that a run has patch embeddings of; None where all share one."""
    own = (name.removeprefix(PATCH_EMBEDS) for name in run.weights() if name.startswith(PATCH_EMBEDS))
    return frozenset(name.split(".")[0] for name in own) or None


def heads_of_run(path: Path, encoder: Subject) -> Subject:
    """The same encoder behind the run's projection heads, where alignment was trained.

    Raises:
        RunInvalid: the run keeps no checkpoint with heads.
    """
    if encoder.vit is None:
        raise RunInvalid(f"{encoder.name} is no encoder and has no heads")
    vit = encoder.vit
    heads = read_heads(path / CHECKPOINT, vit.config.dim)
    return Subject(
        name=f"{encoder.name}, heads",
        kind="heads",
        embed=embedding(encoder.of_sensor or (lambda _: vit), heads),
        sensors=frozenset(heads),
        held_out_events=encoder.held_out_events,
    )


def random_weights(config: VitConfig, seed: int, tiles: Float32Array, name: str = "random weights") -> Subject:
    """The same network before any training, its input standardised by the moments of ``tiles`` as a training's is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = VisionTransformer.from_config(config).eval()
    standardise_input(vit.patch_embed, *moments(tiles))
    return Subject(name=name, kind="control", embed=embedding(lambda _: vit), vit=vit)


def pixel_controls() -> list[Subject]:
    """What no network is needed for."""
    return [
        Subject(name="raw pixels", kind="control", embed=lambda x, _, __: {"pixels": plain_pixels(x)}),
        Subject(name="mean colour", kind="control", embed=lambda x, _, __: {"colour": mean_colour(x)}),
    ]


def embedding(
    of_sensor: Callable[[str], VisionTransformer], heads: Mapping[str, ProjectionHead] | None = None
) -> Embed:
    """An encoder as it is called here, through the head of the tiles' sensor where there are heads."""

    def embed(tiles: Float32Array, sensor: str, ways: Sequence[str]) -> Embeddings:
        vit = of_sensor(physical_sensor(sensor))
        parts = [_ways(vit, heads, part, sensor, ways) for part in _batches(tiles)]
        return {way: np.concatenate([part[way] for part in parts]) for way in parts[0]}

    return embed


@torch.inference_mode()
def _ways(
    vit: VisionTransformer,
    heads: Mapping[str, ProjectionHead] | None,
    tiles: Float32Array,
    sensor: str,
    ways: Sequence[str],
) -> dict[str, Float32Array]:
    cls, tokens = vit(torch.from_numpy(as_seen(tiles)))
    if heads is not None:
        cls, tokens = heads[sensor](cls), heads[sensor](tokens)
    found: dict[str, Float32Array] = {}
    if "cls" in ways:
        found["cls"] = unit_rows(cls.numpy())
    if "tokens" in ways:
        found["tokens"] = unit_rows(tokens.mean(dim=1).numpy())
    if "places" in ways:
        # A product of two rows is then the mean over places of the tokens' cosines.
        found["places"] = unit_rows(unit_rows(tokens.numpy()).reshape(len(tokens), -1))
    return found


def plain_pixels(tiles: Float32Array) -> Float32Array:
    """Reflectance tiles (n, C, H, W) area-averaged to 8 x 8 px, less each tile's mean.  (n, C * 64)"""
    n, c, h, w = tiles.shape
    coarse = tiles[:, :, : h // 8 * 8, : w // 8 * 8].reshape(n, c, 8, h // 8, 8, w // 8).mean(axis=(3, 5))
    flat = coarse.reshape(n, -1)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True), dtype=np.float32)


def mean_colour(tiles: Float32Array) -> Float32Array:
    """Mean reflectance of each band, lifted onto the unit sphere so that brightness counts too.  (n, C + 1)"""
    colour = tiles.mean(axis=(2, 3)) / np.sqrt(tiles.shape[1])
    rest = np.sqrt(np.maximum(1 - (colour**2).sum(axis=1, keepdims=True), 0))
    return np.asarray(np.concatenate([colour, rest], axis=1), dtype=np.float32)


def moments(tiles: Float32Array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel as networks see it."""
    seen = as_seen(tiles).astype(np.float64)
    return seen.mean(axis=(0, 2, 3)).tolist(), np.maximum(seen.std(axis=(0, 2, 3)), 1e-6).tolist()


def read_heads(checkpoint: Path, dim: int) -> dict[str, ProjectionHead]:
    """The projection heads that a run's checkpoint keeps, by sensor.

    Raises:
        RunInvalid: there is no checkpoint, or no head in it.
    """
    if not checkpoint.is_file():
        raise RunInvalid(f"{checkpoint} is not there; --heads needs the checkpoint that a run keeps beside its weights")
    tensors = load_file(checkpoint)
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        for prefix in HEADS:
            if name.startswith(prefix):
                sensor, _, rest = name.removeprefix(prefix).partition(".")
                states.setdefault(sensor, {})[rest] = value.float()
    if not states:
        raise RunInvalid(f"{checkpoint} holds no projection heads; leave out --heads for this run")
    heads: dict[str, ProjectionHead] = {}
    for sensor, state in states.items():
        head = ProjectionHead(dim, state["layers.2.weight"].shape[0])
        head.load_state_dict(state)
        heads[sensor] = head.eval()
    return heads


def vit_facts(config: VitConfig) -> str:
    """A network's size in words."""
    return f"D {config.dim}, depth {config.depth}, patch {config.patch_size}, {config.img_size} px"


def _batches(tiles: Float32Array) -> list[Float32Array]:
    return [tiles[start : start + BATCH] for start in range(0, len(tiles), BATCH)]
