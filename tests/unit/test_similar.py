"""Nearest tiles, against brute force in double precision."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from engine.errors import InputMismatch
from engine.look import Look
from engine.reference import EarlierLook
from engine.similar import DECIMALS, Nearest, SimilarTile, most_similar
from engine.tiles import Float32Array

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIM = 8


def look_of(cells: list[str], cls: Float32Array) -> Look:
    order = sorted(range(len(cells)), key=cells.__getitem__)
    flat = np.ones(len(cells), np.float32)
    return Look(
        cell_ids=tuple(cells[i] for i in order), odeed=flat, water=flat, cls=cls[order], valid_ratio=flat
    ).rounded()


def earlier(day: int, look: Look) -> EarlierLook:
    return EarlierLook(scene_id=f"scene-{day}", sensing_time=NOON + timedelta(days=day), look=look)


def random_looks(count: int, seed: int = 0) -> list[EarlierLook]:
    rng = np.random.default_rng(seed)
    sizes = [0, *rng.integers(1, 40, count - 1).tolist()]
    return [
        earlier(
            day,
            look_of([f"c{i:02d}" for i in range(n)], rng.standard_normal((n, DIM), np.float32)) if n else Look.empty(),
        )
        for day, n in enumerate(sizes)
    ]


def cosine(a: Float32Array, b: Float32Array) -> float:
    """Sums in Python's exact order, without numpy's products."""
    x, y = [float(v) for v in a], [float(v) for v in b]
    dot, nx, ny = (sum(p * q for p, q in zip(*pair, strict=True)) for pair in ((x, y), (x, x), (y, y)))
    return float(dot / (nx**0.5 * ny**0.5))


def brute_force(query: Float32Array, looks: list[EarlierLook], limit: int) -> tuple[SimilarTile, ...]:
    tiles = [
        SimilarTile(
            cell_id=cell,
            sensing_time=each.sensing_time,
            scene_id=each.scene_id,
            cosine=round(cosine(query, row), DECIMALS),
        )
        for each in looks
        for cell, row in zip(each.look.cell_ids, each.look.cls, strict=True)
    ]
    return tuple(sorted(tiles, key=lambda t: (-t.cosine, -t.sensing_time.timestamp(), t.cell_id))[:limit])


def test_the_most_similar_tiles_are_those_of_brute_force_in_any_order_of_looks() -> None:
    looks = random_looks(12)
    queries = np.random.default_rng(1).standard_normal((3, DIM)).astype(np.float32)
    expected = tuple(brute_force(query, looks, 5) for query in queries)
    assert most_similar(queries, looks, 5) == expected
    random.Random(2).shuffle(looks)
    assert most_similar(queries, looks, 5) == expected


def test_of_equal_tiles_the_latest_comes_first_then_the_first_cell() -> None:
    same = np.tile(np.eye(1, DIM, dtype=np.float32), (3, 1))
    looks = [earlier(day, look_of(["a", "b", "c"], same * (1 + day))) for day in (1, 2)]
    (found,) = most_similar(same[:1], looks, 4)
    assert [(tile.scene_id, tile.cell_id) for tile in found] == [
        ("scene-2", "a"),
        ("scene-2", "b"),
        ("scene-2", "c"),
        ("scene-1", "a"),
    ]
    assert {tile.cosine for tile in found} == {1.0}


def test_fewer_tiles_than_asked_and_tiles_without_direction() -> None:
    cls = np.zeros((2, DIM), np.float32)
    cls[1, 0] = 1.0
    looks = [earlier(0, Look.empty()), earlier(1, look_of(["blank", "known"], cls))]
    (found, nothing) = most_similar(np.stack([cls[1], cls[0]]), looks, 5)
    assert [tile.cell_id for tile in found] == ["known"]
    assert nothing == ()
    assert most_similar(cls[1:], [], 5) == ((),)


def test_embeddings_of_another_size_are_refused_and_named() -> None:
    looks = [earlier(0, look_of(["a"], np.ones((1, DIM), np.float32)))]
    with pytest.raises(InputMismatch, match="scene-0 has embeddings of 8 numbers, the tile asked for has 4"):
        most_similar(np.ones((1, 4), np.float32), looks, 5)
    search = Nearest(np.ones(4, np.float32), 3)
    with pytest.raises(InputMismatch, match="8 numbers"):
        search.offer("x", "x", ["a"], np.ones((1, DIM), np.float16))


@pytest.mark.parametrize("once", [False, True])
def test_a_search_over_looks_is_brute_force_over_all_tiles(once: bool) -> None:
    looks = random_looks(20, seed=3)
    query = np.random.default_rng(4).standard_normal(DIM).astype(np.float32)
    refused = {"c00", "c07"}
    search = Nearest(query, 7, keep=lambda cell: cell not in refused, once_per_place=once)
    for each in looks:
        search.offer(each, each.scene_id, each.look.cell_ids, each.look.cls.astype(np.float16))

    tiles = [
        (cosine(query, row), cell, each.scene_id)
        for each in looks
        for cell, row in zip(each.look.cell_ids, each.look.cls, strict=True)
    ]
    kept = sorted((tile for tile in tiles if tile[1] not in refused), reverse=True)
    if once:
        kept = [tile for i, tile in enumerate(kept) if tile[1] not in {other[1] for other in kept[:i]}]
    found = [(hit.cell_id, hit.source.scene_id) for hit in search.best() if isinstance(hit.source, EarlierLook)]
    assert found == [(cell, scene) for _, cell, scene in kept[:7]]
    assert [hit.cosine for hit in search.best()] == pytest.approx([tile[0] for tile in kept[:7]], abs=1e-6)
    assert (search.looks, search.tiles) == (len(looks), len(tiles))
    for share in (0.1, 0.5, 0.9):
        assert search.quantile(share) == pytest.approx(
            np.quantile([tile[0] for tile in tiles], share, method="inverted_cdf"), abs=0.0005
        )


def test_a_cell_that_two_areas_hold_counts_once() -> None:
    cls = np.eye(3, DIM, dtype=np.float32)
    search = Nearest(cls[0], 5)
    search.offer("north", "scene", ["a", "b"], cls[:2])
    search.offer("south", "scene", ["a", "c"], cls[[0, 2]])
    search.offer("north", "other scene", ["a"], cls[:1])
    assert [(hit.source, hit.cell_id) for hit in search.best()] == [
        ("north", "a"),
        ("north", "a"),
        ("north", "b"),
        ("south", "c"),
    ]


def test_a_query_without_direction_is_refused() -> None:
    with pytest.raises(InputMismatch, match="without a direction"):
        Nearest(np.zeros(DIM, np.float32), 3)
    assert Nearest(np.ones(DIM, np.float32), 3).quantile(0.5) is None
