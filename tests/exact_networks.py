"""Networks whose outputs are known in closed form, as runners."""

from __future__ import annotations

import numpy as np

from engine.runners.base import Arrays, ArraySpec, InputSpec, Runner

MU, V = -0.2, 0.16
KNOWN_V = 0.01


class GaussianRunner(Runner):
    """The ideal denoiser of N(MU, v I), v one number or one a band.

    With ``cond`` it takes a condition: where the place is known, the data are N(earlier look, KNOWN_V I).
    """

    def __init__(
        self, side: int = 64, v: tuple[float, ...] = (V,), cond: bool = False, width: int | None = None
    ) -> None:
        image = ArraySpec(name="x", shape=(-1, 3, side, width or side))
        told = [ArraySpec(name="cond", shape=(-1, 4, side, width or side))] if cond else []
        super().__init__(
            "gaussian",
            InputSpec(
                inputs=(image, ArraySpec(name="sigma", shape=(-1,)), *told),
                outputs=(ArraySpec(name="denoised", shape=image.shape),),
            ),
        )
        self._v = np.asarray(v).reshape(-1, 1, 1)

    def _compute(self, feeds: Arrays) -> Arrays:
        s2 = feeds["sigma"][:, None, None, None] ** 2
        v, mu = self._v, np.asarray(MU)
        if "cond" in feeds:
            known = feeds["cond"][:, 3:] > 0
            v, mu = np.where(known, KNOWN_V, v), np.where(known, feeds["cond"][:, :3], mu)
        return {"denoised": ((v * feeds["x"] + s2 * mu) / (v + s2)).astype(np.float32)}

    def _release(self) -> None:
        pass


class MeanEncoder(Runner):
    """Embeds a patch of 32 px as its mean colour, and a tile of 64 x 32 as its patches' mean."""

    def __init__(self) -> None:
        super().__init__(
            "means",
            InputSpec(
                inputs=(ArraySpec(name="pixels", shape=(-1, 3, 64, 32)),),
                outputs=(ArraySpec(name="cls", shape=(-1, 3)), ArraySpec(name="tokens", shape=(-1, 2, 3))),
            ),
        )

    def _compute(self, feeds: Arrays) -> Arrays:
        tokens = feeds["pixels"].reshape(-1, 3, 2, 32, 32).mean(axis=(3, 4)).transpose(0, 2, 1)
        return {"cls": tokens.mean(axis=1), "tokens": tokens}

    def _release(self) -> None:
        pass
