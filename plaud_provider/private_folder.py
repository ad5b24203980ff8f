"""
The folder in which the processes of a host share what is this user's alone: tokens, and the request budget.

It lies in ``AIRFLOW_HOME``, or in the system's temporary folder where that is not writable. Someone else's
folder, or one that others may write to, is not used.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

_NAME = "plaud_tokens"


class PrivateFolder:
    """
    A folder that only this user may write to, and files that only this user may read.

    :param path: Where it is; by default :func:`default_directory`. It is created if it is not there.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_directory()
        self._is_private = is_private(self.path)

    def check(self) -> None:
        """
        Refuse a folder that others may write to.

        :raises PermissionError: if it is one, or if it could not be created.
        """
        if not self._is_private:
            raise PermissionError(errno.EPERM, "not a folder that only this user may write to")

    def replace(self, path: Path, content: bytes) -> None:
        """
        Write a file of this folder whole, or not at all.

        :raises OSError: if that is not possible; the file is then as it was.
        """
        self.check()
        # mkstemp creates with mode 0600.
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{path.stem}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def default_directory() -> Path:
    """Return this user's folder, created and checked."""
    home = os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow")
    fallback = (
        Path(tempfile.gettempdir()) / f"plaud-provider-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    )
    for folder in (Path(home) / _NAME, fallback):
        if is_private(folder):
            return folder
    # Nothing suitable: whoever uses it says so.
    return Path(home) / _NAME


def is_private(folder: Path) -> bool:
    """Create a folder for this user alone; someone else's, or one that others may write to, is not used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or not os.access(folder, os.W_OK | os.X_OK):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
