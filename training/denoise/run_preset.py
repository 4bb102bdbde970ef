"""The preset that a finished denoiser run was trained by."""

from __future__ import annotations

from training.presets import DenoiserPreset, denoiser_preset
from training.running.overrides import overridden
from training.running.runfolder import RunFolder

CHOSEN_LATER = ("odeed_steps", "odeed_ratio")
"""Fields that say nothing of the training: they are chosen by judging what it gave, so today's count."""


def preset_of(run: RunFolder) -> DenoiserPreset:
    """The preset as the run had it, with its held-out events and whatever a preset file replaced.

    Fields that came after the run have today's values.

    Raises:
        RunInvalid: there is no such preset any more, or it has lost a field that the run had.
    """
    config = run.config["preset"]
    return overridden(
        denoiser_preset(config["name"]),
        {key: value for key, value in config.items() if value is not None and key not in CHOSEN_LATER},
    )
