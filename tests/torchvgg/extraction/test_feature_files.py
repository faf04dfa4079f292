"""An interrupted extraction is resumed, from the rows that are its own and whole; the others are computed again."""

import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from torchvgg import VGG16, extract_features, load_model
from torchvgg.command_line import main
from torchvgg.extraction import feature_files
from torchvgg.extraction.feature_files import Parts, Rows, open_parts

from ...helpers.features import SIZE, table
from ...helpers.photos import photo, write_photos


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_rows_are_there_once_each_or_it_is_an_error(suffix: str, tmp_path: Path) -> None:
    """Of parts that overlap, as two runs or a task that Ray ran twice leave them; and though some are damaged."""

    def rows(first: int, last: int) -> Rows:
        numbers = list(range(first, last))
        return Rows(
            [f"{n}.jpg" for n in numbers], np.array(numbers, np.float32)[:, None].repeat(2, 1), [""] * len(numbers)
        )

    output, names = tmp_path / f"f{suffix}", [f"{n}.jpg" for n in range(12)]
    with open_parts(output, 2, {}, force=False) as parts:
        parts.add(rows(6, 12))
        parts.add(rows(2, 6))
        with pytest.raises(OSError, match="the rows of 2 images are lost; run the same command again"):
            parts.join(names)
        parts.add(rows(0, 5))
        for number, content in enumerate(
            (b"", b"PK\x03\x04aaaa", b"PAR1aaaaPAR1", parts.files()[0].read_bytes()[:200])
        ):
            (parts.folder / f"damaged{number}{suffix}").write_bytes(content)
        assert parts.join(names) == 0
    paths, vectors, errors = table(output)
    assert paths == names
    assert vectors[:, 1].tolist() == list(range(12))
    assert errors == [""] * 12


def tampered(good: Path) -> Iterator[bytes]:
    """What somebody, or a disk, may make of a part."""
    content, size = good.read_bytes(), 512
    yield from (b"", content[: len(content) // 2], content[:-1], content[1:], bytes(len(content)))
    yield content.replace(b"path", b"paht")
    columns = {"path": ["a.jpg"], "vector": np.zeros((1, size), np.float32), "error": [""]}
    changes: list[dict[str, Any]] = [
        {"vector": np.zeros((1, size + 1), np.float32)},
        {"vector": np.zeros((2, size), np.float32)},
        {"vector": np.zeros((1, size), np.int64)},
        {"path": [1]},
        {"error": [1]},
        {"error": []},
    ]
    for change in changes:
        stream = io.BytesIO()
        if good.suffix == ".npz":
            np.savez(stream, **(columns | change))
        elif {len(column) for column in (columns | change).values()} == {1} and "int64" not in str(change):
            values = {name: list(column) for name, column in (columns | change).items()}
            pyarrow.parquet.write_table(pyarrow.table(values), stream)
        yield stream.getvalue()
    if good.suffix == ".npz":
        for array in (np.zeros(3), np.array([{}], object)):
            np.save(stream := io.BytesIO(), array)
            yield stream.getvalue()
        np.savez(stream := io.BytesIO(), path=np.array([{}], object), vector=columns["vector"], error=[""])
        yield stream.getvalue()


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_tampered_parts_are_computed_again(
    suffix: str, weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line or none, whatever was done to them; a damaged job is no other extraction's."""
    model = load_model(weights)
    paths = [photos / "000.jpg", photos / "001.jpg", photos / "002.jpg", photos / "003.jpg"]
    extract_features(model, paths, whole := tmp_path / f"whole{suffix}")
    output = tmp_path / f"f{suffix}"
    with pytest.raises(InterruptedError):
        _interrupted(model, paths, output, after=1)
    (part,) = output.with_name(f"{output.name}.parts").glob(f"*{suffix}")
    for number, content in enumerate(tampered(part)):
        part.with_name(f"{number}{suffix}").write_bytes(content)
    arguments = ("extract", *paths, "-o", output, "--weights", weights, "--workers", 0)
    (job := part.with_name("job.json")).write_text(job.read_text()[:-9])
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert (
        f"f{suffix}.parts: an unfinished extraction with other weights or settings, or from another working folder; delete"
        in error
    )
    assert error.count("\n") == 1
    with pytest.raises(InterruptedError):
        _interrupted(model, paths, output, after=1, force=True)
    (part,) = part.parent.glob(f"*{suffix}")
    for number, content in enumerate(tampered(part)):
        part.with_name(f"{number}{suffix}").write_bytes(content)
    assert main([str(argument) for argument in arguments]) == 0
    printed, error = capsys.readouterr()
    assert "2 were done before" in printed
    assert error == ""
    for received, expected in zip(table(output), table(whole), strict=True):
        np.testing.assert_array_equal(received, expected)


def test_killed_between_the_output_and_the_clean_up(
    model: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is whole and kept; with `force` its rows are taken again, those of other settings are not."""
    output = tmp_path / "f.npz"
    extract = partial(extract_features, model, [photos / "000.jpg", photos / "001.jpg"], output, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "_remove", _interrupt)
        with pytest.raises(InterruptedError):
            extract()
    before = output.read_bytes()
    with pytest.raises(FileExistsError, match="exists and is kept; force=True"):
        extract()
    assert output.read_bytes() == before
    assert extract(force=True).done_before == 2
    assert list(tmp_path.iterdir()) == [output]
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "_remove", _interrupt)
        with pytest.raises(InterruptedError):
            extract(force=True)
    assert extract(force=True, interpolation="bilinear").done_before == 0


def test_rows_are_joined_in_chunks_of_numbers(
    model: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of any length, since a Parquet list holds fewer than 2**31 numbers."""
    paths = [photos / "000.jpg", photos / "001.jpg", photos / "002.jpg"]
    size = extract_features(model, paths, whole := tmp_path / "whole.parquet").size
    monkeypatch.setattr(feature_files, "CHUNK", 2 * size)
    extract_features(model, paths, parted := tmp_path / "parted.parquet")
    file = pyarrow.parquet.ParquetFile(parted)
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 1]
    assert file.read().equals(pyarrow.parquet.read_table(whole))


def _interrupt(_: Parts) -> None:
    raise InterruptedError


def test_images_that_came_and_went_meanwhile(model: Any, tmp_path: Path) -> None:
    """The rows are those of the images that there are now, in their order."""
    folder, output = tmp_path / "photos", tmp_path / "f.parquet"
    paths = write_photos(folder, 6)
    with pytest.raises(InterruptedError):
        _interrupted(model, folder, output, after=2)
    paths[0].unlink()
    paths[3].unlink()
    photo("coffee.png").save(folder / "001a.png")
    assert extract_features(model, str(folder), output, batch_size=2).done_before == 2
    again = tmp_path / "again.parquet"
    extract_features(model, str(folder), again, batch_size=1)
    (names, vectors, errors), (same_names, expected, _) = table(output), table(again)
    assert [Path(name).name for name in names] == ["001.jpg", "001a.png", "002.jpg", "004.jpg", "005.jpg"]
    assert names == same_names
    assert errors == [""] * 5
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def _interrupted(model: Any, images: Any, output: Path, after: int, force: bool = False) -> None:
    add, count = feature_files.Parts.add, 0

    def counted(parts: Any, rows: Any) -> None:
        nonlocal count
        add(parts, rows)
        if (count := count + 1) == after:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_files.Parts, "add", counted)
        extract_features(model, images, output, batch_size=2, workers=0, force=force)


def test_other_settings_do_not_go_on(model: Any, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.npz"
    with pytest.raises(InterruptedError):
        _interrupted(model, photos, output, after=3)
    message = r"f\.npz\.parts: an unfinished extraction with other weights or settings, or from another working folder; delete"
    for other in (
        {"layer": "block4_pool"},
        {"pooling": "max"},
        {"preprocessing": "unit"},
        {"exif": True},
        {"resize": 80},
        {"resize": 64},
        {"crop": SIZE},
        {"interpolation": "bilinear"},
        {"keep_aspect_ratio": True},
    ):
        with pytest.raises(ValueError, match=message):
            extract_features(model, str(photos), output, **other)
    other_weights = VGG16(weights=None, input_shape=(3, SIZE, SIZE), classes=10)
    with pytest.raises(ValueError, match=message):
        extract_features(other_weights, str(photos), output)
    done = extract_features(model, str(photos), output, pooling="max", force=True)
    assert done.done_before == 0
    with pytest.raises(FileExistsError, match=r"f\.npz exists and is kept; force=True, or --force, overwrites it"):
        extract_features(model, str(photos), output)


def test_the_same_names_in_another_folder_are_other_images(
    model: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = ["000.jpg", "001.jpg", "002.jpg"], tmp_path / "f.npz"
    write_photos(tmp_path / "others", 3)
    monkeypatch.chdir(photos)
    with pytest.raises(InterruptedError):
        _interrupted(model, images, output, after=1)
    monkeypatch.chdir(tmp_path / "others")
    with pytest.raises(ValueError, match="or from another working folder; delete the folder, or pass force=True"):
        extract_features(model, images, output, workers=0)
    monkeypatch.chdir(photos)
    assert extract_features(model, images, output, workers=0).done_before == 2
    images, output = [str(photos / name) for name in images], tmp_path / "absolute.npz"
    with pytest.raises(InterruptedError):
        _interrupted(model, images, output, after=1)
    monkeypatch.chdir(tmp_path)
    assert extract_features(model, images, output, workers=0).done_before == 2


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_full_disk_is_one_line_and_leaves_no_unfinished_file(
    suffix: str, tmp_path: Path, file_size_limit: int
) -> None:
    size = file_size_limit // (400 * 4) * 2 // 3  # a part has room, the joined file hasn't
    numbers = np.random.default_rng(0).random((800, size), np.float32)
    rows = Rows([f"{number}.jpg" for number in range(800)], numbers, [""] * 800)
    output = tmp_path / f"f{suffix}"
    with open_parts(output, size, {}, force=False) as parts:
        for half in (slice(400), slice(400, 800)):
            parts.add(Rows(*(column[half] for column in rows)))
        before = sorted(parts.folder.iterdir())
        for write in (lambda: parts.add(rows), lambda: parts.join(rows.path)):
            with pytest.raises(OSError, match="make room there, and run the same command again to resume") as error:
                write()
            assert error.value.filename == str(parts.folder)
            assert sorted(parts.folder.iterdir()) == before
        (left := parts.folder / "unfinished-0123456789abcdef").write_bytes(b"by a killed process")
    with open_parts(output, size, {}, force=False):
        assert not left.exists()


def test_nothing_of_other_users_is_opened(model: Any, photos: Path, tmp_path: Path) -> None:
    image, output, parts = str(photos / "000.jpg"), tmp_path / "f.npz", tmp_path / "f.npz.parts"
    (mine := tmp_path / "mine.txt").write_text("mine")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    parts.symlink_to(elsewhere)
    message = r"f\.npz\.parts: expected a folder of yours that nobody else can write to, and no link; delete it"
    with pytest.raises(OSError, match=message):
        extract_features(model, image, output)
    parts.unlink()
    parts.mkdir()
    parts.chmod(0o777)
    with pytest.raises(OSError, match=message):
        extract_features(model, image, output)
    parts.chmod(0o700)
    (parts / "claim").symlink_to(mine)  # from before
    with pytest.raises(OSError, match="symbolic link"):
        extract_features(model, image, output)
    (parts / "claim").unlink()
    (parts / "a.npz").write_bytes(b"no part")
    (parts / "a.npz").chmod(0o666)
    (parts / "b.npz").symlink_to(mine)
    assert extract_features(model, image, output).bad == 0
    assert mine.read_text() == "mine"
    assert list(elsewhere.iterdir()) == []
    assert not parts.exists()


@pytest.mark.parametrize("umask", [0o002, 0o000])
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_umask_that_lets_others_write(suffix: str, umask: int, model: Any, photos: Path, tmp_path: Path) -> None:
    """Debian and Ubuntu set 002: the rows are found again, and the output gets the mode that the umask says."""
    output = tmp_path / f"f{suffix}"
    before = os.umask(umask)
    try:
        with pytest.raises(InterruptedError):
            _interrupted(model, photos, output, after=2)
        assert extract_features(model, str(photos), output, batch_size=2).done_before == 4
    finally:
        os.umask(before)
    assert len(table(output)[0]) == 21
    assert output.stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_parts_are_this_users_alone(model: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        _interrupted(model, photos, tmp_path / "f.npz", after=2)
    assert (tmp_path / "f.npz.parts").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "f.npz.parts" / "claim").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("target", ["real.npz", "0a1b2c", "real.parquet"])
def test_a_link_is_followed(target: str, model: Any, photos: Path, tmp_path: Path) -> None:
    """As by `cp`, and by the other commands. The format is that of the name that was given."""
    (folder := tmp_path / "elsewhere").mkdir()
    (link := tmp_path / "link.npz").symlink_to(folder / target)
    for _ in range(2):
        assert extract_features(model, str(photos / "000.jpg"), link, force=True).bad == 0
        assert link.is_symlink()
        assert [path.name for path in folder.iterdir()] == [target]
        assert len(table(link)[0]) == 1
