"""
How a recording is referred to: a URL or storage reference whose signature is not shown.

A pre-signed URL is a secret for as long as it is valid: whoever has it has the recording. So it is wrapped in
a value that shows itself without its signature wherever Airflow or a log would print it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_WEB = ("http", "https")
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


class AudioReference:
    """
    A reference to a recording: ``https://`` URL or storage reference.

    ``str()``, ``repr()`` and :meth:`serialize` (which Airflow calls for rendered fields) give :attr:`uri`.

    :param value: The reference as given, possibly pre-signed.
    """

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the reference as given, signature and all: for the request itself, never for showing."""
        return self._value

    def serialize(self) -> str:
        """Return what may be shown and stored."""
        return self.uri

    @cached_property
    def uri(self) -> str:
        """
        The reference without its signature, password or anything that looks like a secret.

        Names of local files need not be text; here they are, as logs and databases take nothing else.
        """
        return _LONE_SURROGATE.sub("\ufffd", self._without_secrets)

    @cached_property
    def _without_secrets(self) -> str:
        kept = [
            part
            for name, part in self._parts
            if not self._is_signing(name) and not re.search(_SECRET_NAME, name, re.IGNORECASE)
        ]
        if self.scheme in _WEB:
            netloc = self._split.netloc.rpartition("@")[2]
            return self._split._replace(netloc=netloc, query="&".join(kept), fragment="").geturl()
        # In a storage key '?' and '#' are ordinary characters, and a user there names a connection. But it
        # may also be a URL with a slip in its scheme.
        shown = re.sub(_PASSWORD, r"\1\2@", self._value)
        if len(kept) == len(self._parts):
            return shown
        return shown.partition("?")[0] + ("?" + "&".join(kept) if kept else "")

    @cached_property
    def identity(self) -> str:
        """
        The reference without its known signature parameters, and nothing else dropped.

        Two URLs that differ only in when they were signed are the same recording; two that differ in any
        other parameter may not be.
        """
        if self.scheme not in _WEB:
            return self._value
        # The raw text is kept: decoding and encoding again could change what a recording is called.
        kept = [part for name, part in self._parts if not self._is_signing(name)]
        return self._split._replace(query="&".join(kept), fragment="").geturl()

    @cached_property
    def scheme(self) -> str:
        """Scheme in lower case; empty if there is none."""
        return self._split.scheme.lower()

    @cached_property
    def host(self) -> str:
        """Host or bucket in lower case; empty if there is none."""
        try:
            return self._split.hostname or ""
        except ValueError:
            return ""

    @property
    def has_user_information(self) -> bool:
        """Whether the URL carries a user name or password."""
        return "@" in self._split.netloc

    @cached_property
    def file_name(self) -> str:
        """Last part of the path; decoded, where it is a URL's."""
        if self.scheme in _WEB:
            return PurePosixPath(unquote(self._split.path)).name
        # In a storage key '?', '#' and '%' are ordinary characters.
        return self._value.rpartition("/")[2]

    @cached_property
    def extension(self) -> str:
        """File extension in lower case with its dot; empty if the last part of the path has none."""
        found = re.search(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", self.file_name)
        return found.group().lower() if found else ""

    @cached_property
    def expires_at(self) -> datetime | None:
        """When the URL's signature expires (UTC), where the URL tells."""
        parameters = {name.lower(): value for name, value in self._parameters}
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

    @cached_property
    def _split(self) -> SplitResult:
        try:
            return urlsplit(self._value)
        except ValueError:
            return urlsplit("")

    @cached_property
    def _query(self) -> str:
        return self._value.partition("#")[0].partition("?")[2]

    @cached_property
    def _parameters(self) -> list[tuple[str, str]]:
        return parse_qsl(self._query, keep_blank_values=True)

    @cached_property
    def _parts(self) -> list[tuple[str, str]]:
        """The query's parts: name in lower case, and raw text."""
        return [
            (unquote(part.partition("=")[0]).strip().lower(), part) for part in self._query.split("&") if part
        ]

    @cached_property
    def _signature_names(self) -> frozenset[str]:
        names = frozenset(name for name, _ in self._parts)
        return frozenset().union(*(signing for marks, signing in _SIGNATURES if marks <= names))

    def _is_signing(self, name: str) -> bool:
        return name.startswith(_SIGNATURE_PREFIXES) or name in self._signature_names

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"AudioReference({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AudioReference) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
