"""The text that goes with a bundle: what it is, what it was made of, what was measured, what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.odeed import OdeedSettings
from training.evaluate.encoders.checks import Figure

SOURCES = {
    "ombria": (
        "OMBRIA (Drakonakis et al., IEEE JSTARS 2022), github.com/geodrak/OMBRIA at 38a490355f76. Licence: none "
        "stated; its inputs are Copernicus Sentinel and Copernicus EMS data (free and open): contains modified "
        "Copernicus Sentinel data."
    ),
    "classes": (
        "UC Merced land use (Yang & Newsam, 2010), in a copy re-encoded to 192 px lossy WebP, "
        "github.com/527760681/Keras-Remote-sensing-image-retrieval at a1b8f0c2db6d. Licence: none stated; USGS "
        "National Map imagery (public domain source). Published numbers on the original are not comparable."
    ),
}
"""Training data by layout, with licences as stated at their sources."""


@dataclass(frozen=True, kw_only=True)
class ExportSizes:
    """How much is measured; what a bundle is shipped with, or less for a trial."""

    tiles: int = 1200
    """Held-out tiles whose scores calibrate, at most."""
    pairs: int = 600
    """Held-out pairs that calibrate changes, at most."""
    normal: int = 500
    """Training tiles that the density scorers are made from."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card is written from."""

    name: str
    encoder: Mapping[str, Any]
    """Configuration of the encoder's run."""
    denoisers: Mapping[str, Mapping[str, Any]]
    """Configurations of the denoisers' runs, by family."""
    settings: Mapping[str, OdeedSettings]
    figures: tuple[Figure, ...]
    """Of the encoder."""
    sizes: ExportSizes
    calibration: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]


def model_card(facts: CardFacts) -> str:
    """Markdown."""
    parts = [
        f"# Model bundle `{facts.name}`",
        _purpose(facts),
        "## How it was made\n\n" + _commands(facts),
        "## Data\n\n" + _data(facts),
        "## Measured\n\n" + "\n\n".join([*(_measured(facts, family) for family in facts.denoisers), _encoder(facts)]),
        "## Limits\n\n" + _limits(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _purpose(facts: CardFacts) -> str:
    return (
        "Networks that tell how strange a tile looks and how far it is from the place's earlier looks:\n"
        "an X-STARS encoder that all share, and an EDM denoiser for each of "
        f"{', '.join(f'`{family}`' for family in facts.denoisers)} that ODEED integrates with.\n"
        "Floods are told by a small model of a tile's spectrum, fitted on mapped floods of the events that are not "
        "held out: the one part that saw labels.\n"
        "Trained in minutes on two CPU cores: good enough to run the whole chain on real scenes, and no measure of "
        "what the two papers' methods can do."
    )


def _commands(facts: CardFacts) -> str:
    lines = ["```sh"]
    for family, config in facts.denoisers.items():
        lines.append(
            f"vigie train denoiser --preset {config['preset']['name']} --data {_folder(config)} --out runs/{family} "
            f"--steps {config['steps']} --seed {config['seed']} --threads {config['threads']}"
        )
    folders = " ".join(f"--{layout} DATA/{layout}" for layout in facts.encoder["data"])
    lines.append(
        f"vigie train xstars --preset {facts.encoder['preset']['name']} {folders} --out runs/encoder "
        f"--steps {facts.encoder['steps']} --seed {facts.encoder['seed']} --threads {facts.encoder['threads']}"
    )
    pairs = " ".join(f"--denoiser runs/{f} --data {_folder(c)}" for f, c in facts.denoisers.items())
    measured = f"--tiles {facts.sizes.tiles} --pairs {facts.sizes.pairs} --normal {facts.sizes.normal}"
    lines += [f"vigie export --name {facts.name} --encoder runs/encoder {pairs} {measured}", "```", ""]
    lines += ["| network | steps | minutes | threads | parameters' shape |", "|---|---|---|---|---|"]
    for family, config in facts.denoisers.items():
        unet = config["preset"]["unet"]
        shape = f"U-Net, width {unet['width']} × {tuple(unet['mults'])}, {unet['blocks']} block(s) a level"
        minutes = f"{config['seconds'] / 60:.0f}"
        lines.append(f"| denoiser `{family}` | {config['steps']} | {minutes} | {config['threads']} | {shape} |")
    vit = facts.encoder["preset"]["vit"]
    shape = f"ViT, width {vit['dim']}, depth {vit['depth']}, patch {vit['patch_size']}"
    seconds = facts.encoder["seconds"]
    lines.append(f"| encoder | {facts.encoder['steps']} | {seconds / 60:.0f} | {facts.encoder['threads']} | {shape} |")
    lines += [
        "",
        f"On {facts.encoder['machine']} with torch {facts.encoder['torch']}, no GPU, on a machine that was busy with "
        "other work: minutes are wall time. The same command with the same number of threads gives the same weights.",
    ]
    return "\n".join(lines)


def _data(facts: CardFacts) -> str:
    lines = []
    for layout, digest in _digests(facts).items():
        lines.append(f"- `DATA/{layout}`: {SOURCES.get(layout, layout)} SHA-256 of the files: `{digest[:16]}…`")
    for family, config in facts.denoisers.items():
        preset = config["preset"]
        if preset["layout"] == "ombria":
            lines.append(
                f"- `{family}` saw only *before* images; event blocks {', '.join(preset['held_out_events'])} are held "
                f"out of all training, and calibrate and judge. **Assumption:** the 8-bit images have no published "
                f"stretch; reflectance = number × {preset['gains'][0]:.5f}, found by matching quantiles with "
                "Sentinel-2 L1C samples of two other places (`vigie train quantiles`), which differ by a quarter "
                "between themselves. One gain serves all bands, so ratios of bands are as in the images."
            )
        else:
            sides = ", ".join(str(side) for side in preset["sides_px"])
            lines.append(
                f"- `{family}` saw the first of every two images of each class, area-averaged to {sides} px (about "
                "0.4, 0.6 and 1.2 m); the others calibrate. Reflectance = number / 255."
            )
    lines.append(
        f"- The encoder saw the same training parts, and pairs {_pair_names(facts)}. `aerial-coarse` is *simulated*."
    )
    return "\n".join(lines)


def _measured(facts: CardFacts, family: str) -> str:
    settings = facts.settings[family]
    config = facts.denoisers[family]
    arrays = facts.calibration[family]
    sigma = float(config["sigma_data"])
    lines = [
        f"### `{family}`",
        "",
        f"σ_data {sigma:.3f} (measured on training tiles); ODEED: {settings.solver}, {settings.steps} steps, σ from "
        f"{settings.sigma_min:.2g} to {settings.sigma_max:.3g} ({settings.sigma_max / sigma:.0f} σ_data). "
        f"Training drew ln σ around {config['preset']['p_mean']} + ln(σ_data / 0.5), and "
        f"{config['preset']['wide']:.0%} of levels evenly in the log over ODEED's whole range. "
        f"Calibrated on {len(arrays['odeed'])} held-out tiles and {len(arrays['pair_odeed_a'])} pairs"
        + (" (before and dry after)." if "pair_water_a" in arrays else " (*simulated* second looks)."),
    ]
    return "\n".join(lines)


def _encoder(facts: CardFacts) -> str:
    lines = ["### Encoder", "", "| on held-out data | encoder | plain pixels | chance |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.encoder:.3f} | {f.pixels:.3f} | {f.chance:.3f} |" for f in facts.figures]
    behind = [figure.name for figure in facts.figures if figure.encoder <= figure.pixels]
    if behind:
        lines += [
            "",
            f"**Plain pixels are as good or better** at: {'; '.join(behind)}. Minutes of training are far too few "
            "for an encoder; its distance to earlier looks is evidence beside others, not a detector.",
        ]
    return "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    lines = [
        "- Smooth dark water is *easy* to reconstruct, so a raw ODEED score can fall where it floods: a place is "
        "judged by the change of its score, in both directions, beside its water index.",
        "- Season and light move embeddings and scores of whole scenes. Calibration pairs hold what the training data "
        "hold of that, and no more: temperate and Mediterranean land, no snow, no desert, no cloud edges.",
        "- Masks come from rapid mapping: a *dry* tile may hold permanent or unmapped water.",
        "- Alignment of real Sentinel-2 with real aerial looks of one ground is not verified: no such pairs were at "
        "hand.",
    ]
    if "aerial" in facts.denoisers:
        lines.append(
            "- Aerial pixels coarser than about 1.2 m were not trained on: scores at 2.5 m are extrapolated. The "
            "aerial calibration pairs are simulated, and real second flights differ more."
        )
    if "sentinel-2" in facts.denoisers:
        augmentation = facts.denoisers["sentinel-2"]["preset"]["augmentation"]
        lines.append(
            "- The reflectance of the training images is an assumption (above); training varied the gain by "
            f"{augmentation['gain']:.0%}, each band by {augmentation['band_gain']:.0%} more, and the offset by "
            f"{augmentation['offset']:.3f}. `vigie evaluate flood` says what other light does to the flood decision."
        )
    return "\n".join(lines)


def _digests(facts: CardFacts) -> dict[str, str]:
    digests: dict[str, str] = dict(facts.encoder["data"])
    for config in facts.denoisers.values():
        digests |= config["data"]
    return digests


def _folder(config: Mapping[str, Any]) -> str:
    return f"DATA/{config['preset']['layout']}"


def _pair_names(facts: CardFacts) -> str:
    return ", ".join(f"`{a}`/`{b}`" for a, b in facts.encoder["pairs"]) or "of none"
