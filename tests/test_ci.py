"""The script that runs the tests for each change installs Chromium where it may, and never fails because of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
TOOLS = ("bash", "sh", "env", "dirname", "timeout")

pytestmark = pytest.mark.skipif(
    not SCRIPT.exists() or not all(map(shutil.which, TOOLS)),
    reason="needs .ci/run and the tools of a Linux system",
)


@pytest.fixture
def run(tmp_path):
    """Run the script with commands that only write their names and arguments to a log; return its lines."""

    def run(user=0, is_debian=True, apt_works=True, installed=()):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in TOOLS:
            (folder / name).symlink_to(shutil.which(name))
        log, commands = tmp_path / "log", {"id": f"echo {user}", "grep": f"exit {int(not is_debian)}"}
        commands |= {name: f'echo "{name} $*" >> {log}' for name in ("make", *installed)}
        commands["apt-get"] = f'echo "apt-get $*" >> {log}; exit {int(not apt_works)}'
        for name, command in commands.items():
            (folder / name).write_text(f"#!{shutil.which('sh')}\n{command}\n")
            (folder / name).chmod(0o755)
        bash = os.fspath(folder / "bash")
        result = subprocess.run([bash, SCRIPT], env={"PATH": str(folder)}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return log.read_text().splitlines(), result.stderr

    return run


def test_chromium_is_installed_on_debian_by_root(run):
    lines, _ = run()
    assert [line.split()[0] for line in lines] == ["apt-get", "apt-get", "make"]
    assert lines[0].endswith(" update") and lines[1].endswith(" install -y --no-install-recommends chromium")
    assert lines[2] == "make --no-print-directory test test-full test-oldest"


@pytest.mark.parametrize(
    "options",
    [{"installed": ["chromium"]}, {"user": 1000}, {"is_debian": False}],
    ids=["installed", "user", "other system"],
)
def test_nothing_is_installed_otherwise(run, options):
    lines, errors = run(**options)
    assert [line.split()[0] for line in lines] == ["make"] and errors == ""


def test_tests_run_if_the_installation_fails(run):
    lines, errors = run(apt_works=False)
    assert [line.split()[0] for line in lines] == ["apt-get", "make"]
    assert errors == "Chromium could not be installed\n"
