"""Images and their classes: a folder with a subfolder for each class, a CSV file, and which output of a model a class is."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from .image_files import SUFFIXES, images_below
from .imagenet import warn

Class = tuple[str | None, str]  # WordNet id, if it is ImageNet's, and name


def label_images(
    images: str | os.PathLike[str] | Mapping[Any, str | int], classes: Sequence[Class], are_named: bool
) -> tuple[dict[str, int], Sequence[Class]]:
    """Returns the class of each image, by its path, and the classes.

    Args:
        images: a folder with a subfolder for each class, or the class of each image by its path. A class is a WordNet id, a name or a
            number.
        classes: the classes of a model, in order.
        are_named: False if their names aren't known. Then subfolders, or else the names in `images`, are the classes in
            alphabetical order, with a warning, if there are as many. Of subfolders named 0, 1, 2 and so on some may be missing.

    Raises:
        ValueError: a class isn't the model's or has an ambiguous name; a folder has no subfolders or no images.
        OSError: the folder can't be read.
    """
    texts: Mapping[str, Any]
    if isinstance(images, Mapping):
        labels = {os.fspath(path): x.item() if hasattr(x, "item") else x for path, x in images.items()}
        # Numbers are the classes', even if their names are digits.
        texts = {path: x if are_named and isinstance(x, int) else str(x) for path, x in labels.items()}
        own = {x for x in texts.values() if isinstance(x, int)}
        if wrong := own.difference(range(len(classes))):
            raise ValueError(f"{min(wrong)}: no such class; expected a number from 0 to {len(classes) - 1}")
        names = sorted({text for text in texts.values() if isinstance(text, str)})
        numbers, classes = _class_numbers(names, classes, are_named, numbers_first=True)
        numbers |= {number: number for number in own}
    else:
        texts, subfolders = _in_subfolders(os.fspath(images))
        numbers, classes = _class_numbers(subfolders, classes, are_named, numbers_first=False)
    if not texts:
        raise ValueError("expected at least one image. Received: none")
    return {path: numbers[text] for path, text in texts.items()}, classes


def _in_subfolders(folder: str) -> tuple[dict[str, str], list[str]]:
    """Returns each image's subfolder, by its path, and all subfolders, but hidden ones, in alphabetical order."""
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    subfolders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not subfolders:
        raise ValueError(f"{folder}: no subfolders; expected one for each class, with images, or --labels-csv FILE")
    if loose := sum(entry.name.lower().endswith(SUFFIXES) and entry.is_file() for entry in entries):
        warn(f"{folder}: images that are in no class's subfolder are left out ({loose:,})")
    found = {
        path: name
        for name in subfolders
        for path in sorted(images_below(os.path.join(folder, name)))  # noqa: PTH118
    }
    if not found:
        raise ValueError(f"{folder}: no images in its subfolders; expected files that end in {', '.join(SUFFIXES)}")
    return found, subfolders


def _class_numbers(
    texts: Sequence[str], classes: Sequence[Class], are_named: bool, numbers_first: bool
) -> tuple[dict[Any, int], Sequence[Class]]:
    """Returns the class that each text stands for, and the classes, by these texts where they had no names."""
    from .convert.errors import listed

    last = len(classes) - 1
    numbers = {text: int(text) for text in texts if text.isdecimal() and int(text) <= last}
    if are_named:
        places: dict[str, list[int]] = {}
        for number, names in enumerate(classes):
            for name in {*names} - {None}:
                places.setdefault(str(name), []).append(number)
        numbers = {} if any(name.isdecimal() for _, name in classes) else numbers
        for text in texts:
            if len(found := places.get(text, [])) > 1:
                raise ValueError(
                    f"{text}: several classes have this name, {', '.join(map(str, found))}; use a number instead"
                )
            if not found and text not in numbers:
                raise ValueError(f"{text}: no such class; expected a WordNet id, a name, or a number from 0 to {last}")
            numbers.update(dict.fromkeys([text], found[0]) if found else {})
        return numbers, classes
    width = max((len(text) for text in texts if text.startswith("0")), default=1)  # 000, 001, …
    every = sorted(str(number).zfill(width) for number in range(len(classes)))
    if len(numbers) == len(texts) and (numbers_first or every == sorted(every, key=int)):
        return numbers, classes
    if {*texts} <= {*every}:  # a missing one leaves the others' places as they are
        texts = every
    if len(texts) == len(classes):
        warn(
            f"the classes 0 to {last} are taken to be {listed(texts)}, in alphabetical order, as for Keras's "
            "image_dataset_from_directory; labels (--labels FILE) name them otherwise"
        )
        return {text: number for number, text in enumerate(texts)}, [(None, text) for text in texts]
    raise ValueError(
        f"expected {len(classes)} classes, as the model has, or numbers from 0 to {last}. Received: {len(texts)} "
        f"({listed(texts)}); name the model's classes with labels (--labels FILE)"
    )


def read_csv(path: Path, folder: str) -> dict[str, str]:
    """Reads a CSV file of rows `path,class`, with or without a header. Paths are relative to `folder`.

    Raises:
        ValueError: the file isn't such a file, is a pipe or a device, or names an image twice.
        OSError: it can't be read, or an image doesn't exist.
    """
    from .convert.errors import check_no_device

    check_no_device(path)
    found: dict[str, str] = {}
    is_first = True
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        try:
            for row in filter(None, reader):
                where = f"{path}, line {reader.line_num}"
                if len(row) != 2:
                    raise ValueError(f"{where}: expected PATH,CLASS. Received: {','.join(row)}")
                name, text = (value.strip() for value in row)
                image = os.path.join(folder, name)  # noqa: PTH118
                is_header = is_first and not name.lower().endswith(SUFFIXES) and not os.path.exists(image)  # noqa: PTH110
                is_first = False
                if is_header:
                    continue
                if not os.path.isfile(image):  # noqa: PTH113
                    raise FileNotFoundError(f"{where}: {image}: no such file")
                if image in found:
                    raise ValueError(f"{where}: {image} is there twice")
                found[image] = text
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: expected CSV in UTF-8, PATH,CLASS in each row ({error})") from None
    if not found:
        raise ValueError(f"{path}: no rows; expected PATH,CLASS in each")
    return found


def sample_evenly(labelled: Mapping[str, int], number: int) -> dict[str, int]:
    """Chooses `number` images, as many from each class as there are, always the same ones."""
    random = Random(0)
    by_class: dict[int, list[str]] = {}
    for path, label in labelled.items():
        by_class.setdefault(label, []).append(path)
    groups = list(by_class.values())
    for group in groups:
        random.shuffle(group)
    random.shuffle(groups)
    turns: Iterable[tuple[str | None, ...]] = zip_longest(*groups)
    chosen = {*[path for turn in turns for path in turn if path is not None][:number]}
    return {path: label for path, label in labelled.items() if path in chosen}
