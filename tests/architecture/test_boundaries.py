"""What the structure promises, held by tests: names, doors, dependencies."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("daemon", "engine", "training")


@pytest.mark.parametrize("name", OURS)
def test_nobody_else_owns_our_names(name: str) -> None:
    owners = set(packages_distributions().get(name, []))
    assert owners <= {"vigie"}, f"{owners} also install `{name}`; uninstall them from this environment"


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ["engine", "training"])
def test_a_gpu_machine_can_import_it_without_the_daemons_libraries(package: str) -> None:
    """The machines that train have no rasterio, kafka, sqlalchemy; ONNX Runtime may be missing as well."""
    code = f"""
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {{'rasterio', 'kafka', 'sqlalchemy', 'alembic', 'onnxruntime', 'pystac_client'}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import {package}
for module in pkgutil.walk_packages({package}.__path__, '{package}.'):
    if not module.name.startswith(('engine.raster', 'engine.runners.onnxruntime')):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_gpu_check_needs_nothing_that_a_gpu_machine_may_lack() -> None:
    """Such a machine has torch, onnx, numpy and safetensors; no library of the daemon, no TensorRT at import."""
    code = """
import sys
lacking = (
    'rasterio kafka sqlalchemy alembic pystac_client onnxruntime tensorrt tensorrt_bindings shapely pyproj pydantic '
    'structlog typer rich psycopg yaml jsonschema pytest'
).split()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in lacking:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import engine.runners.plans, engine.runners.torch, engine.runners.tensorrt, tests.gpu.__main__
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_package_is_listed_for_the_wheel() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in OURS
        for path in (ROOT / name).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert found == listed


def test_training_joins_the_command_line_by_entry_points() -> None:
    assert {"train", "export"} <= {entry.name for entry in entry_points(group="vigie.commands")}


def test_no_pickles_and_no_registry_hosts_in_the_project() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is no git checkout")
    names = tracked.stdout.split()
    assert not [name for name in names if name.endswith((".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".onnx"))]
    weights = [ROOT / name for name in names if name.endswith(".safetensors")]
    assert all(path.stat().st_size <= 16 * 2**20 for path in weights)
    assert sum(path.stat().st_size for path in weights) <= 40 * 2**20
    hosts = (
        "pypi" + ".org",
        "pytorch" + ".org",
        "pythonhosted" + ".org",
        "maven" + ".org",
        "npmjs" + ".org",
        "index" + "-url",
    )
    texts = [name for name in names if not name.endswith((".safetensors", ".png"))]
    named = [name for name in texts for host in hosts if host in (ROOT / name).read_text(encoding="utf-8")]
    assert not named
