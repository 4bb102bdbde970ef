"""The encoder's training: its start, what MSAD's modes teach, and going on after a stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.vit import VisionTransformer, VitConfig
from training.align.standardise import standardise_input
from training.align.xstars import XstarsTraining
from training.data.pairs import SimulatedCoarse
from training.data.pool import ImagePool
from training.encoder_presets import ENCODERS, XstarsPreset
from training.errors import RunInvalid
from training.running.distributed import World

SMALL = XstarsPreset(
    name="small",
    vit=VitConfig(img_size=16, patch_size=8, dim=12, depth=2, heads=2, drop_path=0.2),
    tile_px=16,
    source_px=24,
    local_px=8,
    local_crops=1,
    head_hidden=8,
    bottleneck=4,
    prototypes=10,
    msad_dim=6,
    dense_tokens=9,
    batch=4,
    pairs=4,
    warmup=2,
    freeze_last=1,
)


def images(seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(40, 200, (3, 30, 30, 3), dtype=np.uint8))


def training(msad: str = "position", seed: int = 0, world: World | None = None, **changes: object) -> XstarsTraining:
    gains = (1 / 255,) * 3
    pools = [ImagePool(images=images(k), gains=gains, sensor=name) for k, name in enumerate(("aerial", "other"))]
    sources = [SimulatedCoarse(images=images(2), gains=gains)]
    preset = replace(SMALL, msad=msad, **changes)
    return XstarsTraining(preset, pools, sources, seed, world=world or World())


def trunk_gradients(trained: XstarsTraining) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in trained.student.named_parameters() if value.grad is not None}


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


@pytest.mark.parametrize("mode", ["position", "dense"])
def test_msad_changes_the_trunk_s_gradient_and_trains_its_heads(mode: str) -> None:
    with_msad, without = training(mode), training("off")
    before = [value.clone() for value in with_msad.alignment.parameters()]
    report = with_msad.step(0, 10)
    without.step(0, 10)
    ours, theirs = trunk_gradients(with_msad), trunk_gradients(without)
    assert [name for name in theirs if torch.equal(ours[name], theirs[name])] == []
    assert all(not torch.equal(a, b) for a, b in zip(before, with_msad.alignment.parameters(), strict=True))
    assert report.losses["loss"] == pytest.approx(report.losses["dino"] + report.losses["msad"], rel=1e-6)
    assert set(report.measures) == {"msad_accuracy", "class_accuracy"}


def test_compat_leaves_the_trunk_s_gradient_bit_for_bit_what_dino_makes_it() -> None:
    """As the released code does: MSAD is reported, and neither trunk nor heads learn from it."""
    compat, off = training("compat"), training("off")
    heads = {name: value.clone() for name, value in compat.alignment.state_dict().items()}
    for index in range(3):
        said, silent = compat.step(index, 10), off.step(index, 10)
        assert said.losses["msad"] > 0
        assert said.losses["loss"] == silent.losses["loss"]
        ours, theirs = trunk_gradients(compat), trunk_gradients(off)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(heads[name], value) for name, value in compat.alignment.state_dict().items())
    assert all(torch.equal(off.weights()[name], value) for name, value in compat.weights().items())


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(RunInvalid, match="'patch' is not one of position, dense, compat, off"):
        training("patch")


@pytest.mark.parametrize("mode", ["position", "dense", "compat", "off"])
def test_a_run_that_goes_on_ends_where_one_that_never_stopped_does(mode: str) -> None:
    """All of it: student, teacher, heads, centre, optimiser."""
    whole, stopped = training(mode), training(mode)
    for index in range(4):
        whole.step(index, 4)
    for index in range(2):
        stopped.step(index, 4)
    again = training(mode)
    again.load({name: value.clone() for name, value in stopped.tensors().items()}, {"step": 2})
    for index in range(2, 4):
        again.step(index, 4)
    expected, found = whole.tensors(), again.tensors()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert {name.split(".")[0] for name in found} == {
        "student", "student_head", "teacher", "teacher_head", "alignment", "dino", "optimizer",
    }  # fmt: skip


def test_the_centre_follows_the_teacher_s_outputs_over_both_views_and_the_batch() -> None:
    trained = training("off", centre_momentum=0.25)
    outputs: list[torch.Tensor] = []
    trained.teacher_head.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    trained.step(0, 4)
    trained.step(1, 4)
    first, second = (out.mean(dim=0) for out in outputs)
    torch.testing.assert_close(trained.dino.centre, 0.25 * 0.75 * first + 0.75 * second)


def test_teacher_and_schedules_follow_their_closed_forms() -> None:
    trained = training(teacher_momentum=0.5, weight_decay=(0.1, 0.3))
    slow = trained.teacher.vit.pos_cls.clone()
    rates = []
    for index in range(5):
        rates.append(trained.step(index, 5).lr)
        momentum = 1 - 0.5 * 0.5 * (1 + np.cos(np.pi * index / 4))
        slow = momentum * slow + (1 - momentum) * trained.student.vit.pos_cls.detach()
        torch.testing.assert_close(trained.teacher.vit.pos_cls, slow)
        decays = [group["weight_decay"] for group in trained.optimizer.param_groups]
        assert decays == pytest.approx([0.3 - 0.2 * 0.5 * (1 + np.cos(np.pi * index / 4)), 0.0])
    assert rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert rates[4] == pytest.approx(1e-6)


def test_the_prototypes_stay_as_they_are_at_first() -> None:
    trained = training()
    before = trained.student_head.prototypes.clone()
    trained.step(0, 4)
    assert torch.equal(trained.student_head.prototypes, before)
    trained.step(1, 4)
    assert not torch.equal(trained.student_head.prototypes, before)


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 5.5), ("ablation", 5.5), ("small", 21.7), ("base", 85.8), ("large", 303.3)]
)
def test_presets_are_of_the_documented_sizes(name: str, millions: float) -> None:
    preset = ENCODERS[name]
    with torch.device("meta"):
        vit = VisionTransformer.from_config(preset.vit)
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert preset.tile_px == preset.vit.img_size
    if name in ("small", "base", "large"):  # DINO's numbers
        assert (preset.head_hidden, preset.bottleneck, preset.prototypes, preset.local_crops) == (2048, 256, 65536, 8)
        assert preset.lr == 5e-4 * preset.batch / 256
