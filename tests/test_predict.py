"""Classes of images, by what an export left; and how bad input is refused."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
from flax import nnx

from srigl_jax.condensed import storage
from srigl_jax.condensed.description import Description
from srigl_jax.condensed.modules import CondensedLinear
from srigl_jax.condensed.representation import condense
from srigl_jax.image_input import UnreadableImageError, open_images
from srigl_jax.predict import _output, likeliest, main
from srigl_jax.predictor import load_predictor, stablehlo_files

CLASSES = ("left", "right", "none")


def description(channels=1):
    return Description(
        model="mlp",
        options={"widths": []},
        dataset="sides",
        image_shape=(2, 2, channels),
        mean=(100.0,) * channels,
        std=(50.0,) * channels,
        class_names=CLASSES,
        batch_size=2,
    )


def network(channels=1):
    """Sums the first channel's left and right pixels; none is always 0."""
    kernel = np.zeros((2, 2, channels, 3), np.float32)
    kernel[:, 0, 0, 0] = kernel[:, 1, 0, 1] = 1
    kernel = kernel.reshape(-1, 3)
    model = description(channels).fresh()
    c = condense(kernel, kernel != 0, np.zeros(3, np.float32))
    model.layers[0] = CondensedLinear(c, implementation="xla")
    return model


LEFT = np.array([[255, 0], [255, 0]], np.uint8)
RIGHT = np.array([[0, 255], [0, 255]], np.uint8)
NONE = np.zeros((2, 2), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "condensed"
    storage.save(directory, network(), description())
    return directory


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "model.stablehlo"
    for file, content in stablehlo_files(path, network(), description()).items():
        file.write_bytes(content)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one of them deeper, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    PIL.Image.fromarray(RIGHT).save(folder / "b.png")
    PIL.Image.fromarray(LEFT).save(folder / "a.bmp")
    PIL.Image.fromarray(NONE).save(folder / "more" / "c.tif")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def saved(path, array):
    np.save(path, array)
    return path


def run(capsys, *arguments):
    """What a command prints on standard output."""
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def fails(capsys, *arguments):
    """The line by which a command fails, and what it printed before."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    if stop.value.code == 2:
        return printed.err, printed.out
    assert isinstance(stop.value.code, str)  # Which Python prints, and exits with 1.
    return stop.value.code, printed.out + printed.err


def test_probabilities_are_the_softmax_of_the_logits():
    (first, second) = likeliest(np.log([0.1, 0.7, 0.2]), ("a", "b", "c"), 2)
    assert (first[0], second[0]) == ("b", "c")
    np.testing.assert_allclose([first[1], second[1]], [0.7, 0.2])


def test_large_logits_do_not_overflow():
    assert likeliest(np.array([1e4, 0.0]), ("a", "b"), 1) == [("a", 1.0)]


def test_a_folder_is_classified_in_the_order_of_its_names(model, folder, capsys):
    lines = run(capsys, "--model", model, "--input", folder, "--top", 1).splitlines()
    # (255 - 100) / 50 * 2 = 6.2 against -4 and 0.
    assert lines[:3] == [
        "a.bmp: left 99.8%",
        "b.png: right 99.8%",
        "more/c.tif: none 96.5%",
    ]


def test_throughput_is_printed_with_batch_size_and_device(model, folder, capsys):
    last = run(capsys, "--model", model, "--input", folder).splitlines()[-1]
    assert last.startswith("3 images in batches of 2 on cpu: ")
    assert "images/s by the network alone" in last


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_the_batch_size_changes_no_class(model, tmp_path, capsys, batch_size):
    path = saved(tmp_path / "x.npy", np.stack([LEFT, RIGHT, NONE, LEFT, RIGHT]))
    arguments = ["--model", model, "--input", path, "--batch_size", batch_size]
    lines = run(capsys, *arguments, "--top", 1).splitlines()[:-1]
    words = [line.split()[:2] for line in lines]
    assert words == [
        [f"{i}:", name]
        for i, name in enumerate(["left", "right", "none", "left", "right"])
    ]


def test_floats_are_taken_in_the_units_of_the_pixels(model, tmp_path, capsys):
    path = saved(tmp_path / "x.npy", np.stack([LEFT, RIGHT]).astype(np.float64) / 2)
    lines = run(capsys, "--model", model, "--input", path, "--top", 1).splitlines()
    # (127.5 - 100) / 50 * 2 = 1.1 against -4 and 0.
    assert lines[0] == "0: left 74.7%"


def test_floats_up_to_1_get_a_warning(model, tmp_path, capsys):
    path = saved(tmp_path / "x.npy", np.stack([LEFT]) / 255)
    main(["--model", str(model), "--input", str(path)])
    assert "warning: no value of the first images is above 1" in capsys.readouterr().err


def test_stablehlo_gives_the_same_lines(model, artefact, folder, capsys):
    expected, found = (
        run(capsys, "--model", m, "--input", folder).splitlines()[:-1]
        for m in (model, artefact)
    )
    assert found == expected


def test_stablehlo_alone_numbers_the_classes(artefact, folder, tmp_path, capsys):
    moved = tmp_path / "moved"
    moved.write_bytes(artefact.read_bytes())
    lines = run(capsys, "--model", moved, "--input", folder, "--top", 1).splitlines()
    assert lines[0] == "a.bmp: class 0 99.8%"


def test_stablehlo_takes_floats_that_are_pixels(artefact, tmp_path, capsys):
    path = saved(tmp_path / "x.npy", np.stack([LEFT]).astype(np.float32))
    lines = run(capsys, "--model", artefact, "--input", path).splitlines()
    assert lines[0].startswith("0: left 99.8%")


def test_stablehlo_refuses_floats_between_pixels(artefact, tmp_path, capsys):
    path = saved(tmp_path / "x.npy", np.stack([LEFT]) / 2)
    line, _ = fails(capsys, "--model", artefact, "--input", path)
    assert "image 0 has values other than 0, 1, ... 255" in line


def test_a_csv_file_holds_all_classes_asked_for(model, folder, tmp_path, capsys):
    output = tmp_path / "out.csv"
    arguments = ["--model", model, "--input", folder, "--output", output]
    printed = run(capsys, *arguments, "--top", 2)
    assert f"wrote {output}" in printed and "left" not in printed
    rows = list(csv.reader(output.read_text().splitlines()))
    assert rows[0] == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert rows[1] == ["a.bmp", "left", "0.997938", "none", "0.002025"]
    assert len(rows) == 4
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_a_picture_alone_is_classified(model, folder, capsys):
    lines = run(capsys, "--model", model, "--input", folder / "b.png").splitlines()
    assert lines[0].startswith("b.png: right")


def test_pictures_are_turned_into_the_channels_of_the_network(tmp_path):
    PIL.Image.fromarray(LEFT).save(tmp_path / "grey.png")
    PIL.Image.new("RGBA", (2, 2), (10, 20, 30, 40)).save(tmp_path / "clear.png")
    source = open_images(tmp_path, (2, 2, 3))
    names, images = next(source.batches(2, skip=pytest.fail))
    assert names == ["clear.png", "grey.png"]
    assert images.shape == (2, 2, 2, 3)
    assert images[0, 0, 0].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(images[1, ..., 2], LEFT)


def test_16_bit_pictures_are_scaled_to_8(tmp_path):
    deep = np.array([[0, 257], [25700, 65535]], np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    image = open_images(tmp_path, (2, 2, 1)).read(0)
    assert image[..., 0].tolist() == [[0, 1], [100, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_of_unknown_range_are_left_out(tmp_path, dtype):
    PIL.Image.fromarray(np.zeros((2, 2), dtype)).save(tmp_path / "range.tif")
    with pytest.raises(UnreadableImageError, match="range.tif cannot be read: .*mode"):
        open_images(tmp_path, (2, 2, 1)).read(0)


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6  # Taken with the camera turned left.
    picture = PIL.Image.fromarray(np.array([[0, 255], [0, 255]], np.uint8))
    picture.save(tmp_path / "turned.png", exif=exif)
    image = open_images(tmp_path, (2, 2, 1)).read(0)
    assert image[..., 0].tolist() == [[0, 0], [255, 255]]


def test_pictures_of_another_size_are_scaled_if_asked(model, tmp_path, capsys):
    large = np.kron(LEFT, np.ones((4, 4), np.uint8))
    PIL.Image.fromarray(large).save(tmp_path / "large.png")
    lines = run(capsys, "--model", model, "--input", tmp_path, "--resize").splitlines()
    assert lines[0].startswith("large.png: left")


def test_pictures_of_another_size_are_refused_otherwise(model, tmp_path, capsys):
    PIL.Image.new("L", (5, 3)).save(tmp_path / "wide.png")
    line, _ = fails(capsys, "--model", model, "--input", tmp_path)
    assert "wide.png has 5 x 3 pixels, but the network takes 2 x 2: --resize" in line


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"", lambda b: b[9:]])
def test_a_corrupt_picture_is_named_and_left_out(model, folder, capsys, damage):
    path = folder / "b.png"
    path.write_bytes(damage(path.read_bytes()))
    line, printed = fails(capsys, "--model", model, "--input", folder)
    assert line == "error: 1 image(s) left out, as said above"
    assert f"left out: {path} cannot be read" in printed
    assert "a.bmp: left" in printed and "more/c.tif: none" in printed
    assert "2 images in batches" in printed


def test_an_image_with_nan_is_named_and_left_out(model, tmp_path, capsys):
    images = np.stack([LEFT, RIGHT, NONE]).astype(np.float32)
    images[1, 0, 0] = np.nan
    path = saved(tmp_path / "x.npy", images)
    line, printed = fails(capsys, "--model", model, "--input", path)
    assert line == "error: 1 image(s) left out, as said above"
    assert f"{path}: image 1 is not finite" in printed
    assert "2: none" in printed


ARRAYS = {
    "size": (np.zeros((2, 3, 3), np.uint8), "x.npy has shape (2, 3, 3, 1)"),
    "rank": (np.zeros((2, 2), np.uint8), "must be [n, 2, 2, 1], n at least 1"),
    "channels": (np.zeros((1, 2, 2, 3), np.uint8), "has shape (1, 2, 2, 3)"),
    "none": (np.zeros((0, 2, 2), np.uint8), "n at least 1"),
    "integers": (np.zeros((1, 2, 2), np.int64), "int64: give uint8 or float"),
    "complex": (np.zeros((1, 2, 2), np.complex64), "complex64: give uint8 or float"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_an_array_of_another_kind_is_refused(model, tmp_path, capsys, case):
    array, message = ARRAYS[case]
    path = saved(tmp_path / "x.npy", array)
    line, _ = fails(capsys, "--model", model, "--input", path)
    assert message in line


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x93NUMPY\x01\x00\x05\x00{"])
def test_a_damaged_npy_is_named(model, tmp_path, capsys, content):
    (tmp_path / "x.npy").write_bytes(content)
    line, _ = fails(capsys, "--model", model, "--input", tmp_path / "x.npy")
    assert f"{tmp_path}/x.npy cannot be read as .npy" in line


def test_pickled_objects_are_never_loaded(model, tmp_path, capsys):
    array = np.array([{}], object)
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    line, _ = fails(capsys, "--model", model, "--input", tmp_path / "x.npy")
    assert f"{tmp_path}/x.npy cannot be read as .npy" in line


def test_a_truncated_npy_is_named(model, tmp_path, capsys):
    path = saved(tmp_path / "x.npy", np.zeros((9, 2, 2), np.uint8))
    path.write_bytes(path.read_bytes()[:-5])
    line, _ = fails(capsys, "--model", model, "--input", path)
    assert f"{path} cannot be read as .npy" in line


def test_input_that_is_nothing_of_use_is_named(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    for name, message in [
        ("nowhere", "there is no"),
        ("empty", "holds no picture"),
        ("text.txt", "is no picture"),
    ]:
        line, _ = fails(capsys, "--model", model, "--input", tmp_path / name)
        assert line.startswith("error: ")
        assert str(tmp_path / name) in line and message in line


def test_a_model_that_is_nothing_of_use_is_named(folder, tmp_path, capsys):
    for path, message in [
        (tmp_path / "nowhere", "there is no"),
        (folder, "holds no exported network"),
        (folder / "b.png", "is no network that jax.export wrote"),
    ]:
        line, _ = fails(capsys, "--model", path, "--input", folder)
        assert line.startswith("error: ")
        assert str(path) in line and message in line


def test_a_truncated_stablehlo_file_is_named(artefact, folder, tmp_path, capsys):
    path = tmp_path / artefact.name
    path.write_bytes(artefact.read_bytes()[:-100])
    beside = artefact.with_name(artefact.name + ".json")
    (tmp_path / beside.name).write_bytes(beside.read_bytes())
    line, _ = fails(capsys, "--model", path, "--input", folder)
    assert line.startswith(f"error: {path} is damaged, or {beside.name} is another's")


def test_a_damaged_description_beside_stablehlo_is_named(artefact, folder, tmp_path):
    path = tmp_path / artefact.name
    path.write_bytes(artefact.read_bytes())
    beside = tmp_path / f"{path.name}.json"
    digest = json.loads(artefact.with_name(beside.name).read_text())["sha256"]
    for content in ("{", "[]", '{"sha256": 1}'):
        beside.write_text(content)
        with pytest.raises(ValueError, match=f"{beside} is damaged"):
            load_predictor(path)
    beside.write_text(json.dumps({"sha256": digest, "description": {"model": 1}}))
    with pytest.raises(ValueError, match="description"):
        load_predictor(path)


@pytest.mark.parametrize("flag", ["--top", "--batch_size"])
@pytest.mark.parametrize("value", ["0", "-1", "all"])
def test_numbers_of_nonsense_are_named(model, folder, capsys, flag, value):
    arguments = ["--model", model, "--input", folder, f"{flag}={value}"]
    line, _ = fails(capsys, *arguments)
    assert f"argument {flag}: '{value}': give a whole number from 1 on" in line


def test_a_csv_file_that_cannot_be_written_is_named(model, folder, capsys):
    output = folder / "notes.txt" / "out.csv"
    arguments = ["--model", model, "--input", folder, "--output", output]
    line, _ = fails(capsys, *arguments)
    assert line.startswith(f"error: --output {output} cannot be written")


def test_more_classes_than_there_are_gives_all(model, folder, capsys):
    line = run(capsys, "--model", model, "--input", folder, "--top", 99).splitlines()[0]
    assert line.count("%") == 3


def test_pictures_for_another_number_of_channels_are_refused(folder):
    with pytest.raises(ValueError, match="1 or 3 channels; this one takes 2"):
        open_images(folder, (2, 2, 2))


def test_a_predictor_of_three_channels_normalises_each(tmp_path):
    what = Description(**(vars(description(3)) | {"mean": (0.0, 10.0, 20.0)}))
    model = what.fresh()
    kernel = jnp.asarray(np.eye(12, 3), jnp.float32)
    model.layers[0] = nnx.Linear(12, 3, rngs=nnx.Rngs(0))
    model.layers[0].kernel = nnx.Param(kernel)
    storage.save(tmp_path / "model", model, what)
    pixels = np.full((1, 2, 2, 3), 50, np.uint8)
    logits = load_predictor(tmp_path / "model").logits(pixels)
    np.testing.assert_allclose(logits, [[1.0, 0.8, 0.6]], rtol=1e-6)


def test_pictures_of_formats_that_are_only_written_are_passed_over(tmp_path):
    PIL.Image.fromarray(LEFT).save(tmp_path / "page.pdf")
    PIL.Image.fromarray(LEFT).save(tmp_path / "a.png")
    assert open_images(tmp_path, (2, 2, 1)).names == ["a.png"]


def test_an_image_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(OSError, match="stale"), _output(tmp_path / "out.csv", 1):
        raise OSError("stale file handle")
    assert not list(tmp_path.iterdir())
