"""The wheel holds everything, and the declared packages are the folders that there are."""

import ast
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_PACKAGES = {"tests", "docs", "examples", "build", "dist", "runs", "models", "data"}


def package_folders() -> set[str]:
    """Top-level folders with Python modules in them."""
    visible = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return {path.name for path in visible if path.name not in NOT_PACKAGES and any(path.glob("*.py"))}


def packages() -> set[str]:
    """Every folder below a package folder that has Python modules, dotted."""
    modules = [path for name in package_folders() for path in (ROOT / name).rglob("*.py")]
    return {".".join(("prolong", *path.parent.relative_to(ROOT).parts)) for path in modules}


def test_pyproject_lists_exactly_the_packages_of_the_tree() -> None:
    tools = PROJECT["tool"]["setuptools"]
    assert set(tools["packages"]) == packages(), "an unlisted package is missing from the wheel"
    assert tools["package-dir"] == {f"prolong.{name}": name for name in package_folders()}
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == {f"prolong.{name}" for name in package_folders()}
    assert set(PROJECT["tool"]["pyright"]["include"]) >= {*package_folders(), "tests", "examples"}


def test_editors_and_pyright_see_the_folders_under_their_installed_names() -> None:
    links = {path.name: path.resolve() for path in (ROOT / "typings" / "prolong").iterdir()}
    assert links == {name: ROOT / name for name in package_folders()}


def test_every_package_says_what_lives_there() -> None:
    for name in packages():
        init = ROOT.joinpath(*name.split(".")[1:], "__init__.py")
        tree = ast.parse(init.read_text())
        assert ast.get_docstring(tree), f"{init} has no docstring"
        assert len(tree.body) == 1, f"{init}: a docstring and no re-exports"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the tree stays clean, with the installed setuptools, so that no network is needed."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in package_folders():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=copy, check=True, timeout=120)
    return next(out.glob("*.whl"))


def test_the_wheel_contains_every_module_and_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"prolong/{path.relative_to(ROOT)}" for name in package_folders() for path in (ROOT / name).rglob("*.py")}
    conf = ROOT / "launch" / "conf"
    expected |= {f"prolong/{path.relative_to(ROOT)}" for path in conf.rglob("*") if path.is_file()}
    expected |= {f"prolong/{name}/py.typed" for name in package_folders()}  # checkers read the types of what has this file
    assert expected - names == set()
    assert not [name for name in names if name.startswith(("actor/", "common/", "tests/", "prolong/__init__"))]


def test_the_wheel_works_in_an_environment_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """The environment holds the wheel alone; the dependencies are lent to it, without the links of the editable install."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True, timeout=120)
    (packages_folder,) = (venv / "lib").glob("python*/site-packages")
    # the .pth files of a folder that is named by a .pth file are not read: not those of the editable install either
    (packages_folder / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])

    def run(*command: str) -> str:
        program = [venv / "bin" / command[0], *command[1:]]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    where = run("python", "-c", "import prolong.common.types as module; print(module.__file__)")
    assert Path(where.strip()).is_relative_to(venv)
    assert "prolong COMMAND" in run("prolong", "--help")
    assert "python" in run("prolong", "doctor").lower()
    run("prolong", "bootstrap", "--out", "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 0


def locked_versions(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def wanted_names(*extras: str) -> set[str]:
    """Of the packages that the project and these extras ask for."""
    wanted = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        wanted += PROJECT["project"]["optional-dependencies"][extra]
    return {requirement.split("=")[0].split(">")[0].strip().lower() for requirement in wanted}


def test_the_lock_pins_every_dependency() -> None:
    locked = locked_versions("requirements-cpu.lock")
    assert wanted_names("cpu", "dev") - set(locked) == set()
    assert locked["torch"].endswith("+cpu")
    assert not {"torchvision", "torchaudio", "torchcodec", "triton", "opencv-python-headless"} & set(locked)


def test_the_lock_for_gpus_pins_every_dependency_at_the_tested_versions_where_vllm_allows_it() -> None:
    locked, tested = locked_versions("requirements-gpu.lock"), locked_versions("requirements-cpu.lock")
    assert wanted_names("gpu", "dev") | {"uv", "wheel", "setuptools", "triton"} <= set(locked)
    assert f"vllm=={locked['vllm']}" in PROJECT["project"]["optional-dependencies"]["gpu"]
    assert "+" not in locked["torch"], "the build for CUDA has no local version"
    assert not {name for name in locked if name.startswith("vllm-")}
    loose = {name for name in locked.keys() & tested.keys() if locked[name] != tested[name]}
    assert loose <= {"torch", "transformers", "setuptools", "certifi"} | wanted_by_vllm(), sorted(loose)


def wanted_by_vllm() -> set[str]:
    """The packages below the lock's second title."""
    text = (ROOT / "requirements-gpu.lock").read_text()
    return {line.partition("==")[0] for line in text.partition("# vLLM")[2].splitlines()}


def test_the_first_part_of_the_lock_for_gpus_is_enough_for_learner_and_tests() -> None:
    """`make test-gpu-set` installs it: 4 GB less than with vLLM."""
    first = set(locked_versions("requirements-gpu.lock")) - wanted_by_vllm()
    assert wanted_names("dev") | {"uv", "wheel", "nvidia-nccl-cu13"} <= first
    assert "vllm" not in first
