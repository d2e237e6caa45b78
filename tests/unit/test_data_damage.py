"""Photographs that are damaged, or no longer the files that were prepared: refused by name."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_flights import camera_of, leftovers, make_flight
from PIL import Image, ImageFile

from nerfcore.data.dataset import load_dataset
from nerfcore.data.images import ImageStore, PhotographError, decode_undamaged, read_photograph
from nerfcore.data.photo_damage import damage
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.errors import DataError

ImageFile.MAXBLOCK = 1 << 20  # Pillow suspends large progressive files otherwise, and fails


def scene(width: int = 301, height: int = 203) -> Image.Image:
    """A picture with edges, slopes and noise."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 9, (height, width, 3))
    slopes = np.stack([rows, columns, rows + columns], axis=-1) % 200
    return Image.fromarray(np.clip(slopes + 20 + noise, 0, 255).astype(np.uint8))


def jpeg(*, mode: str = "RGB", **options: int) -> bytes:
    content = io.BytesIO()
    scene().convert(mode).save(content, "JPEG", **options)
    return content.getvalue()


def pixels_at(content: bytes) -> int:
    """Where the first scan's codes begin."""
    start = content.index(b"\xff\xda")
    return start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("restart", [0, 5])
@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [0, 1])
def test_whole_jpegs_pass(mode: str, restart: int, sampling: int, progressive: int) -> None:
    """No coding that encoders choose is accused, and a cut with an end put on is seen."""
    for quality in (20, 75, 100):
        content = jpeg(
            mode=mode, quality=quality, subsampling=sampling, progressive=progressive,
            restart_marker_blocks=restart, optimize=restart,
        )  # fmt: skip
        assert damage(content) is None
        assert damage(content + b"\0trailing bytes of a camera") is None
        assert damage(content[:-2] + b"\0\0\xff\xff\xd9") is None, "padding before the end"
        middle = (pixels_at(content) + len(content)) // 2
        is_seen = damage(content[:middle] + b"\xff\xd9") is not None
        assert is_seen == (mode != "CMYK"), "cut, with an end put on"


@pytest.mark.parametrize("progressive", [0, 1])
def test_damage_within_a_jpeg(progressive: int) -> None:
    """Noise over the codes is always found; a hole may leave codes that are still in step."""
    content = jpeg(quality=90, progressive=progressive)
    rng = np.random.default_rng(1)
    found = {"noise": 0, "hole": 0}
    for _ in range(100):
        at = int(rng.integers(pixels_at(content), len(content) - 600))
        noise = rng.integers(0, 256, 512, dtype=np.uint8).tobytes()
        found["noise"] += damage(content[:at] + noise + content[at + 512 :]) is not None
        found["hole"] += damage(content[:at] + content[at + 40 :]) is not None
    assert found["noise"] == 100 and found["hole"] >= 10


def test_decoders_do_not_see_it() -> None:
    """Why the check is there: a grey lower half is a picture to the decoder."""
    content = jpeg(quality=90)
    middle = (pixels_at(content) + len(content)) // 2
    spoilt = content[:middle] + bytes(len(content) - 2 - middle) + content[-2:]
    assert cv2.imdecode(np.frombuffer(spoilt, np.uint8), cv2.IMREAD_COLOR) is not None
    Image.open(io.BytesIO(spoilt)).load()
    found = damage(spoilt)
    assert found is not None and "premature end" in found


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.replace(b"\xff\xc4\x00", b"\xff\xc4\x7f", 1),
        lambda c: c.replace(b"\xff\xdb\x00\x43\x00", b"\xff\xdb\x00\x43\x09", 1),
        lambda c: c.replace(b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x05", 1),
        lambda c: c[: pixels_at(c) - 6] + b"\x7f" * 6 + c[pixels_at(c) :],
        lambda c: c[:2] + c[-2:],
        lambda c: c[: c.index(b"\xff\xda")],
    ],
)
def test_damaged_headers(change) -> None:
    """A header that contradicts itself is damage, not a crash."""
    content = jpeg(quality=75)
    assert change(content) != content
    with pytest.raises(PhotographError, match="unreadable photograph"):
        decode_undamaged(change(content), Path("a.jpg"))


def test_damaged_png() -> None:
    """A PNG's own checksums are compared."""
    content = cv2.imencode(".png", np.asarray(scene()))[1].tobytes()
    assert damage(content) is None
    middle = len(content) // 2
    spoilt = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    assert "bad header checksum" in str(damage(spoilt))
    assert damage(content[:middle]) is not None


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = (pixels_at(bytes(content)) + len(content)) // 2
    content[middle:-2] = bytes(len(content) - 2 - middle)
    path.write_bytes(bytes(content))


def test_prepare_refuses_damaged_photographs(tmp_path: Path) -> None:
    """One is named; of many the first ten and the count, of both splits together."""
    flight = make_flight(tmp_path, count=16, extension=".jpg")
    images = tmp_path / "images"
    spoil(images / flight.names[3])
    with pytest.raises(DataError, match=r"0003\.jpg: unreadable photograph \(damaged: "):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    for name in flight.names[4:]:
        spoil(images / name)
    with pytest.raises(DataError) as caught:
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings(val_split=0.25))
    text = str(caught.value)
    assert "13 of 16 photographs cannot be used: " in text and "\n" not in text
    assert text.count(".jpg (unreadable photograph (damaged: ") == 10 and ", ...;" in text
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


def test_a_changed_photograph_is_not_trained_on(tmp_path: Path) -> None:
    """Loading refuses a photograph, or a mask, that differs from its record at the same size."""
    make_flight(tmp_path, count=4, camera=camera_of("OPENCV_FISHEYE"))
    out = tmp_path / "out"
    dataset = prepare_dataset(tmp_path, out, PrepareSettings())
    ImageStore(dataset.train).close()
    path = dataset.train.paths[2]
    whole = path.read_bytes()
    path.write_bytes(whole[:-13] + b"\1" + whole[-12:])
    with pytest.raises(
        DataError, match=r"000002\.png: content changed .*prepare the dataset again"
    ):
        ImageStore(load_dataset(out).train)
    with pytest.raises(DataError, match="content changed"):
        ImageStore([dataset.val, dataset.train.subset([1, 2])])
    path.write_bytes(whole)
    ImageStore(load_dataset(out).train).close()


def test_a_changed_mask_is_not_used(tmp_path: Path) -> None:
    """A mask of other pixels would train on what must be left out."""
    make_flight(tmp_path, count=4)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), np.full((72, 96), 255, np.uint8))
    listed = hashlib.sha256(mask.read_bytes()).hexdigest()
    images = replace(
        dataset.train, valid_paths=(mask, None, None, None),
        valid_checksums=(listed, None, None, None),
    )  # fmt: skip
    ImageStore(images).close()
    cv2.imwrite(str(mask), np.zeros((72, 96), np.uint8))
    with pytest.raises(DataError, match=r"mask\.png: content changed"):
        ImageStore(images)


def test_photographs_without_a_record_are_looked_over(tmp_path: Path) -> None:
    """Datasets of the reference system record no checksums: damage is looked for instead."""
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(quality=90))
    assert read_photograph(path).shape == (203, 301, 3)
    spoil(path)
    with pytest.raises(DataError, match=r"a\.jpg: unreadable photograph \(damaged: Corrupt JPEG"):
        read_photograph(path)


def test_the_record_names_the_source(tmp_path: Path) -> None:
    """A dataset knows the file that each photograph was made from."""
    flight = make_flight(tmp_path, count=4, camera=camera_of("OPENCV"))
    prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    images = json.loads((tmp_path / "out" / "dataset.json").read_text())["train"]["images"]
    source = (tmp_path / "images" / flight.names[0]).read_bytes()
    assert images[0]["source_sha256"] == hashlib.sha256(source).hexdigest()
    assert images[0]["rgb"]["sha256"] != images[0]["source_sha256"]
