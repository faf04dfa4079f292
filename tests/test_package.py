"""The package: what is in the wheel and the sdist, what imports what, and what an import costs."""

import ast
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, folder: Path = ROOT) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    ).stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist, built from a copy of the tracked files by the build backend itself."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    archive = subprocess.run(["tar", "-c", *tracked], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
    folder = tmp_path_factory.mktemp("dist")
    python(
        f"from setuptools import build_meta as b; b.build_wheel({str(folder)!r}); b.build_sdist({str(folder)!r})",
        source,
    )
    return folder


def test_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"torchvgg"}
    expected = {f"torchvgg/{path.name}" for path in ROOT.glob("torchvgg/*.*")}
    expected |= {f"torchvgg/convert/{path.name}" for path in ROOT.glob("convert/*.py")}
    assert names == expected
    assert {"torchvgg/py.typed", "torchvgg/imagenet_labels.txt", "torchvgg/convert/__main__.py"} <= names


def test_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    (wheel,) = built.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= {path.name for path in source.iterdir()}
    python(f"from setuptools import build_meta as b; b.build_wheel({str(tmp_path)!r})", source)
    (again,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def imports(path: Path, top_level_only: bool) -> set[str]:
    """The modules that a file imports, relative ones with their dots."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if top_level_only and (is_function or is_typing):
            skipped.update(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node not in skipped:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add("." * node.level + (node.module or ""))
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("convert/*.py")), ids=lambda path: path.name)
def test_convert_imports_nothing_of_torchvgg(path: Path) -> None:
    """But for the finished model, in the check; and nothing above its own folder, for it is a package of two names."""
    of_torchvgg = {name for name in imports(path, top_level_only=False) if name.startswith(("torchvgg", ".."))}
    assert of_torchvgg == ({"torchvgg.building"} if path.name == "check.py" else set())


@pytest.mark.parametrize("path", sorted(ROOT.glob("torchvgg/*.py")), ids=lambda path: path.name)
def test_torchvgg_imports_convert_only_inside_the_functions_that_need_it(path: Path) -> None:
    assert not {name for name in imports(path, top_level_only=True) if "convert" in name}
    if path.name not in ("__main__.py", "commands.py", "feature_files.py", "pictures.py", "weights.py"):
        assert not {name for name in imports(path, top_level_only=False) if "convert" in name}


HEAVY = ("h5py", "safetensors", "PIL", "keras", "tensorflow", "torchvgg.convert")


def heavy_modules(statement: str) -> set[str]:
    loaded = python(f"{statement}\nimport sys; print(*sys.modules)").split()
    return {name for name in loaded if name in HEAVY}


def test_import_is_light() -> None:
    statement = "import torchvgg; torchvgg.VGG16, torchvgg.load_model, torchvgg.preprocess_input, torchvgg.vgg16"
    assert heavy_modules(statement) == set()


def test_that_test_can_fail() -> None:
    assert heavy_modules("import h5py") == {"h5py"}


def test_import_costs_under_50_milliseconds() -> None:
    code = "import time, torch; t = time.perf_counter(); import torchvgg; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.05


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, convert.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    printed = python(code)
    assert printed.endswith("False")
    assert "python -m convert demo" in printed


def test_every_name_is_offered() -> None:
    names = python("import torchvgg; print([getattr(torchvgg, n).__name__ for n in torchvgg.__all__], dir(torchvgg))")
    assert "'load_image', 'load_model', 'optimize_for_inference', 'preprocess_input'" in names


def test_no_file_is_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in ROOT.glob("[tc]o*/*.py")}
    assert len(lengths) > 15
    assert max(lengths.values()) <= 400
