"""The process group of one epoch and the store where its ranks meet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.weights.collective_group import WeightsGroup, WeightsStore
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

NEVER_S = 600.0  # a deadline beyond the test's own: an error that is seen did not wait for it


@pytest.fixture
def store() -> Iterator[WeightsStore]:
    store = WeightsStore.listen("127.0.0.1", timeout_s=60)
    yield store
    store.close()


def join(
    store: WeightsStore, rank: int, world_size: int, *, epoch: int = 1, timeout_s: float = 60.0, digest: str = ""
) -> WeightsGroup:
    return WeightsGroup.join(
        store.host,
        store.port,
        generation=1,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        timeout_s=timeout_s,
        digest=digest,
    )


def test_broadcasts_arrive_at_every_rank_in_order_and_epochs_do_not_mix(store: WeightsStore) -> None:
    def member(rank: int, epoch: int, world_size: int) -> list[int]:
        group = join(store, rank, world_size, epoch=epoch)
        received = []
        for i in range(3):
            flat = torch.full((64,), 10 * epoch + i if rank == 0 else 0, dtype=torch.uint8)
            group.broadcast(flat)
            received.append(int(flat[63]))
        group.close()
        return received

    with ThreadPoolExecutor(5) as pool:
        members = [pool.submit(member, rank, epoch, world) for epoch, world in ((1, 3), (2, 2)) for rank in range(world)]
        results = [future.result(timeout=60) for future in members]
    assert results == [[10, 11, 12]] * 3 + [[20, 21, 22]] * 2


def test_a_member_that_never_comes_is_an_error_within_the_deadline(store: WeightsStore) -> None:
    with pytest.raises(WeightsError, match=r"rank 1 of 2 did not meet the others at .* within 0\.2 s"):
        join(store, 1, 2, timeout_s=0.2)


def test_a_member_that_comes_after_rank_0_gave_up_is_told_at_once(store: WeightsStore) -> None:
    with pytest.raises(WeightsError, match="rank 0 of 2 did not meet the others"):
        # long enough to reach the store in, where it says that it gave up
        join(store, 0, 2, timeout_s=1.0)
    with pytest.raises(WeightsError, match="rank 0 gave up"):
        join(store, 1, 2, timeout_s=NEVER_S)


def test_a_member_with_another_digest_is_turned_away_before_a_byte_flows(store: WeightsStore) -> None:
    """gloo would end the process of a member that expects less than it gets."""
    digests = ["1-aa", "1-aa", "2-aa"]
    with ThreadPoolExecutor(3) as pool:
        ranks = [pool.submit(join, store, r, 3, digest=digest, timeout_s=NEVER_S) for r, digest in enumerate(digests)]
        errors = [str(future.exception()) for future in ranks]
    assert all("here/2" in error and "other buckets" in error for error in errors), errors


def test_a_member_of_another_release_is_turned_away_and_told(store: WeightsStore) -> None:
    """It says that it is there in words that rank 0 does not know."""
    with ThreadPoolExecutor(1) as pool:
        learner = pool.submit(join, store, 0, 2, timeout_s=NEVER_S)
        client = TCPStore(store.host, store.port, is_master=False, wait_for_workers=False)
        client.set("weights/1/1/here/1", "1-0badcafe")
        assert isinstance(learner.exception(60), WeightsError)
    assert client.get("weights/1/1/go") != b""


def test_rank_0_stops_when_a_member_failed_though_its_own_peers_are_well(store: WeightsStore) -> None:
    """Of 4 ranks, 3 hangs on 2: rank 0 would never notice that it left, and 1 would receive to the end."""
    with ThreadPoolExecutor(4) as pool:
        groups = list(pool.map(lambda rank: join(store, rank, 4), range(4)))
        groups[3].fail()
        with pytest.raises(WeightsError, match="rank 3 gave up"):
            groups[0].broadcast(torch.zeros(16, dtype=torch.uint8))
        for group in groups[:3]:
            group.close()


def test_a_member_that_stalls_is_an_error_at_the_deadline_of_the_bucket(store: WeightsStore) -> None:
    with ThreadPoolExecutor(2) as pool:
        sender, receiver = pool.map(lambda rank: join(store, rank, 2, timeout_s=NEVER_S), range(2))
    with pytest.raises(WeightsError, match="weight broadcast of 16 bytes failed"):
        receiver.broadcast(torch.zeros(16, dtype=torch.uint8), 0.2)
    sender.close()
    receiver.close()


def test_a_store_that_is_gone_is_an_error_at_once(store: WeightsStore) -> None:
    store.close()
    with pytest.raises(WeightsError, match="did not meet the others"):
        join(store, 1, 2, timeout_s=NEVER_S)


def test_a_sender_that_leaves_before_it_sent_is_an_error_and_the_next_epoch_works(store: WeightsStore) -> None:
    failed = threading.Event()

    def sender() -> None:
        join(store, 0, 2).close()
        assert failed.wait(60)
        group = join(store, 0, 2, epoch=2)
        group.broadcast(torch.full((16,), 7, dtype=torch.uint8))
        group.close()

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender)
        group = join(store, 1, 2)
        with pytest.raises(WeightsError, match="weight broadcast of 16 bytes failed"):
            group.broadcast(torch.zeros(16, dtype=torch.uint8))
        group.close()
        failed.set()
        group = join(store, 1, 2, epoch=2)
        flat = torch.zeros(16, dtype=torch.uint8)
        group.broadcast(flat)
        group.close()
        sent.result(timeout=60)
    assert flat.tolist() == [7] * 16


def test_an_address_of_another_machine_cannot_host_the_store() -> None:
    with pytest.raises(WeightsError, match=r"weights.host = 192\.0\.2\.1: cannot listen there"):
        WeightsStore.listen("192.0.2.1", timeout_s=1)
