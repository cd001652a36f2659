import builtins
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from registry.errors import DataError
from training.config import Data
from training.rows import data, decode

ROOT = Path(__file__).resolve().parents[3]
RANDOM = np.random.default_rng(0)


def pixels(height=6, width=6, *channels):
    return RANDOM.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save(path, array, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)
    return array


def folder(root, count=4, *shape):
    """Write `count` colour images into each of the classes cat and dog; return them by name."""
    names = [f"{label}/{n}.png" for label in ("cat", "dog") for n in range(count)]
    return {name: save(root / name, pixels(*(shape or (6, 6, 3)))) for name in names}


def load(root, **settings):
    return data.load(Data("images", root.name, **settings), root.parent)


def refusal(root, **settings):
    with pytest.raises(DataError) as caught:
        load(root, **settings)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


def test_a_folder_gives_its_pixels_bit_for_bit_and_its_classes(root):
    written = folder(root)
    table = load(root)
    assert table.x.shape == (8, 6, 6, 3)
    assert np.array_equal(table.x, np.stack(list(written.values())))
    assert (table.classes, table.y.tolist()) == (("cat", "dog"), [0, 0, 0, 0, 1, 1, 1, 1])
    assert (table.names, table.given_test, table.skipped) == ((), None, ())


def test_images_are_a_memory_map_and_the_second_load_decodes_nothing(root, monkeypatch):
    folder(root)
    first = load(root)
    monkeypatch.setattr(decode, "_pixels", None)
    second = load(root)
    assert isinstance(second.x, np.memmap)
    assert second.digest == first.digest
    assert not second.x.flags.writeable


def test_the_digest_is_that_of_the_same_rows_from_elsewhere(root, tmp_path):
    folder(root)
    table = load(root)
    np.savez(tmp_path / "same.npz", x=np.array(table.x), y=table.y, classes=np.array(table.classes))
    assert data.load(Data("npz", "same.npz"), tmp_path).digest == table.digest


@pytest.mark.parametrize("change", ["one more", "one less", "other bytes", "another size"])
def test_a_changed_folder_is_decoded_anew_and_the_old_entry_goes(root, change):
    folder(root)
    before = load(root)
    if change == "one more":
        save(root / "dog" / "9.png", pixels(6, 6, 3))
    elif change == "one less":
        (root / "cat" / "0.png").unlink()
    elif change == "other bytes":
        save(root / "cat" / "0.png", pixels(6, 6, 3))
    after = load(root, side_pixels=4) if change == "another size" else load(root)
    assert after.digest != before.digest
    assert len(list(decode.cache_folder().glob("*.npy"))) == (2 if change == "another size" else 1)


def test_a_damaged_entry_is_noticed_and_made_anew(root, caplog):
    folder(root)
    before = load(root).digest
    (entry,) = decode.cache_folder().glob("*.npy")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert load(root).digest == before
    assert [record.message for record in caplog.records] == ["cache_damaged"]
    entry.write_bytes(content[:50])
    assert load(root).digest == before


def test_train_and_test_folders_give_the_test_rows(root):
    for part in ("train", "test", "val"):
        folder(root / part, 2)
    table = load(root)
    assert table.classes == ("cat", "dog")
    assert table.given_test.tolist() == [True] * 4 + [False] * 8  # sorted: test, train, val


def test_train_beside_other_classes_is_a_class(root):
    folder(root)
    save(root / "train" / "1.png", pixels(6, 6, 3))
    assert load(root).classes == ("cat", "dog", "train")


def test_classes_that_are_numbers_are_in_the_order_of_numbers(root):
    for label in (10, 9, 2):
        save(root / str(label) / "1.png", pixels(6, 6, 3))
    assert load(root).classes == ("2", "9", "10")


def test_hidden_files_and_other_files_do_not_count_and_folders_may_be_deep(root):
    folder(root)
    save(root / "cat" / "more" / "far.png", pixels(6, 6, 3))
    for name in ("cat/._1.png", ".cache/x.png", "__MACOSX/cat/1.png", "cat/notes.txt"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"junk")
    assert np.bincount(load(root).y).tolist() == [5, 4]


def test_grey_images_have_no_channels_unless_one_of_all_has_colour(root):
    grey = [save(root / label / "1.png", pixels()) for label in ("a", "b")]
    assert np.array_equal(load(root).x, np.stack(grey))
    colour = save(root / "b" / "2.png", pixels(6, 6, 3))
    table = load(root)
    assert np.array_equal(table.x[2], colour)
    assert np.array_equal(table.x[0], np.repeat(grey[0][:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGBA", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "tif"), ("RGB", "bmp"), ("RGB", "webp"), ("RGB", "JPG")],
)
def test_every_kind_of_colour_image_becomes_rgb(root, mode, name):
    folder(root, 1)
    image = Image.fromarray(pixels(6, 6, 3)).convert(mode)
    image.save(root / "cat" / f"z.{name}")
    with Image.open(root / "cat" / f"z.{name}") as read_back:
        assert np.array_equal(load(root).x[1], np.asarray(read_back.convert("RGB")))


def test_sixteen_bits_are_brought_to_eight(root):
    deep = RANDOM.integers(0, 65536, (6, 6), dtype=np.uint16)
    for label in ("a", "b"):
        save(root / label / "1.png", deep)
    assert np.array_equal(load(root).x[0], (deep >> 8).astype(np.uint8))


def test_a_photo_is_turned_as_its_camera_says(root):
    upright = pixels(4, 6, 3)
    turned = Image.fromarray(np.rot90(upright))  # as a camera held on its side stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        turned.save(root / label / "1.png", exif=exif)
    assert np.array_equal(load(root).x[0], upright)


def test_side_pixels_scales_the_shorter_side_and_keeps_the_middle(root):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    for label in ("a", "b"):
        save(root / label / "1.png", wide)
    table = load(root, side_pixels=10)
    assert table.x.shape == (2, 10, 10, 3)
    assert np.abs(table.x[:, :, 1:9].astype(int) - 200).max() <= 4  # bicubic overshoots at the edges


def test_a_large_photo_is_scaled_as_a_full_decode_would_within_a_few_levels(root):
    smooth = np.clip(np.add.outer(np.arange(480), np.arange(640)) / 5, 0, 255).astype(np.uint8)
    for label in ("a", "b"):
        save(root / label / "1.jpg", np.stack([smooth] * 3, axis=2), quality=95)
    with Image.open(root / "a" / "1.jpg") as image:
        left = (640 - 480) // 2
        whole = image.crop((left, 0, left + 480, 480)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(load(root, side_pixels=32).x[0].astype(int) - np.asarray(whole)).max() <= 3


def test_another_size_is_named_with_the_cure(root):
    folder(root)
    save(root / "dog" / "1.png", pixels(5, 7, 3))
    assert (
        f"{root}/dog/1.png: is 7 x 5 pixels, those before are 6 x 6; data.side_pixels = 6 scales and cuts all"
        in refusal(root)
    )


def broken_folder(root, count):
    folder(root, 3)
    whole = io.BytesIO()
    Image.fromarray(pixels(40, 40, 3)).save(whole, "png")
    for n in range(count):
        (root / "cat" / f"bad{n:02}.png").write_bytes(whole.getvalue()[: 100 * n])


def test_images_that_cannot_be_read_are_named_up_to_ten_and_counted(root):
    broken_folder(root, 12)
    for _ in range(2):  # the second time from the cache
        said = refusal(root, side_pixels=6)
        assert "12 images cannot be read: cat/bad00.png: not an image that can be identified; cat/bad01.png" in said
        assert said.count("bad") == 10
        assert 'and 2 more; mend or remove them, or leave them out with data.corrupt = "skip"' in said


def test_skipped_images_are_counted_with_their_reasons(root):
    broken_folder(root, 12)
    table = load(root, side_pixels=6, corrupt="skip")
    assert len(table.y) == len(table.x) == 6
    assert len(table.skipped) == 12
    assert table.skipped[0] == "cat/bad00.png: not an image that can be identified"
    assert "truncated" in table.skipped[5] or "image file" in table.skipped[5]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no such folder"),
        (["notes.txt"], "holds no images; accepted are"),
        (["1.png"], "1.png: lies in no class folder; accepted is"),
        (["train/1.png"], "train/1.png: lies in no class folder; accepted is"),
        (
            ["train/cat/1.png", "test/cat/2.png", "dev/cat/3.png"],
            "dev beside train and test; accepted there are val, valid, validation",
        ),
        (["cat/1.png", "dog/1.png"], "none of 2 images can be read; the first, cat/1.png: not an image"),
    ],
)
def test_a_folder_of_another_kind_is_refused(root, names, message):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"junk")
    assert message in refusal(root)


def test_one_class_alone_is_refused(root):
    save(root / "cat" / "1.png", pixels(6, 6, 3))
    assert "one class only (cat) in 1 rows" in refusal(root)


def test_a_regression_on_images_is_refused(root):
    folder(root)
    with pytest.raises(DataError, match='y is classes cat, dog; task = "regression" needs a number per row'):
        data.load(Data("images", root.name), root.parent, "regression")


def test_images_without_pillow_name_the_extra(root, monkeypatch):
    folder(root)
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("PIL"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "install it: pip install 'vigil[images]'" in refusal(root)


def test_a_cache_that_cannot_be_written_says_what_to_set(root, tmp_path, monkeypatch):
    folder(root)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "the cache cannot be written: Not a directory; let XDG_CACHE_HOME name" in refusal(root)


LOAD = "import sys; from pathlib import Path; from training.rows import data; from training.config import Data\n"
LOAD += "root = Path(sys.argv[1]); print(data.load(Data('images', root.name, side_pixels=64), root.parent).digest)"


def start(root):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )


def test_two_processes_decode_one_folder_once_and_agree(root):
    folder(root, 40, 200, 200, 3)
    started = [start(root) for _ in range(2)]
    said = {process.communicate()[0].strip() for process in started}
    assert said == {load(root, side_pixels=64).digest}
    (entry,) = decode.cache_folder().glob("*.json")
    assert json.loads(entry.read_text())["broken"] == {}


def test_a_kill_while_decoding_leaves_no_entry_and_the_next_load_makes_it(root, eventually):
    folder(root, 1, 300, 300, 3)
    for n in range(300):
        shutil.copy(root / "cat" / "0.png", root / "cat" / f"copy{n}.png")
    process = start(root)
    eventually("the start of decoding", lambda: list(decode.cache_folder().glob("*.tmp")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(decode.cache_folder().glob("*.json"))
    assert load(root, side_pixels=64).x.shape == (302, 64, 64, 3)
    assert sorted(path.suffix for path in decode.cache_folder().iterdir()) == [".json", ".lock", ".npy"]
