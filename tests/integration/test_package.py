"""The wheel, built and looked into: one name in site-packages, the worker inside it, a clear word from the client alone."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder with what the wheel installs."""
    built, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = built.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def python(site, code):
    """Run *code* where the wheel is installed and this working tree is not."""
    libraries = sysconfig.get_path("purelib")  # on the path by hand: its .pth file would lead back to this working tree
    prelude = f"import sys; sys.path[:0] = [{str(site)!r}, {libraries!r}]; "
    return subprocess.run([sys.executable, "-I", "-S", "-c", prelude + code], capture_output=True, text=True, check=False)


def test_the_wheel_installs_no_name_but_its_own(site):
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"factorstream"}


def test_the_wheel_holds_every_module_and_the_licence(site):
    ours = {path.relative_to(ROOT / "worker") for path in (ROOT / "worker").rglob("*.py")}
    assert {
        path.relative_to(site / "factorstream" / "worker") for path in (site / "factorstream" / "worker").rglob("*.py")
    } == ours
    assert (site / "factorstream" / "py.typed").exists()
    assert len(list(site.rglob("LICENSE"))) == 1


def test_the_worker_is_imported_by_one_name(site):
    assert python(site, "import factorstream.worker; print(factorstream.worker.__file__)").stdout.startswith(str(site))
    assert "No module named 'worker'" in python(site, "import worker").stderr


def test_the_client_alone_says_what_to_install(site):
    done = python(site, "sys.modules['typer'] = None; from factorstream.console import main; main()")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "factorstream: this is the client alone (typer missing); for the commands: pip install 'factorstream[worker]'"
    ]
