"""The life of an embedded server: started or joined, counted by its users, stopped by the last.

A server is a process of its own. It outlives a user that was killed, and the next one joins it.
"""

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import platformdirs

from truetape.errors import TruetapeError

START_SECONDS = 60.0
STOP_SECONDS = 10.0
LOG_TAIL_LINES = 5
LOG_LIMIT_BYTES = 10_000_000


class EmbeddedError(TruetapeError):
    """An embedded server cannot be had; the sentence says why and what to do."""

    exit_code = 3


def default_home() -> Path:
    """Where embedded servers keep their data unless TRUETAPE_HOME says otherwise.

    As root the servers run as another user, who cannot reach a private home of root's.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/truetape")
    return Path(platformdirs.user_data_path("truetape"))


def server_user() -> pwd.struct_passwd | None:
    """Whom a server runs as when we are root, since PostgreSQL refuses to run as root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def as_server_user() -> dict[str, Any]:
    """Arguments of ``subprocess`` that drop root's rights."""
    user = server_user()
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def unreachable_parent(path: Path) -> Path | None:
    """The first folder on the way to ``path`` that the server's user may not pass."""
    if server_user() is None:
        return None
    for folder in reversed(path.resolve().parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def reachable_binaries(tree: Path, home: Path, name: str) -> Path:
    """``tree``, or a copy of it below ``home`` where the server's user may not reach it."""
    if unreachable_parent(tree) is None:
        return tree
    copy = home / name
    if not copy.exists():
        beside = home / f"{name}.new-{os.getpid()}"
        shutil.copytree(tree, beside, symlinks=True)
        with suppress(OSError):  # another process was faster
            beside.rename(copy)
        shutil.rmtree(beside, ignore_errors=True)
    return copy


def free_port(preferred: int | None) -> int:
    """The preferred port if nobody listens there, else any."""
    for port in (preferred or 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise EmbeddedError("No free port on 127.0.0.1 is to be had.")


class EmbeddedServer(ABC):
    """A server whose data lives below ``directory``. Use it as a context manager."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._users: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # -- what each server brings ---------------------------------------------------------------

    @abstractmethod
    def _command(self, port: int) -> list[str]: ...

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the data ready for a start; never deletes any."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server takes connections, with our password."""

    @abstractmethod
    def _pid(self) -> int | None:
        """The process that serves our data, as far as is known."""

    @abstractmethod
    def _url(self) -> str: ...

    # -- using it ------------------------------------------------------------------------------

    def acquire(self) -> str:
        """Starts the server or joins it; its URL."""
        if self._users is not None:
            return self._url()
        self._make_directory()
        with self._mutex():
            if not self._answers():
                self._prepare()
                self._start()
            users = (self.directory / "users.lock").open("a")
            fcntl.flock(users, fcntl.LOCK_SH)
            self._users = users
        return self._url()

    def release(self) -> None:
        """Leaves; the last user stops the server."""
        if self._users is None:
            return
        users, self._users = self._users, None
        with self._mutex(), users, suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._stop()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    # -- inside --------------------------------------------------------------------------------

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Passable for the server's user, readable for nobody but us.
            self.directory.chmod(0o711 if server_user() else 0o700)
        except OSError as error:
            raise EmbeddedError(
                f"{self.directory} cannot be made ({error.strerror}); set TRUETAPE_HOME to a folder that can."
            ) from error
        if (blocked := unreachable_parent(self.directory / "data")) is not None:
            raise EmbeddedError(
                f"{self.name} runs as user {pwd.getpwnam('nobody').pw_name!r} when started by root, "
                f"who may not pass {blocked}; set TRUETAPE_HOME to a folder elsewhere."
            )

    def _mutex(self) -> IO[str]:
        """Nobody else starts or stops this server while the file is open."""
        lock = (self.directory / "start.lock").open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    @property
    def port(self) -> int | None:
        try:
            return int((self.directory / "port").read_text())
        except (OSError, ValueError):
            return None

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _start(self) -> None:
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        deadline = time.monotonic() + START_SECONDS
        while True:
            if (before := self._pid()) is not None:
                self._runs(before)
            port = free_port(self.port)
            (self.directory / "port").write_text(str(port))
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, cwd="/", **as_server_user(),
                )  # fmt: skip
            if self._wait_until_it_answers(deadline):
                return
            # After a kill -9 the old server's children and lock file linger for a moment.
            if time.monotonic() > deadline - START_SECONDS + 8:
                raise EmbeddedError(
                    f"{self.name} in {self.directory} does not start: {self._tail()}"
                )
            time.sleep(0.3)

    def _wait_until_it_answers(self, deadline: float) -> bool:
        assert self._process is not None
        while self._process.poll() is None:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
                raise EmbeddedError(
                    f"{self.name} in {self.directory} did not answer within {START_SECONDS:.0f} s: {self._tail()}"
                )
            time.sleep(0.02)
        return False

    def _tail(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(lines[-LOG_TAIL_LINES:]) or "its log is empty"

    def _stop(self) -> None:
        for number, patience in (
            (signal.SIGINT, STOP_SECONDS),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            pid = self._pid()
            if pid is None or not self._runs(pid):
                return
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if not self._runs(pid):
                    return
                time.sleep(0.02)

    def _runs(self, pid: int) -> bool:
        """Whether a process lives; a dead child of ours is taken note of, or it would seem to."""
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
