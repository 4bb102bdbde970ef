"""A model bundle: a folder of manifest, weights, calibration and golden batch, verified on load.

Only safetensors are read. Each file is compared with the manifest's sha256 when the bundle is loaded, and again with
the very bytes that become a network.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from engine import unet, vit
from engine.errors import BundleError
from engine.manifest import DenoiserPart, EncoderPart, FamilySpec, FileDigest, Manifest
from engine.runners.base import ArraySpec, InputSpec, RunnableModel
from engine.tiles import Float32Array
from engine.unet import DenoiserUNet, EDMDenoiser
from engine.vit import VisionTransformer

MANIFEST_FILE = "manifest.json"
TEXT_SUFFIXES = frozenset({".md", ".txt", ".png"})
"""Files for people that may lie in a bundle without being part of the model."""


def bundled(name: str = "base") -> Path:
    """Folder of a bundle that is shipped with Vigie.

    Raises:
        BundleError: none has that name.
    """
    root = Path(__file__).parent / "bundles"
    path = root / name
    if not (path / MANIFEST_FILE).is_file():
        there = sorted(entry.parent.name for entry in root.glob(f"*/{MANIFEST_FILE}"))
        raise BundleError(
            f"no bundle {name!r} is shipped; there are {there or 'none'}: name one, or give a folder's path"
        )
    return path


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A verified bundle. Networks are built anew, in eval mode and float32, on each call."""

    path: Path
    """Its folder."""
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and verify a bundle.

        Raises:
            BundleError: no bundle, another format, an altered, missing or foreign file, or unreadable calibration.
        """
        manifest_path = path / MANIFEST_FILE
        try:
            content = manifest_path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} is no model bundle: {MANIFEST_FILE} cannot be read ({error.strerror}); "
                "point to a folder made by `vigie export`"
            ) from error
        bundle = cls(path=path, manifest=Manifest.parse(content, str(manifest_path)))
        bundle._refuse_foreign_files()
        for name in bundle.manifest.files:
            bundle._read(name)
        families = {
            name: replace(family, calibration=bundle._arrays(family.calibration_file))
            for name, family in bundle.manifest.families.items()
        }
        for name in families:
            bundle.golden(name)
        return replace(bundle, manifest=replace(bundle.manifest, families=families))

    @property
    def name(self) -> str:
        """Name from the manifest."""
        return self.manifest.name

    @property
    def model_hash(self) -> str:
        """Identity of everything that decides a score: sha256 of the manifest's canonical form, 64 hex digits."""
        return sha256(self.manifest.canonical()).hexdigest()

    @property
    def model_id(self) -> str:
        """The first 16 digits of :attr:`model_hash`."""
        return self.model_hash[:16]

    @property
    def families(self) -> Mapping[str, FamilySpec]:
        """Models by family name, calibration arrays included."""
        return self.manifest.families

    def family(self, name: str) -> FamilySpec:
        """One family.

        Raises:
            BundleError: the bundle has no such family.
        """
        if name not in self.families:
            raise BundleError(
                f"bundle {self.name!r} has no models for {name!r}; it has {sorted(self.families)}: "
                "use another bundle or leave such scenes out"
            )
        return self.families[name]

    def encoder(self, family: str) -> VisionTransformer:
        """The family's encoder.

        Raises:
            BundleError: unknown family, or a file that was altered or does not fit the configuration.
        """
        part = self.family(family).encoder
        module = VisionTransformer.from_config(part.config)
        self._fill(module, part)
        return module

    def denoiser(self, family: str) -> EDMDenoiser:
        """The family's preconditioned denoiser.

        Raises:
            BundleError: unknown family, or a file that was altered or does not fit the configuration.
        """
        spec = self.family(family)
        net = DenoiserUNet.from_config(spec.denoiser.config)
        self._fill(net, spec.denoiser)
        return EDMDenoiser(net, spec.sigma_data).eval()

    def encoder_model(self, family: str) -> RunnableModel:
        """What a runner opens: ``pixels`` (N, C, T, T) to ``cls`` (N, D) and ``tokens`` (N, P, D)."""
        spec = self.family(family)
        config, side = spec.encoder.config, spec.tile_px
        return RunnableModel(
            name=f"{family} encoder",
            build=lambda: self.encoder(family),
            spec=InputSpec(
                inputs=(ArraySpec(name="pixels", shape=(-1, config.in_chans, side, side)),),
                outputs=(
                    ArraySpec(name="cls", shape=(-1, config.dim)),
                    ArraySpec(name="tokens", shape=(-1, (side // config.patch_size) ** 2, config.dim)),
                ),
            ),
            fingerprint=self._fingerprint(spec.encoder, inspect.getsource(vit)),
            float32=vit.FLOAT32,
        )

    def denoiser_model(self, family: str) -> RunnableModel:
        """What a runner opens: ``x`` (N, C, T, T), ``sigma`` (N,) and, if it takes one, ``cond`` to ``denoised``."""
        spec = self.family(family)
        config, side = spec.denoiser.config, spec.tile_px
        inputs = [
            ArraySpec(name="x", shape=(-1, config.in_chans, side, side)),
            ArraySpec(name="sigma", shape=(-1,)),
        ]
        if config.cond_chans:
            inputs.append(ArraySpec(name="cond", shape=(-1, config.cond_chans, side, side)))
        return RunnableModel(
            name=f"{family} denoiser",
            build=lambda: self.denoiser(family),
            spec=InputSpec(
                inputs=tuple(inputs),
                outputs=(ArraySpec(name="denoised", shape=(-1, config.in_chans, side, side)),),
            ),
            fingerprint=self._fingerprint(spec.denoiser, inspect.getsource(unet) + repr(spec.sigma_data)),
            float32=unet.FLOAT32,
        )

    def golden(self, family: str) -> dict[str, Float32Array]:
        """Recorded inputs and float32 outputs; the names are in :mod:`engine.golden`.

        Raises:
            BundleError: the file was altered or lacks an array.
        """
        spec = self.family(family)
        arrays = self._arrays(spec.golden_file)
        wanted = {"pixels", "noisy", "sigma", "cls", "denoised", "odeed_score"}
        if spec.denoiser.config.cond_chans:
            wanted.add("cond")
        if set(arrays) != wanted:
            raise BundleError(
                f"golden batch {self.path / spec.golden_file} holds {sorted(arrays)}; {sorted(wanted)} are expected: "
                "export the bundle again"
            )
        return arrays

    def _fingerprint(self, part: EncoderPart | DenoiserPart, source: str) -> str:
        # The code is in it, so that a graph cached before an upgrade is not taken for today's network.
        parts = (self.manifest.files[part.file].sha256, repr(part.config), source)
        return sha256("\n".join(parts).encode()).hexdigest()

    def _refuse_foreign_files(self) -> None:
        known = {MANIFEST_FILE, *self.manifest.files}
        for entry in sorted(self.path.iterdir()):
            if entry.name not in known and entry.suffix not in TEXT_SUFFIXES:
                raise BundleError(
                    f"{entry} is not listed in the bundle's manifest, and weights in other files can run code when "
                    "they are opened; remove it, or export the bundle again"
                )

    def _read(self, name: str) -> bytes:
        """A file's bytes, compared with the manifest."""
        path = self.path / name
        want = self.manifest.files[name]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read ({error.strerror}); fetch the bundle again (git lfs and partial copies leave "
                "such gaps) or export it anew"
            ) from error
        have = FileDigest.of(content)
        if have != want:
            raise BundleError(
                f"{path} was altered: sha256 {have.sha256[:16]}… ({have.size_bytes} bytes), the manifest says "
                f"{want.sha256[:16]}… ({want.size_bytes} bytes); fetch the bundle again or export it anew"
            )
        return content

    def _tensors(self, name: str) -> dict[str, np.ndarray]:
        try:
            return safetensors.numpy.load(self._read(name))
        except SafetensorError as error:
            raise BundleError(
                f"{self.path / name} is no safetensors file ({error}); export the bundle again"
            ) from error

    def _arrays(self, name: str) -> dict[str, Float32Array]:
        arrays = self._tensors(name)
        for key, array in arrays.items():
            if array.dtype != np.float32:
                raise BundleError(
                    f"{self.path / name}: array {key!r} is {array.dtype}, float32 is expected; export the bundle again"
                )
        return arrays

    def _fill(self, module: torch.nn.Module, part: EncoderPart | DenoiserPart) -> None:
        """Load weights into the module: all of them, of the right shapes and type, or an error."""
        where = self.path / part.file
        have = self._tensors(part.file)
        want = module.state_dict()
        if set(have) != set(want):
            lacking, extra = sorted(set(want) - set(have)), sorted(set(have) - set(want))
            raise BundleError(
                f"{where} does not fit its configuration: it lacks {lacking[:3]} ({len(lacking)} in all) and has "
                f"{extra[:3]} ({len(extra)} in all) too many; export the bundle again"
            )
        for key, array in have.items():
            if array.shape != tuple(want[key].shape) or array.dtype.name != part.dtype:
                raise BundleError(
                    f"{where}: tensor {key!r} is {array.dtype}{list(array.shape)}; the manifest declares "
                    f"{part.dtype}{list(want[key].shape)}: export the bundle again"
                )
        module.load_state_dict({key: torch.from_numpy(array.astype(np.float32)) for key, array in have.items()})
        module.eval()
