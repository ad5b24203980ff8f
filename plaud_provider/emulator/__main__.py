"""Command line: ``python -m plaud_provider.emulator`` or ``plaud-emulator``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from plaud_provider.emulator.settings import APIS, ERROR_STYLES, REGIONS, Settings

DEFAULT_PORT = 8765
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DEFAULTS = Settings()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the emulator until SIGTERM or SIGINT, or sign a URL; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "sign":
        return _sign(options.url, options.path, options.expires)
    try:
        settings = _settings(options)
    except ValueError as error:
        parser.error(str(error))
    return _serve(settings, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plaud-emulator",
        description="A Plaud server for development and tests. Transcripts come from files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_server_options(parser)
    _add_behaviour_options(parser)
    _add_audio_options(parser)
    commands = parser.add_subparsers(dest="command", title="commands (without one: serve)", metavar="")
    sign = commands.add_parser(
        "sign", help="print a signed URL for a file in the store of a running emulator"
    )
    sign.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="where the emulator listens")
    sign.add_argument("--path", required=True, help="of the file, relative to the store's folder")
    sign.add_argument("--expires", type=int, default=3600, help="seconds for which the URL works")
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", default="127.0.0.1", help="address; the admin API is unauthenticated, so keep it local"
    )
    group.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for a free one")
    group.add_argument("--port-file", type=Path, metavar="FILE", help="write the port here once listening")
    group.add_argument("--quiet", action="store_true", help="no line per request")


def _add_behaviour_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("behaviour (seconds are emulated seconds)")
    group.add_argument("--client-id", default="demo-client", help="the one client")
    group.add_argument("--secret-key", default="demo-secret-key", help="its secret key")
    group.add_argument("--api-key", default="demo-api-key", help="its API key, for the API embedded")
    group.add_argument(
        "--api", choices=APIS, default="openapi", help="of the connection line; both are answered"
    )
    group.add_argument("--region", choices=REGIONS, default="us", help="informative only")
    _number(group, "--token-seconds", "life of an access token")
    _number(group, "--refresh-token-seconds", "life of a refresh token")
    group.add_argument("--keep-refresh-tokens", action="store_true", help="a used refresh token stays valid")
    _number(group, "--token-limit", "token requests a minute; 0 for no limit")
    _number(group, "--request-limit", "submit and result calls a minute; 0 for no limit")
    _number(group, "--processing-seconds", "how long a transcription takes at least")
    _number(group, "--processing-ratio", "how much longer per second of audio")
    _number(group, "--speed", "emulated seconds per real second; 0 stands still")
    group.add_argument(
        "--error-style", choices=ERROR_STYLES, default="object", help="shape of a failed one's error"
    )


def _add_audio_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recordings")
    group.add_argument(
        "--transcripts",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="recordings with transcripts beside them (NAME.wav and NAME.wav.json); may be repeated",
    )
    group.add_argument("--store", type=Path, metavar="DIR", help="serve the files below with signed URLs")
    group.add_argument("--store-key", metavar="KEY", help="key of those signatures; by default a new one")
    group.add_argument(
        "--no-fetch",
        dest="fetch_audio",
        action="store_false",
        help="do not download: any URL is a minute of audio",
    )
    _number(group, "--fetch-seconds", "real seconds that a download may take")
    _number(group, "--fetch-bytes", "bytes that a recording may have")


def _number(group: argparse._ArgumentGroup, option: str, text: str) -> None:
    default = getattr(_DEFAULTS, option.removeprefix("--").replace("-", "_"))
    group.add_argument(option, type=type(default), default=default, help=text)


def _settings(options: argparse.Namespace) -> Settings:
    chosen = {
        field.name: getattr(options, field.name) for field in fields(Settings) if hasattr(options, field.name)
    }
    chosen["transcripts"] = tuple(options.transcripts)
    return Settings(
        clients={options.client_id: options.secret_key},
        api_keys={options.client_id: options.api_key},
        **chosen,
    )


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    # Imported here: `sign` and `--help` need none of it.
    from plaud_provider.emulator.server import EmulatorServer

    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("plaud_provider.emulator").setLevel("WARNING" if options.quiet else "INFO")
    # Held back in every thread, and taken when waited for. A handler could be missed: a signal that comes
    # right before the main thread blocks does not wake it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        server = EmulatorServer(settings, host=options.host, port=options.port).start()
    except (ValueError, OSError) as error:
        print(f"plaud-emulator: {error}", file=sys.stderr)
        return 1
    try:
        _greet(server.url, server.airflow_connection, options.host)
        if options.port_file is not None:
            _write_port(options.port_file, server.port)
        signal.sigwait(_STOP_SIGNALS)
    finally:
        server.stop()
    return 0


def _greet(url: str, connection: str, host: str) -> None:
    print(f"Plaud emulator on {url}")
    print("Airflow connection to it:")
    print(f"  export AIRFLOW_CONN_PLAUD_DEFAULT={shlex.quote(connection)}")
    print(f"Admin API (unauthenticated): {url}/_emulator/docs")
    if host not in ("127.0.0.1", "::1", "localhost"):
        print(f"Note: listening on {host}; whoever reaches it can use the admin API.")
    sys.stdout.flush()


def _write_port(path: Path, port: int) -> None:
    """Write the port in one step: whoever waits for the file never reads half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(f"{port}\n")
    unfinished.replace(path)


def _sign(url: str, path: str, expires: int) -> int:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/_emulator/sign",
        data=json.dumps({"path": path, "expires": expires}).encode(),
        headers={"Content-Type": "application/json"},
    )
    # No proxy: the emulator is on this machine or near it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            print(json.load(response)["url"])
    except urllib.error.HTTPError as error:
        print(f"plaud-emulator: {error.read().decode(errors='replace')}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"plaud-emulator: no emulator answers at {url} ({error}).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
