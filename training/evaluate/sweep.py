"""A small search for ODEED's settings, on events that calibrate and judge nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.data.heldout import flood_tiles
from training.data.ombria import OmbriaFolder
from training.evaluate.evaluation import judge
from training.presets import denoiser_preset
from training.running.runfolder import RunFolder
from training.running.serving import odeed_scores, open_denoiser, settings_of


def sweep_settings(
    run: RunFolder,
    data: Path,
    steps: Sequence[int],
    ratios: Sequence[float],
    *,
    tiles: int,
    seed: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """AUROC of flooded against dry tiles of the same after-images, by settings.

    Args:
        run: a denoiser of OMBRIA's bands.
        data: OMBRIA folder.
        steps: steps of one leg to try.
        ratios: σ_max / σ_data to try.
        tiles: number of dry tiles and of flooded tiles (a share of 25 % or more).
        seed: of the choice of tiles.
        threads: CPU threads.
        say: told each result as it comes.

    Raises:
        TrainingDataInvalid: the folder is not of that layout, or has no such tiles.
    """
    preset = denoiser_preset(run.config["preset"]["name"])
    folder = OmbriaFolder.open(data)
    trained_on = [event for event in folder.events if event not in preset.held_out_events]
    chosen = flood_tiles(folder.of_events(trained_on), preset.gains, preset.tile_px).sample(
        np.random.default_rng(seed), dry=tiles, flooded=tiles
    )
    table: dict[str, dict[str, float]] = {}
    with open_denoiser(run, threads=threads) as denoiser:
        for n in steps:
            for ratio in ratios:
                settings = settings_of(run.config, steps=n, ratio=ratio)
                verdict = judge(odeed_scores(denoiser, settings, chosen.after), chosen)
                key = f"steps {n}, sigma_max {ratio:g} sigma_data"
                table[key] = {"pooled": verdict.pooled, "mean of events": verdict.mean_of_events}
                say(f"{key}: pooled {verdict.pooled:.3f}, mean of events {verdict.mean_of_events:.3f}")
    return table
