"""Which class an image is of: subfolders, names, ids and numbers; and samples of labelled images."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchvgg.imagenet import labels
from torchvgg.labelled_images import label_images, sample_evenly
from torchvgg.predicting import class_names

IMAGENET, OWN = labels(), [(None, f"class {n}") for n in range(3)]
FLOWERS = [(None, name) for name in ("rose", "daisy", "tulip")]
ELEVEN = [(None, f"class {n}") for n in range(11)]
FOLDERS: dict[str, tuple[Any, bool, list[str], list[int] | str]] = {
    "ids, names, numbers": (IMAGENET, True, ["n02123045", "goldfish", "7"], [281, 1, 7]),
    "given names": (FLOWERS, True, ["tulip", "rose"], [2, 0]),
    "numbers of given names": (FLOWERS, True, ["2", "0"], [2, 0]),
    "names that are digits": ([(None, "7"), (None, "1"), (None, "0")], True, ["0", "1"], [2, 1]),
    "digits that are no names": ([(None, "7"), (None, "1"), (None, "0")], True, ["0", "2"], "2: no such class"),
    "alphabetical": (OWN, False, ["b", "C", "a"], [2, 0, 1]),
    "alphabetical, though numbers": (ELEVEN, False, [str(n) for n in range(11)], [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2]),
    "one missing, though numbers": (ELEVEN, False, [str(n) for n in (0, 1, 2, 10)], [0, 1, 3, 2]),
    "one missing, of numbers as long": (ELEVEN, False, ["00", "07", "10"], [0, 7, 10]),
    "an empty one counts": (OWN, False, ["b", "empty", "a"], [1, 2, 0]),
    "hidden": (OWN, False, ["b", "c", ".a", "a"], [1, 2, -1, 0]),
    "some numbers": (OWN, False, ["2", "1"], [2, 1]),
    "numbers from 1": (OWN, False, ["3", "1"], "Received: 2 (1, 3); name"),
    "too few": (
        OWN,
        False,
        ["a", "b"],
        "expected 3 classes, as the model has, or numbers from 0 to 2. Received: 2 (a, b);",
    ),
    "too many": (OWN, False, [*"abcdefghijk"], "Received: 11 (a, b, c, d, e, f, g, h, i, j, …); name"),
    "unknown": (
        FLOWERS,
        True,
        ["rose", "lily"],
        "lily: no such class; expected a WordNet id, a name, or a number from 0 to 2",
    ),
    "too high": (FLOWERS, True, ["3"], "3: no such class"),
    "none": (OWN, False, [], "no subfolders; expected one for each class, with images, or --labels-csv FILE"),
}


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.filterwarnings("ignore:the classes 0 to")
def test_the_classes_of_folders(case: str, tmp_path: Path) -> None:
    classes, are_named, names, expected = FOLDERS[case]
    for name in names:
        (tmp_path / name / "deep").mkdir(parents=True)
        if name != "empty":
            (tmp_path / name / "deep" / f"{name}.jpg").touch()
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=re.escape(expected)):
            label_images(tmp_path, classes, are_named)
        return
    found, _ = label_images(str(tmp_path), classes, are_named)
    wanted = {name: number for name, number in zip(names, expected, strict=True) if number >= 0 and name != "empty"}
    assert {Path(path).stem: number for path, number in found.items()} == wanted


def test_numbers_are_places_in_alphabetical_order_with_a_warning_though_one_is_missing(tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.jpg").touch()
    with pytest.warns(UserWarning, match="in alphabetical order") as whole:
        places, classes = label_images(tmp_path, ELEVEN, False)
    (tmp_path / "7" / "a.jpg").unlink()
    (tmp_path / "7").rmdir()
    with pytest.warns(UserWarning, match="0 to 10 are taken to be 0, 1, 10, 2, 3, 4, 5, 6, 7, 8, …, in alpha") as rest:
        found, names = label_images(tmp_path, ELEVEN, False)
    assert found == {path: place for path, place in places.items() if Path(path).parent.name != "7"}
    assert (str(rest[0].message), names) == (str(whole[0].message), classes)


@pytest.mark.parametrize("kind", [int, str, np.int64, torch.tensor])
def test_labels_by_path(kind: Callable[[int], Any]) -> None:
    images = {Path(f"{number}.jpg"): kind(number) for number in range(11)}
    found, _ = label_images(images, ELEVEN, are_named=False)
    assert found == {f"{number}.jpg": number for number in range(11)}


def test_numbers_are_numbers_though_names_are_digits() -> None:
    """As `image_dataset_from_directory` sorts folders, "10" before "2", and labels images with their places."""
    names = [(None, name) for name in sorted(map(str, range(11)))]
    images: Any = {"a.jpg": 2, "b.jpg": "2", "c.jpg": np.int64(10)}
    found, _ = label_images(images, names, are_named=True)
    assert found == {"a.jpg": 2, "b.jpg": 3, "c.jpg": 10}
    with pytest.raises(ValueError, match=r"^\[1\]: no such class"):
        label_images({"a.jpg": [1]}, names, are_named=True)  # type: ignore[dict-item]
    for number in (11, -1):
        with pytest.raises(ValueError, match=f"^{number}: no such class; expected a number from 0 to 10"):
            label_images({"a.jpg": number}, names, are_named=True)


def test_images_beside_the_folders_are_named(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "c/1.jpg", "loose.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"in no class's subfolder are left out \(1\)"):
        assert len(label_images(tmp_path, OWN, False)[0]) == 3


def test_numbers_as_names() -> None:
    assert label_images({"a.jpg": "30"}, class_names(3, [10, 20, 30]), are_named=True)[0] == {"a.jpg": 2}  # type: ignore[list-item]


def test_a_sample_is_even_and_always_the_same() -> None:
    labelled = {f"{label}/{index}": label for label in range(5) for index in range(3 if label == 2 else 100)}
    sample = sample_evenly(labelled, 43)
    assert sample == sample_evenly(labelled, 43)
    assert [sum(label == each for label in sample.values()) for each in range(5)] == [10, 10, 3, 10, 10]
    assert len(sample_evenly(labelled, 10_000)) == 403
    assert len({*sample_evenly(labelled, 3).values()}) == 3
    assert list(sample) == [path for path in labelled if path in sample]
