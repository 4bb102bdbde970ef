"""Where an encoder may start from: a run folder, a bundle, or a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from engine.bundle import MANIFEST_FILE, ModelBundle
from training.align.foreign_keys import is_own, own_names
from training.data.digests import digest_of_files
from training.errors import RunInvalid
from training.running.runfolder import WEIGHTS, RunFolder

NORMALISATIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "ours": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""How weights want their input: mean and deviation of reflectance 0..1 in three bands; ``ours`` is 2·x - 1."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights that a training starts from."""

    weights: Mapping[str, Tensor]
    """By our names, in FP32; sizes as they came."""
    normalisation: str
    """One of :data:`NORMALISATIONS`."""
    digest: str
    """SHA-256 of the file."""


def read_pretrained(path: Path, normalisation: str | None = None) -> Pretrained:
    """Weights of a finished ``xstars`` run, of a bundle, or of a file of our, timm's or DINO's layout.

    Args:
        path: run folder, bundle folder or safetensors file.
        normalisation: one of :data:`NORMALISATIONS`; None: ``ours`` for our layout, else ``imagenet``.

    Raises:
        RunInvalid: it is none of them, is a pickle, or the normalisation is unknown.
        BundleError: the bundle is damaged.
    """
    if normalisation is not None and normalisation not in NORMALISATIONS:
        raise RunInvalid(f"no input normalisation {normalisation!r}; there are {', '.join(NORMALISATIONS)}")
    file, tensors = _tensors(path)
    weights = own_names(tensors)
    usual = "ours" if is_own(tensors) else "imagenet"
    return Pretrained(
        weights=weights, normalisation=normalisation or usual, digest=digest_of_files(file.parent, [file])
    )


def _tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    if (path / MANIFEST_FILE).is_file():
        bundle = ModelBundle.load(path)
        family = min(bundle.families)
        return path / bundle.family(family).encoder.file, dict(bundle.encoder(family).state_dict())
    if path.is_dir():
        return path / WEIGHTS, RunFolder.open(path, "xstars").weights()
    if not path.is_file():
        raise RunInvalid(f"no weights at {path}; give a run folder, a bundle folder or a safetensors file")
    if path.suffix != ".safetensors":
        raise RunInvalid(
            f"{path} is no safetensors file, and pickles such as .pth are not read: they can run code. Convert it "
            "where you trust it: python -c \"import torch, safetensors.torch as s; w = torch.load('in.pth', "
            "map_location='cpu', weights_only=True); s.save_file({k: v.contiguous() for k, v in w.items()}, "
            "'out.safetensors')\" (take the state dict inside, such as w['teacher'], where w holds several)"
        )
    try:
        return path, load_file(path)
    except Exception as error:
        raise RunInvalid(f"{path} cannot be read as safetensors: {error}; convert or copy it again") from error
