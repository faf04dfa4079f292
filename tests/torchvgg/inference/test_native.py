"""The kernels are right whatever compiler built them, and where they can't be had the operators take over."""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from torchvgg import VGG16, optimize_for_inference
from torchvgg.inference import native, winograd

from .test_optimized_model import HAS_COMPILER, WAYS, alive, error, exact

needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")


# Compilers and processors

HARNESS = Path(__file__).with_name("kernel_harness.cpp")
LLVM = Path("/usr/lib/llvm-14/lib")  # where Debian has OpenMP for clang, for one version at a time
TOOLS = {"OMP_TOOL_LIBRARIES": str(LLVM / "libarcher.so"), "TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}
BUILDS = [
    *(("g++", f"-march=x86-64{level}") for level in ("", "-v3", "-v4")),
    *(("clang++-14", f"-march=x86-64{level}") for level in ("", "-v4")),
    ("clang++-16", "-march=x86-64-v3"),
    ("clang++-19", "-march=x86-64-v3"),
    ("aarch64-linux-gnu-g++", "-march=armv8-a"),
    ("g++", "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"),
    ("clang++-14", "-O1 -fsanitize=thread"),
]


SIMPLE = "#include <omp.h>\nint main() { return omp_get_max_threads() == 0; }"


def runner_of(compiler: str, flags: str) -> list[str]:
    """What runs a program here, or a skip that says what this machine lacks."""
    processor = "aarch64" if "aarch64" in compiler else "x86_64" if "x86" in flags else platform.machine()
    if processor != platform.machine():
        return [f"qemu-{processor}", "-L", f"/usr/{processor}-linux-gnu"]
    features = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    for level, feature in (("v3", "avx2"), ("v4", "avx512vl")):
        if flags.endswith(level) and feature not in features:
            pytest.skip(f"this processor has no {feature}")
    if "thread" in flags and int(Path("/proc/sys/vm/mmap_rnd_bits").read_text()) > 28:
        pytest.skip("addresses are too random for this sanitizer")
    return []


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_built_by_any_compiler_for_any_processor(compiler: str, flags: str, tmp_path: Path) -> None:
    run_harness = [*runner_of(compiler, flags), str(tmp_path / "harness")]
    matrices = {"AT": winograd.AT, "BT": winograd.BT, "G": winograd.G}
    defined = [f"-D{name}={matrix.tolist()}".replace("[", "{").replace("]", "}") for name, matrix in matrices.items()]
    build = [
        compiler,
        *(flag for flag in native.FLAGS if flag not in ("-march=native", "-shared", "-fPIC")),
        *flags.split(),
    ]
    build += [*defined, f'-DKERNELS="{native.SOURCE}"', "-o", run_harness[-1]]
    if "clang" in compiler:
        for header in LLVM.glob("clang/*/include/omp.h"):
            tmp_path.joinpath("omp.h").symlink_to(header)
        build += ["-isystem", str(tmp_path), f"-L{LLVM}"]
    for command in ([*build, "-xc++", "-"], run_harness):
        try:
            subprocess.run(command, input=SIMPLE, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as failed:
            pytest.skip(f"{command[0]} isn't there, or not for this: {getattr(failed, 'stderr', '') or failed}")
    subprocess.run([*build, str(HARNESS)], check=True)
    ran = subprocess.run(run_harness, env={**os.environ, **TOOLS}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert 0 < float(ran.stdout) < 1e-5


# What hinders them


@pytest.fixture(scope="module")
def model() -> VGG16:
    return alive(VGG16(weights=None, include_top=False))


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, and nothing built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.kernels.cache_clear()
    yield tmp_path / "torchvgg"
    native.kernels.cache_clear()


def planted(library: Path) -> None:
    library.write_bytes(b"planted")
    library.chmod(0o777)


def linked(library: Path) -> None:
    library.with_name("planted.so").write_bytes(b"planted")
    library.symlink_to("planted.so")


def own(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(library: Path) -> None:
        library.write_bytes(content(library.with_name("before").read_bytes()))
        library.chmod(0o700)

    return write


DAMAGED = {
    "others can write to it": planted,
    "a link": linked,
    "empty": own(lambda _: b""),
    "cut off": own(lambda content: content[:9000]),
    "a bit of its code": own(lambda content: content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]),
}


@needs_compiler
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_or_planted_library_is_built_again(case: str, fresh: Path) -> None:
    native.kernels()
    (library,) = fresh.iterdir()
    assert library.stat().st_mode & 0o777 == 0o700
    built = library.read_bytes()
    library.rename(library.with_name("before"))  # it is in this process's memory, and must stay whole
    DAMAGED[case](library)
    native.kernels.cache_clear()
    assert native.kernels().fits(64, 64)
    assert library.read_bytes() == built


def compiler_that(does: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """A compiler that knows its macros; $out is what it is to write."""

    def install(patch: pytest.MonkeyPatch, folder: Path) -> None:
        (path := folder / "c++").write_text(
            f"#!/bin/sh\nfor out; do :; done\n[ $out = {os.devnull} ] && exit\n{does}\n"
        )
        path.chmod(0o700)
        patch.setenv("CXX", str(path))

    return install


def no_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PATH", "/nowhere")
    patch.delenv("CXX", raising=False)


def no_home(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(os, "getuid", lambda: 54321)
    patch.delenv("HOME", raising=False)
    patch.delenv("XDG_CACHE_HOME")


def no_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.joinpath("torchvgg").write_bytes(b"")


def in_a_zip(patch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.joinpath("package.zip").write_bytes(b"")
    patch.setattr(native, "SOURCE", folder / "package.zip" / "winograd.cpp")


def on(system: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    return lambda patch, _: patch.setattr(sys, "platform", system)


HINDRANCES = {
    "no compiler": (no_compiler, r"no C\+\+ compiler: neither \$CXX nor c\+\+"),
    "it fails": (compiler_that("echo no >&2; exit 1"), r"c\+\+ fails: no$"),
    "it can't be run": (compiler_that("kill -9 $$"), r"c\+\+ fails: status -9$"),
    "it writes nothing": (compiler_that("true"), r"c\+\+ fails: it wrote no library"),
    "it writes an empty file": (compiler_that(": > $out"), r"file too short; the kernels are kept in \$XDG_CACHE_HOME"),
    "it writes something else": (compiler_that("g++ -shared -o $out -xc /dev/null"), "undefined symbol: columns"),
    "no home": (no_home, "home directory.*XDG_CACHE_HOME"),
    "no folder": (no_folder, "File exists.*torchvgg'.*XDG_CACHE_HOME"),
    "in a zip": (in_a_zip, "Not a directory.*winograd.cpp"),
    "macOS": (on("darwin"), "the kernels are for Linux, and haven't been tried on darwin"),
    "Windows": (on("win32"), "haven't been tried on win32"),
}


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
@pytest.mark.parametrize("case", HINDRANCES)
def test_whatever_hinders_them(case: str, fresh: Path, model: VGG16, monkeypatch: pytest.MonkeyPatch) -> None:
    """`native=True` ends in one line, None in PyTorch's operators, and no folder is left."""
    hinder, message = HINDRANCES[case]
    x = torch.randn(1, 3, 32, 32)
    with monkeypatch.context() as patch:
        hinder(patch, fresh.parent)
        with pytest.raises(RuntimeError, match=f"^native=True: .*{message}") as caught:
            optimize_for_inference(model, native=True)
        twin = optimize_for_inference(model)
    assert "\n" not in str(caught.value)
    assert "operators" in repr(twin)
    assert error(twin(x), exact(model, x)["block5_pool"]) < 1e-5
    assert [path for path in fresh.glob("*") if path.suffix != ".so"] == []


def run(code: str, *arguments: object, before: Sequence[str] = (), **environment: str) -> str:
    """Returns what a Python process prints, and then its warnings."""
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


MOUNTED = """
import os, sys
from torchvgg import VGG16, optimize_for_inference
model = VGG16(weights=None, include_top=False)
for folder in sys.argv[1:]:
    os.environ["XDG_CACHE_HOME"] = folder
    try:
        optimize_for_inference(model, native=True)
    except RuntimeError as error:
        print(error)
    print("operators" in repr(optimize_for_inference(model)))
"""


@needs_compiler
def test_a_cache_that_is_mounted_read_only_or_without_programs(tmp_path: Path) -> None:
    read_only, no_programs = tmp_path / "ro", tmp_path / "noexec"
    mounts = [f"mkdir {path} && mount -t tmpfs -o {path.name} tmpfs {path} &&" for path in (read_only, no_programs)]
    command = ["unshare", "--mount", "sh", "-c", f'{" ".join(mounts)} exec "$@"', "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr}")
    read_only.rmdir()
    no_programs.rmdir()
    first, *then = run(MOUNTED, read_only, no_programs, before=command).splitlines()
    kept = "the kernels are kept in $XDG_CACHE_HOME, by default ~/.cache"
    assert first == f"native=True: [Errno 30] Read-only file system: '{read_only}/torchvgg'; {kept}"
    assert re.fullmatch(
        rf"native=True: {no_programs}/torchvgg/winograd-\w+\.so: failed to map .*; {re.escape(kept)}", then[1]
    )
    assert [then[0], *then[2:]] == ["True", "True"]


@needs_compiler
def test_the_cache_is_the_users_own(fresh: Path, model: VGG16) -> None:
    optimize_for_inference(model, native=True)
    (library,) = fresh.iterdir()
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    built = library.stat().st_mtime_ns
    native.kernels.cache_clear()
    optimize_for_inference(model, native=True)
    assert library.stat().st_mtime_ns == built
    native.kernels.cache_clear()
    fresh.chmod(0o777)
    with pytest.raises(RuntimeError, match="others can write to it; chmod 700"):
        optimize_for_inference(model, native=True)


@needs_compiler
def test_two_processes_build_at_once(fresh: Path) -> None:
    code = "from torchvgg.inference.native import kernels; print(kernels().fits(64, 64))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["True\n"] * 2
    assert len(list(fresh.iterdir())) == 1


# Processes that are forked

FORKED = """
import os, signal, sys, torch
from torch.utils.data import DataLoader
from torchvgg import VGG16, optimize_for_inference

torch.set_num_threads(4)
images = torch.randn(4, 3, 48, 48)
fast = optimize_for_inference(VGG16(weights=None, include_top=False), native=sys.argv[1] == "True")
expected = fast(images)
child = os.fork()
if not child:
    signal.alarm(300)  # ends it if it waits for threads that it hasn't
    os._exit(not torch.allclose(fast(images), expected, atol=1e-5))
print(os.waitpid(child, 0)[1])
loader = DataLoader(range(4), 2, num_workers=2, multiprocessing_context="fork", collate_fn=lambda some: fast(images[some]))
print(torch.allclose(torch.cat(list(loader)), expected, atol=1e-5), torch.allclose(fast(images), expected))
"""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_processes_compute(way: bool) -> None:
    assert run(FORKED, way).split() == ["0", "True", "True"]


# On other devices

UNCOMPILED = """
import torch
from torchvgg import VGG16
from torchvgg.inference.optimized_model import _compile

model, x = VGG16(weights=None, include_top=False).eval().requires_grad_(False), torch.rand(1, 3, 32, 32)
expected = model(x)
_compile(model)
try:
    model(x[0])
except ValueError as error:
    print(error)
print(torch.equal(model(x), expected), torch.equal(model(x), expected))
"""


def test_without_a_compiler_for_torch_compile(tmp_path: Path) -> None:
    """PyTorch's compiler for the CPU stands in for that of a GPU, which lacks a compiler in the same way."""
    first, second, *warned = run(UNCOMPILED, PATH="/nowhere", TORCHINDUCTOR_CACHE_DIR=str(tmp_path)).splitlines()
    assert "lacks the batch axis" in first
    assert second == "True True"
    assert sum("this model is computed without torch.compile: InvalidCxxCompiler" in line for line in warned) == 1


# PyTorch's defaults

DEFAULTS = """
import torch
torch.set_default_device("meta")
torch.set_default_dtype(torch.float64)
from torchvgg import VGG16, optimize_for_inference

torch.set_default_dtype(torch.float32)
model = VGG16(weights=None, include_top=False).to_empty(device="cpu")
x = torch.ones(1, 3, 32, 32, device="cpu")
print(*(optimize_for_inference(model, native=way)(x).shape[1] for way in (None, False)))
"""


def test_imported_under_other_defaults() -> None:
    assert run(DEFAULTS) == "512 512\n"
