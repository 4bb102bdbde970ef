"""The class of an image by its nearest neighbours: what an embedding knows before anything is trained on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.embed import unit_rows

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]


def vote(train: Float32Array, codes: IntArray, test: Float32Array, k: int = 20) -> npt.NDArray[np.int64]:
    """The most frequent class of each test row's k nearest train rows by cosine.  (n, D), (n,), (m, D) to (m,)

    Ties go to the class with the larger summed similarity. Rows need no norm.
    """
    similarity = (unit_rows(test) @ unit_rows(train).T).astype(np.float64)  # (m, n)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    votes = np.zeros((len(test), int(codes.max()) + 1))
    rows = np.arange(len(test))[:, None]
    # A vote is 1 and a little of its similarity, too little to outweigh another vote.
    np.add.at(votes, (rows, codes[nearest]), 1 + similarity[rows, nearest] / (4 * k))
    return np.asarray(votes.argmax(axis=1), dtype=np.int64)
