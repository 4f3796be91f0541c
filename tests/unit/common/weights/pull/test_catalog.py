"""A catalog is what its digest says, or it is refused."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.weights.pull.catalog import Catalog, catalog_digest, chunk_digest, decode_catalog, encode_catalog

CATALOG = Catalog(session=b"s" * 16, version=7, digests=b"a" * 16 + b"b" * 16)


def test_a_catalog_comes_back_as_it_was() -> None:
    encoded = encode_catalog(CATALOG)
    assert decode_catalog(encoded, sha256(encoded).digest(), 2) == CATALOG
    assert [CATALOG.digest(index) for index in range(2)] == [b"a" * 16, b"b" * 16]


def test_a_chunks_digest_is_the_start_of_its_sha_256() -> None:
    chunk = torch.arange(200).to(torch.uint8)
    assert chunk_digest(chunk[16:64]) == sha256(bytes(range(16, 64))).digest()[:16]


def test_a_catalog_with_one_other_bit_is_refused() -> None:
    encoded = bytearray(encode_catalog(CATALOG))
    expected = catalog_digest(bytes(encoded))
    encoded[-1] ^= 1
    with pytest.raises(WeightsError, match="SHA-256"):
        decode_catalog(bytes(encoded), expected, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([1, 2]),
        encode_catalog(msgspec.structs.replace(CATALOG, session=b"short")),
        encode_catalog(msgspec.structs.replace(CATALOG, version=-1)),
        encode_catalog(msgspec.structs.replace(CATALOG, digests=b"a" * 31)),
        encode_catalog(msgspec.structs.replace(CATALOG, digests=b"a" * 48)),
        msgspec.msgpack.encode({"session": b"s" * 16, "version": 7, "digests": b"a" * 32, "more": 1}),
        b"\x91" * 100_000,
    ],
)
def test_what_is_no_catalog_of_this_manifest_is_refused_even_with_the_right_digest(data: bytes) -> None:
    with pytest.raises(WeightsError):
        decode_catalog(data, catalog_digest(data), 2)
