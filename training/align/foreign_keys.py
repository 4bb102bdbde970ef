"""Weights of other people's vision transformers, by our names and in our sizes.

timm and DINO (Caron et al. 2021) share one layout: ``cls_token``, ``pos_embed`` (1, 1 + N, D), ``patch_embed.proj``,
``blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}``, ``norm``; DINO's checkpoints put ``teacher.``,
``module.`` or ``backbone.`` before them. DINOv2's layer scales are multiplied into what they scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from engine.vit import VisionTransformer, VitConfig
from training.errors import RunInvalid

PREFIXES = ("teacher.", "student.", "module.", "backbone.", "model.", "encoder.")
UNUSED = ("head.", "dino_head.", "dino_loss.", "ibot_head.", "fc.", "pre_logits.", "mask_token")
"""What follows the trunk, or serves its own training alone."""
RENAMED = (
    (re.compile(r"^patch_embed\.proj\."), "patch_embed."),
    (re.compile(r"(?<=\.mlp\.)fc1\."), "0."),
    (re.compile(r"(?<=\.mlp\.)fc2\."), "2."),
)
LISTED = 12


def is_own(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights have our names."""
    return "pos_grid" in tensors


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of :class:`engine.vit.VisionTransformer`, in FP32; shapes as they came.

    Raises:
        RunInvalid: they are of no layout that is known.
    """
    found = _bare(tensors)
    if is_own(found):
        return found
    if "pos_embed" not in found or "cls_token" not in found:
        raise RunInvalid(
            "weights are neither ours (pos_grid) nor of timm's or DINO's layout (cls_token, pos_embed); they hold "
            f"{_listed(sorted(tensors))}"
        )
    positions = found.pop("pos_embed")
    side = math.isqrt(positions.shape[1] - 1)
    if positions.ndim != 3 or side * side != positions.shape[1] - 1:
        raise RunInvalid(
            f"pos_embed has shape {tuple(positions.shape)}; one class token and a square of patches are expected"
        )
    found["pos_cls"] = positions[:, :1]
    found["pos_grid"] = positions[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    for pattern, ours in RENAMED:
        found = {pattern.sub(ours, name): value for name, value in found.items()}
    return _scales_folded(found)


def fitted(weights: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """Weights of our names for a network of ``config``: positions and patch embedding resized where only sizes differ.

    Raises:
        RunInvalid: names or shapes do not match; all of them are listed.
    """
    with torch.device("meta"):
        expected = {
            name: tuple(value.shape) for name, value in VisionTransformer.from_config(config).state_dict().items()
        }
    found = dict(weights)
    positions, patches = found.get("pos_grid"), found.get("patch_embed.weight")
    if positions is not None and positions.ndim == 4 and tuple(positions.shape) != expected["pos_grid"]:
        size = expected["pos_grid"][-2:]
        found["pos_grid"] = F.interpolate(positions, size=size, mode="bicubic", align_corners=False)
    if patches is not None and patches.ndim == 4 and patches.shape[-1] != config.patch_size:
        found["patch_embed.weight"] = resized_patches(patches, config.patch_size)
    faults = [f"no {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [f"{name} has no place" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"{name} is {tuple(found[name].shape)}, {shape} is wanted"
        for name, shape in sorted(expected.items())
        if name in found and tuple(found[name].shape) != shape
    ]
    if faults:
        raise RunInvalid(
            f"the weights do not fit the preset's network: {_listed(faults)}; give the --preset of their size, or a "
            "--preset-file with their vit fields"
        )
    return found


def resized_patches(weight: Tensor, size: int) -> Tensor:
    """A patch embedding's kernels (D, C, P, P) for patches of another side: what they say of a patch stays the same.

    Resizing images is a linear map B; the kernels that give for B x what the old ones gave for x are ``pinv(Bᵀ) w``
    (Beyer et al., *FlexiViT*, CVPR 2023, eq. 3-4). Exact where patches grow.
    """
    old = weight.shape[-1]
    units = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)
    grown = F.interpolate(units, size=(size, size), mode="bicubic", align_corners=False)
    b = grown.reshape(old * old, size * size).T  # (new pixels, old pixels)
    flat = weight.double().reshape(-1, old * old)  # (D C, old pixels)
    out = flat @ torch.linalg.pinv(b)
    kernels: Tensor = out.reshape(*weight.shape[:2], size, size).to(weight.dtype)
    return kernels


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without prefixes, without what is not the trunk; of a student and a teacher, the teacher."""
    taught = any(name.startswith("teacher.") for name in tensors)
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if taught and not name.startswith("teacher."):
            continue
        bare = name
        while bare.startswith(PREFIXES):
            bare = bare.split(".", 1)[1]
        if not bare.startswith(UNUSED):
            found[bare] = value.float() if value.is_floating_point() else value
    return found


def _scales_folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 multiplies what a block adds by γ: the same as a last linear map of γ times the weights."""
    found = dict(weights)
    for name in weights:
        match = re.fullmatch(r"(blocks\.\d+\.)ls([12])\.gamma", name)
        if match:
            gamma = found.pop(name)
            last = match[1] + ("attn.proj" if match[2] == "1" else "mlp.2")
            for end in (f"{last}.weight", f"{last}.bias"):
                if end in found:
                    found[end] = found[end] * (gamma[:, None] if found[end].ndim == 2 else gamma)
    return found


def _listed(items: list[str]) -> str:
    rest = len(items) - LISTED
    return ", ".join(items[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
