"""What holds for every test: no Airflow home, connection, setting or proxy of whoever runs them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How fast an example is on a busy machine says nothing about it. The same examples each time: a change is not
# judged by luck. `--hypothesis-profile=explore` looks further.
settings.register_profile(
    "plaud", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("plaud"), derandomize=False, max_examples=2000)
settings.load_profile("plaud")

# Airflow reads its home when it is first imported, so this has to come before any test module does.
_HOME = tempfile.mkdtemp(prefix="plaud-tests-")
_FOREIGN = ("AIRFLOW_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")
for _name in list(os.environ):
    if _name.startswith(_FOREIGN) or _name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        del os.environ[_name]
os.environ["AIRFLOW_HOME"] = _HOME

# Who runs tests in the background (nohup, a shell's &) has us ignore these, and so would all that we start,
# whereas what we handle they take as usual.
for _signal in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda *_: None)


@pytest.fixture(autouse=True)
def _forget_masked_secrets() -> Iterator[None]:
    """Every token that a process masks makes its log lines slower; a test session sees thousands."""
    yield
    if "plaud_provider.auth.token_store" in sys.modules:
        from airflow.sdk._shared.secrets_masker import _secrets_masker

        from plaud_provider.auth import token_store

        _secrets_masker().reset_masker()
        token_store._MASKED.clear()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
