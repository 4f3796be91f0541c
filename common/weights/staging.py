"""The memory that an update takes beside model and engine: arithmetic over the sizes of the tensors, without torch.

learner, rank 0   host: two versions, one that travels and a newer one      GPU: buckets, never a second model
                  and while somebody pulls: the newest version as the store of chunks, and deltas, of as many bytes at most
actor             host: the version that was downloaded                     GPU: buckets, never a second model
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

ALIGNMENT = 16  # bytes: every tensor starts at a multiple, so that views of any dtype are aligned
GPU_CHUNK = 1 << 20  # words that a checksum takes at once on a GPU
VERSIONS_KEPT = 2  # by the learner
# more copies while weights are pulled, none page-locked: the store of chunks, and deltas of as many bytes at most. A learner
# that broadcasts as well may keep a third packed version: one that is broadcast, one that is encoded, and the newest
COPIES_TO_PULL = 2
CHECKSUM_BYTES = 4 * 8 * GPU_CHUNK  # four temporaries of a chunk
# an estimate: the buffers of NCCL's channels for one communicator of at most `nccl.MAX_CTAS` of them
COMMUNICATOR_BYTES = 256 << 20
# on the GPU at once: of the learner, the bucket that is sent and the one whose checksum is computed; of an actor, the bucket
# that is received, and a layer as large as one, which vLLM makes anew before it copies it over the old one
LEARNER_BUCKETS, ACTOR_BUCKETS = 2, 2


class StagingBytes(NamedTuple):
    """Bytes beside model and engine while weights are sent. `_device` is one GPU's memory, `_host` page-locked host memory."""

    learner_host: int
    learner_device: int
    actor_host: int
    actor_device: int


def aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def bucket_sizes(tensor_bytes: Iterable[int], bucket_bytes: int) -> list[int]:
    """Bytes of the buckets into which tensors of these sizes go, in their order: at most `bucket_bytes`, or one tensor."""
    sizes: list[int] = []
    for num_bytes in tensor_bytes:
        size = aligned(num_bytes)
        if sizes and sizes[-1] + size <= bucket_bytes:
            sizes[-1] += size
        else:
            sizes.append(size)
    return sizes


def staging_bytes(
    tensor_bytes: Iterable[int], bucket_bytes: int, tensor_parallel: int = 1, *, pulled: bool = False, served: bool = False
) -> StagingBytes:
    """What an update of tensors of these sizes takes, when learner and actors compute on GPUs. `pulled`: by all actors.

    `served`: actors let others pull from them, and keep deltas, which never take more than the model.

    With `tensor_parallel` GPUs of an actor the first one hands buckets to the others, and so holds one more.
    Example: 8 GiB of bfloat16 in buckets of 256 MiB -> 16 GiB and .8 GiB for rank 0, 8 GiB and .8 GiB for each actor.
    """
    sizes = bucket_sizes(tensor_bytes, bucket_bytes)
    # torch rounds page-locked blocks up to powers of two
    host = sum(1 << (size - 1).bit_length() for size in sizes if size)
    largest, fixed = max(sizes, default=0), CHECKSUM_BYTES + COMMUNICATOR_BYTES
    return StagingBytes(
        learner_host=VERSIONS_KEPT * host + pulled * COPIES_TO_PULL * sum(sizes),
        learner_device=LEARNER_BUCKETS * largest + fixed,
        actor_host=host + served * sum(sizes),
        actor_device=(ACTOR_BUCKETS + (tensor_parallel > 1)) * largest + fixed,
    )
