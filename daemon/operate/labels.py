"""The closed sets of label values: what a metric may be told apart by."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

SceneOutcome = Literal["scored", "skipped", "failed", "retried"]
TileResult = Literal["scored", "skipped"]
Stage = Literal["read", "embed", "score", "detect", "store"]
AlertKind = Literal["flood", "anomaly"]
AlertState = Literal["new", "updated", "confirmed", "ended"]
SentResult = Literal["delivered", "failed", "refused"]
PollResult = Literal["ok", "failed", "throttled"]
ItemResult = Literal["new", "changed", "known", "passed_over"]
RunnerLabel = Literal["torch", "onnxruntime", "tensorrt"]
DeviceLabel = Literal["cpu", "cuda"]
PrecisionLabel = Literal["fp32", "fp16", "bf16"]
PassedOver = Literal["unavailable", "parity"]


def closed(literal: Any) -> tuple[str, ...]:
    """The values of a Literal."""
    return cast("tuple[str, ...]", get_args(literal))
