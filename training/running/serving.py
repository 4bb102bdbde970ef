"""A trained run as the engine runs it: half-precision weights, the engine's runner, ODEED and embedder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.embed import Embedder
from engine.odeed import Odeed, OdeedSettings
from engine.runners import open_runner
from engine.runners.base import ArraySpec, InputSpec, RunnableModel, Runner, RunnerName
from engine.unet import DenoiserUNet, EDMDenoiser, UnetConfig
from engine.vit import VisionTransformer, VitConfig
from training.errors import RunInvalid
from training.running.runfolder import RunFolder

Float32Array = npt.NDArray[np.float32]

PATCH_EMBEDS = "patch_embeds."
"""Before a sensor's name in the weights of a run whose sensors have patch embeddings of their own."""

BATCH = 8
"""Tiles of one call: on a CPU, larger batches fall out of the caches and are slower."""


def half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a bundle stores them; whatever is measured here is measured with these."""
    return {name: value.to(torch.float16) if value.is_floating_point() else value for name, value in weights.items()}


def vit_config(config: Mapping[str, Any]) -> VitConfig:
    """A run's encoder as it is served: without stochastic depth."""
    return VitConfig.from_dict({**config["preset"]["vit"], "drop_path": 0.0})


def build_denoiser(run: RunFolder) -> EDMDenoiser:
    """A run's denoiser with the weights that a bundle will hold, in eval mode."""
    net = DenoiserUNet.from_config(UnetConfig.from_dict(run.config["preset"]["unet"]))
    net.load_state_dict({name: value.float() for name, value in half_precision(run.weights()).items()})
    return EDMDenoiser(net, run.config["sigma_data"]).eval()


def build_encoder(run: RunFolder, sensor: str | None = None) -> VisionTransformer:
    """A run's encoder with the weights that a bundle will hold, in eval mode.

    Args:
        run: a finished ``xstars`` run.
        sensor: whose patch embedding it has; None: that of the first sensor. Of no account where all share one.

    Raises:
        RunInvalid: the run has patch embeddings of other sensors only.
    """
    weights = {name: value.float() for name, value in half_precision(run.weights()).items()}
    own = {name: value for name, value in weights.items() if name.startswith(PATCH_EMBEDS)}
    network = {name: value for name, value in weights.items() if name not in own}
    if own and sensor is not None:
        prefix = f"{PATCH_EMBEDS}{sensor}."
        if not any(name.startswith(prefix) for name in own):
            there = sorted({name.removeprefix(PATCH_EMBEDS).split(".")[0] for name in own})
            raise RunInvalid(
                f"{run.path} has no patch embedding of {sensor!r}, but of {', '.join(there)}; train it too"
            )
        for name, value in own.items():
            if name.startswith(prefix):
                network[f"patch_embed.{name.removeprefix(prefix)}"] = value
    vit = VisionTransformer.from_config(vit_config(run.config))
    vit.load_state_dict(network)
    return vit.eval()


def open_denoiser(run: RunFolder, *, runner: RunnerName = "auto", threads: int = 0) -> Runner:
    """A run's denoiser as the bundle will hold it, opened."""
    unet = UnetConfig.from_dict(run.config["preset"]["unet"])
    side = run.config["preset"]["tile_px"]
    image = (-1, unet.in_chans, side, side)
    spec = InputSpec(
        inputs=(
            ArraySpec(name="x", shape=image),
            ArraySpec(name="sigma", shape=(-1,)),
            *([ArraySpec(name="cond", shape=(-1, unet.cond_chans, side, side))] if unet.cond_chans else []),
        ),
        outputs=(ArraySpec(name="denoised", shape=image),),
    )

    model = RunnableModel(
        name=f"{run.path.name} denoiser", build=lambda: build_denoiser(run), spec=spec, fingerprint=_fingerprint(run)
    )
    return open_runner(model, runner=runner, device="cpu", threads=threads)


def open_encoder(run: RunFolder, *, sensor: str | None = None, runner: RunnerName = "auto", threads: int = 0) -> Runner:
    """A run's encoder as the bundle will hold it for a sensor, opened."""
    config = vit_config(run.config)
    side = config.img_size
    tokens = (side // config.patch_size) ** 2
    spec = InputSpec(
        inputs=(ArraySpec(name="pixels", shape=(-1, config.in_chans, side, side)),),
        outputs=(
            ArraySpec(name="cls", shape=(-1, config.dim)),
            ArraySpec(name="tokens", shape=(-1, tokens, config.dim)),
        ),
    )

    model = RunnableModel(
        name=f"{run.path.name} encoder",
        build=lambda: build_encoder(run, sensor),
        spec=spec,
        fingerprint=f"{_fingerprint(run)}-{sensor}",
    )
    return open_runner(model, runner=runner, device="cpu", threads=threads)


def odeed_scores(denoiser: Runner, settings: OdeedSettings, tiles: Float32Array) -> Float32Array:
    """Raw ODEED scores of complete reflectance tiles (n, C, H, W).  (n,)"""
    odeed = Odeed(denoiser, settings)

    def score(x: Float32Array) -> Float32Array:
        return odeed.score(x, np.ones((len(x), *x.shape[2:]), dtype=np.bool_)).score

    return _batched(score, tiles)


def cls_embeddings(encoder: Runner, tiles: Float32Array) -> Float32Array:
    """CLS embeddings of reflectance tiles (n, C, H, W), L2 norm 1.  (n, D)"""
    embedder = Embedder(encoder)
    return _batched(lambda x: embedder.embed(x).cls, tiles)


def _batched(call: Callable[[Float32Array], Float32Array], tiles: Float32Array) -> Float32Array:
    return np.concatenate([call(np.asarray(part * 2 - 1, dtype=np.float32)) for part in _parts(tiles)])


def _parts(tiles: Float32Array) -> Iterator[Float32Array]:
    for start in range(0, len(tiles), BATCH):
        yield tiles[start : start + BATCH]


def _fingerprint(run: RunFolder) -> str:
    digest = hashlib.sha256(json.dumps(run.config, sort_keys=True, default=list).encode())
    for name, value in sorted(run.weights().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def cosine_distance(a: Float32Array, b: Float32Array) -> Float32Array:
    """``1 - cosine`` of rows of L2 norm 1.  (n,)"""
    return np.asarray(1 - (a * b).sum(axis=-1), dtype=np.float32)


def settings_of(config: Mapping[str, Any], *, steps: int, ratio: float, solver: str = "euler") -> OdeedSettings:
    """ODEED settings whose noise levels are multiples of the run's σ_data: ``ratio`` and Karras' 0.002 / 0.5."""
    sigma_data = float(config["sigma_data"])
    return OdeedSettings.from_dict(
        {"solver": solver, "steps": steps, "sigma_min": 0.004 * sigma_data, "sigma_max": ratio * sigma_data, "rho": 7.0}
    )
