"""Which troubles of a connection pass by themselves, and how long a part of a message is waited for."""

from functools import partial

import httpx
from flwr.supercore.inflatable.inflatable_utils import pull_objects

TLS = ("certificate", "ssl", "tls")  # words of errors of TLS
CUT = ("eof", "timed out")  # and of those of them that say no more than that the other side has gone
REMEDIES = {  # by a word of what TLS says
    "mismatch": "`fl-bench certs FOLDER --host HOST` makes keys of a link that is reached there",
    "expired": "a certificate is for a year: make new keys of all with `fl-bench certs`",
    "issuer": "the link and who connects to it must have keys of the same `fl-bench certs`",
}
BROKEN = (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.WriteTimeout, httpx.RemoteProtocolError)
# A message's parts come after its head. Who was killed between them sends no more, and Flower would wait for 180 s.
pull_parts = partial(pull_objects, initial_backoff=0.05, backoff_cap=2.0, max_tries_per_object=20)  # 29 s for each


def refuses_tls(error: Exception) -> bool:
    """Whether the two sides will never come together, as their TLS does not fit."""
    text = str(error).lower()
    return any(word in text for word in TLS) and not any(word in text for word in CUT)


def with_remedy(error: Exception) -> str:
    """What an error says, and what would be right where TLS refuses."""
    return "; ".join([str(error), *(remedy for word, remedy in REMEDIES.items() if word in str(error))])
