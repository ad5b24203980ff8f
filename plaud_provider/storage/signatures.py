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
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from plaud_provider.storage.kinds import KINDS

WEB = ("http", "https")
#: What is shown for a secret in a path.
HIDDEN = "***"

# Names of parameters are looked at in lower case, without "-", "_", "." and blanks.

#: Of a storage that signs: by what such names begin.
_OF_STORAGE = re.compile(
    r"x(amz|goog|oss|cos|obs|tos|bce|ms).*|response(content|cachecontrol|expires).*"
    r"|q(signalgorithm|ak|signtime|keytime|headerlist|urlparamlist|signature)"
)
#: A part of a signature, or when it ends.
_SIGNING = re.compile(
    r".*(signature|hmac|expir|accesskeyid|googleaccessid|keypairid).*|.*sig|sign|hdn(ts|ea|tl)|gda|acl|sas"
    r"|nonce|salt|ttl|ws(secret|time)|tx(secret|time)|authkey|bcdntoken"
)
#: A password or key of whoever may fetch it.
_PASSING = re.compile(
    r".*(secret|passw|passc|credential|accesskey|apikey|privatekey|authoriz|tempauth|jwt|bearer).*"
    r"|(access|auth|security|refresh|id|api|user|client|csrf)token|pwd|pass|auth|rlkey|resourcekey|otp"
)
#: A secret, or what a download is known by.
_TOKEN = re.compile(r".*(token|session|ticket).*|sess|sessid")
#: A signature, or the recording's name.
_SHORT = re.compile(
    r"key|k|code|hash|h|md5|sha\d*|checksum|digest|s|st|t|e|verify|policy|keyname|urlprefix|secure|share|grant|at|c|m|z"
)
_END = re.compile(r"e|exp|until|valid(until|to|till)?|not(before|after)|nbf|deadline")
_TIME = re.compile(r"t|st|s|ts|timestamp|stime|signed(at)?|issued(at)?|iat")
#: The recording's name, however much its value looks like a secret.
_NAMING = re.compile(
    r".*(id|file|name|path|recordings?|calls?|object|blob|audio|media|clip|track|episode|doc|document|item"
    r"|message|msg|url|uri|source|title|number|num|part|index|seq)\d*"
    r"|(file|record|call|audio|media|object).*|f|n|no|version.*|rev|revision|generation|etag"
)
#: How it is fetched, or for whom, which names no recording.
_MANNER = re.compile(
    r"dl|download|raw|inline|attachment|.*disposition|format|fmt|.*type|ext|alt|export|confirm|v|ver"
    r"|version.*|rev|revision|generation|etag|lang.*|locale|channels?|quality|bitrate|codec|mode|action|op"
    r"|cmd|method|source|src|web|origin|ref|referr?er|cb|utm.*|xid|bucket"
    r"|(api|app|client|user|account|acct|tenant|customer|org|organi[sz]ation|company|team|workspace|partner"
    r"|project|domain|site|region|agent|host|server)(id|name|number|uuid|guid|version)?"
)
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
)

# Values

#: Letters of a signature or secret, at least.
_SHORTEST = 6
_JWT = re.compile(r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_=-]{6,}(\.[A-Za-z0-9_=-]*)*")
_KNOWN_TOKEN = re.compile(r"xox[a-z]-|ya29\.|gh[opsu]_|sk[-_]|(bearer|basic)\s", re.IGNORECASE)
_HASH = re.compile(r"(?=.*\d)(?=.*[a-f])([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56,128})", re.IGNORECASE)
#: A UUID; an id of Twilio's.
_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[A-Z]{2}[0-9a-f]{32}", re.IGNORECASE
)
_NUMBER = re.compile(r"([-+]?\d{1,9}([.,:]\d{1,9})*|true|false|yes|no)?", re.IGNORECASE)
_FILE = re.compile(r".*[^/]\.[A-Za-z][A-Za-z0-9]{1,4}", re.DOTALL)
_AUDIO_FILE = re.compile(
    r"(.*/)?(?P<stem>[^/]+)\.(m4a|mp3|wave?|mp4|m4b|mpga|aac|oga|ogg|opus|flac|webm|amr)", re.IGNORECASE
)
_EPOCH = r"[1-3]\d{9}(\d{3})?"
_MOMENT = re.compile(rf"{_EPOCH}|20\d\d-?[01]\d-?[0-3]\d[T ][0-2]\d:?[0-5]\d.*")

# Paths

#: What hands out recordings is called by such words, and names none: getRecording, download_file, audio.
_WORDS = re.compile(
    r"((download|get|fetch|retrieve|file|audio|sound|voice|voicemail|recording|record|call|stream|media|play"
    r"|player|listen|index|content|attachment|raw|view|serve|api|rest|public|link|share|shared|object|blob|data"
    r"|export|output|original|default|track)s?|uc|dl|rec|[dfrs])+",
    re.IGNORECASE,
)
_VERBS = frozenset(["download", "get", "fetch", "stream", "play", "player", "listen", "serve", "index"])
_SCRIPT = re.compile(r"\.(php\d?|aspx?|ashx|jsp|do|cgi|pl|py|action|cfm)\Z", re.IGNORECASE)
_TOKEN_FOLLOWS = re.compile(r"(access[-_]?)?token|sig|signature|jwt|sas", re.IGNORECASE)
_SIGNATURE_FOLLOWS = re.compile(r"secure([-_]?link)?|signed|protected|private|hash|md5|st?|dl", re.IGNORECASE)
#: A time in a signed path, where it is not in epoch seconds: as in 202405011000, or hexadecimal.
_TIME_IN_PATH = re.compile(r"20\d{10}|[0-9a-f]{8}", re.IGNORECASE)
_HASH_AND_TIME = re.compile(
    rf"([\w-]{{20,}}[,_~-]{_EPOCH}|{_EPOCH}[,_~-][\w-]{{20,}}|{_EPOCH}(-\w+)+-[0-9a-f]{{32}})"
)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PASSWORD = re.compile(r"(^|//)([^/?#@:]*):[^/?#@]*@")


class _Parameter(NamedTuple):
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
        return any(pattern.fullmatch(self.plain) for pattern in names)


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
    found = list(_parameters(query))
    if parameters is None:
        kept = _unsigned(found, is_named=_path_names(address))
    else:
        counting = {name.lower() for name in parameters}
        kept = [one for one in found if one.name in counting]
    is_named = _path_names(address) or any(map(_names_recording, kept))
    address = _marked(address, "*", _signed_parts(address, is_named=is_named))
    return scheme.lower() + colon + address + ("?" + "&".join(one.text for one in kept) if kept else "")


def without_secrets(reference: str) -> str:
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
        hidden = _signed_parts(path, is_named=True) | _drawn_parts(path)
        shown = f"{scheme.lower()}://{host.rpartition('@')[2]}{slash}{_marked(path, HIDDEN, hidden)}"
    else:
        # In a storage key '?' and '#' are ordinary characters, and a user there names a connection.
        shown = _PASSWORD.sub(r"\1\2@", reference)
        address, _, query = shown.partition("?")
        found = list(_parameters(query.partition("#")[0]))
        if len(_unsigned(found, is_named=True)) < len(found):
            shown = address
    return _LONE_SURROGATE.sub("\ufffd", shown)


def expires_at(url: str) -> datetime | None:
    """Return when a URL's signature expires (UTC), where the URL tells."""
    query = url.partition("#")[0].partition("?")[2]
    parameters = {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True)}
    try:
        for kind in ("amz", "goog", "oss"):
            if f"x-{kind}-expires" in parameters:
                signed_at = datetime.strptime(parameters[f"x-{kind}-date"], "%Y%m%dT%H%M%SZ")
                validity = timedelta(seconds=int(parameters[f"x-{kind}-expires"]))
                return signed_at.replace(tzinfo=UTC) + validity
        if "sig" in parameters and "se" in parameters:
            moment = datetime.fromisoformat(parameters["se"])
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
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


def _parameters(query: str) -> Iterator[_Parameter]:
    for text in filter(None, query.split("&")):
        name, _, value = text.partition("=")
        # A URL that was copied from the source of a page.
        name = unquote(name.removeprefix("amp;")).lower()
        yield _Parameter(text, name, re.sub(r"[-_.\s]", "", name), unquote(value))


def _unsigned(found: list[_Parameter], *, is_named: bool) -> list[_Parameter]:
    """
    Return the parameters of a query that are no signature, secret or expiry.

    :param is_named: Whether the path names the recording.
    """
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
        ends = [one for one in found if one.is_named(_END) and _MOMENT.fullmatch(one.value)]
        # A few letters are no signature.
        is_signed = bool(ends) or any(
            one.is_named(_SIGNING, _OF_STORAGE) and len(one.value) >= _SHORTEST for one in found
        )
        rest = [
            one
            for one in found
            if one not in ends
            and not one.is_named(_PASSING, _OF_STORAGE)
            and not (is_signed and one.is_named(_SIGNING))
        ]
        clear = [one for one in rest if not _looks_secret(one) and not _may_sign(one, is_signed=is_signed)]
    return clear if is_named or any(map(_names_recording, clear)) else rest


def _looks_secret(one: _Parameter) -> bool:
    """Whether a parameter's value looks like a secret or signature, whatever it is called."""
    if _JWT.search(one.value) or _KNOWN_TOKEN.match(one.value):
        return True
    return not one.is_named(_NAMING) and (_HASH.fullmatch(one.value) is not None or _is_drawn(one.value))


def _may_sign(one: _Parameter, *, is_signed: bool) -> bool:
    """
    Whether a parameter is called as signatures and secrets are, and has no value that names a recording.

    :param is_signed: Whether something beside it surely belongs to a signature.
    """
    if _NUMBER.fullmatch(one.value):
        return False
    if _MOMENT.fullmatch(one.value):
        return is_signed and one.is_named(_TIME)
    if one.is_named(_SHORT) and not _FILE.fullmatch(one.value):
        return is_signed or len(one.value) >= _SHORTEST
    return one.is_named(_TOKEN)


def _names_recording(one: _Parameter) -> bool:
    if _AUDIO_FILE.fullmatch(one.value):
        return True
    if not one.value or one.is_named(_MANNER):
        return False
    return one.is_named(_NAMING) or _NUMBER.fullmatch(one.value) is not None


def _is_drawn(text: str) -> bool:
    """Whether a text was rather drawn by a machine than written: its kinds of letters take turns."""
    letters = re.sub(r"[^A-Za-z0-9]", "", text)
    if len(letters) < 16 or _ID.fullmatch(text) or _HASH.fullmatch(text):
        return False
    kinds = ["0" if letter.isdigit() else "A" if letter.isupper() else "a" for letter in letters]
    turns = sum(one != other for one, other in pairwise(kinds))
    return turns >= 0.35 * len(letters)


def _path_names(address: str) -> bool:
    """Whether an address names a recording by its path, not only what hands out recordings."""
    parts = [part.partition(";")[0] for part in _parts(re.sub(r"\A[^/]*//[^/]*", "", address)) if part]
    if not parts or _JWT.search(parts[-1]):
        return False
    if audio := _AUDIO_FILE.fullmatch(parts[-1]):
        is_any = audio["stem"].lower() in _VERBS
    else:
        name = re.sub(r"[-_.]", "", parts[-1])
        is_any = _SCRIPT.search(parts[-1]) is not None or _WORDS.fullmatch(name) is not None
    return not is_any or any(
        part.isdecimal() or _HASH.fullmatch(part) or _ID.fullmatch(part) or _is_drawn(part)
        for part in parts[:-1]
    )


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.split("/")]


def _signed_parts(path: str, *, is_named: bool) -> set[int]:
    """
    Return which parts of a path are a signature, a secret or an expiry.

    :param is_named: Whether something names the recording beside what may be either.
    """
    parts = _parts(path)
    found = set()
    for index, part in enumerate(parts):
        before, after = (parts[index - 1] if index else ""), parts[index + 1 :]
        # Oracle's pre-authenticated requests: /p/<secret>/n/<namespace>/b/<bucket>/o/<object>
        is_oracle = before == "p" and after[:1] == ["n"] and after[2:3] == ["b"]
        if is_oracle or _has_signature(part):
            found.add(index)
        if not is_named or not after:
            continue
        if _JWT.search(part) or _HASH_AND_TIME.fullmatch(part) or _TOKEN_FOLLOWS.fullmatch(before):
            found.add(index)
        # What is last is the recording's name, whatever is before it.
        if len(after) >= 2 and _are_signature_and_time(before, part, after[0]):
            found |= {index, index + 1}
    if is_named and _JWT.search(parts[-1]):
        found.add(len(parts) - 1)
    return found


def _are_signature_and_time(before: str, one: str, other: str) -> bool:
    """Whether two parts of a path that follow each other are a signature and when it ends."""
    for signature, moment in ((one, other), (other, one)):
        is_epoch = re.fullmatch(_EPOCH, moment) is not None
        if _HASH.fullmatch(signature) and (is_epoch or _TIME_IN_PATH.fullmatch(moment)):
            return True
        if is_epoch and (_is_drawn(signature) or _SIGNATURE_FOLLOWS.fullmatch(before)):
            return True
    return False


def _has_signature(part: str) -> bool:
    """Whether there are parameters of a signature in a part of a path, as Akamai, Bunny and Google have."""
    pairs = "&".join(pair for pair in re.split(r"[&~;,]", part) if "=" in pair)
    return any(
        one.is_named(_OF_STORAGE, _SIGNING, _PASSING, _TOKEN) and one.value for one in _parameters(pairs)
    )


def _drawn_parts(path: str) -> set[int]:
    """Return which parts of a path may be a secret that names what it gives: a share's link, say."""
    return {
        index
        for index, part in enumerate(_parts(path))
        if _is_drawn(part) and not _AUDIO_FILE.fullmatch(part)
    }


def _marked(path: str, mark: str, places: set[int]) -> str:
    """Return a path with a mark in place of some of its parts; of a name with parameters the name stays."""
    parts = path.split("/")
    for index in places:
        name, semicolon, _ = parts[index].partition(";")
        parts[index] = f"{name};{mark}" if semicolon and "=" not in name else mark
    return "/".join(parts)
