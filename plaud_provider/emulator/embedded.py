"""The API ``embedded``: its credentials, what a submit of it says, and its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from plaud_provider.emulator.uploads import STORAGE_PREFIX
from plaud_provider.emulator.wire import Request

#: Headers that tell this API's calls from the other's, which carry a token.
CLIENT_HEADER = "x-client-id"
KEY_HEADER = "x-client-api-key"
MODELS = ("plaud-fast-whisper", "plaud-omni-3", "azure-fast-transcribe")
DETECTION_LEVELS = ("segment", "chapter")

_STATUS = {"completed": "SUCCESS", "failed": "FAILURE", "processing": "PROGRESS"}
_GROUPS: Mapping[str, Mapping[str, type]] = {
    "transcribe": {"language": str, "model": str, "detection_level": str},
    "vad": {"decode_silence": bool},
    "diarization": {"enabled": bool, "return_embedding": bool},
}


def is_spoken_by(request: Request) -> bool:
    """Whether a transcription call is one of this API."""
    return CLIENT_HEADER in request.headers or KEY_HEADER in request.headers


def problem(body: Any) -> str | None:
    """Return what is wrong with the body of a submit."""
    if not isinstance(body, dict) or not isinstance(body.get("file_url"), str):
        return "file_url is required."
    if unknown := body.keys() - {"file_url", "params"}:
        return f"There is no field {min(unknown)[:40]!r}."
    params = body.get("params", {})
    if not isinstance(params, dict):
        return "params must be an object."
    if not isinstance(params.get("hotwords", ""), str):
        return "hotwords must be one string with commas."
    if unknown := params.keys() - {*_GROUPS, "hotwords"}:
        return f"There is no parameter {min(unknown)[:40]!r}."
    for group, fields in _GROUPS.items():
        given = params.get(group, {})
        if not isinstance(given, dict):
            return f"{group} must be an object."
        for name, value in given.items():
            if name not in fields or not isinstance(value, fields[name]):
                return f"{group}.{name[:40]} is not known or of another type."
    transcribe = params.get("transcribe", {})
    if transcribe.get("model", MODELS[0]) not in MODELS:
        return "There is no such model."
    if transcribe.get("detection_level", DETECTION_LEVELS[0]) not in DETECTION_LEVELS:
        return "There is no such detection_level."
    return None


def order(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a submit asks for, as :meth:`plaud_provider.emulator.jobs.JobBook.add` takes it."""
    params = body.get("params", {})
    transcribe, diarization = params.get("transcribe", {}), params.get("diarization", {})
    language = transcribe.get("language", "auto")
    return {
        "audio_url": body["file_url"],
        "language": None if language == "auto" else language,
        "speaker_diarization": diarization.get("enabled", False),
        "embeddings": diarization.get("return_embedding", False),
    }


def accepted(transcription_id: str) -> dict[str, Any]:
    """Return the answer to a submit."""
    return {"transcription_id": transcription_id, "status": "PENDING", "data": {}}


def result(answer: Mapping[str, Any], *, embeddings: bool) -> dict[str, Any]:
    """
    Return the answer to a result call.

    :param answer: The same in the words of the API ``openapi``.
    :param embeddings: Whether voices were asked for as numbers.
    """
    status = str(answer.get("status"))
    head = {"transcription_id": answer.get("transcriptionId"), "status": _STATUS.get(status, status)}
    if status == "failed":
        error = answer.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        return {**head, "data": {}, "message": message}
    if status != "completed":
        return {**head, "data": {}}
    language = answer.get("language")
    results = [_segment(segment, language) for segment in answer.get("segments", [])]
    data = {
        "text": answer.get("text"),
        "language": language,
        "duration": answer.get("duration"),
        "results": results,
    }
    if embeddings:
        speakers = sorted({str(one["speaker_id"]) for one in results if "speaker_id" in one})
        data["embeddings"] = {speaker: _voice(speaker) for speaker in speakers}
    return {**head, "data": data}


def _segment(segment: Any, language: Any) -> Any:
    if not isinstance(segment, dict):
        return segment
    told = {("speaker_id" if name == "speaker" else name): value for name, value in segment.items()}
    return {**told, "language": language, "language_probability": 0.99}


def _voice(speaker: str) -> list[float]:
    """Return 256 numbers that are always the same for a name."""
    digest = hashlib.sha256(speaker.encode()).digest() * 8
    return [round(byte / 255, 4) for byte in digest]


def is_uploaded(request: Request) -> bool:
    """Whether a submit is of a recording in Plaud's own storage."""
    return f"//{request.headers.get('host', '')}{STORAGE_PREFIX}".encode() in request.body


def respelled(answer: Mapping[str, Any], word: str) -> dict[str, Any]:
    """Return an answer with one of the oddities of :class:`plaud_provider.emulator.faults.Respell`."""
    told = dict(answer)
    if word == "capitals" and isinstance(told.get("status"), str):
        told["status"] = told["status"].upper()
    if word == "no_times":
        told = _without(told, {"start", "end", "createdAt", "completedAt"})
    if word in ("speaker", "speaker_id"):
        told = _renamed(told, {"speaker", "speaker_id"}, word)
    if word == "task_id":
        known = told.pop("transcription_id", None) or told.pop("transcriptionId", None)
        data = told.get("data")
        told["data"] = {
            **(data if isinstance(data, dict) else {}),
            "task_id": known,
            "task_status": told.pop("status", None),
        }
    return told


def _without(value: Any, names: set[str]) -> Any:
    match value:
        case dict():
            return {name: _without(inner, names) for name, inner in value.items() if name not in names}
        case list():
            return [_without(inner, names) for inner in value]
    return value


def _renamed(value: Any, names: set[str], new: str) -> Any:
    match value:
        case dict():
            return {
                (new if name in names else name): _renamed(inner, names, new) for name, inner in value.items()
            }
        case list():
            return [_renamed(inner, names, new) for inner in value]
    return value
