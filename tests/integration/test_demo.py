"""The story that `truetape demo` tells, on servers of its own; and what stands there afterwards."""

import json
from pathlib import Path

from served import truetape

from conftest import passable


def test_what_the_demo_tells_is_so(tmp_path: Path) -> None:
    home = passable(tmp_path) / "home"
    done = truetape("demo", "--seconds", "2", "--json", TRUETAPE_HOME=str(home))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["missedTrades"] > 0
    assert (told["complete"], told["mismatches"]) == (True, 0)

    doctor = truetape("doctor", "--json", TRUETAPE_HOME=str(home / "story"))
    checks = {check["about"]: check for check in json.loads(doctor.stdout)}
    assert doctor.returncode == 0, checks
    assert "demo exchange" in checks["settings"]["says"]
    assert checks["source server"]["verdict"] == "good", "it is looked at like any other"


def test_a_demo_that_cannot_be_opened_is_told_beside_all_the_rest(tmp_path: Path) -> None:
    home = passable(tmp_path) / "home"
    (home / "demo" / "postgres-exchange" / "data").mkdir(parents=True)
    doctor = truetape("doctor", "--json", TRUETAPE_HOME=str(home))
    checks = {check["about"]: check for check in json.loads(doctor.stdout)}
    assert doctor.returncode == 3, checks
    assert checks["source server"]["verdict"] == "bad"
    assert checks["home"]["verdict"] == "good"
    assert not (home / "demo" / "postgres-analytics").exists(), "it makes nothing"
