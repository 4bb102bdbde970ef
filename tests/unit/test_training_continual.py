"""Continuing pretrained encoders: other people's names, the frozen copy, and an embedding for each instrument."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from engine.vit import VisionTransformer, VitConfig
from tests.unit.test_training_xstars import SMALL, images
from training.align.continual import Start
from training.align.foreign_keys import fitted, own_names, resized_patches
from training.align.pictures import EncoderPictures, class_attention
from training.align.pretrained import Pretrained, read_pretrained
from training.align.xstars import XstarsTraining
from training.data.pairs import ColocatedImages
from training.data.pool import ImagePool
from training.encoder_presets import XstarsPreset
from training.errors import RunInvalid
from training.running.runfolder import write_run

CONFIG = VitConfig(img_size=16, patch_size=8, dim=12, depth=2, heads=2)


def timm_like(*, prefix: str = "", scales: bool = False) -> dict[str, Tensor]:
    """The state of a ViT by timm's and DINO's names, of random numbers."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    found = {
        "cls_token": some(1, 1, 12), "pos_embed": some(1, 5, 12), "patch_embed.proj.weight": some(12, 3, 8, 8),
        "patch_embed.proj.bias": some(12), "norm.weight": some(12), "norm.bias": some(12),
    }  # fmt: skip
    for k in range(2):
        for name, shape in {
            "norm1": (12,), "attn.qkv": (36, 12), "attn.proj": (12, 12), "norm2": (12,),
            "mlp.fc1": (48, 12), "mlp.fc2": (12, 48),
        }.items():  # fmt: skip
            found |= {f"blocks.{k}.{name}.weight": some(*shape), f"blocks.{k}.{name}.bias": some(shape[0])}
        if scales:
            found |= {f"blocks.{k}.ls{part}.gamma": some(12) for part in (1, 2)}
    return {prefix + name: value for name, value in found.items()}


def their_forward(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """What timm computes, written out: all tokens after the last norm.  (B, 1 + N, D)"""

    def norm(name: str, h: Tensor) -> Tensor:
        return F.layer_norm(h, (12,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    h = torch.cat([w["cls_token"].expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    for k in range(2):
        block = f"blocks.{k}"
        q, key, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", h)).split(12, dim=-1)
        heads = []
        for part in (slice(0, 6), slice(6, 12)):
            mix = torch.softmax(q[..., part] @ key[..., part].transpose(1, 2) / 6**0.5, dim=-1)
            heads.append(mix @ v[..., part])
        h = h + w.get(f"{block}.ls1.gamma", torch.ones(12)) * linear(f"{block}.attn.proj", torch.cat(heads, -1))
        inner = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", h)))
        h = h + w.get(f"{block}.ls2.gamma", torch.ones(12)) * linear(f"{block}.mlp.fc2", inner)
    return norm("norm", h)


def ours(weights: dict[str, Tensor], config: VitConfig = CONFIG) -> VisionTransformer:
    vit = VisionTransformer.from_config(config).eval()
    vit.load_state_dict(fitted(weights, config))
    return vit


@pytest.mark.parametrize("scales", [False, True])
def test_converted_weights_compute_what_theirs_do(scales: bool) -> None:
    state = timm_like(scales=scales)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        cls, tokens = ours(own_names(state))(x)
    torch.testing.assert_close(torch.cat([cls[:, None], tokens], 1), their_forward(state, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "teacher.backbone.", "teacher.module.backbone."])
def test_prefixes_heads_and_students_are_left_out(prefix: str) -> None:
    state = timm_like(prefix=prefix)
    head = prefix.removesuffix("backbone.") + "head.mlp.0.weight"
    extra = {head: torch.zeros(2), "teacher.dino_head.last_layer.weight_g": torch.zeros(2)}
    if prefix.startswith("teacher."):
        extra["student.backbone.cls_token"] = torch.ones(1, 1, 12)
    else:
        del extra["teacher.dino_head.last_layer.weight_g"]
    found = own_names({**state, **extra})
    plain = own_names(timm_like())
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_what_does_not_match_is_listed() -> None:
    state = own_names(timm_like())
    del state["norm.bias"]
    state["blocks.7.ls3"] = torch.zeros(1)
    state["cls_token"] = torch.zeros(1, 1, 16)
    with pytest.raises(RunInvalid) as told:
        fitted(state, CONFIG)
    for fault in (
        "no norm.bias",
        "blocks.7.ls3 has no place",
        r"cls_token is (1, 1, 16), (1, 1, 12) is wanted",
        "--preset",
    ):
        assert fault in str(told.value)
    with pytest.raises(RunInvalid, match=r"neither ours .* nor of timm's .* hold conv1\.weight"):
        own_names({"conv1.weight": torch.zeros(1)})
    with pytest.raises(RunInvalid, match=r"pos_embed has shape \(1, 7, 12\)"):
        own_names({**timm_like(), "pos_embed": torch.zeros(1, 7, 12)})


def test_positions_of_another_grid_are_those_of_the_encoder_at_that_size() -> None:
    weights = own_names(timm_like())
    wide = ours(weights, VitConfig(img_size=32, patch_size=8, dim=12, depth=2, heads=2))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for found, expected in zip(wide(x), ours(weights)(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_patch_embedding_of_larger_patches_says_the_same_of_an_enlarged_image() -> None:
    weight = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    patch = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    grown = F.interpolate(patch, size=(6, 6), mode="bicubic", align_corners=False)
    found = F.conv2d(grown, resized_patches(weight, 6))
    torch.testing.assert_close(found, F.conv2d(patch, weight), rtol=1e-4, atol=1e-4)


def colocated() -> ColocatedImages:
    rng = np.random.default_rng(9)
    return ColocatedImages(
        sensors=("sentinel-1", "sentinel-2"),
        first=list(rng.integers(40, 200, (3, 30, 30, 3), dtype=np.uint8)),
        second=images(3),
        usable=[np.ones((30, 30), dtype=bool)] * 3,
        first_gains=(1 / 255,) * 3,
        second_gains=(1 / 255,) * 3,
    )


def training(preset: XstarsPreset = SMALL, start: Start | None = None) -> XstarsTraining:
    pools = [
        ImagePool(images=images(k), gains=(1 / 255,) * 3, sensor=name)
        for k, name in enumerate(("sentinel-2", "aerial"))
    ]
    return XstarsTraining(preset, pools, [colocated()], 0, start=start)


def start(normalisation: str = "imagenet", adapt_to: str = "sentinel-2") -> Start:
    pretrained = Pretrained(weights=own_names(timm_like()), normalisation=normalisation, digest="0")
    return Start(pretrained=pretrained, adapt_to=adapt_to)


def test_student_teacher_and_frozen_copy_start_as_the_pretrained_network_on_its_own_input() -> None:
    state = timm_like()
    trained = training(start=start())
    reflectance = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    expected = their_forward(state, (reflectance - mean) / std)[:, 0]
    assert trained.frozen is not None
    for network in (trained.student.eval(), trained.teacher, trained.frozen):
        with torch.no_grad():
            cls, _ = network([("sentinel-2", reflectance * 2 - 1)])
        torch.testing.assert_close(cls, expected, rtol=1e-3, atol=1e-3)


def test_dino_sees_the_adapted_sensor_alone_and_the_frozen_copy_the_other_one() -> None:
    trained = training(start=start())
    assert [pool.sensor for pool in trained.pools] == ["sentinel-2"]
    assert trained.frozen is not None
    seen: dict[str, list[str]] = {"student": [], "frozen": [], "teacher": []}
    for name, network in (("student", trained.student), ("frozen", trained.frozen), ("teacher", trained.teacher)):

        def watch(module, inputs, name=name) -> None:
            seen[name] += [sensor for sensor, _ in inputs[0]]

        network.register_forward_pre_hook(watch)
    before = {name: value.clone() for name, value in trained.frozen.state_dict().items()}
    trained.step(0, 4)
    assert set(seen["student"]) == {"sentinel-2"}
    assert seen["frozen"] == ["sentinel-1"]
    assert set(seen["teacher"]) == {"sentinel-2"}
    assert not trained.frozen.training
    assert all(torch.equal(before[name], value) for name, value in trained.frozen.state_dict().items())
    assert all(value.grad is None for value in trained.frozen.parameters())
    # Both sensors' heads learn, the frozen sensor's too.
    assert all(value.grad is not None for value in trained.alignment.parameters())


def test_a_continual_run_goes_on_exactly() -> None:
    whole, stopped, again = (training(start=start()) for _ in range(3))
    for index in range(4):
        whole.step(index, 4)
    for index in range(2):
        stopped.step(index, 4)
    again.load({name: value.clone() for name, value in stopped.tensors().items()}, {"step": 2})
    for index in range(2, 4):
        again.step(index, 4)
    expected = whole.tensors()
    assert [name for name, value in again.tensors().items() if not torch.equal(expected[name], value)] == []


def test_what_cannot_be_continued_is_told() -> None:
    with pytest.raises(RunInvalid, match="no images of 'landsat' to adapt to; there are images of aerial, sentinel-2"):
        training(start=start(adapt_to="landsat"))
    deeper = replace(SMALL, vit=replace(SMALL.vit, depth=3))
    with pytest.raises(RunInvalid, match=r"preset's network: no blocks\.2\.attn\.proj\.bias,.*; give the --preset"):
        training(deeper, start=start())


def test_embeddings_of_each_sensor_are_handed_on_by_name() -> None:
    preset = replace(SMALL, patch_embedding="per-sensor")
    first = training(preset)
    first.step(0, 4)
    pretrained = Pretrained(weights=own_names(first.weights()), normalisation="ours", digest="0")
    second = training(preset, start=Start(pretrained=pretrained, adapt_to="sentinel-2"))
    assert set(second.student.patch_embeds) == {"sentinel-1", "sentinel-2"}
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for sensor in ("sentinel-1", "sentinel-2"):
        with torch.no_grad():
            expected, _ = first.teacher([(sensor, x)])
            cls, _ = second.teacher([(sensor, x)])
        torch.testing.assert_close(cls, expected)
        found.append(cls)
    assert not torch.equal(*found)


def test_a_shared_embedding_starts_every_sensor_s_own() -> None:
    trained = training(replace(SMALL, patch_embedding="per-sensor"), start=start("half"))
    weights = own_names(timm_like())
    for embed in trained.student.patch_embeds.values():
        torch.testing.assert_close(embed.weight, weights["patch_embed.weight"])


def test_weights_are_read_from_files_and_run_folders_and_never_from_pickles(tmp_path: Path) -> None:
    save_file(timm_like(), tmp_path / "vit.safetensors")
    found = read_pretrained(tmp_path / "vit.safetensors")
    assert (found.normalisation, set(found.weights)) == ("imagenet", set(own_names(timm_like())))
    trained = training()
    write_run(tmp_path / "run", {"kind": "xstars"}, trained.weights())
    own = read_pretrained(tmp_path / "run")
    assert own.normalisation == "ours"
    assert torch.equal(own.weights["pos_grid"], trained.teacher.vit.pos_grid)
    assert found.digest != own.digest
    (tmp_path / "vit.pth").write_bytes(b"\x80\x04N.")
    with pytest.raises(RunInvalid, match=r"pickles such as \.pth are not read: they can run code\. Convert it"):
        read_pretrained(tmp_path / "vit.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunInvalid, match="cannot be read as safetensors"):
        read_pretrained(tmp_path / "bad.safetensors")
    with pytest.raises(RunInvalid, match="no weights at"):
        read_pretrained(tmp_path / "none.safetensors")
    with pytest.raises(RunInvalid, match="ours, imagenet, half"):
        read_pretrained(tmp_path / "vit.safetensors", "z-score")


def test_class_attention_is_the_last_block_s_softmax() -> None:
    trained = training(start=start("ours"))
    state = own_names(timm_like())
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = class_attention(trained.teacher, "sentinel-2", x)
    inputs: list[Tensor] = []
    trained.teacher.vit.blocks[1].register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    trained.teacher([("sentinel-2", x)])
    h = F.layer_norm(inputs[0][0], (12,), state["blocks.1.norm1.weight"], state["blocks.1.norm1.bias"], eps=1e-6)
    qkv = h @ state["blocks.1.attn.qkv.weight"].T + state["blocks.1.attn.qkv.bias"]
    for head in range(2):
        q, k = (qkv[:, part + 6 * head : part + 6 * head + 6] for part in (0, 12))
        expected = torch.softmax(q[0] @ k.T / 6**0.5, dim=0)[1:].reshape(2, 2)
        torch.testing.assert_close(found[0, head], expected, rtol=1e-4, atol=1e-5)


def test_pictures_frame_the_query_s_own_ground(tmp_path: Path) -> None:
    from PIL import Image

    trained = training()
    book = EncoderPictures(trained, tmp_path, clock=lambda: 0.0, queries=3, neighbours=64)
    book.now_and_then()
    assert not list(tmp_path.iterdir())
    book.draw()
    with Image.open(tmp_path / "attention.png") as attention, Image.open(tmp_path / "neighbours.png") as neighbours:
        assert attention.size == (3 * 98 - 2, 14 + 6 * 98 - 2)
        assert neighbours.size == (65 * 98 - 2, 14 + 3 * 98 - 2)
        corners = np.asarray(neighbours)[14::98, ::98]  # (rows, columns, 3)
    # Among all of the gallery, each query's own ground is framed once.
    assert ((corners == (40, 160, 60)).all(axis=-1).sum(axis=1) == 1).all()
    first = [(tmp_path / name).read_bytes() for name in ("attention.png", "neighbours.png")]
    book.draw()
    assert [(tmp_path / name).read_bytes() for name in ("attention.png", "neighbours.png")] == first
