"""What an operator installs: the wheel, the image, the compose file, the systemd unit, the lines for cron.

There is no Docker engine here. The image's steps, its health check and its settings are held against the
installed wheel; the files for Docker are linted and resolved.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from served import free_port

from testbed.servers import PREFIXES
from truetape.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "truetape"
UV = Path(sys.executable).with_name("uv")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGE = DOCKERFILE.rpartition("\nFROM ")[2]
"""The last stage: what runs."""
EXAMPLE = ROOT / "examples" / "ponder-orderbook"
COMPOSE = ROOT / "compose.yaml"
UNIT = (ROOT / "deploy" / "systemd" / "truetape.service").read_text()
CRON = (ROOT / "deploy" / "cron" / "truetape").read_text()
INSTALL = (ROOT / "docs" / "install.md").read_text()
NOBODY = "postgresql://reader:hush@127.0.0.1:9/exchange"


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def done(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What a command says that must go well."""
    result = run(*command, env=env, cwd=cwd)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


def lacking(why: str) -> NoReturn:
    """A tool that a developer's machine may lack; one that says CI=true may not."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


# -- the wheel ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done(UV, "build", "--wheel", "--quiet", "-o", folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked versions of all that Truetape needs to run, as pip writes them."""
    path = tmp_path_factory.mktemp("locked") / "requirements.txt"
    export = ("export", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--quiet")
    done(UV, *export, "-o", path)
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, locked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, what it asks for, and nothing else."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    done(UV, "venv", "--quiet", "--python", sys.executable, venv)
    done(UV, "pip", "install", "--quiet", "--python", venv, "-c", locked, wheel)
    return venv / "bin"


def bare(home: Path, installed: Path, **settings: str) -> dict[str, str]:
    """The environment of somebody who has set nothing but this."""
    path = f"{installed}:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(home), "TRUETAPE_HOME": str(home)} | settings


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    ours = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE")]
    assert inside == ours
    assert licences
    kinds = {Path(name).suffix for name in inside}
    assert {".py", ".sql", ".html", ".js", ".mjs", ".css", ".svg", ".typed"} <= kinds


def test_the_wheel_installs_and_runs_in_an_empty_environment(
    installed: Path, tmp_path: Path
) -> None:
    program = installed / "truetape"
    env = bare(tmp_path, installed)
    help_text = done(program, "--help", env=env, cwd=tmp_path)
    assert "serve" in help_text and "verify" in help_text
    settings = json.loads(done(program, "config", "--json", env=env, cwd=tmp_path))
    assert {"name": "PORT", "value": "42091", "from": "default"} in settings
    wrong = run(program, "config", env=env | {"PORT": "http"}, cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.count("\n") == 1 and "PORT" in wrong.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was touched"


def test_what_is_installed_beside_it_is_what_the_lock_says(installed: Path, locked: Path) -> None:
    told = done(UV, "pip", "list", "--quiet", "--format", "json", "--python", installed / "python")
    found = {f"{row['name']}=={row['version']}" for row in json.loads(told)}
    pinned = set(re.findall(r"^[a-z0-9-]+==[^ ;\n]+", locked.read_text(), re.MULTILINE))
    assert len(found) > 30
    assert {name for name in found if not name.startswith("truetape==")} <= pinned


def test_the_installed_wheel_makes_its_schema_takes_in_trades_and_proves_it(
    installed: Path, source_url: str, empty_url: str, tmp_path: Path
) -> None:
    trade(source_url, 20)
    env = bare(
        tmp_path, installed, PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=empty_url
    )
    program = installed / "truetape"
    synced = json.loads(done(program, "sync", "--json", env=env, cwd=tmp_path))
    assert synced["processed"] == 20
    proof = json.loads(done(program, "verify", "--json", env=env, cwd=tmp_path))
    assert proof["complete"] and proof["tradesChecked"] == 20


def trade(source_url: str, count: int) -> None:
    """So many trades in the source, a second apart, until now."""
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO order_book_trades SELECT 't' || n, %s + n, 100, 1, '0xp', 'buy', '0x' || n "
            "FROM generate_series(1, %s) n",
            (int(time.time()) - count, count),
        )


# -- the image ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hadolint() -> str:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    return found or lacking("there is no hadolint")


@pytest.mark.parametrize("folder", [ROOT, EXAMPLE], ids=["truetape", "ponder-orderbook"])
def test_the_linter_finds_nothing_in_the_dockerfile(hadolint: str, folder: Path) -> None:
    done(hadolint, folder / "Dockerfile")


def test_the_image_is_built_by_the_same_uv_and_runs_as_nobody_special() -> None:
    uv = re.search(r"uv==[0-9.]+", (ROOT / "Makefile").read_text())
    assert uv is not None
    assert uv.group() in DOCKERFILE
    user = re.search(r"^USER ([0-9]+):([0-9]+)$", IMAGE, re.MULTILINE)
    assert user is not None
    assert int(user.group(1)) >= 1000
    assert f"useradd --uid {user.group(1)} " in IMAGE


def test_the_build_context_holds_what_is_copied_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = [line[1:] for line in lines if line.startswith("!")]
    for text in (DOCKERFILE, (EXAMPLE / "Dockerfile").read_text()):
        for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
            for name in copied.split():
                if not name.startswith("--"):
                    assert (ROOT / name).exists(), name
                    assert any(name.startswith(allowed) for allowed in let_in), name
    assert not any(allowed.startswith(".") for allowed in let_in)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_is_a_wheel_for_the_python_of_the_image(
    machine: str, locked: Path, tmp_path: Path
) -> None:
    """The image has no compiler."""
    version = re.search(r"^FROM python:(3\.[0-9]+)-slim-trixie$", DOCKERFILE, re.MULTILINE)
    assert version is not None
    done(
        UV, "pip", "install", "--dry-run", "--quiet", "--no-deps", "--only-binary", ":all:",
        "--python-version", version.group(1), "--python-platform", f"{machine}-manylinux_2_40",
        "--target", tmp_path / "image", "-r", locked,
    )  # fmt: skip


@contextmanager
def serving(installed: Path, log: Path, env: dict[str, str]) -> Iterator[None]:
    """``serve`` of the installed wheel, until its first answer."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [installed / "truetape", "serve"], env=env, cwd=log.parent, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + 120
        while run(*health_check(installed), env=env).returncode != 0:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


def health_check(installed: Path) -> list[str]:
    """What Docker runs to see whether the service is well, with the Python of the wheel."""
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (.*)$", IMAGE, re.MULTILINE)
    assert found is not None
    command: list[str] = json.loads(found.group(1))
    assert command[0] == "python"
    return [str(installed / "python"), *command[1:]]


def test_the_health_check_of_the_image_is_good_exactly_while_the_service_answers(
    installed: Path, source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    env = bare(
        tmp_path, installed, PORT=str(free_port()),
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
    )  # fmt: skip
    assert run(*health_check(installed), env=env).returncode != 0
    with serving(installed, tmp_path / "serve.log", env):
        assert run(*health_check(installed), env=env).returncode == 0
        here = f"http://127.0.0.1:{env['PORT']}"
        for path, words in (("/", "<!doctype html>"), ("/metrics", "truetape_up 1.0")):
            asked = f"import urllib.request as u; print(u.urlopen('{here}{path}').read().decode())"
            assert words in done(installed / "python", "-c", asked, env=env)
    assert run(*health_check(installed), env=env).returncode != 0


def test_the_image_does_not_start_without_a_token(installed: Path, tmp_path: Path) -> None:
    host = re.search(r"\bHOST=(\S+)", IMAGE)
    assert host is not None
    env = bare(tmp_path, installed, HOST=host.group(1), PONDER_DATABASE_URL=NOBODY)
    refused = run(installed / "truetape", "serve", env=env, cwd=tmp_path)
    assert refused.returncode == 2
    assert "TRUETAPE_API_TOKEN" in refused.stderr


# -- compose -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """Docker Compose: that of this machine, or else Debian's, which needs no engine to read a file."""
    if shutil.which("docker") and run("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    prefix = PREFIXES / "trixie-docker-compose"
    made = run(ROOT / "testbed" / "debian.sh", prefix, "trixie", "docker-compose")
    if made.returncode != 0:
        lacking(f"there is no Docker Compose, and none to be had: {made.stderr.strip()}")
    return [str(prefix / "bin" / "docker-compose")]


SECRETS = re.findall(r"\$\{([A-Z_]+):\?", COMPOSE.read_text())


def resolve(
    compose: list[str], given: dict[str, str], tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """The file as Compose understands it, whatever .env stands beside it here."""
    nothing = tmp_path / "no.env"
    nothing.touch()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | given
    read = ("--env-file", nothing, "-f", COMPOSE, "config", "--format", "json")
    return run(*compose, *read, env=env)


@pytest.fixture
def resolved(compose: list[str], tmp_path: Path) -> dict[str, Any]:
    made = resolve(compose, {name: f"hush{name.lower()}" for name in SECRETS}, tmp_path)
    assert made.returncode == 0, made.stderr
    return dict(json.loads(made.stdout))


def test_the_compose_file_resolves_and_has_the_services(resolved: dict[str, Any]) -> None:
    assert set(resolved["services"]) == {"truetape", "timescaledb", "redis", "ponder", "ponder-db"}


@pytest.mark.parametrize("name", sorted(set(SECRETS)))
def test_compose_refuses_to_start_without_a_secret(
    compose: list[str], name: str, tmp_path: Path
) -> None:
    others = {other: "hush" for other in SECRETS if other != name}
    refused = resolve(compose, others, tmp_path)
    assert refused.returncode != 0
    assert name in refused.stderr


def test_the_document_makes_exactly_the_secrets_that_compose_asks_for() -> None:
    made = re.search(r"for name in ([A-Z_ ]+); do", INSTALL)
    assert made is not None
    assert set(made.group(1).split()) == set(SECRETS)


def test_only_truetape_can_be_reached_and_only_from_this_machine(resolved: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in resolved["services"].items()}
    assert [name for name, published in ports.items() if published] == ["truetape"]
    assert [port["host_ip"] for port in ports["truetape"]] == ["127.0.0.1"]
    assert not any("network_mode" in service for service in resolved["services"].values())


def test_each_service_has_a_health_check_a_pinned_image_and_no_privilege(
    resolved: dict[str, Any],
) -> None:
    for name, service in resolved["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged") and not service.get("cap_add"), name
        assert service["restart"] == ("no" if name == "ponder" else "unless-stopped"), name
        if build := service.get("build"):
            built = Path(build["context"]) / build["dockerfile"]
            assert "\nHEALTHCHECK " in built.read_text(), name
            assert service["cap_drop"] == ["ALL"], name
        else:
            assert service["healthcheck"]["test"], name
            assert re.search(r":[0-9]+[0-9.]*-\w+$", service["image"]), name
    assert resolved["services"]["truetape"]["read_only"] is True


def test_each_service_waits_until_what_it_needs_is_well(resolved: dict[str, Any]) -> None:
    waits = {
        name: {n: need["condition"] for n, need in service.get("depends_on", {}).items()}
        for name, service in resolved["services"].items()
    }
    well = "service_healthy"
    assert waits["truetape"] == {"ponder": well, "redis": well, "timescaledb": well}
    assert waits["ponder"] == {"ponder-db": well}


def test_what_must_last_is_in_a_named_volume(resolved: dict[str, Any]) -> None:
    mounted = {
        mount["source"]: mount["target"]
        for service in resolved["services"].values()
        for mount in service.get("volumes", [])
    }
    assert set(mounted) == set(resolved["volumes"])
    home = re.search(r"^VOLUME (\S+)$", IMAGE, re.MULTILINE)
    assert home is not None
    assert mounted["truetape"] == home.group(1)


def test_the_settings_of_compose_are_good_ones(
    resolved: dict[str, Any], installed: Path, tmp_path: Path
) -> None:
    given = resolved["services"]["truetape"]["environment"]
    env = bare(tmp_path, installed, **given)
    shown = json.loads(done(installed / "truetape", "config", "--json", env=env, cwd=tmp_path))
    assert {row["name"] for row in shown if row["from"] == "environment"} >= set(given)
    assert "hush" not in str(shown)


def test_the_role_of_compose_reads_what_ponder_will_make_and_writes_nothing(
    resolved: dict[str, Any], source_url: str
) -> None:
    role = f"truetape_{secrets.token_hex(4)}"  # roles are the whole server's
    statements = resolved["configs"]["reader"]["content"].replace("truetape", role)
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(statements)
        try:
            conn.execute("CREATE SCHEMA order_book")
            conn.execute("CREATE VIEW order_book.order_book_trades AS TABLE order_book_trades")
            trade(source_url, 3)
            conn.execute(f"SET ROLE {role}".encode())
            read = conn.execute("SELECT count(*) FROM order_book.order_book_trades").fetchone()
            assert read == (3,)
            for write in ("DELETE FROM order_book_trades", "CREATE TABLE order_book.mine ()"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(write.encode())
        finally:
            conn.execute("RESET ROLE")
            conn.execute(f"DROP ROLE {role}".encode())


# -- systemd -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def systemd_analyze() -> str:
    """systemd's own checker; it needs no systemd that runs."""
    if found := shutil.which("systemd-analyze"):
        return found
    if os.getuid() != 0 or not shutil.which("apt-get"):
        lacking("there is no systemd-analyze")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done("apt-get", "-qq", "update", env=quiet)
    done("apt-get", "-qq", "install", "--yes", "--no-install-recommends", "systemd", env=quiet)
    return "/usr/bin/systemd-analyze"


@pytest.fixture
def unit(installed: Path, tmp_path: Path) -> Path:
    """The unit, with the program where it is here."""
    made = tmp_path / "truetape.service"
    assert "ExecStart=/opt/truetape/bin/truetape serve\n" in UNIT
    made.write_text(UNIT.replace("/opt/truetape/bin", str(installed)))
    return made


def test_systemd_takes_the_unit(systemd_analyze: str, unit: Path) -> None:
    result = run(systemd_analyze, "verify", "--man=no", unit)
    assert result.returncode == 0, result.stderr
    assert "truetape.service" not in result.stderr, "not even a warning"


def test_systemd_finds_the_unit_well_shut_in(systemd_analyze: str, unit: Path) -> None:
    """Exposure of 2.0 or less, of 10: what a service with a network can have."""
    done(
        systemd_analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit,
        env=os.environ | {"SYSTEMD_PAGER": "cat"},
    )  # fmt: skip


# -- cron --------------------------------------------------------------------------------------

LINE = re.compile(r"#?((?:[0-9*/,-]+ ){4}[0-9*/,-]+)  (\w+)  (.+)")
LINES = [line for line in CRON.splitlines() if re.match(r"#?[0-9*]", line)]


def verb(line: str) -> str:
    parts = LINE.fullmatch(line)
    assert parts is not None, line
    verbs: list[str] = re.findall(r"\btruetape (\w+)", parts.group(3))
    return verbs[-1]


def cron(line: str, installed: Path, folder: Path, **settings: str) -> str:
    """What a line prints, run as cron runs it, with its folders below this one."""
    (folder / "etc").mkdir()
    (folder / "home").mkdir()
    values = "".join(f"{name}='{value}'\n" for name, value in settings.items())
    (folder / "etc" / "truetape.env").write_text(values)
    parts = LINE.fullmatch(line)
    assert parts is not None, line
    command = parts.group(3).replace("/etc/truetape", str(folder / "etc"))
    command = command.replace("/var/lib/truetape", str(folder / "home"))
    env = bare(folder / "home", installed)
    result = run("/bin/sh", "-c", command, env=env, cwd=folder)
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("line", LINES, ids=verb)
def test_a_line_for_cron_has_a_time_a_user_and_a_verb_that_there_is(
    line: str, installed: Path, tmp_path: Path
) -> None:
    parts = LINE.fullmatch(line)
    assert parts is not None
    assert len(parts.group(1).split()) == 5
    assert f"User={parts.group(2)}\n" in UNIT
    assert "%" not in parts.group(3), "cron takes it for the end of the line"
    done(installed / "truetape", verb(line), "--help", env=bare(tmp_path, installed))


def test_cron_verifies_looks_at_health_and_can_sync() -> None:
    assert [verb(line) for line in LINES] == ["verify", "health", "sync"]
    assert [verb(line) for line in LINES if line.startswith("#")] == ["sync"], (
        "only if it is wanted"
    )
    assert CRON.endswith("\n"), "cron leaves out a last line that has no end"


@pytest.mark.parametrize("line", LINES, ids=verb)
def test_a_line_for_cron_says_what_is_wrong(line: str, installed: Path, tmp_path: Path) -> None:
    if "flock" in line and not shutil.which("flock"):
        lacking("there is no flock")
    settings = {"PONDER_DATABASE_URL": NOBODY, "ANALYTICS_DATABASE_URL": NOBODY}
    said = cron(line, installed, tmp_path, **settings)
    assert "127.0.0.1:9/exchange" in said
    assert "hush" not in said


@pytest.mark.parametrize("line", LINES, ids=verb)
def test_a_line_for_cron_is_silent_while_all_is_well(
    line: str, installed: Path, source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    if "flock" in line and not shutil.which("flock"):
        lacking("there is no flock")
    trade(source_url, 5)
    settings = {"PONDER_DATABASE_URL": source_url, "ANALYTICS_DATABASE_URL": analytics_url}
    env = bare(tmp_path, installed, **settings)
    done(installed / "truetape", "sync", env=env, cwd=tmp_path)
    assert cron(line, installed, tmp_path, **settings) == ""


# -- all of them -------------------------------------------------------------------------------


def test_every_setting_named_is_one_that_there_is() -> None:
    known = {row["name"] for row in Settings.load().shown()}
    image = re.findall(r"^(?:ENV| {3}) +(\w+)=", IMAGE, re.MULTILINE)
    unit = re.findall(r"^Environment=(\w+)=", UNIT, re.MULTILINE)
    cron = re.findall(r"^(\w+)=", CRON, re.MULTILINE)
    service = COMPOSE.read_text().partition("\n  truetape:\n")[2].partition("\n\n")[0]
    composed = re.findall(r"^ {6}([A-Z_]+): ", service, re.MULTILINE)
    document = re.findall(r"^([A-Z_]+)='", INSTALL, re.MULTILINE)
    assert set(image) - {"PATH", "HOME"} <= known
    assert set(unit) <= known
    assert set(cron) - {"SHELL", "PATH", "MAILTO"} <= known
    assert set(composed) <= known
    assert set(document) <= known
    assert all((image, unit, cron, composed, document))


def test_all_keep_embedded_servers_in_the_same_place() -> None:
    home = "TRUETAPE_HOME=/var/lib/truetape\n"
    assert home in CRON
    assert f"Environment={home}" in UNIT
    assert "TRUETAPE_HOME=/var/lib/truetape " in IMAGE


def test_every_file_that_the_document_names_is_there() -> None:
    named = re.findall(r"\b(?:deploy|examples|docs|tests)/[\w./-]*\w", INSTALL)
    assert len(named) >= 3
    for name in named:
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", INSTALL):
        assert (ROOT / "docs" / target).exists(), target
