"""The catalog of a version: one digest per chunk. Its own digest travels through the buffer, and so proves every chunk.

buffer (CURVE) --PullAddress.catalog--> catalog --digests--> chunks, whoever sent them
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated

import msgspec
import torch

from ...errors import WeightsError

DIGEST_BYTES = 16  # of a chunk: the start of its SHA-256
SESSION_BYTES = 16


class Catalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every chunk of one version must be."""

    # a random number of one learner process: versions of two sessions are never compared
    session: Annotated[bytes, msgspec.Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
    version: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    digests: bytes  # DIGEST_BYTES for each chunk of the layout, in its order

    def digest(self, index: int) -> bytes:
        """Of chunk `index`."""
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Catalog)


def encode_catalog(catalog: Catalog) -> bytes:
    return _encoder.encode(catalog)


def decode_catalog(data: bytes, expected_digest: bytes, num_chunks: int) -> Catalog:
    """The catalog whose encoding has `expected_digest`.

    Raises WeightsError when `data` has another digest, or is no catalog of `num_chunks` chunks.
    """
    got = catalog_digest(data)
    if got != expected_digest:
        raise WeightsError(f"catalog of {len(data)} bytes: SHA-256 {got.hex()[:16]}, expected {expected_digest.hex()[:16]}")
    try:
        catalog = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WeightsError(f"catalog of {len(data)} bytes does not decode: {error}") from error
    if len(catalog.digests) != num_chunks * DIGEST_BYTES:
        raise WeightsError(f"catalog of {len(catalog.digests) / DIGEST_BYTES:g} chunks: the manifest has {num_chunks}")
    return catalog


def catalog_digest(data: bytes) -> bytes:
    """The SHA-256 of an encoded catalog, 32 bytes."""
    return sha256(data).digest()


def chunk_digest(chunk: torch.Tensor) -> bytes:
    """Of a chunk's content, [num_bytes] uint8 in host memory: 16 bytes. Releases the interpreter's lock."""
    return sha256(chunk.numpy().data).digest()[:DIGEST_BYTES]
