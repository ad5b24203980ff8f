"""
Parameters of a query: which belong to a signature, and which name the recording.

What may be either, such as ``token`` or ``hash``, counts as a signature only where something else in the URL
names the recording: see :mod:`plaud_provider.storage.signatures`.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from plaud_provider.api.url_shapes import (
    AUDIO_FILE,
    FILE,
    HASH,
    JWT,
    KNOWN_TOKEN,
    MOMENT,
    NUMBER,
    OWNER,
    SHORTEST,
    SIGNED_TIME,
    is_any,
    is_drawn,
)

# Names of parameters are looked at in lower case, without "-", "_", ".", brackets and blanks.

#: Of a storage that signs: by what such names begin.
_OF_STORAGE = re.compile(
    r"x(amz|goog|oss|cos|obs|tos|bce|ms).*|response(content|cachecontrol|expires).*"
    r"|q(signalgorithm|ak|signtime|keytime|headerlist|urlparamlist|signature)|(security|session)token"
)
#: A part of a signature, or when it ends.
_SIGNING = re.compile(
    r".*(signature|hmac|expir|accesskeyid|googleaccessid|keypairid|nonce).*|.*sig|sign|hdn(ts|ea|tl)|gda|acl"
    r"|sas|salt|ttl|upt|ws(secret|session|(abs)?time)|tx(secret|time)|auth(key|info|sign|param)|bcdntoken"
)
#: A password or key of whoever may fetch it.
_PASSING = re.compile(
    r".*(secret|passw|passc|credential|accesskey|apikey|(private|public)key|consumerkey|authoriz|tempauth|jwt|bearer).*"
    r"|(access|auth|security|refresh|id|api|user|client|csrf)token|pwd|pass|auth(id)?|rlkey"
    r"|security|resourcekey|otp|(j|php|asp)sess.*"
)
#: A secret, or what a download is known by.
_TOKEN = re.compile(r".*token.*|.*ticket|sess|sess(ion)?(id|key)|sid")
#: A signature, or the recording's name.
_SHORT = re.compile(
    r"key|k|code|hash|h|md5|sha\d*|checksum|digest|s|st|t|e|verify|policy|keyname|urlprefix|secure|share|grant|at|us|ks|c|m|z"
)
_END = re.compile(r"e|ext|.*exp|until|valid(from|since|until|to|till)?|not(before|after)|nbf|deadline")
_TIMES = re.compile(rf"{MOMENT.pattern}|[0-9a-f]{{8}}")
_TIME = re.compile(r"t|st|s|ts|[a-z]{2}ts|x.*ts|time|.*timestamp|stime|ex|is|cf|signed(at)?|issued(at)?|iat")
#: The recording's name, however much its value looks like a secret.
_NAMING = re.compile(
    r".*(id|file|name|path|recordings?|calls?|object|blob|audio|media|clip|track|episode|doc|document|item"
    r"|message|msg|contact|conversation|interaction|url|uri|source|title|number|num|part|index|seq)s?\d*"
    r"|(file|record|call|audio|media|object).*|f|n|no|version.*|rev|revision|generation|etag"
)
#: One request from another: what names none of its own, and may be all that names a recording.
_REQUEST = re.compile(
    r"(x.*)?(request|correlation|trace|tracking|visitor|invocation)(event)?(id|uuid)?|traceparent|state|cookie"
    r"|rand(om)?|rnd|nocache|cache(buster|bust)?|cb"
)
#: How it is fetched, or for whom, which names no recording.
_MANNER = re.compile(
    r"dl|download|raw|inline|attachment|.*disposition|format|fmt|.*type|ext|alt|export|confirm|v|ver"
    r"|version.*|rev|revision|generation|etag|lang.*|locale|channels?|quality|bitrate|codec|mode|action|op"
    r"|cmd|method|source|src|web|origin|ref|referr?er|cb|utm.*|xid|bucket"
    rf"|{OWNER}(id|name|number|uuid|guid|version)?"
)
#: How what a path names is handed out: a link is often copied with them and without.
_HANDED_OUT = re.compile(r"dl|download|raw|inline|attachment|xid|web|confirm|usp|utm.*")
_YES_OR_NO = re.compile(r"[01]?|t|true|false|yes|no")
_AZURE_PARAMETERS = (
    "sig sv ss srt sr sp st se spr sip si skoid sktid skt ske sks skv sdd ses saoid suoid scid "
    "rscc rscd rsce rscl rsct"
)
#: Ways of signing in which parameters have names as above: by what they are known, and all their parameters.
#: Beside them nothing else signs, however short its name is.
_SCHEMES = (
    # S3 and Google Cloud Storage version 2, Alibaba version 1, Huawei
    *(
        (frozenset(["signature", key]), frozenset(["signature", "expires", key]))
        for key in ("awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "accesskeyid")
    ),
    # CloudFront
    (
        frozenset(["signature", "key-pair-id"]),
        frozenset(["signature", "expires", "key-pair-id", "policy", "hash-algorithm"]),
    ),
    # Google Cloud CDN
    (frozenset(["signature", "keyname"]), frozenset(["signature", "expires", "keyname", "urlprefix"])),
    # Azure shared access signature
    (
        frozenset(["sig", "sv"]),
        frozenset(_AZURE_PARAMETERS.split()),
    ),
    # S3 and Google Cloud Storage version 4, Alibaba version 4, Tencent
    (frozenset(["x-amz-signature"]), frozenset()),
    (frozenset(["x-goog-signature"]), frozenset()),
    (frozenset(["x-oss-signature"]), frozenset()),
    (frozenset(["q-signature"]), frozenset()),
    # SharePoint, Google Drive, iCloud, ownCloud
    (frozenset(["tempauth"]), frozenset(["tempauth", "translate", "apiversion", "correlationid"])),
    (frozenset(["id", "export", "uuid"]), frozenset(["uuid", "at", "authuser", "confirm", "export"])),
    (
        frozenset(["ckc", "ckz"]),
        frozenset(["ckc", "ckz", "a", "e", "fl", "k", "o", "p", "r", "s", "v", "x", "y", "+"]),
    ),
    (
        frozenset(["oc-signature"]),
        frozenset([f"oc-{name}" for name in ("signature", "credential", "date", "expires", "verb", "algo")]),
    ),
    # Zoom, which names the recording in the path; Webex
    (frozenset(["key-pair-id", "tid", "fid"]), frozenset(["tid", "fid", "cid", "data", "s001", "s002"])),
    (frozenset(["ticket", "rcid"]), frozenset(["ticket", "timestamp", "rcid"])),
    (frozenset(["ticket", "trackingid"]), frozenset(["ticket", "timestamp", "trackingid"])),
    # Discord, Facebook
    (frozenset(["ex", "is", "hm"]), frozenset(["ex", "is", "hm"])),
    (
        frozenset(["oh", "oe"]),
        frozenset(["oh", "oe", "ccb", "_nc_cat", "_nc_gid", "_nc_ht", "_nc_ohc", "_nc_sid"]),
    ),
)


class Parameter(NamedTuple):
    """
    A parameter of a query.

    :param text: As it is written.
    :param name: Its name in lower case.
    :param plain: The same, without punctuation.
    :param value: Its value.
    """

    text: str
    name: str
    plain: str
    value: str

    def is_named(self, *names: re.Pattern[str]) -> bool:
        """Whether one of some patterns is that of its name."""
        return any(pattern.fullmatch(self.plain) for pattern in names)


def parse_query(query: str) -> list[Parameter]:
    """Return the parameters of a query."""
    found = []
    for text in filter(None, query.split("&")):
        name, equals, value = text.partition("=")
        if not equals:
            # Without a name it is a value, as EdgeCast's tokens are.
            name, value = "", name
        # A URL that was copied from the source of a page.
        name = unquote(name.removeprefix("amp;")).lower()
        found.append(Parameter(text, name, re.sub(r"[-_.\s\[\]]", "", name), unquote(value)))
    return found


def unsigned(found: list[Parameter], *, is_named: bool) -> list[Parameter]:
    """
    Return the parameters of a query that are no signature, secret or expiry.

    :param is_named: Whether the path names the recording.
    """
    if is_named:
        found = [one for one in found if not _is_handed_out(one)]
    names = frozenset(one.name for one in found)
    schemes = [signing for marks, signing in _SCHEMES if marks <= names]
    if schemes:
        rest = [
            one
            for one in found
            if not one.is_named(_OF_STORAGE) and not any(one.name in signing for signing in schemes)
        ]
        clear = [one for one in rest if not _looks_secret(one)]
    else:
        ends = [one for one in found if one.is_named(_END) and MOMENT.fullmatch(one.value)]
        # A few letters are no signature.
        is_signed = bool(ends) or any(
            one.is_named(_SIGNING, _OF_STORAGE) and len(one.value) >= SHORTEST for one in found
        )
        rest = [
            one
            for one in found
            if one not in ends
            and not one.is_named(_PASSING, _OF_STORAGE)
            and not (is_signed and one.is_named(_SIGNING))
        ]
        clear = [one for one in rest if not _looks_secret(one) and not _may_sign(one, is_signed=is_signed)]
        if len(clear) < len(found) and (is_named or any(map(_surely_names_recording, clear))):
            # Beside a signature it is when that was made, or ends. Else it may be when a call was.
            clear = [one for one in clear if not (one.is_named(_TIME) and _TIMES.fullmatch(one.value))]
        if is_named or any(map(_surely_names_recording, clear)):
            clear = [one for one in clear if one.name != "_" and not one.is_named(_REQUEST)]
    return clear if is_named or any(map(names_recording, clear)) else rest


def _is_handed_out(one: Parameter) -> bool:
    """Whether a parameter says how what the path names is handed out: shown or downloaded, say."""
    if not one.name:
        return _HANDED_OUT.fullmatch(one.value) is not None
    is_free = one.plain.startswith(("utm", "xid", "usp"))
    return one.is_named(_HANDED_OUT) and (is_free or _YES_OR_NO.fullmatch(one.value.lower()) is not None)


def _looks_secret(one: Parameter) -> bool:
    """Whether a parameter's value looks like a secret or signature, whatever it is called."""
    if JWT.search(one.value) or KNOWN_TOKEN.match(one.value):
        return True
    if SIGNED_TIME.fullmatch(one.value) and not one.is_named(_NAMING):
        return True
    return not one.is_named(_NAMING) and (HASH.fullmatch(one.value) is not None or is_drawn(one.value))


def _may_sign(one: Parameter, *, is_signed: bool) -> bool:
    """
    Whether a parameter is called as signatures and secrets are, and has no value that names a recording.

    :param is_signed: Whether something beside it surely belongs to a signature.
    """
    if NUMBER.fullmatch(one.value):
        return False
    if one.is_named(_TOKEN):
        return True
    if one.is_named(_SHORT) and not FILE.fullmatch(one.value) and not MOMENT.fullmatch(one.value):
        return is_signed or len(one.value) >= SHORTEST
    return False


def names_recording(one: Parameter) -> bool:
    """Whether a parameter tells which recording it is, not how it is fetched or for whom."""
    if audio := AUDIO_FILE.fullmatch(one.value):
        return "/" in one.value or not is_any(audio["stem"])
    if not one.value or one.is_named(_MANNER):
        return False
    return one.is_named(_NAMING) or NUMBER.fullmatch(one.value) is not None


def _surely_names_recording(one: Parameter) -> bool:
    return names_recording(one) and one.is_named(_NAMING) and not one.is_named(_REQUEST)


def has_signature(part: str) -> bool:
    """Whether there are parameters of a signature in a part of a path, as Akamai, Bunny and Google have."""
    pairs = "&".join(pair for pair in re.split(r"[&~;,]", part) if "=" in pair)
    return any(
        (one.is_named(_OF_STORAGE, _SIGNING, _PASSING, _TOKEN) and one.value)
        or (one.is_named(_END) and MOMENT.fullmatch(one.value))
        for one in parse_query(pairs)
    )
