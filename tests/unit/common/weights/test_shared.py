"""Buckets in shared memory: between threads, and between processes of which one is killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.messages import UpdateWeights
from prolong.common.types import Manifest, Rendezvous
from prolong.common.weights.buckets import plan_buckets
from prolong.common.weights.shared import SharedActorEnd, SharedAddress, SharedBuckets

from tests.support.pulls import open_memory

MANIFEST = plan_buckets([("a", "float32", (40, 8)), ("b", "bfloat16", (5000,)), ("c", "float32", (3,))], 4096)
# Holds sealed buckets of ones, prints their address, and waits.
HOLDER = """
import sys
from prolong.common.weights.buckets import plan_buckets
from prolong.common.weights.shared import SharedBuckets
shared = SharedBuckets.allocate(plan_buckets([("a", "float32", (1 << 20,))], 1 << 22))
shared.buckets[0].fill_(1)
print(shared.seal().address.hex(), flush=True)
sys.stdin.read()
"""


def update_of(rendezvous: Rendezvous, manifest: Manifest = MANIFEST) -> UpdateWeights:
    return UpdateWeights(generation=1, version=7, epoch=-1, member=0, num_members=1, rendezvous=rendezvous, manifest=manifest)


def downloaded(update: UpdateWeights) -> list[torch.Tensor]:
    with closing(SharedActorEnd().download(update, 1.0)) as buckets:
        return list(buckets)


@pytest.fixture
def shared():
    buckets = SharedBuckets.allocate(MANIFEST)
    yield buckets
    buckets.close()


def test_an_engine_gets_the_memory_itself(shared: SharedBuckets) -> None:
    shared.unseal()
    for number, flat in enumerate(shared.buckets):
        flat.copy_(torch.arange(flat.numel()) % 251 + number)
    got = downloaded(update_of(shared.seal()))
    assert [flat.numel() for flat in got] == [bucket.num_bytes for bucket in MANIFEST.buckets]
    assert all(torch.equal(mine, other) for mine, other in zip(got, shared.buckets, strict=True))
    assert all(flat.data_ptr() % 64 == 0 for flat in got)
    # no copy: what is written later is seen
    shared.buckets[1].fill_(9)
    assert got[1].eq(9).all()


def test_what_an_engine_writes_stays_its_own(shared: SharedBuckets) -> None:
    (first, *_) = downloaded(update_of(shared.seal()))
    first.fill_(1)
    assert not shared.buckets[0].any()


def test_content_that_may_be_torn_is_refused(shared: SharedBuckets) -> None:
    update = update_of(shared.seal())
    with closing(SharedActorEnd().download(update, 1.0)) as buckets:
        next(buckets)
        shared.unseal()  # the next pull begins while an engine that was superseded still reads
        with pytest.raises(WeightsError, match="version 7: the shared memory was overwritten"):
            list(buckets)
    with pytest.raises(WeightsError, match="overwritten"):
        downloaded(update)
    newer = shared.seal()
    with pytest.raises(WeightsError, match="overwritten"):
        downloaded(update)
    downloaded(update_of(newer))


def test_a_seal_without_a_change_stays_the_same(shared: SharedBuckets) -> None:
    assert shared.seal() == shared.seal()
    shared.unseal()
    shared.unseal()
    assert shared.seal() == shared.seal()


def test_the_memory_of_something_else_is_refused(shared: SharedBuckets) -> None:
    address = msgspec.msgpack.decode(shared.seal().address, type=SharedAddress)
    other = msgspec.structs.replace(address, id=bytes(16))
    with pytest.raises(WeightsError, match="is the memory of something else"):
        downloaded(update_of(Rendezvous(transport="shared", address=msgspec.msgpack.encode(other))))
    larger = plan_buckets([("a", "float32", (1 << 16,))], 1 << 20)
    with pytest.raises(WeightsError, match="its manifest says"):
        downloaded(update_of(shared.seal(), larger))
    with pytest.raises(WeightsError, match="is no shared memory"):
        downloaded(update_of(Rendezvous(transport="shared", address=b"tcp://")))


def test_memory_that_cannot_be_had_is_an_error_that_says_what_to_do() -> None:
    huge = plan_buckets([("a", "float32", (1 << 50,))], 1 << 52)
    with pytest.raises(WeightsError, match=r"take 4503599\.63 GB of memory, .* weights\.transport=collective"):
        SharedBuckets.allocate(huge)


def test_a_process_that_is_killed_leaves_nothing_behind() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        rendezvous = Rendezvous(transport="shared", address=bytes.fromhex(holder.stdout.readline()))
        update = update_of(rendezvous, plan_buckets([("a", "float32", (1 << 20,))], 1 << 22))
        (flat,) = downloaded(update)
        memory = [link.stat() for link in Path(f"/proc/{holder.pid}/fd").iterdir() if "prolong-weights" in os.readlink(link)]
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
    finally:
        holder.kill()
        holder.communicate()
    assert flat.eq(1).all()  # an engine that reads at that moment is not disturbed
    with pytest.raises(WeightsError, match=r"the shared memory of process \d+ cannot be opened"):
        downloaded(update)
    assert {status.st_nlink for status in memory} == {0}, "it had no name in any file system"


def test_memory_is_free_once_nobody_looks_into_it() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("prolong-weights")

    # what earlier tests left in cycles would be freed in between
    gc.collect()
    before, mapped_before = open_memory(), mapped()
    shared = SharedBuckets.allocate(MANIFEST)
    assert open_memory() > before
    got = downloaded(update_of(shared.seal()))
    assert mapped() == mapped_before + 2
    del got
    assert mapped() == mapped_before + 1
    shared.close()
    del shared
    assert mapped() == mapped_before
    assert open_memory() <= before
