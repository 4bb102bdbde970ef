"""Before, after and heat map of a detection, side by side in one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFont
from shapely.geometry import shape

from daemon.demo.place import Transform
from daemon.demo.words import area_in_words, odds_in_words, time_in_words
from engine.grid import to_utm
from engine.tiles import Float32Array

PANEL_PX = 512
MARGIN_PX = 36
GUTTER_PX = 20
HEAD_PX = 124
FOOT_PX = 118

_INK = (28, 34, 42)
_SOFT = (104, 114, 126)
_PAPER = (250, 250, 248)
_KIND_COLOURS = {"flood": (16, 96, 184), "anomaly": (186, 76, 18)}
# Dark to bright by equal steps of lightness, so that the map is read rightly in grey and by the colour-blind.
_RAMP = np.array([(20, 14, 54), (84, 22, 116), (172, 51, 118), (243, 112, 84), (252, 190, 110), (252, 252, 200)])

FALSE_COLOUR = ("swir16", "nir", "red")
FALSE_COLOUR_WHITE = (0.42, 0.50, 0.28)
"""Reflectance that is drawn as full red, green and blue in false colour."""


@dataclass(frozen=True, kw_only=True)
class DetectionPicture:
    """What is drawn of one detection; all arrays lie on the same grid."""

    area_name: str
    kind: str
    """``flood`` or ``anomaly``."""
    time: datetime
    before_time: datetime
    area_m2: float
    p_value: float
    calibration: str
    """``place`` or ``sensor``."""
    before: Float32Array
    """Reflectance of an earlier clear scene, in the order red, green, blue of the picture.  (3, H, W)"""
    after: Float32Array
    """The same of the scene.  (3, H, W)"""
    heat: Float32Array
    """How unusual each pixel is, any scale; NaN where nothing was scored.  (H, W)"""
    heat_name: str = "how unusual: reconstruction error"
    """What ``heat`` is."""
    colours: str = "false colour: short-wave infrared, near infrared, red. Water is blue, plants are green"
    """How to read the first two panels."""
    white: tuple[float, float, float] = FALSE_COLOUR_WHITE
    """Reflectance that is drawn as full colour."""
    outline: Mapping[str, Any]
    """The detection, GeoJSON (Multi)Polygon, EPSG:4326."""
    epsg: int
    transform: Transform
    """Affine a..f of the arrays, north up."""
    note: str = "Simulated scenes: computed for a demonstration, not observed."


def write_picture(path: Path, picture: DetectionPicture) -> Path:
    """Draw it and write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_picture(picture).save(path, format="PNG", optimize=True)
    return path


def draw_picture(picture: DetectionPicture) -> Image.Image:
    """The picture: title, three panels, legend.

    Raises:
        ValueError: the arrays do not share a grid.
    """
    shapes = {picture.before.shape[1:], picture.after.shape[1:], picture.heat.shape}
    if len(shapes) != 1:
        raise ValueError(f"before, after and heat map have different shapes {sorted(shapes)}; cut them to one window")
    rows, columns = picture.heat.shape
    scale = PANEL_PX / max(rows, columns)
    size = (max(round(columns * scale), 1), max(round(rows * scale), 1))
    rings = _rings(picture, scale)

    width = 2 * MARGIN_PX + 3 * PANEL_PX + 2 * GUTTER_PX
    canvas = Image.new("RGB", (width, HEAD_PX + PANEL_PX + FOOT_PX), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _head(draw, picture)
    panels = (
        (_colour(picture.before, picture.white), f"Before: {time_in_words(picture.before_time)}"),
        (_colour(picture.after, picture.white), f"After: {time_in_words(picture.time)}"),
        (_heat_over(picture), "What is unusual"),
    )
    for index, (pixels, caption) in enumerate(panels):
        left = MARGIN_PX + index * (PANEL_PX + GUTTER_PX)
        x, y = left + (PANEL_PX - size[0]) // 2, HEAD_PX + (PANEL_PX - size[1]) // 2
        panel = Image.fromarray(pixels).resize(
            size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        )
        if index > 0:
            _draw_rings(panel, rings)
        if index == 0:
            _scale_bar(panel, picture.transform[0] / scale)
        canvas.paste(panel, (x, y))
        draw.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=(178, 184, 190))
        draw.text((left, HEAD_PX - 26), caption, font=_font(17), fill=_INK)
    _foot(canvas, draw, picture)
    return canvas


def _head(draw: ImageDraw.ImageDraw, picture: DetectionPicture) -> None:
    colour = _KIND_COLOURS.get(picture.kind, _INK)
    label = picture.kind.capitalize()
    box = draw.textbbox((0, 0), label, font=_font(24))
    right = MARGIN_PX + box[2] + 24
    draw.rounded_rectangle((MARGIN_PX, 20, right, 56), radius=7, fill=colour)
    draw.text((MARGIN_PX + 12, 38), label, font=_font(24), fill=(255, 255, 255), anchor="lm")
    title = f"{picture.area_name}, {time_in_words(picture.time)}"
    draw.text((right + 16, 38), title, font=_font(26), fill=_INK, anchor="lm")
    source = "by this place's own past" if picture.calibration == "place" else "by clear ground elsewhere"
    odds = f"{odds_in_words(picture.p_value)}, judged {source} (p = {picture.p_value:.2g})."
    words = f"{area_in_words(picture.area_m2)} flagged. {odds}"
    draw.text((MARGIN_PX, 66), words, font=_font(17), fill=_SOFT)


def _foot(canvas: Image.Image, draw: ImageDraw.ImageDraw, picture: DetectionPicture) -> None:
    top = HEAD_PX + PANEL_PX + 16
    draw.text((MARGIN_PX, top), picture.colours, font=_font(15), fill=_SOFT)
    line = top + 32
    draw.line((MARGIN_PX, line + 9, MARGIN_PX + 34, line + 9), fill=_INK, width=7)
    draw.line((MARGIN_PX + 1, line + 9, MARGIN_PX + 33, line + 9), fill=(255, 255, 255), width=3)
    draw.text((MARGIN_PX + 46, line), "outline of the detection", font=_font(15), fill=_SOFT)
    draw.text((MARGIN_PX, top + 66), picture.note, font=_font(16), fill=(150, 40, 40))
    left = MARGIN_PX + 2 * (PANEL_PX + GUTTER_PX)
    bar = _ramp(np.linspace(0, 1, 260, dtype=np.float32)[np.newaxis].repeat(14, axis=0))
    canvas.paste(Image.fromarray(bar), (left, top + 3))
    draw.text((left, top + 24), "usual", font=_font(15), fill=_SOFT)
    draw.text((left + 260, top + 24), "unusual", font=_font(15), fill=_SOFT, anchor="ra")
    draw.text((left, top + 46), f"{picture.heat_name}; grey: not scored", font=_font(15), fill=_SOFT)


def _scale_bar(panel: Image.Image, metres_per_px: float) -> None:
    span = panel.width * metres_per_px
    length_m = max((each for each in (50, 100, 200, 500, 1000, 2000, 5000) if each < 0.4 * span), default=50)
    # One kilometre wherever it fits: people know how long it is.
    length_m = 1000 if 0.6 * span > 1000 and length_m > 200 else length_m
    pixels = round(length_m / metres_per_px)
    draw = ImageDraw.Draw(panel)
    x, y = 16, panel.height - 20
    draw.rectangle((x - 2, y - 3, x + pixels + 2, y + 4), fill=(20, 20, 20))
    draw.rectangle((x, y - 1, x + pixels, y + 2), fill=(255, 255, 255))
    text = f"{length_m // 1000} km" if length_m >= 1000 else f"{length_m} m"
    draw.text(
        (x, y - 8), text, font=_font(16), fill=(255, 255, 255), anchor="ls", stroke_width=2, stroke_fill=(20, 20, 20)
    )
    north = panel.width - 24
    draw.polygon(
        [(north, 12), (north - 8, 34), (north, 28), (north + 8, 34)], fill=(255, 255, 255), outline=(20, 20, 20)
    )
    draw.text(
        (north, 38), "N", font=_font(15), fill=(255, 255, 255), anchor="mt", stroke_width=2, stroke_fill=(20, 20, 20)
    )


def _colour(bands: Float32Array, white: Sequence[float]) -> npt.NDArray[np.uint8]:
    """(3, H, W) reflectance to (H, W, 3) colour; invalid pixels are black."""
    share = np.clip(bands / np.asarray(white, dtype=np.float32)[:, None, None], 0, 1) ** np.float32(1 / 1.3)
    colour: npt.NDArray[np.uint8] = np.round(share * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(colour)


def _heat_over(picture: DetectionPicture) -> npt.NDArray[np.uint8]:
    """The heat map over a grey picture of the scene.  (H, W, 3)"""
    grey = _colour(picture.after, picture.white).mean(axis=2, keepdims=True).repeat(3, axis=2)
    scored = np.isfinite(picture.heat)
    if not scored.any():
        return np.asarray(grey, dtype=np.uint8)
    low, high = np.percentile(picture.heat[scored], (5, 99.5))
    share = np.clip((np.where(scored, picture.heat, low) - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    mixed = 0.18 * grey + 0.82 * _ramp(share)
    return np.asarray(np.where(scored[..., None], mixed, 0.6 * grey + 70), dtype=np.uint8)


def _ramp(share: Float32Array) -> npt.NDArray[np.uint8]:
    steps = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(share, steps, _RAMP[:, channel]) for channel in range(3)]
    return np.asarray(np.stack(channels, axis=-1), dtype=np.uint8)


def _rings(picture: DetectionPicture, scale: float) -> list[list[tuple[float, float]]]:
    """The outline's rings in pixels of a panel."""
    a, _, c, _, e, f = picture.transform
    polygon = to_utm(shape(dict(picture.outline)), picture.epsg)
    parts = [part for part in shapely.get_parts(polygon) if part.geom_type == "Polygon"]
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return [[((x - c) / a * scale, (y - f) / e * scale) for x, y in ring.coords] for ring in rings]


def _draw_rings(panel: Image.Image, rings: Sequence[Sequence[tuple[float, float]]]) -> None:
    # Pillow's lines have hard edges: they are drawn four times as large and brought down.
    factor = 4
    big = (panel.width * factor, panel.height * factor)
    for colour, width in (((20, 20, 20), 5), ((255, 255, 255), 2)):
        mask = Image.new("L", big, 0)
        pen = ImageDraw.Draw(mask)
        for ring in rings:
            pen.line([(x * factor, y * factor) for x, y in ring], fill=255, width=width * factor, joint="curve")
        panel.paste(colour, (0, 0), mask.resize(panel.size, Image.Resampling.LANCZOS))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
