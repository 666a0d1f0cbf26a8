"""Pictures: what they show, where they show it, and that they are the same every time."""

import io

import matplotlib.image
import numpy as np
import PIL.Image
import pytest
from classes import CLASS_NAMES, EDEMA, ENHANCING
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from ray_brats.errors import UsageError
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.report import figures, panels

SHAPE = (24, 28, 16)


def brain() -> np.ndarray:
    """Signal in every voxel, so that the picture shows the whole grid."""
    return np.full(SHAPE, 100.0, np.float32)


def block(*corner: int, size: int = 3, value: int = ENHANCING) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[tuple(slice(at, at + size) for at in corner)] = value
    return label


def headline(figure) -> str:
    return figure.get_suptitle()


def titles(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def coloured_centre(figure, panel: int, colour: str) -> tuple[float, float]:
    """Where a colour lies in a panel of the rendered PNG: 0…1 from the left, 0…1 from the top."""
    pixels = matplotlib.image.imread(io.BytesIO(figures.png_bytes(figure)))[..., :3]
    scale = pixels.shape[0] / figure.bbox.height
    box = figure.axes[panel].get_window_extent()
    left, right = int(box.x0 * scale), int(box.x1 * scale)
    top, bottom = (int(pixels.shape[0] - edge * scale) for edge in (box.y1, box.y0))
    inside = pixels[top:bottom, left:right]
    # The overlay is a mix: what counts is the hue, so compare with the background's grey.
    hue = np.asarray(to_rgb(colour)) - np.mean(to_rgb(colour))
    match = (inside - inside.mean(axis=-1, keepdims=True)) @ hue
    rows, columns = np.nonzero(match > 0.5 * match.max())
    assert match.max() > 0.05, "the colour is not in the picture"
    return columns.mean() / inside.shape[1], rows.mean() / inside.shape[0]


def test_default_slice_has_the_most_tumour_of_the_label() -> None:
    label = block(4, 4, 3, size=2)
    label[4:12, 4:12, 9] = EDEMA
    figure = figures.draw_case({"flair": brain()}, label, block(1, 1, 12))
    assert "axial slice 9 (0–15)" in headline(figure)


def test_default_slice_is_of_the_prediction_where_the_label_is_empty_or_missing() -> None:
    prediction = block(4, 4, 11, size=1)
    for label in (None, np.zeros(SHAPE, np.uint8)):
        assert "slice 11 " in headline(figures.draw_case({"t2": brain()}, label, prediction))


def test_default_slice_is_the_middle_without_tumour() -> None:
    assert "slice 8 " in headline(figures.draw_case({"t2": brain()}, None))


@pytest.mark.parametrize("wanted", [-1, SHAPE[2]])
def test_a_slice_out_of_range_is_an_error_that_names_the_range(wanted: int) -> None:
    with pytest.raises(UsageError, match="0 to 15"):
        figures.draw_case({"t2": brain()}, None, slice_index=wanted)


def test_first_and_last_slice_can_be_chosen() -> None:
    for wanted in (0, SHAPE[2] - 1):
        figure = figures.draw_case({"t2": brain()}, None, slice_index=wanted, title="case")
        assert headline(figure) == f"case · axial slice {wanted} (0–15)"


def test_panels_stand_in_the_order_of_the_original_picture() -> None:
    images = {name: brain() for name in ("t1", "t1ce", "t2", "flair")}
    figure = figures.draw_case(images, block(4, 4, 4), block(5, 4, 4))
    assert titles(figure) == ["FLAIR", "T1CE", "T2", "T1", "reference", "prediction"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASS_NAMES[1:])


def test_the_patient_s_right_is_on_the_left_and_anterior_on_top() -> None:
    yellow = GLIOMA.classes[ENHANCING - 1].colour
    right_anterior = figures.draw_case({"flair": brain()}, block(1, 2, 5))
    across, down = coloured_centre(right_anterior, 1, yellow)
    assert across < 0.3
    assert down < 0.3
    left_posterior = figures.draw_case({"flair": brain()}, block(19, 22, 5))
    across, down = coloured_centre(left_posterior, 1, yellow)
    assert across > 0.7
    assert down > 0.7


def test_orientation_letters_name_the_sides_of_the_paper() -> None:
    figure = figures.draw_planes(brain(), None, None)
    letters = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert letters == [list("RLAP"), list("RLSI"), list("APSI")]


def test_superior_is_on_top_of_the_upright_planes() -> None:
    figure = figures.draw_planes(brain(), block(10, 4, 12), None)
    blue = panels.OUTLINES["reference"][0]
    across, down = coloured_centre(figure, 1, blue)
    assert 0.3 < across < 0.7
    assert down < 0.3
    across, down = coloured_centre(figure, 2, blue)
    assert across < 0.4
    assert down < 0.3


def test_planes_meet_inside_a_tumour_whose_centre_of_mass_is_outside() -> None:
    label = block(2, 2, 2) + block(18, 2, 2)
    figure = figures.draw_planes(brain(), label, None)
    x = int(titles(figure)[2].removeprefix("sagittal "))
    assert label[x].any()


def test_planes_follow_the_prediction_where_the_label_is_empty() -> None:
    figure = figures.draw_planes(brain(), np.zeros(SHAPE, np.uint8), block(6, 7, 8, size=1))
    assert titles(figure) == ["axial 8", "coronal 7", "sagittal 6"]


def test_anisotropic_voxels_are_drawn_at_their_physical_size() -> None:
    figure = figures.draw_planes(brain(), None, None, spacing_mm=(1.0, 1.0, 3.0))
    axial, coronal, _ = (ax.get_aspect() for ax in figure.axes)
    assert (axial, coronal) == (1.0, 3.0)


def test_the_window_is_blind_to_outliers_and_to_the_background() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[4:20, 4:20, 2:14] = np.random.default_rng(0).uniform(100, 200, (16, 16, 12))
    image[5, 5, 5] = 1e6
    norm = figures.draw_case({"t2": image}, None).axes[0].images[0].norm
    assert 95 < norm.vmin < 105
    assert 195 < norm.vmax < 205


def test_background_is_black_where_intensities_are_z_scores() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[4:20, 4:20, :] = np.random.default_rng(0).normal(0, 1, (16, 16, 16))
    drawn = figures.draw_case({"t2": image}, None).axes[0].images[0]
    assert drawn.get_array()[0, 0] == drawn.norm.vmin


@pytest.mark.parametrize("image", [np.zeros(SHAPE), np.full(SHAPE, np.nan), np.ones((9, 9, 1))])
def test_degenerate_images_are_drawn(image: np.ndarray) -> None:
    label = np.full(image.shape, ENHANCING, np.uint8)
    assert figures.png_bytes(figures.draw_case({"t2": image}, label))
    label[:2] = 0
    assert figures.png_bytes(figures.draw_planes(image, label, label))


def test_arrays_of_different_shape_are_an_error() -> None:
    with pytest.raises(UsageError, match="24×28×16"):
        figures.draw_case({"t2": brain()}, np.zeros((24, 28, 15), np.uint8))
    with pytest.raises(UsageError, match="three axes"):
        figures.draw_planes(np.ones((4, 4)), None, None)
    with pytest.raises(UsageError, match="no image"):
        figures.draw_case({}, block(1, 1, 1))


def test_titles_are_shown_as_they_are_written() -> None:
    figure = figures.draw_case({"t2": brain()}, None, title="a$b_c$ <d>")
    assert figures.png_bytes(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", "a.jpg"])
def test_other_extensions_are_an_error_that_names_what_works(tmp_path, name: str) -> None:
    figure = figures.draw_case({"t2": brain()}, None)
    with pytest.raises(UsageError, match=r"\.png, \.pdf, \.svg"):
        figures.save_figure(figure, str(tmp_path / name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_files_are_whole_alone_and_identical_on_repetition(tmp_path, name, start) -> None:
    contents = []
    for attempt in range(2):
        figure = figures.draw_case({"flair": brain()}, block(2, 3, 4), title="case")
        path = tmp_path / str(attempt) / name
        figures.save_figure(figure, str(path))
        contents.append(path.read_bytes())
        figures.save_figure(figure, str(path))
        contents.append(path.read_bytes())
        assert [entry.name for entry in path.parent.iterdir()] == [name]
    assert contents[0].startswith(start)
    assert len(set(contents)) == 1
    assert b"CreationDate" not in contents[0]
    assert b"dc:date" not in contents[0]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.save_figure(figures.draw_case({"t2": brain()}, None), str(path))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("plane", "axis", "letters"),
    [("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "APSI")],
)
def test_any_plane_is_drawn_with_its_own_slices(plane, axis: int, letters: str) -> None:
    label = block(5, 7, 9, size=1)
    figure = figures.draw_case({"t2": brain()}, label, plane=plane, title="case")
    count = SHAPE[axis]
    assert headline(figure) == f"case · {plane} slice {(5, 7, 9)[axis]} (0–{count - 1})"
    assert [text.get_text() for text in figure.axes[0].texts] == list(letters)
    with pytest.raises(UsageError, match=f"0 to {count - 1} in the {plane}"):
        figures.draw_case({"t2": brain()}, label, plane=plane, slice_index=count)


def test_a_plane_that_is_none_is_an_error_that_names_them() -> None:
    with pytest.raises(UsageError, match="axial, coronal, sagittal"):
        figures.draw_case({"t2": brain()}, None, plane="oblique")  # type: ignore[arg-type]


def test_superior_is_on_top_of_an_upright_case() -> None:
    yellow = GLIOMA.classes[ENHANCING - 1].colour
    figure = figures.draw_case({"flair": brain()}, block(1, 9, 12), plane="coronal", slice_index=10)
    across, down = coloured_centre(figure, 1, yellow)
    assert across < 0.3
    assert down < 0.3


def test_one_plane_can_be_drawn_alone() -> None:
    figure = figures.draw_planes(brain(), block(6, 7, 8, size=1), None, planes=["coronal"])
    assert titles(figure) == ["coronal 7"]


def test_an_animation_goes_through_every_slice_with_signal() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[2:22, 2:26, 7:10] = 100
    label = block(8, 8, 8, size=1)
    content = figures.animate_case({"t2": image}, label, title="case")
    assert content == figures.animate_case({"t2": image}, label, title="case")
    with PIL.Image.open(io.BytesIO(content)) as movie:
        assert (movie.format, movie.info["loop"]) == ("GIF", 0)
        frames = []
        for index in range(movie.n_frames):
            movie.seek(index)
            frames.append(np.asarray(movie.convert("RGB"), np.int16))
    first, last = (max(0, 7 - 6), min(SHAPE[2], 10 + 6))
    assert len(frames) == last - first, "with the margin of the still picture"
    yellow = [np.count_nonzero(frame.min(axis=-1) < frame.max(axis=-1) - 60) for frame in frames]
    assert int(np.argmax(yellow)) == 8 - first, "the tumour is in its own slice"


def test_frames_of_an_animation_are_the_still_pictures() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[2:22, 2:26, 7:10] = np.arange(20 * 24 * 3).reshape(20, 24, 3)
    label = block(8, 8, 8, size=2)
    content = figures.animate_case({"t2": image}, label, title="case", plane="sagittal")
    with PIL.Image.open(io.BytesIO(content)) as movie:
        for index in (0, 9, movie.n_frames - 1):
            movie.seek(index)
            still = figures.draw_case(
                {"t2": image}, label, title="case", plane="sagittal", slice_index=index
            )
            still.set_dpi(72)
            canvas = FigureCanvasAgg(still)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba(), np.int16)[..., :3]
            # A GIF holds 128 colours of a frame. The headline, above, may lie a pixel elsewhere.
            difference = np.abs(np.asarray(movie.convert("RGB"), np.int16) - pixels)[20:]
            assert difference.max() < 32, index
        assert movie.n_frames == SHAPE[0]
