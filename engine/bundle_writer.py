"""Writes model bundles: all of a bundle or nothing, and only what :mod:`engine.bundle` will read back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from torch import nn

from engine.bundle import MANIFEST_FILE, ModelBundle
from engine.errors import BundleError
from engine.golden import check_golden, record_golden
from engine.manifest import DenoiserPart, EncoderPart, FamilySpec, FileDigest, Manifest, WeightDtype, check_family
from engine.odeed import OdeedSettings
from engine.runners.torch import TorchRunner
from engine.tiles import Float32Array
from engine.unet import DenoiserUNet, EDMDenoiser
from engine.vit import VisionTransformer


@dataclass(frozen=True, kw_only=True)
class FamilyParts:
    """What training hands over for one family."""

    name: str
    """Such as ``sentinel-2``."""
    bands: tuple[str, ...]
    """Common names in the order of the networks' channels."""
    gsd_range_m: tuple[float, float]
    """Smallest and largest pixel size, metres."""
    tile_px: int
    """Side of a tile in pixels."""
    odeed: OdeedSettings
    """Settings of the score."""
    encoder: VisionTransformer
    """The same object in several families is stored once."""
    denoiser: EDMDenoiser
    """Around a :class:`~engine.unet.DenoiserUNet`; carries sigma_data."""
    calibration: Mapping[str, Float32Array]
    """Named arrays."""
    golden_pixels: Float32Array
    """A few real tiles in [-1, 1].  (N, C, tile_px, tile_px)"""
    golden_cond: Float32Array | None = None
    """Their condition images, where the denoiser takes one.  (N, cond_chans, tile_px, tile_px)"""
    dtype: WeightDtype = "float16"
    """Type to store the weights in. Outputs are recorded from the weights as stored."""


@dataclass(kw_only=True)
class _Draft:
    """Files that were written so far."""

    folder: Path
    files: dict[str, FileDigest] = field(default_factory=dict)

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        content = safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        (self.folder / name).write_bytes(content)
        self.files[name] = FileDigest.of(content)
        return name


def write_bundle(
    path: Path,
    families: Sequence[FamilyParts],
    *,
    name: str,
    model_card: str,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
) -> ModelBundle:
    """Write a bundle beside ``path``, verify it by loading, then move it into place.

    The same parts give the same bytes and so the same model hash; what differs between two runs (times, hosts) must
    stay out of ``provenance``.

    Args:
        path: the bundle's folder.
        families: one or more, with different names.
        name: name of the bundle.
        model_card: text of ``MODEL_CARD.md``; not part of the model's identity.
        provenance: command, data and versions, as plain JSON.
        overwrite: replace a bundle that is there; it is moved aside first, so a crash leaves one of the two whole.

    Raises:
        BundleError: ``path`` exists, families repeat or do not fit together, or weights are not finite.
    """
    if path.exists() and not overwrite:
        raise BundleError(f"{path} is there already; choose another folder or ask to overwrite it")
    names = [parts.name for parts in families]
    if len(set(names)) != len(names):
        raise BundleError(f"families {names} repeat a name; give each once")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        draft = _Draft(folder=folder)
        shared: dict[int, str] = {}
        specs = {parts.name: _write_family(draft, parts, families, shared) for parts in families}
        _record(draft, specs, families, name, provenance)
        (folder / "MODEL_CARD.md").write_text(model_card, encoding="utf-8")
        _verify(ModelBundle.load(folder))
        _move_into_place(folder, path, aside=Path(temporary) / "old")
    return ModelBundle.load(path)


def _move_into_place(folder: Path, path: Path, *, aside: Path) -> None:
    if not path.exists():
        folder.rename(path)
        return
    path.rename(aside)
    try:
        folder.rename(path)
    except OSError:
        aside.rename(path)
        raise


def _write_family(
    draft: _Draft, parts: FamilyParts, families: Sequence[FamilyParts], shared: dict[int, str]
) -> FamilySpec:
    net = parts.denoiser.net
    if not isinstance(net, DenoiserUNet):
        raise BundleError(f"{parts.name}: the denoiser holds a {type(net).__name__}; a DenoiserUNet can be exported")
    if id(parts.encoder) not in shared:
        users = [other for other in families if other.encoder is parts.encoder]
        if len({other.dtype for other in users}) != 1:
            raise BundleError(f"families {[u.name for u in users]} share an encoder but not a dtype; give them one")
        file = "encoder.safetensors" if len(users) > 1 else f"{parts.name}-encoder.safetensors"
        shared[id(parts.encoder)] = draft.write(file, _weights(parts.encoder, parts))
    spec = FamilySpec(
        name=parts.name,
        bands=parts.bands,
        gsd_range_m=(float(parts.gsd_range_m[0]), float(parts.gsd_range_m[1])),
        tile_px=parts.tile_px,
        sigma_data=parts.denoiser.sigma_data,
        odeed=parts.odeed,
        encoder=EncoderPart(
            # Stochastic depth is a matter of training; what is served has none.
            config=replace(parts.encoder.config, drop_path=0.0),
            file=shared[id(parts.encoder)],
            dtype=parts.dtype,
        ),
        denoiser=DenoiserPart(
            config=replace(net.config, dropout=0.0),
            file=draft.write(f"{parts.name}-denoiser.safetensors", _weights(net, parts)),
            dtype=parts.dtype,
        ),
        calibration_file=draft.write(
            f"{parts.name}-calibration.safetensors",
            {key: np.asarray(array, dtype=np.float32) for key, array in parts.calibration.items()},
        ),
        golden_file=f"{parts.name}-golden.safetensors",
    )
    check_family(spec, parts.name)
    return spec


def _record(
    draft: _Draft,
    specs: Mapping[str, FamilySpec],
    families: Sequence[FamilyParts],
    name: str,
    provenance: Mapping[str, Any],
) -> None:
    """Golden batches from the weights as they lie in the files, then the manifest."""
    weights_only = ModelBundle(
        path=draft.folder, manifest=Manifest(name=name, families=specs, files=draft.files, provenance=provenance)
    )
    for parts in families:
        with (
            TorchRunner(weights_only.encoder_model(parts.name)) as encoder,
            TorchRunner(weights_only.denoiser_model(parts.name)) as denoiser,
        ):
            golden = record_golden(encoder, denoiser, parts.odeed, parts.golden_pixels, parts.golden_cond)
        draft.write(specs[parts.name].golden_file, golden)
    manifest = replace(weights_only.manifest, files=dict(sorted(draft.files.items())))
    manifest.check(name)
    text = json.dumps(manifest.to_dict(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (draft.folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def _verify(bundle: ModelBundle) -> None:
    for family, spec in bundle.families.items():
        with (
            TorchRunner(bundle.encoder_model(family)) as encoder,
            TorchRunner(bundle.denoiser_model(family)) as denoiser,
        ):
            check_golden(bundle.golden(family), spec.odeed, encoder, denoiser)


def _weights(module: nn.Module, parts: FamilyParts) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):  # Refused below, by name.
        arrays = {
            key: tensor.detach().cpu().float().numpy().astype(parts.dtype)
            for key, tensor in module.state_dict().items()
        }
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise BundleError(
                f"{parts.name}: weights {key!r} are not finite as {parts.dtype}; train again, or store them as float32"
            )
    return arrays
