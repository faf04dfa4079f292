"""The package: what is in the wheel and the sdist, what imports what, and what an import costs."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# Module name → file. The folder convert/ is the package torchvgg.convert; the link torchvgg/convert is left out.
def modules_in(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted((*root.glob("torchvgg/**/*.py"), *root.glob("convert/**/*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[:2] != ("torchvgg", "convert"):
            name = ".".join(("torchvgg", *parts) if parts[0] == "convert" else parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules_in(ROOT)
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]
CONVERT = "torchvgg.convert"
MEETS_TORCHVGG = (CONVERT, f"{CONVERT}.check")  # may load a finished model, to check it


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
    expected = {f"{name.replace('.', '/')}{'/__init__' if name in PACKAGES else ''}.py" for name in MODULES}
    data = {path for path in ROOT.glob("torchvgg/**/*.*") if path.suffix in (".txt", ".cpp", ".typed")}
    assert names == expected | {path.relative_to(ROOT).as_posix() for path in data}


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


def test_a_checkout_without_symbolic_links(tmp_path: Path) -> None:
    """The link torchvgg/convert is a text there, as Git writes it on Windows."""
    shutil.copytree(ROOT / "convert", tmp_path / "convert")
    shutil.copytree(ROOT / "torchvgg", tmp_path / "torchvgg", ignore=shutil.ignore_patterns("convert"))
    (tmp_path / "torchvgg" / "convert").write_text("../convert", "ascii")
    code = f"""
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in finder.__module__]  # of this checkout
sys.argv[1:] = [{str(ROOT / "tests/data/keras2/trained.h5")!r}, "-o", "out.safetensors", "-q"]
try:
    runpy.run_module("convert", run_name="__main__")
except SystemExit as end:
    print(end.code, sys.modules["torchvgg.convert.errors"].__file__)
"""
    assert python(code, tmp_path) == f"0 {tmp_path}/convert/errors.py"
    assert (tmp_path / "out.safetensors").exists()


def in_convert(name: str) -> bool:
    return f"{name}.".startswith(f"{CONVERT}.")


def imports(name: str, modules: dict[str, Path], top_level_only: bool = False) -> set[str]:
    """The modules that a module imports; by default also those imported in functions or for types only."""
    tree = ast.parse(modules[name].read_text("utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if top_level_only and (is_typing or isinstance(node, ast.FunctionDef)):
            skipped.update(ast.walk(node))
    package = name.split(".") if modules[name].name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if node not in skipped:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                outer = package[: len(package) + 1 - node.level] if node.level else []
                base = ".".join(outer + ([node.module] if node.module else []))
                inside = [f"{base}.{alias.name}" for alias in node.names]
                found |= {module if module in modules else base for module in inside}
    return found


def import_graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Each module's imports within its package, torchvgg or torchvgg.convert."""
    return {
        name: {other for other in imports(name, modules) & modules.keys() if in_convert(other) == in_convert(name)}
        for name in modules
    }


@cache
def own_graph() -> dict[str, set[str]]:
    return import_graph(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if in_convert(name)])
def test_convert_imports_nothing_of_torchvgg(name: str) -> None:
    ours = {other for other in imports(name, MODULES) if other.split(".")[0] in ("torchvgg", "convert")}
    outside = {other for other in ours if not in_convert(other)}
    assert outside <= ({"torchvgg.loading"} if name in MEETS_TORCHVGG else set())
    assert not outside & imports(name, MODULES, top_level_only=True)


@pytest.mark.parametrize("name", [name for name in MODULES if not in_convert(name)])
def test_torchvgg_imports_convert_only_inside_functions(name: str) -> None:
    assert not {other for other in imports(name, MODULES, top_level_only=True) if in_convert(other)}


def test_no_imports_run_in_a_circle() -> None:
    TopologicalSorter(own_graph()).prepare()


@pytest.mark.parametrize(
    "back",
    [
        "from . import a",
        "from .. import pack",
        "import torchvgg.pack.a",
        "def f():\n    from ..pack.a import x",
        "if TYPE_CHECKING:\n    from .a import A",
    ],
)
def test_a_circle_is_found(back: str, tmp_path: Path) -> None:
    folder = tmp_path / "torchvgg" / "pack"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .a import A")
    (folder / "a.py").write_text("from .b import B")
    (folder / "b.py").write_text(back)
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(modules_in(tmp_path))).prepare()


# From the ground up: a module imports only from its own room and those below. A folder is a room; "*" is what isn't named.
ROOMS = {
    "torchvgg": (
        "activations optional_imports imagenet",
        "layers",
        "summary model",
        "weights",
        "vgg",
        "vgg16 vgg19",
        "dense_evaluation",
        "image_limits image_files predicting gradcam plots",
        "loading",
        "inference",
        "extraction",
        "labelled_images evaluation",
        "commands",
        "*",
    ),
    CONVERT: (
        "vgg_blocks errors array layout options version progress atomic_files download published",
        "read",
        "network",
        "check",
        "write",
        "*",
    ),
}


def floor(name: str) -> int:
    package = CONVERT if in_convert(name) else "torchvgg"
    room = name.removeprefix(package).lstrip(".").split(".")[0]
    floors = [rooms.split() for rooms in ROOMS[package]]
    return next((number for number, rooms in enumerate(floors) if room in rooms), len(floors) - 1)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name: str) -> None:
    assert {other for other in own_graph()[name] if floor(other) > floor(name)} == set()


@pytest.mark.parametrize("name", MODULES)
def test_every_text_file_has_an_encoding(name: str) -> None:
    """Else it is the system's, on Windows another one in each country."""
    for call in (node for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))) if isinstance(node, ast.Call)):
        function, keywords = ast.unparse(call.func), {keyword.arg for keyword in call.keywords}
        mode = next((ast.unparse(argument) for argument in call.args[1:2]), "")
        is_text = (function == "open" and "b" not in mode) or "text" in keywords
        is_text |= function.endswith(".read_text") and not call.args
        is_text |= function.endswith(".write_text") and len(call.args) < 2
        assert not is_text or "encoding" in keywords, ast.unparse(call)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_docstring_of_a_package_names_its_modules(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text("utf-8"))) or ""
    inside = {other.rpartition(".")[2] for other in MODULES if other.rpartition(".")[0] == name} - {"__main__"}
    assert {module for module in inside if not re.search(rf"\b{module}\b", docstring)} == set()


SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


@pytest.mark.parametrize("requirement", SETUP["options"]["install_requires"].split())
def test_the_oldest_version_is_named(requirement: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+>=[\d.]+", requirement)


def test_the_same_versions_everywhere() -> None:
    """setup.cfg, the README and the jobs name the same oldest PyTorch, and the same oldest and newest Python."""
    (torch,) = re.findall(r"torch>=(.*)", SETUP["options"]["install_requires"])
    assert f"Any PyTorch from {torch} on" in (ROOT / "README.md").read_text("utf-8")
    pythons = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert SETUP["options"]["python_requires"] == f">={pythons[0]}"
    for jobs in re.findall(r"python: (\[.*\])", (ROOT / ".github/workflows/ci.yml").read_text("utf-8")):
        assert json.loads(jobs) == [pythons[0], pythons[-1]]


@pytest.mark.parametrize("name", ["torchvgg.model", "torchvgg.imagenet"])
def test_pytorch_2_6_can_compile_it(name: str) -> None:
    """Its compiler knows neither isinstance with `|` nor next with a default."""
    calls = [node for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.Call)]
    unknown = [
        ast.unparse(call)
        for call in calls
        if (ast.unparse(call.func) == "isinstance" and isinstance(call.args[1], ast.BinOp))
        or (ast.unparse(call.func) == "next" and len(call.args) > 1)
    ]
    assert unknown == []


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
    code = "import time, torch; t = time.process_time(); import torchvgg; print(time.process_time() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.05


def test_help_needs_no_torch() -> None:
    code = "import sys, convert.command_line as m\ntry: m.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    printed = python(code)
    assert printed.endswith("False")
    assert "torchvgg-convert demo" in printed


def test_every_name_is_offered() -> None:
    names = python("import torchvgg; print([getattr(torchvgg, n).__name__ for n in torchvgg.__all__], dir(torchvgg))")
    assert (
        "'load_image', 'load_keras_weights', 'load_model', 'optimize_for_inference', 'plot_cam', 'plot_maps'" in names
    )
