"""What encoders are trained with: one frozen value per network, printed by ``--dry-run``.

``tiny`` fits a CPU, and is newer than what the bundle ``base`` holds; ``ablation`` is the small setting in which MSAD's
modes are compared. ``small``, ``base`` and ``large`` are for GPUs, with DINO's numbers as X-STARS uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.vit import VitConfig, preset
from training.errors import RunInvalid
from training.presets import AERIAL_GAINS, HELD_OUT_EVENTS, OMBRIA_GAINS

ROLES = ("-later", "-earlier", "-coarse")
"""What a sensor's name in a pair may end in, where both sides come from one sensor."""

PATCH_EMBEDDINGS = ("shared", "per-sensor")


@dataclass(frozen=True, kw_only=True)
class XstarsPreset:
    """One encoder for all families, trained by DINO and MSAD."""

    name: str
    vit: VitConfig = field(default_factory=lambda: preset("tiny", drop_path=0.1))
    patch_embedding: str = "shared"
    """``shared`` by all sensors, or ``per-sensor``: :class:`training.align.trunk.SensorTrunk`."""
    quiet_residuals: bool = False
    """Whether residual paths start at zero."""
    tile_px: int = 64
    """Side of DINO's global views, of MSAD's tiles, and of what is served."""
    source_px: int = 96
    """Side of the window that a DINO sample's crops are cut from."""
    local_px: int = 32
    global_crops: int = 2
    local_crops: int = 2
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    head_hidden: int = 512
    bottleneck: int = 256
    prototypes: int = 4096
    """DINO's 65,536 for ImageNet; few thousand images and a small batch cannot fill so many."""
    msad: str = "position"
    """``position``, ``dense``, ``compat`` or ``off``: :mod:`training.align.msad`."""
    msad_weight: float = 1.0
    """α of ``total = DINO + α MSAD``. The paper's 0.1 goes with long DINO training; within minutes DINO alone leaves
    all embeddings within a cosine of 0.9996, and alignment has to do the work."""
    msad_dim: int = 1024
    shared_head: bool = False
    """One projection head for all sensors, so that it is the trunk that must bring them together; else one each."""
    class_share: float = 0.5
    """Share of MSAD that compares class tokens, as the daemon does, in ``position`` and ``dense``; the paper's is 0."""
    dense_tokens: int = 512
    """Tokens of a batch of pairs that ``dense`` contrasts, drawn anew at each step; of fewer tokens, all."""
    temperature: float = 0.1
    target_temperature: float = 0.02
    """Fresh tokens are all alike, and targets made of their similarities at 0.1 are near uniform: they would hold
    the embeddings together. Sharper targets start as one-hot."""
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_momentum: float = 0.98
    """DINO's 0.996 is for 100,000 steps: after 400 of them the teacher would still be 45 % its random start."""
    centre_momentum: float = 0.9
    batch: int = 8
    """DINO's samples a step, each seen in all its crops."""
    pairs: int = 64
    """MSAD's pairs a step."""
    steps: int | None = None
    """Length of a run where none is asked for; None: it must be asked for."""
    lr: float = 1e-3
    """Peak. DINO's 5e-4·batch/256 is for hundreds of epochs; a run of minutes needs larger steps."""
    weight_decay: tuple[float, float] = (0.04, 0.4)
    warmup: int = 50
    freeze_last: int = 50
    """Steps during which the prototypes are not trained."""
    clip: float = 3.0
    gains: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {"ombria": OMBRIA_GAINS, "classes": AERIAL_GAINS, "sentinel-1": AERIAL_GAINS}
    )
    held_out_events: tuple[str, ...] = HELD_OUT_EVENTS


def _of_the_paper(name: str, *, batch: int) -> XstarsPreset:
    """X-STARS at full size (Marsocci & Audebert 2025, with the numbers of DINO, Caron et al. 2021).

    DINO counts in epochs of 100; here one epoch is a hundredth of the steps, so its 10 warm-up epochs are a tenth.
    """
    return XstarsPreset(
        name=name,
        vit=preset(name, img_size=224, drop_path=0.1),
        tile_px=224,
        source_px=256,
        local_px=96,
        local_crops=8,
        head_hidden=2048,
        prototypes=65536,
        msad_weight=0.1,
        target_temperature=0.1,
        teacher_momentum=0.996,
        batch=batch,
        steps=100_000,
        lr=5e-4 * batch / 256,
        warmup=10_000,
        freeze_last=1_000,
    )


ENCODERS: Mapping[str, XstarsPreset] = {
    # Patch embeddings of their own, quiet residuals and one head: without them Sentinel-1 and Sentinel-2 hardly meet
    # within minutes on a CPU.
    "tiny": XstarsPreset(
        name="tiny",
        patch_embedding="per-sensor",
        quiet_residuals=True,
        shared_head=True,
        pairs=32,
        target_temperature=0.02,
    ),
    # The side that is served, and so little of DINO that a run takes minutes: 16 tokens a tile, 32 pairs, 4 samples.
    "ablation": XstarsPreset(
        name="ablation",
        patch_embedding="per-sensor",
        quiet_residuals=True,
        shared_head=True,
        pairs=32,
        batch=4,
        steps=240,
    ),
    "small": _of_the_paper("small", batch=256),
    "base": _of_the_paper("base", batch=256),
    "large": _of_the_paper("large", batch=128),
}


def physical_sensor(name: str) -> str:
    """The sensor behind a name of a pair: ``sentinel-2`` of ``sentinel-2-later``, ``aerial`` of ``aerial-coarse``."""
    for role in ROLES:
        name = name.removesuffix(role)
    return name


def encoder_preset(name: str) -> XstarsPreset:
    """An encoder preset by name.

    Raises:
        RunInvalid: there is none of that name.
    """
    if name not in ENCODERS:
        raise RunInvalid(f"no encoder preset {name!r}; there are {', '.join(ENCODERS)}")
    return ENCODERS[name]
