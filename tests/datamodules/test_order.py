"""The order: every sample once an epoch, the same on any number of ranks, and continued anywhere."""

import pytest

from datamodules.order import Order, permutation


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
