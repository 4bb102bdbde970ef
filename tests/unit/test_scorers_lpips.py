"""LPIPS with random weights against a reference written as loops over pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import InputMismatch
from engine.odeed import Odeed, OdeedSettings
from engine.scorers.lpips import SCALE, SHIFT, Lpips, expected_shapes
from tests.exact_networks import GaussianRunner


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes().items():
        scale = 1.0 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        tensors[name] = torch.randn(shape, generator=generator) * scale
        if name.startswith("lin"):
            tensors[name] = tensors[name].abs()
    return tensors


def images(n: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, side, side)).astype(np.float32)


def looped_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    kernel = weight.shape[-1]
    side = (padded.shape[1] - kernel) // stride + 1
    out = np.zeros((len(weight), side, side))
    for row in range(side):
        for col in range(side):
            window = padded[:, row * stride : row * stride + kernel, col * stride : col * stride + kernel]
            out[:, row, col] = (weight * window).sum(axis=(1, 2, 3)) + bias
    return out


def looped_pooling(x: np.ndarray) -> np.ndarray:
    side = (x.shape[1] - 3) // 2 + 1
    return np.stack(
        [
            [x[:, 2 * row : 2 * row + 3, 2 * col : 2 * col + 3].max(axis=(1, 2)) for col in range(side)]
            for row in range(side)
        ]
    ).transpose(2, 0, 1)


def looped_distance(tensors: dict[str, torch.Tensor], x: np.ndarray, other: np.ndarray) -> float:
    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    total = 0.0
    a, b = (
        (image.astype(np.float64) - np.reshape(SHIFT, (3, 1, 1))) / np.reshape(SCALE, (3, 1, 1)) for image in (x, other)
    )
    for k, (number, stride, padding, pool) in enumerate(
        [(0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False)]
    ):
        if pool:
            a, b = looped_pooling(a), looped_pooling(b)
        kernel, bias = w[f"features.{number}.weight"], w[f"features.{number}.bias"]
        a, b = (np.maximum(looped_convolution(y, kernel, bias, stride, padding), 0) for y in (a, b))
        pixels = []
        for row in range(a.shape[1]):
            for col in range(a.shape[2]):
                u, v = (y[:, row, col] / max(np.linalg.norm(y[:, row, col]), 1e-10) for y in (a, b))
                pixels.append((w[f"lin{k}.weight"][0, :, 0, 0] * (u - v) ** 2).sum())
        total += float(np.mean(pixels))
    return total


@pytest.mark.parametrize("side", [31, 64])
def test_the_distance_equals_its_looped_reference(side: int) -> None:
    lpips, x, other = Lpips(weights()), images(2, side), images(2, side, seed=1)
    expected = [looped_distance(weights(), a, b) for a, b in zip(x, other, strict=True)]
    np.testing.assert_allclose(lpips.distance(x, other), expected, rtol=1e-4)


def test_it_is_zero_for_equal_images_symmetric_and_grows() -> None:
    lpips, x, other = Lpips(weights()), images(3, 64), images(3, 64, seed=1)
    np.testing.assert_array_equal(lpips.distance(x, x), 0)
    np.testing.assert_array_equal(lpips.distance(x, other), lpips.distance(other, x))
    near = (x + np.float32(0.01) * other).astype(np.float32)
    assert (lpips.distance(x, near) < lpips.distance(x, other)).all()
    np.testing.assert_array_equal(lpips.distance(x, 9 * x), lpips.distance(x, np.clip(9 * x, -1, 1)))
    np.testing.assert_allclose(lpips.distance(x[1:2], other[1:2]), lpips.distance(x, other)[1:2], rtol=1e-5)


def test_it_serves_odeed() -> None:
    lpips, x = Lpips(weights()), images(2, 64)
    odeed = Odeed(GaussianRunner(), OdeedSettings(steps=2), feature_distance=lpips.distance)
    distance = odeed.score(x, np.ones((2, 64, 64), dtype=np.bool_)).feature_distance
    assert distance is not None
    assert distance.shape == (2,)
    assert (distance > 0).all()


def test_a_file_is_read_and_what_it_lacks_is_named(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "lpips.safetensors")
    x, other = images(1, 64), images(1, 64, seed=1)
    read = Lpips.open(tmp_path / "lpips.safetensors")
    np.testing.assert_array_equal(read.distance(x, other), Lpips(weights()).distance(x, other))
    tensors = weights()
    tensors["lin4.model.1.weight"] = tensors.pop("lin4.weight")
    with pytest.raises(InputMismatch, match=r"lack \['lin4.weight'\].*unknown \['lin4.model.1.weight'\]"):
        Lpips(tensors)
    with pytest.raises(InputMismatch, match=r"features.3.bias.*\(7,\).*\(192,\)"):
        Lpips({**weights(), "features.3.bias": torch.zeros(7)})
    (tmp_path / "no.safetensors").write_bytes(b"nonsense")
    for name in ("no.safetensors", "absent.safetensors"):
        with pytest.raises(InputMismatch, match=name):
            Lpips.open(tmp_path / name)


def test_images_that_it_cannot_compare_are_refused() -> None:
    lpips = Lpips(weights())
    for x, other in (
        (images(1, 64), images(2, 64)),
        (images(1, 64)[:, :2], images(1, 64)[:, :2]),
        (images(1, 30), images(1, 30)),
    ):
        with pytest.raises(InputMismatch, match="31 px"):
            lpips.distance(x, other)
