"""Which troubles of a connection pass by themselves."""

import httpx

TLS = ("certificate", "ssl", "tls")  # words of errors of TLS
CUT = ("eof", "timed out")  # and of those of them that say no more than that the other side has gone
BROKEN = (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.WriteTimeout, httpx.RemoteProtocolError)


def refuses_tls(error: Exception) -> bool:
    """Whether the two sides will never come together, as their TLS does not fit."""
    text = str(error).lower()
    return any(word in text for word in TLS) and not any(word in text for word in CUT)
