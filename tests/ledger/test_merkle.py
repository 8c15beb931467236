"""Merkle trees: the roots that Certificate Transparency's own tests have, and every proof of small trees."""

from hashlib import sha256

import pytest

from fl_bench.ledger.merkle import path, root, root_by

LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [  # of the first 0, 1, 2, ... of these leaves, in certificate-transparency's merkletree tests
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_roots_are_those_of_certificate_transparency() -> None:
    assert [root(LEAVES[:count]).hex() for count in range(9)] == ROOTS


def test_every_proof_leads_to_the_root_and_none_from_elsewhere() -> None:
    for size in range(1, 9):
        leaves, wanted = LEAVES[:size], root(LEAVES[:size])
        for index, leaf in enumerate(leaves):
            proof = path(leaves, index)
            assert len(proof) <= 3
            assert root_by(leaf, index, size, proof) == wanted
            assert root_by(leaf + b"x", index, size, proof) != wanted
            for other in range(size):
                if other != index and len(path(leaves, other)) == len(proof):
                    assert root_by(leaf, other, size, proof) != wanted


def test_a_node_is_no_leaf() -> None:
    """Two leaves, and one that says what stands above them: without a prefix their trees would have one root."""
    inner = sha256(b"\0" + LEAVES[1]).digest() + sha256(b"\0" + LEAVES[2]).digest()
    assert root([inner]) != root(LEAVES[1:3])


@pytest.mark.parametrize(
    ("index", "size", "hashes"), [(1, 1, 0), (-1, 4, 2), (0, 4, 1), (0, 4, 3), (0, 1, 1), (0, 0, 0)]
)
def test_what_is_no_path(index: int, size: int, hashes: int) -> None:
    with pytest.raises(ValueError, match="does not lead from leaf"):
        root_by(b"", index, size, [b"0" * 32] * hashes)
