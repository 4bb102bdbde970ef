"""A bundle's manifest: which families there are, of which files, and what those files must hash to.

::

    {"format": "vigie-bundle", "format_version": 1, "name": "base",
     "families": {"sentinel-2": {
        "bands": ["swir16", "nir", "red"], "gsd_range_m": [10, 10], "tile_px": 64, "sigma_data": 0.31,
        "odeed": {...}, "encoder": {"file": ..., "dtype": "float16", "config": {...}}, "denoiser": {the same},
        "calibration_file": ..., "golden_file": ...}},
     "files": {"encoder.safetensors": {"sha256": ..., "size_bytes": ...}},
     "provenance": {...}}

Its canonical form (sorted keys, no spaces, UTF-8) is hashed to the model's identity, so that two bundles with one
identity hold the same bytes in every weight.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Self

from engine.errors import BundleError, InputMismatch
from engine.odeed import OdeedSettings
from engine.tiles import Float32Array
from engine.unet import UnetConfig
from engine.vit import VitConfig

FORMAT = "vigie-bundle"
FORMAT_VERSION = 1

WeightDtype = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class EncoderPart:
    """An encoder's shape and where its weights are."""

    config: VitConfig
    """Shapes of the weights."""
    file: str
    """File of the bundle; families may share one."""
    dtype: WeightDtype
    """Type the weights are stored in; they are computed with in float32."""


@dataclass(frozen=True, kw_only=True)
class DenoiserPart:
    """A denoiser's shape and where its weights are."""

    config: UnetConfig
    """Shapes of the weights."""
    file: str
    """File of the bundle."""
    dtype: WeightDtype
    """Type the weights are stored in; they are computed with in float32."""


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """The models for one family of sensors."""

    name: str
    """Such as ``sentinel-2``; a sensor names its family."""
    bands: tuple[str, ...]
    """Common names of the C bands, in the order of the networks' channels."""
    gsd_range_m: tuple[float, float]
    """Smallest and largest pixel size that the models were trained for, metres."""
    tile_px: int
    """Side of a tile in pixels."""
    sigma_data: float
    """Standard deviation of the training images in [-1, 1], measured."""
    odeed: OdeedSettings
    """Solver and noise levels of the score."""
    encoder: EncoderPart
    denoiser: DenoiserPart
    calibration_file: str
    """File of named float32 arrays."""
    golden_file: str
    """File of inputs and the outputs recorded for them."""
    calibration: Mapping[str, Float32Array] = field(default_factory=dict, compare=False, repr=False)
    """The calibration file's arrays; filled by :meth:`engine.bundle.ModelBundle.load`."""

    @property
    def files(self) -> tuple[str, ...]:
        """The bundle's files that this family needs."""
        return (self.encoder.file, self.denoiser.file, self.calibration_file, self.golden_file)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; without the name and the arrays."""
        return {
            "bands": list(self.bands),
            "gsd_range_m": list(self.gsd_range_m),
            "tile_px": self.tile_px,
            "sigma_data": self.sigma_data,
            "odeed": self.odeed.to_dict(),
            "encoder": _part_to_dict(self.encoder),
            "denoiser": _part_to_dict(self.denoiser),
            "calibration_file": self.calibration_file,
            "golden_file": self.golden_file,
        }


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """What a file of the bundle must be."""

    sha256: str
    """Hex digest."""
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The digest of these bytes."""
        return cls(sha256=sha256(content).hexdigest(), size_bytes=len(content))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The parsed ``manifest.json``."""

    name: str
    """Name of the bundle."""
    families: Mapping[str, FamilySpec]
    files: Mapping[str, FileDigest]
    """Every file but the manifest itself and texts for people."""
    provenance: Mapping[str, Any]
    """How it was made: command, data, versions. Plain JSON, not interpreted."""

    def canonical(self) -> bytes:
        """The form that is hashed."""
        return json.dumps(
            self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    def to_dict(self) -> dict[str, Any]:
        """The whole manifest as plain values."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "families": {name: family.to_dict() for name, family in self.families.items()},
            "files": {
                name: {"sha256": digest.sha256, "size_bytes": digest.size_bytes} for name, digest in self.files.items()
            },
            "provenance": dict(self.provenance),
        }

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """Read ``manifest.json``.

        Args:
            content: the file's bytes.
            where: what to call the file in messages.

        Raises:
            BundleError: not JSON, of another format or version, or a key is missing, unknown or impossible.
        """
        try:
            raw = json.loads(content)
        except ValueError as error:
            raise BundleError(f"{where} is not JSON ({error}); fetch or export the bundle again") from error
        top = _Keys(raw, where)
        if top.take("format", str) != FORMAT:
            raise BundleError(f"{where} is no manifest of a {FORMAT}; point to a folder made by `vigie export`")
        version = top.take("format_version", int)
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}, this Vigie reads {FORMAT_VERSION}; "
                "use the Vigie that wrote it, or export the bundle with this one"
            )
        files = {}
        for name, entry in top.take("files", dict).items():
            keys = _Keys(entry, f"{where}: files.{name}")
            files[_file_name(name, where)] = FileDigest(
                sha256=keys.take("sha256", str), size_bytes=keys.take("size_bytes", int)
            )
            keys.end()
        families = {
            name: _family(name, entry, f"{where}: families.{name}")
            for name, entry in top.take("families", dict).items()
        }
        manifest = cls(
            name=top.take("name", str), families=families, files=files, provenance=top.take("provenance", dict)
        )
        top.end()
        manifest.check(where)
        return manifest

    def check(self, where: str) -> None:
        """Raise :class:`~engine.errors.BundleError` unless the families and the list of files agree."""
        if not self.families:
            raise BundleError(f"{where} has no family; export at least one")
        needed = {file for family in self.families.values() for file in family.files}
        if needed != set(self.files):
            raise BundleError(
                f"{where}: its families need {sorted(needed)}, it lists {sorted(self.files)}; export the bundle again"
            )


class _Keys:
    """Takes typed values out of a JSON object and knows what was left over."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, dict):
            raise BundleError(f"{where} is {type(raw).__name__}, an object is expected; export the bundle again")
        self._raw = dict(raw)
        self._where = where

    def take(self, key: str, kind: type[Any]) -> Any:
        value = self._raw.pop(key, None)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BundleError(
                f"{self._where}: {key!r} is {value!r}, {kind.__name__} is expected; export the bundle again"
            )
        return value

    def build(self, key: str, make: Callable[[Mapping[str, Any]], Any]) -> Any:
        values = self.take(key, dict)
        try:
            return make(values)
        except (InputMismatch, TypeError, ValueError) as error:
            raise BundleError(f"{self._where}: {key!r} is impossible ({error}); export the bundle again") from error

    def end(self) -> None:
        if self._raw:
            raise BundleError(
                f"{self._where} has unknown keys {sorted(self._raw)}; use the Vigie that wrote it, or export it again"
            )


def _family(name: str, raw: Any, where: str) -> FamilySpec:
    keys = _Keys(raw, where)
    bands = keys.take("bands", list)
    gsd = keys.take("gsd_range_m", list)
    if not bands or not all(isinstance(band, str) for band in bands):
        raise BundleError(f"{where}: 'bands' is {bands!r}, a list of band names is expected; export the bundle again")
    if len(gsd) != 2 or not all(isinstance(side, int | float) for side in gsd) or not 0 < gsd[0] <= gsd[1]:
        raise BundleError(f"{where}: 'gsd_range_m' is {gsd!r}, [min, max] is expected; export the bundle again")
    encoder = _Keys(keys.take("encoder", dict), f"{where}.encoder")
    denoiser = _Keys(keys.take("denoiser", dict), f"{where}.denoiser")
    family = FamilySpec(
        name=name,
        bands=tuple(bands),
        gsd_range_m=(float(gsd[0]), float(gsd[1])),
        tile_px=keys.take("tile_px", int),
        sigma_data=keys.take("sigma_data", float),
        odeed=keys.build("odeed", OdeedSettings.from_dict),
        encoder=EncoderPart(config=encoder.build("config", VitConfig.from_dict), **_weights(encoder, where)),
        denoiser=DenoiserPart(config=denoiser.build("config", UnetConfig.from_dict), **_weights(denoiser, where)),
        calibration_file=_file_name(keys.take("calibration_file", str), where),
        golden_file=_file_name(keys.take("golden_file", str), where),
    )
    for part in (keys, encoder, denoiser):
        part.end()
    check_family(family, where)
    return family


def check_family(family: FamilySpec, where: str) -> None:
    """Raise :class:`~engine.errors.BundleError` where bands, tile side and networks do not fit together."""
    chans = (len(family.bands), family.encoder.config.in_chans, family.denoiser.config.in_chans)
    if len(set(chans)) != 1:
        raise BundleError(
            f"{where}: {chans[0]} bands {family.bands}, an encoder of {chans[1]} and a denoiser of {chans[2]} channels "
            "do not fit together; export models of one number of bands"
        )
    step = (family.encoder.config.patch_size, family.denoiser.config.divisor)
    if family.tile_px < 1 or family.tile_px % step[0] or family.tile_px % step[1]:
        raise BundleError(
            f"{where}: tile_px {family.tile_px} must be a multiple of the encoder's patch size {step[0]} "
            f"and of the denoiser's {step[1]}; choose another tile side"
        )
    if not family.sigma_data > 0:
        raise BundleError(f"{where}: sigma_data is {family.sigma_data}; above 0 is expected, export the bundle again")


def _weights(keys: _Keys, where: str) -> dict[str, Any]:
    dtype = keys.take("dtype", str)
    if dtype not in ("float16", "float32"):
        raise BundleError(
            f"{where}: weights of dtype {dtype!r}; float16 or float32 is expected, export the bundle again"
        )
    return {"file": _file_name(keys.take("file", str), where), "dtype": dtype}


def _file_name(name: str, where: str) -> str:
    """A plain name of a safetensors file: no folder, so nothing outside the bundle, and no pickle."""
    if not name.endswith(".safetensors") or name.startswith(".") or "/" in name or "\\" in name:
        raise BundleError(
            f"{where} names the file {name!r}; only *.safetensors in the bundle's own folder are read, since other "
            "weight files can run code: export the bundle with `vigie export`"
        )
    return name


def _part_to_dict(part: EncoderPart | DenoiserPart) -> dict[str, Any]:
    return {"file": part.file, "dtype": part.dtype, "config": part.config.to_dict()}
