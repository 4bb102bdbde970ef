"""A look: what one scene showed, cell by cell, in numbers small enough to keep for years."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from engine.errors import BundleError, InputMismatch
from engine.tiles import Float32Array

FORMAT = "vigie.look.v1"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Scores, water and embeddings of the cells that one scene showed clearly."""

    cell_ids: tuple[str, ...]
    """The N cells, sorted, each once."""
    odeed: Float32Array
    """Raw ODEED score, mean squared reconstruction error.  (N,)"""
    water: Float32Array
    """Share of open water 0..1, NaN where the sensor cannot tell.  (N,)"""
    cls: Float32Array
    """X-STARS CLS embedding, L2 norm 1.  (N, D)"""
    valid_ratio: Float32Array
    """Share of valid pixels, 0..1.  (N,)"""
    spectrum: Float32Array = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    """Features of :mod:`engine.spectrum`, K = 0 where the family has none.  (N, K)"""
    _rows: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.cell_ids)
        if not self.spectrum.shape[1]:
            object.__setattr__(self, "spectrum", np.zeros((n, 0), dtype=np.float32))
        if len(self.spectrum) != n:
            raise InputMismatch(f"a look of {n} cells has features of {len(self.spectrum)}")
        if not (len(self.odeed) == len(self.water) == len(self.cls) == len(self.valid_ratio) == n):
            raise InputMismatch(f"a look of {n} cells has arrays of other lengths")
        object.__setattr__(self, "_rows", {cell: i for i, cell in enumerate(self.cell_ids)})
        if len(self._rows) != n:
            raise InputMismatch("a look names a cell twice")

    def __len__(self) -> int:
        return len(self.cell_ids)

    def row(self, cell_id: str) -> int | None:
        """Where a cell stands in the arrays; None where this look does not show it."""
        return self._rows.get(cell_id)

    def restrict(self, cell_ids: Iterable[str]) -> Look:
        """The look of those of ``cell_ids`` that it shows."""
        keep = [self._rows[cell] for cell in sorted(set(cell_ids)) if cell in self._rows]
        return self._take(keep)

    def _take(self, rows: Sequence[int]) -> Look:
        index = np.asarray(rows, dtype=np.int64)
        return Look(
            cell_ids=tuple(self.cell_ids[i] for i in rows),
            odeed=self.odeed[index],
            water=self.water[index],
            cls=self.cls[index],
            valid_ratio=self.valid_ratio[index],
            spectrum=self.spectrum[index],
        )

    @classmethod
    def join(cls, parts: Sequence[Look]) -> Look:
        """One look of the cells of several; cells are sorted by id.

        Raises:
            InputMismatch: a cell stands in two parts.
        """
        if not parts:
            return cls.empty()
        joined = cls(
            cell_ids=tuple(cell for part in parts for cell in part.cell_ids),
            odeed=np.concatenate([part.odeed for part in parts]),
            water=np.concatenate([part.water for part in parts]),
            cls=np.concatenate([part.cls for part in parts]),
            valid_ratio=np.concatenate([part.valid_ratio for part in parts]),
            spectrum=np.concatenate([part.spectrum for part in parts]),
        )
        return joined._take(sorted(range(len(joined)), key=joined.cell_ids.__getitem__))

    @classmethod
    def empty(cls) -> Look:
        """A look that shows nothing."""
        nothing = np.zeros(0, dtype=np.float32)
        return cls(cell_ids=(), odeed=nothing, water=nothing, cls=np.zeros((0, 0), np.float32), valid_ratio=nothing)

    def rounded(self) -> Look:
        """The look as it reads back from the store: embeddings in half precision."""
        return Look.from_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Safetensors with embeddings in half precision and the cell ids as metadata."""
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "odeed": self.odeed.astype(np.float32),
            "water": self.water.astype(np.float32),
            "cls": self.cls.astype(np.float16),
            "valid_ratio": self.valid_ratio.astype(np.float32),
            "spectrum": self.spectrum.astype(np.float32),
            "cell_ids": np.frombuffer("\n".join(self.cell_ids).encode(), dtype=np.uint8),
        }
        return save(arrays, metadata={"format": FORMAT})

    @classmethod
    def from_bytes(cls, blob: bytes) -> Look:
        """Inverse of :meth:`to_bytes`.

        Raises:
            BundleError: the bytes are no look of this format.
        """
        try:
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
            if header["__metadata__"]["format"] != FORMAT:
                raise BundleError(f"a stored look has format {header['__metadata__']['format']!r}; {FORMAT!r} is read")
            arrays = load(blob)
            names = arrays["cell_ids"].tobytes().decode()
            return cls(
                cell_ids=tuple(names.split("\n")) if names else (),
                odeed=arrays["odeed"],
                water=arrays["water"],
                cls=arrays["cls"].astype(np.float32),
                valid_ratio=arrays["valid_ratio"],
                # Looks kept before there were features have none; they belong to other models anyhow.
                spectrum=arrays.get("spectrum", np.zeros((0, 0), dtype=np.float32)),
            )
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"a stored look cannot be read ({error}); score its scene again") from error
