"""LPIPS: a perceptual distance from AlexNet's features and learned weights, if the user has them.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018, arXiv 1801.03924),
equation 1: the features of each layer are scaled to length 1 over channels, subtracted, squared, weighted by channel,
and averaged over the layer's pixels; the layers add up.

No weights come with Vigie. A file of tensors (safetensors) holds AlexNet's convolutions under torchvision's names and
the linear layers of LPIPS 0.1, float:

==========================  ==================
``features.0.weight``       (64, 3, 11, 11)
``features.3.weight``       (192, 64, 5, 5)
``features.6.weight``       (384, 192, 3, 3)
``features.8.weight``       (256, 384, 3, 3)
``features.10.weight``      (256, 256, 3, 3)
``features.N.bias``         (64,) (192,) (384,) (256,) (256,)
``lin0.weight`` to ``4``    (1, 64, 1, 1) (1, 192, 1, 1) (1, 384, 1, 1) (1, 256, 1, 1) (1, 256, 1, 1)
==========================  ==================

In files of the paper's authors ``linK.weight`` is called ``linK.model.1.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from engine.errors import InputMismatch
from engine.tiles import Float32Array

SHIFT = (-0.030, -0.088, -0.188)
"""Subtracted from an image in [-1, 1]: ImageNet's means in that range, as the paper's authors round them."""
SCALE = (0.458, 0.448, 0.450)
"""Divides it then: twice ImageNet's standard deviations."""

LAYERS: tuple[tuple[int, int, int, int, int, int], ...] = (
    # torchvision's number, channels in, channels out, kernel, stride, padding      Krizhevsky 2014 (arXiv 1404.5997)
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
POOLED = (3, 6)
"""Layers before which a maximum is taken over 3 x 3 pixels, every second one."""
SIDE_MIN = 31
"""Pixels; a smaller image has nothing left after the last pooling."""


class Lpips:
    """The distance with one set of weights, in torch on the CPU.

    Three bands are taken for red, green and blue, whatever they are: of a false-colour tile it measures how it *looks*.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Take the tensors of the module's table.

        Raises:
            InputMismatch: tensors are missing, unknown, or of another shape.
        """
        shapes = expected_shapes()
        missing, unknown = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
        if missing or unknown:
            raise InputMismatch(
                f"LPIPS weights lack {missing or 'nothing'} and have the unknown {unknown or 'nothing'}; keep exactly "
                "the tensors that engine.scorers.lpips lists"
            )
        wrong = {name: tuple(weights[name].shape) for name, shape in shapes.items() if weights[name].shape != shape}
        if wrong:
            raise InputMismatch(
                f"LPIPS weights have shapes {wrong}; { ({name: shapes[name] for name in wrong}) } belong"
            )
        self._weights = {name: tensor.detach().float() for name, tensor in weights.items()}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the tensors from a safetensors file.

        Raises:
            InputMismatch: there is no such file, it is none of safetensors, or its tensors are not those expected.
        """
        try:
            return cls(load_file(path))
        except (OSError, SafetensorError) as error:
            raise InputMismatch(
                f"LPIPS weights cannot be read from {path} ({error}); give a safetensors file"
            ) from error

    def distance(self, x: Float32Array, other: Float32Array) -> Float32Array:
        """LPIPS of two image batches (N, 3, H, W) in [-1, 1], 0 for equal ones.  (N,)

        A :data:`~engine.odeed.FeatureDistance`. Values outside [-1, 1] are clipped: no image had such pixels.

        Raises:
            InputMismatch: the batches differ in shape, have not three bands, or are smaller than 31 pixels.
        """
        if x.shape != other.shape or x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < SIDE_MIN:
            raise InputMismatch(
                f"images {x.shape} and {other.shape}: LPIPS compares (N, 3, H, W) of one shape, {SIDE_MIN} px or more"
            )
        with torch.inference_mode():
            a, b = (self._features(torch.from_numpy(np.clip(images, -1.0, 1.0))) for images in (x, other))
            total = torch.zeros(len(x))
            for k, (ours, theirs) in enumerate(zip(a, b, strict=True)):
                # Equation 1: w . (y - y0)^2 by channel, then the mean over pixels.
                weighted = functional.conv2d((ours - theirs) ** 2, self._weights[f"lin{k}.weight"])
                total += weighted.mean(dim=(1, 2, 3))
        return np.asarray(total.numpy(), dtype=np.float32)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Activations after each rectifier, of length 1 over channels."""
        y = (images - torch.tensor(SHIFT).view(1, 3, 1, 1)) / torch.tensor(SCALE).view(1, 3, 1, 1)
        features = []
        for number, _, _, _, stride, padding in LAYERS:
            if number in POOLED:
                y = functional.max_pool2d(y, 3, 2)
            weight, bias = (self._weights[f"features.{number}.{part}"] for part in ("weight", "bias"))
            y = functional.relu(functional.conv2d(y, weight, bias, stride, padding))
            features.append(y / (y.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return features


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the weights must hold."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (number, chans_in, chans_out, kernel, _, _) in enumerate(LAYERS):
        shapes[f"features.{number}.weight"] = (chans_out, chans_in, kernel, kernel)
        shapes[f"features.{number}.bias"] = (chans_out,)
        shapes[f"lin{k}.weight"] = (1, chans_out, 1, 1)
    return shapes
