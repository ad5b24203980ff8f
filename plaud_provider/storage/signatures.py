"""
What a signature adds to a URL, and a URL or storage reference without what is secret in it.

A pre-signed URL is a secret for as long as it is valid: whoever has it has the recording.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, unquote, urlsplit

WEB = ("http", "https")
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
_AZURE_PARAMETERS = (
    "sig sv ss srt sr sp st se spr sip si skoid sktid skt ske sks skv sdd ses saoid suoid scid "
    "rscc rscd rsce rscl rsct"
)
#: Signature parameters without a prefix of their own, and those beside which they are no others.
_SIGNATURES = (
    # S3 version 2, Google Cloud Storage version 2
    (
        frozenset(["signature", "expires"]),
        frozenset(["signature", "expires", "awsaccesskeyid", "googleaccessid"]),
    ),
    # CloudFront
    (
        frozenset(["signature", "key-pair-id"]),
        frozenset(["signature", "expires", "key-pair-id", "policy", "hash-algorithm"]),
    ),
    # Azure shared access signature
    (
        frozenset(["sig", "sv"]),
        frozenset(_AZURE_PARAMETERS.split()),
    ),
)
_SECRET_NAME = (
    r"token|sig|secret|passw|auth|credential|api.?key|access.?key|hmac|hdnts|hdnea|jwt|"
    r"^(key|code|hash|sas|verify|s|q-ak)$"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PASSWORD = r"(^|//)([^/?#@:]*):[^/?#@]*@"


def without_signature(url: str) -> str:
    """
    Return a URL without its known signature parameters and its fragment, and nothing else dropped.

    The rest is kept letter by letter: decoding and encoding it again could change what a recording is called.
    """
    scheme, colon, rest = url.partition("#")[0].partition(":")
    address, _, query = rest.partition("?")
    signing = _signing_names(query)
    kept = [part for name, part in _parts(query) if name not in signing]
    return scheme.lower() + colon + address + ("?" + "&".join(kept) if kept else "")


def without_secrets(reference: str) -> str:
    """
    Return a URL or storage reference without signature, password or anything that looks like a secret.

    Names of local files need not be text; here they are, as logs and databases take nothing else.
    """
    query = reference.partition("#")[0].partition("?")[2]
    parts, signing = _parts(query), _signing_names(query)
    kept = [
        part
        for name, part in parts
        if name not in signing and not re.search(_SECRET_NAME, name.strip(), re.IGNORECASE)
    ]
    try:
        split = urlsplit(reference)
    except ValueError:
        split = urlsplit("")
    if split.scheme in WEB:
        netloc = split.netloc.rpartition("@")[2]
        shown = split._replace(netloc=netloc, query="&".join(kept), fragment="").geturl()
    else:
        # In a storage key '?' and '#' are ordinary characters, and a user there names a connection. But it
        # may also be a URL with a slip in its scheme.
        shown = re.sub(_PASSWORD, r"\1\2@", reference)
        if len(kept) < len(parts):
            shown = shown.partition("?")[0] + ("?" + "&".join(kept) if kept else "")
    return _LONE_SURROGATE.sub("\ufffd", shown)


def expires_at(url: str) -> datetime | None:
    """Return when a URL's signature expires (UTC), where the URL tells."""
    query = url.partition("#")[0].partition("?")[2]
    parameters = {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True)}
    try:
        for kind in ("amz", "goog"):
            if f"x-{kind}-expires" in parameters:
                signed_at = datetime.strptime(parameters[f"x-{kind}-date"], "%Y%m%dT%H%M%SZ")
                validity = timedelta(seconds=int(parameters[f"x-{kind}-expires"]))
                return signed_at.replace(tzinfo=UTC) + validity
        if "sig" in parameters and "se" in parameters:
            moment = datetime.fromisoformat(parameters["se"])
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        if "signature" in parameters and "expires" in parameters:
            return datetime.fromtimestamp(int(parameters["expires"]), tz=UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        return None
    return None


def _parts(query: str) -> list[tuple[str, str]]:
    """Return a query's parts: name in lower case, and raw text."""
    return [(unquote(part.partition("=")[0]).lower(), part) for part in query.split("&") if part]


def _signing_names(query: str) -> frozenset[str]:
    """Return the names of a query's signature parameters."""
    names = frozenset(name for name, _ in _parts(query))
    prefixed = frozenset(name for name in names if name.startswith(_SIGNATURE_PREFIXES))
    return prefixed.union(*(signing for marks, signing in _SIGNATURES if marks <= names))
