"""The encoder's start: an affine change of the input, absorbed by the patch embedding."""

from __future__ import annotations

import torch

from engine.vit import VisionTransformer
from training.align.standardise import standardise_input


def test_standardised_encoder_does_to_x_what_it_did_to_the_standardised_x() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(3, 16, 8, 24, 2, 2).eval()
    mean, std = [-0.6, -0.4, -0.9], [0.2, 0.3, 0.1]
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    standard = (x - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)
    with torch.no_grad():
        expected = vit(standard)
        standardise_input(vit.patch_embed, mean, std)
        found = vit(x)
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
