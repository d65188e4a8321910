"""The order: every sample once an epoch, the same on any number of ranks, and continued anywhere."""

import numpy as np
import pytest

from datamodules.order import Order, permutation, permutation_of_shards


def batches(**changes) -> list[list[tuple[int, int]]]:
    settings = {"num_samples": 10, "batch_size": 4, "num_batches": 5, "seed": 0}
    return list(Order(**(settings | changes)))


def test_every_sample_exactly_once_an_epoch():
    pairs = [pair for batch in batches() for pair in batch]
    assert len(pairs) == 20
    for epoch in (0, 1):
        assert sorted(index for e, index in pairs if e == epoch) == list(range(10))


def test_epochs_and_seeds_differ_and_are_reproducible():
    assert permutation(0, 0, 50).tolist() == permutation(0, 0, 50).tolist()
    assert permutation(0, 0, 50).tolist() != permutation(0, 1, 50).tolist()
    assert permutation(0, 0, 50).tolist() != permutation(1, 0, 50).tolist()


@pytest.mark.parametrize(
    ("num_samples", "batch_size"), [(8, 4), (9, 4), (100, 32), (100, 50), (101, 50), (130, 64), (1139, 64)]
)
@pytest.mark.parametrize("settings", [{}, {"lengths": np.arange(2000) % 37}, {"shard": np.repeat(np.arange(200), 10)}])
def test_no_batch_holds_a_sample_twice(num_samples, batch_size, settings, monkeypatch):
    monkeypatch.setattr("datamodules.order.WINDOW", 5)
    settings = {name: values[:num_samples] for name, values in settings.items()}
    num_batches = 9 * num_samples // batch_size
    found = batches(num_samples=num_samples, batch_size=batch_size, num_batches=num_batches, **settings)
    assert all(len({index for _, index in batch}) == batch_size for batch in found)
    pairs = [pair for batch in found for pair in batch]
    for epoch in range(8):
        assert sorted(index for e, index in pairs if e == epoch) == list(range(num_samples))


def test_a_batch_of_nearly_all_samples_still_takes_each_once_an_epoch():
    pairs = [pair for batch in batches(num_samples=10, batch_size=9, num_batches=20) for pair in batch]
    for epoch in range(18):
        assert sorted(index for e, index in pairs if e == epoch) == list(range(10))


def test_whom_a_batch_begun_before_keeps_out_still_comes_early():
    places = np.zeros(30)
    for seed in range(300):
        order = [
            index for batch in batches(num_samples=30, batch_size=8, num_batches=8, seed=seed) for e, index in batch if e == 1
        ]
        places[order] += np.arange(30)
    assert abs(places / 300 - 14.5).max() < 5 * 8.7 / 300**0.5


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_same_global_batches(world):
    whole = batches()
    ranks = [batches(rank=rank, world_size=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        together = [pair for rank in ranks for pair in rank[step]]
        assert sorted(together) == sorted(batch)
        assert {len(rank[step]) for rank in ranks} == {4 // world}


@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_going_on_at_any_batch_gives_the_rest(first):
    assert batches(first_batch=first) == batches()[first:]


def test_length_is_that_of_the_whole_run():
    assert len(Order(10, 4, 5, 0, first_batch=3)) == 5


def test_large_collections_are_shuffled_shard_by_shard():
    shard = np.repeat(np.arange(40), [5, 15] * 20)
    orders = [permutation_of_shards(seed, epoch, shard, window=60).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order) == list(range(400))
        visited = shard[order]
        windows = [visited[first : first + 60] for first in range(0, 400, 60)]
        assert max(len(set(window)) for window in windows) < 16  # what is read lies together,
        assert min(len(set(window)) for window in windows[:-1]) > 3  # but not in one shard
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == permutation_of_shards(0, 0, shard, window=60).tolist()


def test_a_window_of_all_shards_is_a_uniform_shuffle():
    shard = np.repeat(np.arange(4), 3)
    places = np.array([np.argsort(permutation_of_shards(0, epoch, shard).numpy()) for epoch in range(600)])
    counts = np.array([np.bincount(column, minlength=12) for column in places.T])  # sample x place
    assert np.abs(counts - 50).max() < 5 * 50**0.5
    together = (np.abs(places[:, 0] - places[:, 1]) == 1).mean()
    assert abs(together - 1 / 6) < 4 * (5 / 36 / 600) ** 0.5


def test_the_order_uses_shards_where_there_are_more_samples_than_a_window(monkeypatch):
    monkeypatch.setattr("datamodules.order.WINDOW", 8)
    shard = np.repeat(np.arange(5), 2)
    seen = [index for batch in batches(shard=shard, num_batches=5) for _, index in batch]
    assert seen[:10] == permutation_of_shards(0, 0, shard).tolist()
    assert batches(shard=shard, first_batch=2) == batches(shard=shard)[2:]
    monkeypatch.setattr("datamodules.order.WINDOW", 10)
    assert batches(shard=shard) == batches()


LENGTHS = np.random.default_rng(0).integers(1, 60, 500)


@pytest.mark.parametrize("changes", [{}, {"first_batch": 17}, {"seed": 5}])
def test_rows_of_one_length_come_together_and_every_row_once_an_epoch(changes):
    settings = {"num_samples": 500, "batch_size": 8, "num_batches": 250, "lengths": LENGTHS} | changes
    found = batches(**settings)
    assert found == batches(**(settings | {"first_batch": 0}))[settings.get("first_batch", 0) :]
    for epoch in range(1, 4):  # 500 is no multiple of 8: some batches belong to two epochs
        indices = [index for batch in found for e, index in batch if e == epoch]
        assert sorted(indices) == list(range(500)) or epoch == 3
    filled = sum(8 * max(LENGTHS[index] for _, index in batch) for batch in found)
    real = sum(LENGTHS[index] for batch in found for _, index in batch)
    assert filled < 1.2 * real
    longest = [max(LENGTHS[index] for _, index in batch) for batch in found]
    assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 0.2  # batches of long rows do not come in a row
    ranks = [batches(**settings, rank=rank, world_size=2) for rank in range(2)]
    assert all(sorted(a + b) == sorted(whole) for a, b, whole in zip(*ranks, found, strict=True))


def test_rows_meet_other_rows_in_every_epoch():
    found = batches(num_samples=512, batch_size=8, num_batches=128, lengths=np.ones(512))
    groups = [{frozenset(index for _, index in batch) for batch in found[first : first + 64]} for first in (0, 64)]
    assert not groups[0] & groups[1]


def test_every_row_comes_early_and_late_alike():
    places = np.zeros(64)
    for seed in range(200):
        order = [
            index
            for batch in batches(num_samples=64, batch_size=4, num_batches=16, seed=seed, lengths=LENGTHS[:64])
            for _, index in batch
        ]
        places[order] += np.arange(64)
    assert abs(places / 200 - 31.5).max() < 5 * 18.5 / 200**0.5
