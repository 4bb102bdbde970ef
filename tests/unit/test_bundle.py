"""Bundles: what is written is read back, and anything altered, foreign or unfit is refused by name."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from engine.bundle import ModelBundle, bundled
from engine.bundle_writer import write_bundle
from engine.errors import BundleError, RunnerUnavailable
from engine.golden import check_golden, measure_parity
from engine.manifest import FileDigest
from engine.odeed import Odeed, OdeedSettings
from engine.runners.torch import TorchRunner
from tests.small_models import TILE_PX, denoiser, encoder, parts, small_bundle, tiles


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "small"
    small_bundle(path)
    return path


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A bundle of one's own to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "small"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Swap a file and make the manifest agree, as an exporter with a bug would."""
    (folder / name).write_bytes(content)
    digest = FileDigest.of(content)
    edit(folder, lambda raw: raw["files"].update({name: {"sha256": digest.sha256, "size_bytes": digest.size_bytes}}))


def test_a_bundle_reads_back_what_was_written(pristine: Path) -> None:
    bundle = ModelBundle.load(pristine)
    spec = bundle.family("aerial")
    assert (bundle.name, set(bundle.families)) == ("small", {"sentinel-2", "aerial"})
    assert (spec.bands, spec.tile_px, spec.sigma_data) == (("red", "green", "blue"), TILE_PX, 0.4)
    assert spec.odeed == OdeedSettings(steps=3, sigma_max=5.0)
    np.testing.assert_array_equal(spec.calibration["scores"], np.arange(5, dtype=np.float32))
    want = encoder().state_dict()
    for key, tensor in bundle.encoder("aerial").state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, want[key].half().float(), rtol=0, atol=0)
    x, sigma = torch.from_numpy(tiles(2)), torch.tensor([0.1, 2.0])
    with torch.no_grad():
        torch.testing.assert_close(bundle.denoiser("aerial")(x, sigma), denoiser()(x, sigma), atol=2e-3, rtol=0)
    assert not bundle.denoiser("aerial").training


def test_a_shared_encoder_is_one_file(pristine: Path) -> None:
    bundle = ModelBundle.load(pristine)
    assert {family.encoder.file for family in bundle.families.values()} == {"encoder.safetensors"}
    assert len(list(pristine.glob("*encoder.safetensors"))) == 1


def test_the_identity_is_of_the_weights_and_not_of_time_or_card(pristine: Path, tmp_path: Path) -> None:
    first = ModelBundle.load(pristine)
    again = small_bundle(tmp_path / "again")
    assert again.model_hash == first.model_hash
    (tmp_path / "again" / "MODEL_CARD.md").write_text("Better words.")
    assert ModelBundle.load(tmp_path / "again").model_hash == first.model_hash
    other = small_bundle(tmp_path / "other", parts("aerial", denoiser=denoiser(seed=1)))
    assert other.model_hash != first.model_hash
    assert (len(first.model_hash), first.model_id) == (64, first.model_hash[:16])


def test_any_flipped_byte_is_refused_by_file_name(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        original = path.read_bytes()
        path.write_bytes(bytes(content))
        with pytest.raises(BundleError, match=rf"{path.name} was altered.*fetch the bundle again"):
            ModelBundle.load(folder)
        path.write_bytes(original)
    ModelBundle.load(folder)


def test_weights_altered_after_loading_are_refused_when_they_are_used(folder: Path) -> None:
    bundle = ModelBundle.load(folder)
    path = folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(BundleError, match="was altered"):
        bundle.encoder("aerial")


def test_a_missing_file_and_a_missing_bundle_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "aerial-denoiser.safetensors").unlink()
    with pytest.raises(BundleError, match=r"aerial-denoiser\.safetensors cannot be read"):
        ModelBundle.load(folder)
    with pytest.raises(BundleError, match="is no model bundle"):
        ModelBundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="no bundle 'nowhere'"):
        bundled("nowhere")


@pytest.mark.parametrize("name", ["extra.pt", "weights.pkl", "model.bin", "more.safetensors", "run.py", "noname"])
def test_foreign_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps({}))
    with pytest.raises(BundleError, match=rf"{name} is not listed"):
        ModelBundle.load(folder)


@pytest.mark.parametrize("name", ["encoder.pt", "../encoder.safetensors", "/etc/x.safetensors", ".safetensors"])
def test_a_manifest_may_name_only_safetensors_of_its_own_folder(folder: Path, name: str) -> None:
    edit(folder, lambda raw: raw["families"]["aerial"]["encoder"].update(file=name))
    with pytest.raises(BundleError, match="only \\*\\.safetensors in the bundle's own folder"):
        ModelBundle.load(folder)


def test_a_pickle_in_a_safetensors_coat_is_refused(folder: Path) -> None:
    replace_file(folder, "aerial-calibration.safetensors", pickle.dumps({"scores": [1.0]}))
    with pytest.raises(BundleError, match="is no safetensors file"):
        ModelBundle.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a | {"cls_token": a["cls_token"][..., :-1]}, r"cls_token.*float16\[1, 1, 15\].*float16\[1, 1, 16\]"),
        (lambda a: a | {"cls_token": a["cls_token"].astype(np.float32)}, r"cls_token.*float32.*float16"),
        (lambda a: {k: v for k, v in a.items() if k != "cls_token"}, "lacks \\['cls_token'\\]"),
        (lambda a: a | {"stowaway": a["cls_token"]}, "stowaway"),
    ],
    ids=["shape", "dtype", "lacking", "extra"],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    folder: Path, damage: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    name = "encoder.safetensors"
    arrays = damage(safetensors.numpy.load((folder / name).read_bytes()))
    replace_file(folder, name, safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(folder).encoder("aerial")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format_version=2), "format version 2"),
        (lambda raw: raw.update(format="zip"), "no manifest of a vigie-bundle"),
        (lambda raw: raw.update(surprise=1), "unknown keys \\['surprise'\\]"),
        (lambda raw: raw["families"]["aerial"].pop("denoiser"), "'denoiser' is None"),
        (lambda raw: raw["families"]["aerial"].update(tile_px="64"), "'tile_px' is '64', int"),
        (lambda raw: raw["families"]["aerial"].update(tile_px=20), "multiple of the encoder's patch size 8"),
        (lambda raw: raw["families"]["aerial"].update(bands=["red"]), "1 bands .* encoder of 3"),
        (lambda raw: raw["families"]["aerial"].update(sigma_data=-1), "sigma_data"),
        (lambda raw: raw["families"]["aerial"].update(gsd_range_m=[2, 1]), "gsd_range_m"),
        (lambda raw: raw["families"]["aerial"]["odeed"].update(solver="rk4"), "no solver 'rk4'"),
        (lambda raw: raw["families"]["aerial"]["encoder"]["config"].update(dimm=3), "dimm"),
        (lambda raw: raw["families"]["aerial"]["encoder"].update(dtype="int8"), "int8"),
        (lambda raw: raw["files"].pop("encoder.safetensors"), "its families need"),
        (lambda raw: raw.update(families={}), "has no family"),
    ],
)
def test_an_unfit_manifest_says_what_is_wrong(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(folder, lambda raw: (change(raw), None)[1])
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        ModelBundle.load(folder)


def test_an_unknown_family_is_named_with_those_that_exist(pristine: Path) -> None:
    with pytest.raises(BundleError, match=r"no models for 'radar'.*aerial"):
        ModelBundle.load(pristine).encoder("radar")


def test_the_golden_batch_holds_and_catches_drift(pristine: Path) -> None:
    bundle = ModelBundle.load(pristine)
    golden, settings = bundle.golden("aerial"), bundle.family("aerial").odeed
    with (
        TorchRunner(bundle.encoder_model("aerial")) as enc,
        TorchRunner(bundle.denoiser_model("aerial")) as den,
    ):
        parity = check_golden(golden, settings, enc, den)
        assert parity.cls_cosine == pytest.approx(1.0, abs=1e-5)
        assert max(parity.denoised_difference, parity.score_difference) < 1e-3
        # The recorded score is the one that a user of the bundle gets.
        valid = np.ones((3, TILE_PX, TILE_PX), dtype=np.bool_)
        np.testing.assert_allclose(
            Odeed(den, settings).score(golden["pixels"], valid).score, golden["odeed_score"], rtol=1e-3
        )
        for tensor, drifted in (
            ("cls", golden["cls"][:, ::-1]),
            ("denoised", golden["denoised"] * 1.02),
            ("odeed_score", golden["odeed_score"] * 1.03),
            ("odeed_score", golden["odeed_score"] * np.float32(np.nan)),
        ):
            with pytest.raises(RunnerUnavailable, match=f"torch/cpu drifted.*'{tensor}'"):
                check_golden(golden | {tensor: np.ascontiguousarray(drifted)}, settings, enc, den)
        tolerated = golden | {"odeed_score": golden["odeed_score"] * np.float32(1.01)}
        assert measure_parity(tolerated, settings, enc, den).score_difference == pytest.approx(0.0099, abs=1e-3)


def test_a_golden_batch_without_an_array_is_refused(folder: Path) -> None:
    name = "aerial-golden.safetensors"
    arrays = safetensors.numpy.load((folder / name).read_bytes())
    del arrays["odeed_score"]
    replace_file(folder, name, safetensors.numpy.save(arrays))
    with pytest.raises(BundleError, match="odeed_score"):
        ModelBundle.load(folder)


def test_a_conditional_denoiser_is_bundled_with_its_condition(tmp_path: Path) -> None:
    bundle = small_bundle(
        tmp_path / "b", parts("aerial", denoiser=denoiser(cond_chans=3), golden_cond=tiles(3, seed=5), dtype="float32")
    )
    assert [spec.name for spec in bundle.denoiser_model("aerial").spec.inputs] == ["x", "sigma", "cond"]
    np.testing.assert_array_equal(bundle.golden("aerial")["cond"], tiles(3, seed=5))


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "b"
    small_bundle(target, parts("aerial"))
    before = ModelBundle.load(target).model_hash
    broken = denoiser()
    with torch.no_grad():
        broken.net.last.weight.fill_(1e6)  # above float16's largest number
    for wrong, message in (
        ([parts("aerial")], "is there already"),
        ([parts("aerial"), parts("aerial")], "repeat a name"),
        ([parts("aerial", denoiser=broken)], "not finite as float16"),
        ([parts("aerial", bands=("red",))], "1 bands"),
    ):
        with pytest.raises(BundleError, match=message):
            write_bundle(target, wrong, name="b", model_card="", provenance={}, overwrite=message != "is there already")
        assert ModelBundle.load(target).model_hash == before
    replaced = write_bundle(
        target, [parts("aerial", denoiser=denoiser(seed=2))], name="b", model_card="", provenance={}, overwrite=True
    )
    assert replaced.model_hash != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
