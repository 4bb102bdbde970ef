"""What a training run is made of beside its loop: shares, precision, batches drawn ahead, displays and logs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from engine.unet import UnetConfig
from tests.unit.test_training_loop import Counter, Ticks
from training.data.pool import ImagePool
from training.denoise.batches import Batches
from training.denoise.denoiser import DenoiserTraining
from training.denoise.edm import NoiseLevels
from training.denoise.normal_tiles import NormalTiles, measure
from training.errors import RunInvalid
from training.presets import DENOISERS, DenoiserPreset, denoiser_preset
from training.running.checkpoint import load_checkpoint, save_checkpoint
from training.running.display import StepDisplay
from training.running.distributed import ALONE, World, joined
from training.running.loop import Progress, StepReport, run
from training.running.overrides import overridden, read_overrides
from training.running.precision import checked, require_precision
from training.running.progresslog import ProgressLog

SMALL = replace(
    denoiser_preset("aerial"),
    tile_px=16,
    crop_px=8,
    batch=8,
    sides_px=(),
    warmup=1,
    unet=UnetConfig(in_chans=3, width=8, mults=(1, 2), blocks=1, attention=False),
)


def normal_tiles(preset: DenoiserPreset = SMALL) -> NormalTiles:
    rng = np.random.default_rng(3)
    images = [rng.integers(40, 200, (24, 24, 3), dtype=np.uint8) for _ in range(3)]
    pool = ImagePool(images=images, gains=preset.gains)
    return NormalTiles(preset=preset, pool=pool, pairs=None, digests={"test": "0"})


def training(preset: DenoiserPreset = SMALL, **how: object) -> DenoiserTraining:
    tiles = normal_tiles(preset)
    return DenoiserTraining(preset, tiles, measure(tiles.pool, 16, 0), 0, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_all_rows_once_and_differ_by_one_at_most(size: int) -> None:
    rows = list(range(13))
    shares = [rows[World(rank=rank, size=size).share(13)] for rank in range(size)]
    assert [row for share in shares for row in share] == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_rows_than_processes_are_refused() -> None:
    with pytest.raises(RunInvalid, match="use fewer processes"):
        World(rank=0, size=4).share(3)


def test_the_slices_of_all_ranks_are_the_batch_of_one() -> None:
    levels = NoiseLevels(sigma_data=0.3)
    whole = Batches(normal_tiles(), levels, 5, ALONE).draw(7, 6, 16)
    parts = [Batches(normal_tiles(), levels, 5, World(rank=rank, size=2)).draw(7, 6, 16) for rank in range(2)]
    for name in ("x", "sigma", "noise"):
        joint = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joint, getattr(whole, name))
    assert whole.x.is_contiguous(memory_format=torch.channels_last)
    assert {part.total for part in parts} == {6}


class Recording(World):
    """A process that keeps what it would have exchanged."""

    def mean_gradients(self, parameters, loss, weight):
        object.__setattr__(self, "told", [weight * loss.detach(), *(weight * p.grad for p in parameters)])
        return loss.detach()


def test_weighted_gradients_of_the_slices_add_up_to_the_whole_batch() -> None:
    worlds = [
        Recording(rank=0, size=1),
        Recording(rank=0, size=3),
        Recording(rank=1, size=3),
        Recording(rank=2, size=3),
    ]
    for world in worlds:
        training(world=world).step(0, 10)
    whole, *slices = (world.told for world in worlds)
    assert len(whole) > 50
    for expected, *parts in zip(whole, *slices, strict=True):
        torch.testing.assert_close(torch.stack(parts).sum(dim=0), expected, rtol=1e-4, atol=1e-5)


def test_batches_drawn_ahead_are_the_same_batches() -> None:
    levels = NoiseLevels(sigma_data=0.3)
    ahead = Batches(normal_tiles(), levels, 5, ALONE, ahead=True)
    plain = Batches(normal_tiles(), levels, 5, ALONE, ahead=False)
    shapes = [(8, 8), (8, 8), (2, 16)]
    for index, shape in enumerate(shapes):
        then = shapes[index + 1] if index + 1 < len(shapes) else None
        a, b = ahead.take(index, *shape, then), plain.take(index, *shape, then)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.noise, b.noise)
    # What was drawn ahead for another step is not used.
    ahead.take(0, 8, 8, (8, 8))
    assert torch.equal(ahead.take(5, 8, 8, None).x, plain.take(5, 8, 8, None).x)


def test_dropout_differs_by_step_and_rank_and_repeats() -> None:
    preset = replace(SMALL, unet=replace(SMALL.unet, dropout=0.5))

    def dropped(index: int, rank: int) -> torch.Tensor:
        one = training(preset, world=World(rank=rank))
        with one._dropout_seeded(index):
            return torch.nn.functional.dropout(torch.ones(64), 0.5)

    state = torch.get_rng_state()
    assert torch.equal(dropped(3, 0), dropped(3, 0))
    assert not torch.equal(dropped(3, 0), dropped(4, 0))
    assert not torch.equal(dropped(3, 0), dropped(3, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_computes_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated here where the CPU has no such instructions: slow, but the same rounding."""
    monkeypatch.setattr("training.running.precision._has_bf16", lambda device: True)
    exact, rounded = training(), training(precision="bf16")
    kinds: set[torch.dtype] = set()
    rounded.denoiser.net.first.register_forward_hook(lambda module, inputs, out: kinds.add(out.dtype))
    losses = [one.step(0, 10).losses["loss"] for one in (exact, rounded)]
    assert kinds == {torch.bfloat16}
    assert losses[0] != losses[1]
    # 8 bits of mantissa.
    assert losses[1] == pytest.approx(losses[0], rel=2**-6)
    assert {tensor.dtype for tensor in rounded.tensors().values()} == {torch.float32}
    assert {p.grad.dtype for p in rounded.denoiser.parameters() if p.grad is not None} == {torch.float32}


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.running.precision._has_bf16", lambda device: False)
    with pytest.raises(RunInvalid, match="--precision fp32"):
        training(precision="bf16")
    require_precision("fp32", torch.device("cpu"))
    with pytest.raises(RunInvalid, match="fp32 and bf16"):
        checked("fp16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_does_what_the_cpu_does(precision: str) -> None:
    on_gpu = training(world=World(device=torch.device("cuda", 0)), precision=precision)
    on_cpu = training()
    for index in range(2):
        a, b = (one.step(index, 10).losses["loss"] for one in (on_gpu, on_cpu))
        assert a == pytest.approx(b, rel=2**-6)
    again = training(world=World(device=torch.device("cuda", 0)), precision=precision)
    again.load({name: value.cpu() for name, value in on_gpu.tensors().items()}, {"step": 2})
    assert again.step(2, 10).losses["loss"] == pytest.approx(on_gpu.step(2, 10).losses["loss"], rel=1e-3)
    assert {value.device.type for value in on_gpu.weights().values()} == {"cpu"}


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    with joined({}, "cpu") as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
        assert world.agree(5) == 5
    with pytest.raises(RunInvalid, match="cpu, cuda and auto"), joined({}, "tpu"):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(RunInvalid, match="--device cpu"), joined({}, "cuda"):
        pass
    with joined({}, "auto") as world:
        assert world.device.type == "cpu"


def progress(step: int, loss: float = 1.0) -> Progress:
    report = StepReport(losses={"loss": loss}, lr=0.5, images=4)
    return Progress(step=step, steps=9, report=report, images_per_s=2.0, seconds=float(step), eta_s=3661.0)


def test_a_log_file_gets_a_line_now_and_then() -> None:
    times = iter([0.0, 10.0, 29.0, 30.0, 31.0, 32.0])
    written = io.StringIO()
    with StepDisplay(Console(file=written, width=20), 9, clock=lambda: next(times)) as display:
        for step in (1, 2, 3, 4, 5, 9):
            display.show(progress(step))
    lines = written.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["1/9", "4/9", "9/9"]
    assert lines[0] == "1/9  loss 1.0000  lr 5.00e-01  2 images/s  ETA 1:01:01"


def test_the_progress_log_drops_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    first = ProgressLog(tmp_path, clock=Ticks(), every_s=0.0)
    for step in (1, 2, 3):
        first.show(progress(step, loss=step))
    with first.path.open("a") as lines:
        lines.write('{"step": 4, "lo')  # A kill in the middle of a line.
    second = ProgressLog(tmp_path, clock=Ticks(), every_s=0.0)
    for step in (3, 4):
        second.show(progress(step, loss=10 * step))
    found = [json.loads(line) for line in second.path.read_text().splitlines()]
    assert [(line["step"], line["losses"]["loss"]) for line in found] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert found[0] == {
        "step": 1,
        "steps": 9,
        "losses": {"loss": 1},
        "lr": 0.5,
        "images_per_s": 2.0,
        "seconds": 1.0,
        "eta_s": 3661.0,
    }


def test_the_progress_log_is_thinned_but_keeps_both_ends(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path, clock=Ticks(), every_s=4.0)
    for step in range(1, 10):
        log.show(progress(step))
    # The clock ticks once a step.
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 5, 9]


def test_time_left_and_time_spent_go_on_over_a_resume(tmp_path: Path) -> None:
    def stop_at_three(shown: Progress) -> None:
        if shown.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Counter(), tmp_path, 6, clock=Ticks(), show=stop_at_three, checkpoint_every_s=0.0)
    kept = load_checkpoint(tmp_path)
    assert kept is not None
    before_s = kept[1]["milliseconds"] / 1000
    assert before_s > 0
    seen: list[Progress] = []
    total_s = run(Counter(), tmp_path, 6, clock=Ticks(), show=seen.append)
    # The second clock ticks at the start, at each of four steps, after the checkpoint, and at the end.
    assert [shown.seconds - before_s for shown in seen] == [1, 2, 3, 4]
    assert [shown.eta_s for shown in seen] == [3, 2, 1, 0]
    assert total_s == before_s + 6


def test_pictures_are_asked_for_at_checkpoints_by_the_first_process_alone(tmp_path: Path) -> None:
    for rank, times in ((0, 2), (1, 0)):
        asked: list[int] = []
        folder = tmp_path / str(rank)
        folder.mkdir()
        world = replace(ALONE, rank=rank)
        run(
            Counter(),
            folder,
            3,
            clock=Ticks(),
            show=lambda shown: None,
            checkpoint_every_s=0.0,
            world=world,
            at_checkpoint=lambda asked=asked: asked.append(1),
        )
        assert len(asked) == times
        assert (folder / "checkpoint.safetensors").is_file() == world.leads


def test_a_checkpoint_knows_its_configuration(tmp_path: Path) -> None:
    kept = {"seed": 1, "preset": {"lr": 0.1, "mults": (1, 2)}}
    save_checkpoint(tmp_path, {"a": torch.zeros(1)}, {"step": 1, "steps": 2}, kept)
    assert load_checkpoint(tmp_path, kept) is not None
    with pytest.raises(RunInvalid, match=r"preset\.lr \(0\.1 there, 0\.2 here\); give the same"):
        load_checkpoint(tmp_path, {**kept, "preset": {"lr": 0.2, "mults": (1, 2)}})
    # Checkpoints of before say nothing of their configuration.
    save_checkpoint(tmp_path, {"a": torch.zeros(1)}, {"step": 1, "steps": 2})
    assert load_checkpoint(tmp_path, kept) is not None


def test_overrides_replace_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('lr = 1\nheld_out_events = ["A"]\nsteps = 7\n[unet]\nmults = [1, 1]\n')
    found = overridden(SMALL, read_overrides(tmp_path / "a.toml"))
    expected = replace(SMALL, lr=1.0, held_out_events=("A",), steps=7, unet=replace(SMALL.unet, mults=(1, 1)))
    assert found == expected
    assert isinstance(found.lr, float)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"speed": 1, "unet": {}}, "no field speed; there are name,"),
        ({"unet": {"depth": 3}}, r"no field unet\.depth"),
        ({"batch": 1.5}, "batch takes int; 1.5 is float"),
        ({"batch": True}, "batch takes int"),
        ({"steps": "many"}, "steps takes int"),
        ({"unet": 3}, "unet is a table"),
        ({"unet": {"width": 7}}, "multiple of 4"),
        ({"gains": ["a", 1, 2]}, "gains takes float"),
    ],
)
def test_overrides_that_fit_no_field_are_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(RunInvalid, match=told):
        overridden(SMALL, values)


def test_preset_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name, text, told in (
        ("a.toml", "lr = ", "cannot be read"),
        ("a.json", "[1]", "JSON list"),
        ("a.yaml", "lr: 1", "neither"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(RunInvalid, match=told):
            read_overrides(tmp_path / name)
    with pytest.raises(RunInvalid, match="cannot be read"):
        read_overrides(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("sentinel-2", 1.71), ("sentinel-2-large", 6.27), ("spacenet8", 27.67), ("joint", 3.07)],
)
def test_presets_have_the_documented_numbers_of_parameters(name: str, millions: float) -> None:
    from engine.unet import DenoiserUNet

    with torch.device("meta"):
        net = DenoiserUNet.from_config(DENOISERS[name].unet)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_the_paper_s_preset_is_the_paper_s() -> None:
    preset = DENOISERS["spacenet8"]
    assert (preset.unet.width, preset.unet.mults, preset.tile_px) == (64, (1, 2, 2, 4, 4), 256)
    assert (preset.batch, preset.steps) == (80, 40_000)
    shapes = {DenoiserTraining.shape_of(replace_preset(preset), index, 40_000) for index in (0, 20_000, 39_999)}
    assert shapes == {(256, 80)}


def replace_preset(preset: DenoiserPreset) -> DenoiserTraining:
    """A training that has nothing but its preset: the real one would fill the memory."""
    bare = object.__new__(DenoiserTraining)
    bare.preset = preset
    return bare
