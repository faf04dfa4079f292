"""Where the system's encoding is ASCII, as with LANG=C in a small container: paths of any language."""

import os
import subprocess
import sys
from pathlib import Path

from torchvgg.convert import convert

from .helpers.hostile import KERAS2
from .helpers.photos import write_photos

COMMANDS = """
import sys
from torchvgg.command_line import main
folder = sys.argv[1]
weights = f"{folder}/model.safetensors"
assert main(["convert", f"{folder}/model.h5", "-q"]) == 0
assert main(["convert", weights, "-o", f"{folder}/m.weights.h5", "-q"]) == 0
for output in ("f.npz", "f.parquet"):
    assert main(["extract", f"{folder}/photos", "-o", f"{folder}/{output}", "--weights", sys.argv[2], "-q"]) == 0
assert main(["predict", f"{folder}/photos", "-o", f"{folder}/p.csv", "--weights", sys.argv[2], "-q"]) == 0
assert main(["show", f"{folder}/photos/000.jpg", "-o", f"{folder}/m.png", "--weights", sys.argv[2], "-q"]) == 0
assert main(["summary", weights]) == 0
"""


def test_names_of_folders_that_are_not_ascii(topped: Path, tmp_path: Path) -> None:
    folder, weights = tmp_path / "naïve 猫", tmp_path / "weights.safetensors"
    write_photos(folder / "photos", 2)
    convert(topped, weights, input_shape=(32, 32), activation="softmax", check=False)
    (folder / "model.h5").write_bytes((KERAS2 / "trained.h5").read_bytes())
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", COMMANDS, folder, weights]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, encoding="ascii")
    assert done.stderr == ""
    assert done.returncode == 0
    assert {path.name for path in folder.iterdir()} == {
        *("photos", "model.h5", "model.safetensors", "m.weights.h5", "f.npz", "f.parquet", "p.csv", "m.png")
    }
