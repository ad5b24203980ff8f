"""
What is secret in a URL, what may be shown of it, and what tells its recording from others.

A pre-signed URL is a secret for as long as it is valid: whoever has it has the recording. Each signing makes
another URL of the same recording, which is not to be paid for again. Two mistakes cost as much: to take what
was signed anew for another recording, and to take two recordings for one, so that the second is never
transcribed. So what may be either, such as ``token`` or ``hash``, counts as a signature only where something
else in the URL names the recording.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote

from plaud_provider.api.url_shapes import SIGNED_TEXT, said_by
from plaud_provider.storage.kinds import KINDS
from plaud_provider.storage.signed_paths import drawn_parts, marked, path_names, signed_parts
from plaud_provider.storage.signed_queries import names_recording, parse_query, unsigned

WEB = ("http", "https")
#: What is shown for a secret in a path.
HIDDEN = "***"

_WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
#: How many URLs may be in each other: a hostile one has thousands.
_MOST_INSIDE = 4
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PASSWORD = re.compile(r"(^|//)([^/?#@:]*):[^/?#@]*@")


def identity(url: str, parameters: Collection[str] | None = None) -> str:
    """
    Return what tells the recording of a URL from others, whoever signed it and when.

    That is the URL without its fragment, without parameters whose name or value is that of a signature, a
    secret or an expiry, and without signatures in its path. The rest is kept letter by letter: decoding and
    encoding it again could change what a recording is called.

    :param url: The URL.
    :param parameters: Names of the query's parameters that count, and no others; ``None``: as above.
    """
    scheme, colon, rest = url.partition("#")[0].partition(":")
    address, _, query = rest.partition("?")
    address = "/".join(map(_unsigned_inside, address.split("/")))
    found = parse_query(re.sub(r"(?<==)[^&]+", lambda value: _unsigned_inside(value[0]), query))
    # What may be a signature is none if nothing is left that names the recording.
    rest = marked(address, "*", signed_parts(address, is_named=True))
    if parameters is None:
        kept = unsigned(found, is_named=path_names(address))
    else:
        counting = {name.lower() for name in parameters}
        kept = [one for one in found if one.name in counting]
    if not path_names(rest) and not any(map(names_recording, kept)):
        rest = marked(address, "*", signed_parts(address, is_named=False))
    named = rest + ("?" + "&".join(one.text for one in kept) if kept else "")
    # A token that names the recording is another one at each signing, but says the same.
    return scheme.lower() + colon + SIGNED_TEXT.sub(lambda token: said_by(token) or token[0], named)


def _unsigned_inside(text: str) -> str:
    """Return a part of a URL, without a signature if it is a URL itself, as of what redirects."""
    inside = unquote(text)
    if not _WEB_ADDRESS.match(inside) or inside.count("://") > _MOST_INSIDE:
        return text
    clear = identity(inside)
    return text if clear == inside else quote(clear, safe="")


def shown_reference(reference: str) -> str:
    """
    Return what may be shown and stored of a URL or storage reference.

    Of a URL it is address and path: never the query, a user, a password or the fragment; and not what looks
    like a secret in the path, which a hash, a UUID or the name of a file does not. Of a storage reference it
    is all, unless that looks like a signed URL with a slip in it. Names of local files need not be text; here
    they are, as logs and databases take nothing else.
    """
    scheme, slashes, rest = reference.partition("://")
    if slashes and re.fullmatch(r"[A-Za-z][\w+.-]*", scheme) and scheme.lower() not in {*KINDS, "file"}:
        host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        path = re.sub(r"[\t\r\n]", "", path)
        hidden = signed_parts(path, is_named=True) | drawn_parts(path)
        shown = f"{scheme.lower()}://{host.rpartition('@')[2]}{slash}{marked(path, HIDDEN, hidden)}"
    else:
        # In a storage key '?' and '#' are ordinary characters, and a user there names a connection.
        shown = _PASSWORD.sub(r"\1\2@", reference)
        address, _, query = shown.partition("?")
        found = parse_query(query.partition("#")[0])
        if len(unsigned(found, is_named=True)) < len(found):
            shown = address
    return _LONE_SURROGATE.sub("\ufffd", shown)


def expires_at(url: str) -> datetime | None:
    """Return when a URL's signature expires (UTC), where the URL tells."""
    query = url.partition("#")[0].partition("?")[2]
    parameters = {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True)}
    try:
        for kind in ("amz", "goog", "oss", "tos"):
            if f"x-{kind}-expires" in parameters:
                signed_at = datetime.strptime(parameters[f"x-{kind}-date"], "%Y%m%dT%H%M%SZ")
                validity = timedelta(seconds=int(parameters[f"x-{kind}-expires"]))
                return signed_at.replace(tzinfo=UTC) + validity
        if "sig" in parameters and "se" in parameters:
            moment = datetime.fromisoformat(parameters["se"])
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        if "temp_url_sig" in parameters:
            # OpenStack Swift
            return _from_epoch(parameters["temp_url_expires"])
        if "signature" in parameters and "expires" in parameters:
            return _from_epoch(parameters["expires"])
        if "signature" in parameters and "key-pair-id" in parameters:
            return _from_epoch(_end_of_policy(parameters["policy"]))
        if "q-signature" in parameters:
            # Tencent: from and to.
            return _from_epoch(parameters["q-sign-time"].partition(";")[2])
        for name in ("hdnts", "hdnea", "hdntl", "__gda__", "__token__"):
            # Akamai
            if found := re.search(r"(?:\A|~)exp=(\d+)", parameters.get(name, "")):
                return _from_epoch(found[1])
    except (LookupError, TypeError, ValueError, OverflowError, OSError):
        return None
    return None


def _from_epoch(seconds: str | int) -> datetime:
    return datetime.fromtimestamp(int(seconds), tz=UTC)


def _end_of_policy(policy: str) -> int:
    """Return when a custom policy of CloudFront ends, in epoch seconds."""
    text = base64.b64decode(policy.translate(str.maketrans("-_~", "+=/")))
    end: int = json.loads(text)["Statement"][0]["Condition"]["DateLessThan"]["AWS:EpochTime"]
    return end
