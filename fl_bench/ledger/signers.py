"""Who signs: the server its blocks, and for each client whoever has its key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fl_bench import rng
from fl_bench.federation.exchange import Answer
from fl_bench.ledger.statements import STATEMENT, is_signed, sign


class Signer(NamedTuple):
    """Whose key it is that signs for these clients: a client's own, or its site's."""

    key: Ed25519PublicKey
    clients: Sequence[int]


@dataclass(frozen=True)
class Signers:
    """The keys of a run. In a simulation all of them follow from its `seed`; else sites have theirs."""

    server: Ed25519PrivateKey
    clients: Mapping[str, Signer]  # by the name of the signer
    seed: int | None = None

    @classmethod
    def of_seed(cls, seed: int, num_clients: int) -> "Signers":
        """Every client with a key of its own, all of them known to whoever knows the seed."""
        keys = {str(client): Signer(_key(seed, client).public_key(), [client]) for client in range(num_clients)}
        return cls(_derived(seed, "ledger server"), keys, seed)

    def to_json(self) -> dict[str, Any]:
        """The public keys, and whose they are."""
        signers = {
            name: {"key": hex_of(key), "clients": list(clients)} for name, (key, clients) in self.clients.items()
        }
        return {"server": hex_of(self.server.public_key()), "signers": signers}

    def signature(self, body: Mapping[str, Any], answer: Answer) -> str | None:
        """That of a client's statement, of its site or made here; None where its site has not signed it."""
        if self.seed is not None:
            return sign(_key(self.seed, answer.client), STATEMENT, body)
        assert answer.sent is not None
        signature = answer.sent.signature
        signer = next(signer for signer in self.clients.values() if answer.client in signer.clients)
        return signature if signature and is_signed(signer.key, STATEMENT, body, signature) else None


def hex_of(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()


def key_of(text: str) -> Ed25519PublicKey:
    """Raises ValueError where it is none."""
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def _key(seed: int, client: int) -> Ed25519PrivateKey:
    return _derived(seed, "ledger client", client)


def _derived(seed: int, purpose: str, client: int = 0) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(rng.generator(seed, purpose, client=client).bytes(32))
