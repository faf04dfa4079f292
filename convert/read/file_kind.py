"""What kind of file or folder a model is in, by its content; names don't matter, but for a checkpoint's.

What is known and isn't read is named, with the way to a file that is.
"""

import os
import re
from enum import Enum
from pathlib import Path

from ..errors import check_no_device
from .archive import CONFIG, METADATA, WEIGHTS, ZIP_MAGIC, member_names

EXPECTED = "expected a Keras file, or one that `convert` wrote (.safetensors, .pt, .pth)"
SAVED_AGAIN = "load it in the Keras that wrote it, and model.save('x.keras')"
RETRIEVED_AGAIN = "download the file itself"

ARCHITECTURE = rb"(\xef\xbb\xbf)?\s*(\{|((---|#)[^\n]*\n\s*)*(backend|class_name|config|keras_version):)"
_NAME_A_MODEL = "name the file of a model"
_FROM_ARRAYS = "build the model in Keras, model.set_weights(arrays), and model.save('x.keras')"

# By what a file begins with: what it is, and the way.
_UNREAD: tuple[tuple[bytes, str, str], ...] = (
    (rb"$", "", "an empty file"),
    (rb"\x80[\x00-\x05]", "a pickle", f"of a Keras model: {SAVED_AGAIN}"),
    (rb"....TFL3", "a TensorFlow Lite model (.tflite)", f"it is a product of the model: {SAVED_AGAIN}"),
    (rb"\x08\x01\x12", "saved_model.pb alone", "take the folder that it lies in, with variables/"),
    (rb"\x93NUMPY", "NumPy arrays (.npy) without their layers", _FROM_ARRAYS),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc|Rar!|.{257}ustar", "a packed file (gzip, bzip2, xz, 7z, rar or tar)", "unpack it, and take what is in it"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file", f"git lfs pull, or {RETRIEVED_AGAIN}"),
    (rb"(\xef\xbb\xbf)?\s*<(?i:!DOCTYPE|!--|html|head|\?xml)", "a web page, not the file", RETRIEVED_AGAIN),
    (rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*", "an image", _NAME_A_MODEL),
    (rb"%PDF", "a PDF", _NAME_A_MODEL),
    (rb"PK\x05\x06", "an empty zip", RETRIEVED_AGAIN),
    (rb"\0{512}", "zeros where a file begins, as an interrupted download leaves them", RETRIEVED_AGAIN),
    (rb'\s*\{(?=.*("modelTopology"|"weightsManifest"))', "a model of TensorFlow.js", SAVED_AGAIN),
    (rb'\s*\{(?=.*"weight_map")', "the index of weights in several files", "load them in Keras, and model.save_weights('x.weights.h5')"),
    (rb"\s*\{(?!.*(class_name|config|layers))", "JSON or another text without a model", EXPECTED),
    (ARCHITECTURE, "an architecture without weights", "it goes beside them: load_model('x.weights.h5', architecture=path)"),
    (rb"[\t\n\f\r -~\x80-\xff]+$", "a text", EXPECTED),
    (rb"\x0a", "a frozen graph of TensorFlow (.pb), a .caffemodel, or another such file", SAVED_AGAIN),
)  # fmt: skip


class FileKind(Enum):
    HDF5 = "Keras's .h5 and .weights.h5"
    KERAS_ARCHIVE = "Keras's .keras, a zip"
    KERAS_FOLDER = "a folder with what a .keras has, as KerasHub's presets"
    SAVED_MODEL = "TensorFlow's SavedModel, a folder"
    CHECKPOINT = "a TensorFlow checkpoint, .index and .data-…"
    ONNX = "an ONNX file"
    SAFETENSORS = "PyTorch tensors as .safetensors"
    TORCH_ARCHIVE = "PyTorch tensors as torch.save writes them, a zip"
    OLD_TORCH_FILE = "PyTorch tensors as torch.save wrote them before 1.6, pickles and numbers"

    @property
    def is_keras(self) -> bool:
        return self not in (FileKind.SAFETENSORS, FileKind.TORCH_ARCHIVE, FileKind.OLD_TORCH_FILE)


def exists(path: str | os.PathLike[str]) -> bool:
    """Tells whether there is a file or folder, or a checkpoint, of that name, which may be too long for one."""
    return os.path.exists(path) or os.path.exists(f"{os.fspath(path)}.index")  # noqa: PTH110  # Path raises an OSError


def file_kind(path: Path) -> FileKind:
    """Returns the kind of a file or folder. A ValueError tells of one that isn't read."""
    if path.is_dir():
        return _folder_kind(path)
    if checkpoint_prefix(path):
        return FileKind.CHECKPOINT
    check_no_device(path)
    with open(path, "rb") as stream:
        head = stream.read(4096)
    if head[8:9] == b"{":  # a JSON header after its length
        return FileKind.SAFETENSORS
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return FileKind.HDF5
    if head[:4] == ZIP_MAGIC:
        return _zip_kind(path)
    if re.match(rb"\x80.\x8a\x0al\xfc\x9cF\xf9", head, re.DOTALL):  # a number that PyTorch wrote first
        return FileKind.OLD_TORCH_FILE
    if re.match(rb"\x08[\x03-\x14][\x12\x1a\x22\x2a\x3a]", head):  # its version, then its producer or graph
        return FileKind.ONNX
    for begin, what, way in _UNREAD:
        if re.match(begin, head, re.DOTALL):
            raise ValueError(f"{path}: {what}, which isn't read; {way}" if what else f"{path}: {way}")
    raise ValueError(f"{path}: {EXPECTED}. Received: another kind of file")


def checkpoint_prefix(path: Path) -> Path | None:
    """Returns what the names of a checkpoint's files begin with. `path` is that, one of them, or their folder, for its latest."""
    latest = path / "checkpoint" if path.is_dir() else path
    if path.is_dir() and not latest.exists():
        alone = [*path.glob("*.index")]
        return alone[0].with_suffix("") if len(alone) == 1 and alone[0].is_file() else None
    prefix = Path(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path)))
    if latest.name == "checkpoint" and latest.is_file():
        with open(latest, "rb") as stream:
            if name := re.match(rb'model_checkpoint_path: "(?:[^"]*/)?([^"\\/]+)"', stream.read(4096)):
                prefix = latest.with_name(os.fsdecode(name[1]))
    return prefix if not prefix.is_file() and prefix.with_name(f"{prefix.name}.index").is_file() else None


def files_of(path: Path) -> list[Path]:
    """Lists the files that are read of a model at `path`."""
    if path.is_dir():
        inside = [file for pattern in ("*", "variables/*") for file in path.glob(pattern)]
        return sorted(file for file in inside if file.is_file())
    if prefix := checkpoint_prefix(path):
        return sorted(file for file in prefix.parent.iterdir() if file.name.startswith(f"{prefix.name}."))
    return [path]


def _folder_kind(path: Path) -> FileKind:
    if (path / "saved_model.pb").is_file():
        return FileKind.SAVED_MODEL
    if all((path / name).is_file() for name in (CONFIG, METADATA, WEIGHTS)):
        return FileKind.KERAS_FOLDER
    if checkpoint_prefix(path):
        return FileKind.CHECKPOINT
    raise ValueError(
        f"{path}: a folder without a model: expected saved_model.pb (a SavedModel); {CONFIG}, {METADATA} and {WEIGHTS} (a "
        ".keras, or a KerasHub preset); or a checkpoint's .index and .data-…"
    )


def _zip_kind(path: Path) -> FileKind:
    names = member_names(path)
    if WEIGHTS in names:
        return FileKind.KERAS_ARCHIVE
    if any(name.endswith(".npy") for name in names):
        raise ValueError(f"{path}: NumPy arrays (.npz) without their layers; {_FROM_ARRAYS}")
    model = re.compile(r"(^|/)(saved_model\.pb|[^/]+\.(h5|keras|index|onnx|safetensors|pt|pth))$")
    if inner := next(filter(model.search, names), ""):
        raise ValueError(f"{path}: a zip around {inner!r}; unpack it, and take that")
    if not any(name.endswith("data.pkl") for name in names):
        inside = ", ".join(f"{name!r:.100}" for name in names[:3])
        raise ValueError(f"{path}: a zip without a model; {EXPECTED}. Received: one of {inside}")
    return FileKind.TORCH_ARCHIVE
