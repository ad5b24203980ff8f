"""
Everything this package raises: one class per cause.

The class decides what Airflow does next. Causes that another attempt cannot mend also derive from
:class:`~airflow.sdk.exceptions.AirflowFailException`, so that no retry is spent on them and ``soft_fail``
treats them alike in every sensor mode. All others may be retried: what was paid for before is attached to.

No message carries a secret, a token, a signature or transcript text.
"""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout


class PlaudError(AirflowException):
    """
    Root of this package's errors.

    :param message: What happened, what state things are in, and what to do.
    :param status_code: The HTTP status that Plaud answered with; ``None`` where there was no answer.
    """

    # Airflow's own exceptions say 500 or 404 here; ours say what Plaud said.
    status_code: int | None = None  # type: ignore[assignment]

    def __init__(self, message: str = "", *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class PlaudConfigurationError(PlaudError, AirflowFailException):
    """The connection or a region setting is wrong. Nothing was sent."""


class PlaudNotFetchableError(PlaudConfigurationError):
    """Plaud could not fetch a recording from where it is: nobody serves it, or nothing can sign a URL."""


class PlaudInputError(PlaudError, AirflowFailException):
    """An argument is wrong. Nothing was sent, nothing is paid for."""


class PlaudExpiredUrlError(PlaudInputError):
    """The URL of a recording is not valid for long enough. The recording may be well: sign it anew."""


class PlaudAuthenticationError(PlaudError, AirflowFailException):
    """Plaud refused the client id and secret key."""


class PlaudTokenRejectedError(PlaudError):
    """Plaud kept rejecting tokens that it had just issued, or a key that it took before; may pass."""


class PlaudRequestError(PlaudError, AirflowFailException):
    """Plaud refused the request itself (a 4xx answer): sending it again at once would be refused again."""


class PlaudAccessError(PlaudError):
    """Plaud, or a gateway, refused the client and not what it asked for (402, 403 …); may pass."""


class PlaudNotFoundError(PlaudError, AirflowFailException):
    """Plaud does not know this transcription id (any more): results are kept for a few days only."""


class PlaudRedirectError(PlaudError):
    """The host answered with a redirect; may pass. None is followed, with the credentials in it."""


class PlaudConnectionError(PlaudError):
    """The host could not be reached, or the connection broke; may pass."""


class PlaudCertificateError(PlaudError):
    """The host's certificate cannot be verified; may pass. There is no switch to go on without."""


class PlaudRateLimitError(PlaudError):
    """Plaud kept answering 429 for longer than one call waits; may pass."""


class PlaudServerError(PlaudError):
    """Plaud kept answering with 5xx, or a proxy in between with a page of its own; may pass."""


class PlaudSubmitsPausedError(PlaudServerError):
    """Plaud left several submits in a row without an answer: nobody submits for a while. Nothing was sent."""


class PlaudResponseError(PlaudError):
    """The answer breaks the contract: cut short, not JSON, too large, or of another transcription."""


class PlaudStorageError(PlaudError):
    """The storage of a recording could not be asked; may pass. Nothing was sent."""


class PlaudSubmitOutcomeUnknownError(PlaudError, AirflowFailException):
    """A recording was sent and the answer was lost: it may have been accepted and billed."""


class PlaudTakenOverError(PlaudError):
    """Another task has a recording now. Nothing was sent from here; a retry attaches to what it submits."""


class PlaudStoppedError(PlaudError):
    """A task was ended while it submitted. What it had not sent was not sent, and is submitted by a retry."""


class PlaudReplacedError(PlaudError):
    """A recording has another content than when it was identified. Nothing was sent; it is looked at anew."""


class PlaudTranscriptionFailedError(PlaudError, AirflowFailException):
    """Plaud reports that a transcription failed."""


class PlaudStillProcessingError(PlaudError):
    """A transcription was to be landed before Plaud had finished it; waiting mends it."""


class PlaudWaitTimeoutError(PlaudError, AirflowSensorTimeout):
    """The wait reached its deadline. The transcriptions go on at Plaud; clearing the task waits again."""


class PlaudTriggerEventError(PlaudError, AirflowFailException):
    """A deferred task resumed with an event that this version does not understand."""


class PlaudWarehouseError(PlaudError):
    """The warehouse or the ledger refused or could not be reached; the message says what is rolled back."""


class PlaudTableMismatchError(PlaudWarehouseError, AirflowFailException):
    """An existing table does not fit; the message names the column. Nothing was written."""


class PlaudArchiveError(PlaudError, AirflowFailException):
    """Recordings of an archive are not landed; the message says which, why, and what to do."""


def error_class(name: str | None) -> type[PlaudError]:
    """
    Return the class of this module that an event or another process has named.

    :param name: Its name; of a name that is not known, the root.
    """
    found = globals().get(name or "")
    return found if isinstance(found, type) and issubclass(found, PlaudError) else PlaudError


def how_to_install(extra: str) -> str:
    """
    Return the command that installs an extra of this distribution, for messages.

    :param extra: Its name, such as ``duckdb``.
    """
    return (
        f"pip install 'airflow-provider-plaud[{extra}]', or in a checkout of it pip install '.[{extra}]', "
        "with the Python that runs Airflow"
    )
