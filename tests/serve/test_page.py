"""The page of the server in a real browser: from files to the mask on three planes."""

from __future__ import annotations

import base64
import gzip
import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import classes
import dicoms
import heads
import nibabel as nib
import numpy as np
import pytest
from page_server import PageServer, Script, zipped
from PIL import Image
from serve_doubles import Double, listening

from ray_brats import labels
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import naming, phantom
from ray_brats.cases.raw import apart
from ray_brats.cases.raw.preparation import PreparationOptions
from ray_brats.cases.volume import read, read_mask
from ray_brats.labels import LabelMap
from ray_brats.recipes.tasks import GLIOMA, TASKS
from ray_brats.report import panels
from ray_brats.serve import niivue
from serve.test_page_names import FILE_NAMES
from serve.test_raw import check_seg, of_skulls

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
CASE = phantom.make_phantom(1, shape_vox=(40, 48, 32))
NAMES = {"t1ce": "BraTS-GLI-00001-000-t1c", "t2": "BraTS-GLI-00001-000-t2w"}
NAMES["flair"] = "BraTS-GLI-00001-000-t2f"
FILES = ("t1ce", "t2", "flair")
VOLUMES_ML = {"WT": 65.2, "TC": 23.8, "ET": 9.47}
SOON_MS = 20_000
CLASSES = (classes.NECROTIC, classes.EDEMA, classes.ENHANCING)


def packed(volume: Any, affine: Any = CASE.affine) -> bytes:
    return gzip.compress(nib.Nifti1Image(volume, affine).to_bytes(), 1)


MASK = packed(labels.from_class_index(CASE.label, TASKS["gli-2020"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case as its release names it, with its mask."""
    made = tmp_path_factory.mktemp("case")
    for modality, name in NAMES.items():
        (made / f"{name}.nii.gz").write_bytes(packed(CASE.images[modality]))
    (made / "BraTS-GLI-00001-000-seg.nii.gz").write_bytes(MASK)
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    files = {f"{CASE.case_id}_{name}.nii.gz": packed(CASE.images[name]) for name in FILES}
    with PageServer(Script(mask=MASK, phantom=files, volumes_ml=VOLUMES_ML)) as running:
        yield running


@pytest.fixture
def script(server: PageServer) -> Script:
    server.script.reset()
    return server.script


class Tab:
    """One tab for all tests, since a new one costs a process; each opening is a fresh page."""

    def __init__(self, browser: Any, url: str) -> None:
        self.url = url
        self.said: list[str] = []
        self.asked: list[str] = []
        self.refusals = ""
        self.page = browser.new_context().new_page()
        self.page.set_default_timeout(SOON_MS)
        self.page.on("console", self.listen)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def listen(self, message: Any) -> None:
        refused = message.text.startswith("Failed to load resource")
        if "GL Driver Message" in message.text:
            return  # software WebGL is slow, and says so
        if not (refused and self.refusals and self.refusals in message.location["url"]):
            self.said.append(f"{message.type}: {message.text}")

    def open(self, width_px: int = 1280, *, refusals: str = "", scheme: str = "light") -> Any:
        """`refusals`: a path whose 4xx answers the browser itself may note in the console."""
        self.refusals = refusals
        self.page.set_viewport_size({"width": width_px, "height": 800})
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(self.url)
        see(self.page, "#model-note" if refusals != "v1/models" else "#key-form")
        return self.page


@pytest.fixture(scope="module")
def tab(browser: Any, server: PageServer) -> Tab:
    return Tab(browser, server.url)


@pytest.fixture
def opened(tab: Tab, script: Script) -> Iterator[Open]:
    """A function that opens the page; what it said and asked for is checked at the end."""
    tab.said.clear()
    tab.asked.clear()
    yield tab.open
    script.go.set()
    assert tab.said == []
    own = (tab.url, f"blob:{tab.url}", "data:,")
    assert [url for url in tab.asked if not url.startswith(own)] == []
    tab.page.goto("about:blank")


def see(page: Any, selector: str, text: str | re.Pattern[str] | None = None) -> Any:
    """Wait until something is on the page, with a text; return its locator."""
    from playwright.sync_api import expect

    found = page.locator(selector)
    expect(found).to_be_visible()
    if text is not None:
        expect(found).to_have_text(text)
    return found


def take_files(page: Any, folder: Path) -> None:
    page.locator("#files").set_input_files(sorted(folder.glob("*.nii.gz")))
    see(page, "#scan")


def segmented(page: Any) -> Any:
    """The phantom with its mask on the page."""
    page.click("#phantom")
    see(page, "#scan")
    page.click("#segment")
    see(page, "#result")
    see(page, "#status", "Done: the mask is over the scan.")
    return page


def shown(page: Any, plane: str) -> Any:
    """RGB of the canvas of a plane, (rows, columns, 3)."""
    canvas = page.locator(f"[data-plane={plane}] canvas")
    width, height, values = canvas.evaluate(
        "e => [e.width, e.height, btoa(Array.from("
        "e.getContext('2d').getImageData(0, 0, e.width, e.height).data, "
        "value => String.fromCharCode(value)).join(''))]"
    )
    pixels = np.frombuffer(base64.b64decode(values), np.uint8)
    return pixels.reshape(height, width, 4)[..., :3].astype(float)


def paper(plane: panels.Plane, volume: Any, index: int) -> Any:
    """A cut as it lies on paper: rows from top to bottom."""
    cut = plane.cut(volume, index)
    return cut[::-1] if plane.grows == "up" else cut


def expected(
    plane: panels.Plane,
    index: int,
    modality: str = "flair",
    classes: tuple[int, ...] = CLASSES,
    opacity: float = 0.65,
    label: LabelMap = CASE.label,
    images: Mapping[str, Any] = CASE.images,
) -> Any:
    image = images[modality].astype(float)
    low, high = np.percentile(image[image != 0], (1, 99.5))
    grey = paper(plane, image, index)
    shade = np.where(grey == 0, 0, np.clip((grey - low) / (high - low) * 255, 0, 255))
    rgb = np.repeat(shade[..., None], 3, axis=-1)
    for tissue in classes:
        colour = np.array(
            [int(GLIOMA.classes[tissue - 1].colour[at : at + 2], 16) for at in (1, 3, 5)]
        )
        here = paper(plane, label, index) == tissue
        rgb[here] = opacity * colour + (1 - opacity) * rgb[here]
    return rgb


def most_tumour(label: LabelMap = CASE.label) -> list[int]:
    axes = (0, 1, 2)
    return [
        int(np.argmax((label > 0).sum(tuple(other for other in axes if other != axis))))
        for axis in axes
    ]


def check_planes(page: Any, at: list[int], *, within: float = 1.5, **options: Any) -> None:
    for name, plane in panels.PLANES.items():
        wanted = expected(plane, at[plane.axis], **options)
        found = shown(page, name)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= within, f"the {name} plane differs"


def test_files_go_up_by_modality_and_the_mask_comes_down(
    opened: Open, script: Script, folder: Path
) -> None:
    page = opened()
    take_files(page, folder)
    see(page, "#status", "The case is complete.")
    page.select_option("#model", "baseline")
    see(page, "#scan")
    page.click("#segment")
    see(page, "#result")
    assert script.query == "model=baseline"
    assert set(script.sent) == set(FILES)
    for modality, content in script.sent.items():
        assert content == (folder / f"{NAMES[modality]}.nii.gz").read_bytes()
    for region, volume in VOLUMES_ML.items():
        assert page.inner_text(f"#ml-{region}") == f"{volume:.{2 if volume < 10 else 1}f} ml"
    for tissue in CLASSES:
        volume = np.count_nonzero(CASE.label == tissue) / 1000
        assert page.inner_text(f"#ml-{tissue}") == f"{volume:.2f} ml"
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "BraTS-GLI-00001-000.nii.gz"
    assert Path(download.value.path()).read_bytes() == MASK


def test_the_overlay_is_where_the_tumour_is_on_all_planes(opened: Open, script: Script) -> None:
    page = segmented(opened())
    at = most_tumour()
    check_planes(page, at)
    assert (shown(page, "axial") != expected(panels.AXIAL, at[2], classes=())).any()
    page.select_option("#modality", "t1ce")
    check_planes(page, at, modality="t1ce")


@pytest.mark.slow
def test_the_overlay_of_a_real_case_is_where_its_tumour_is(
    opened: Open, script: Script, real_data: Path
) -> None:
    case = cohorts.find(str(real_data / "brats2018" / "HGG")).cases[0]
    assert case.segmentation is not None
    images = {name: read(case.images[name]).voxels_HWD for name in FILES}
    label = read_mask(case.segmentation, TASKS["gli-2018"])
    before, script.mask = script.mask, Path(case.segmentation).read_bytes()
    try:
        page = opened()
        page.locator("#files").set_input_files([case.images[name] for name in FILES])
        see(page, "#scan")
        page.click("#segment")
        see(page, "#status", "Done: the mask is over the scan.")
        at = most_tumour(label)
        check_planes(page, at, label=label, images=images)
        page.select_option("#modality", "t1ce")
        # The page's window has whole intensities, and few lie between black and white here.
        check_planes(page, at, within=3, label=label, images=images, modality="t1ce")
    finally:
        script.mask = before


def test_a_mask_that_lies_otherwise_on_disk_is_shown_in_its_place(
    opened: Open, script: Script
) -> None:
    script.task = "gli-2023"
    lps = nib.Nifti1Image(labels.from_class_index(CASE.label, TASKS["gli-2023"]), CASE.affine)
    before = script.mask
    wanted = nib.orientations.axcodes2ornt(("S", "R", "A"))
    turned = lps.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(CASE.affine), wanted)
    )
    script.mask = gzip.compress(turned.to_bytes(), 1)
    try:
        check_planes(segmented(opened()), most_tumour())
    finally:
        script.mask = before


def test_tissues_and_regions_are_shown_and_hidden(opened: Open) -> None:
    page, at = segmented(opened()), most_tumour()
    pressed = "#regions button[aria-pressed=true]"
    assert page.inner_text(pressed) == "WT"
    for region in ("TC", "ET", "WT"):
        page.click(f"#region-{region}")
        assert page.inner_text(pressed) == region
        check_planes(page, at, classes=classes.REGIONS[region])
    page.uncheck(f"#tissue-{classes.EDEMA}")
    assert page.inner_text(pressed) == "TC"
    check_planes(page, at, classes=classes.REGIONS["TC"])
    page.keyboard.press("2")
    page.keyboard.press("1")
    assert page.locator(pressed).count() == 0
    check_planes(page, at, classes=(classes.EDEMA, classes.ENHANCING))


def test_classes_and_regions_are_those_of_the_model(opened: Open, script: Script) -> None:
    task = TASKS["gli-post"]
    label = phantom.make_phantom(1, shape_vox=CASE.label.shape, task=task).label
    cavity = task.targets.region("RC").classes[0]
    before, script.task = script.mask, task.name
    page = opened()
    page.select_option("#model", "treated")
    try:
        for classes_shown in (range(1, 5), [cavity]):
            only = np.where(labels.mask_of(label, classes_shown), label, 0).astype(np.uint8)
            script.mask = packed(labels.from_class_index(only, task))
            segmented(page)
            names = page.locator("#regions button").all_inner_texts()
            assert names == list(task.targets.region_names)
            for index, item in enumerate(task.targets.classes, start=1):
                assert item.name in page.inner_text("#tissues")
                volume = np.count_nonzero(only == index) / 1000
                assert page.inner_text(f"#ml-{index}") == f"{volume:.2f} ml"
            see(page, "#task", "Labels of gli-post, by standard.")
        page.click("#region-RC")
        colour = [int(task.targets.classes[cavity - 1].colour[at : at + 2], 16) for at in (1, 3, 5)]
        page.fill("#opacity", "100")
        assert (shown(page, "axial") == colour).all(axis=-1).any()
    finally:
        script.mask = before


def test_opacity_goes_from_the_scan_alone_to_the_colours_alone(opened: Open) -> None:
    page, at = segmented(opened()), most_tumour()
    for percent in (0, 30, 100):
        page.locator("#opacity").fill(str(percent))
        check_planes(page, at, opacity=percent / 100)


def test_keys_wheel_pointer_and_sliders_move_the_cross_hair(opened: Open) -> None:
    page = segmented(opened())
    x, y, z = most_tumour()
    axial = page.locator("[data-plane=axial] canvas")
    axial.focus()
    page.keyboard.press("ArrowUp")
    check_planes(page, [x, y, z + 1])
    page.keyboard.press("PageDown")
    check_planes(page, [x, y, z - 9])
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    check_planes(page, [x - 1, y + 1, z - 9])
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    check_planes(page, [x - 1, y + 1, 31])
    assert axial.get_attribute("aria-label") == "axial slice 32 of 32"
    page.locator("[data-plane=axial] input").fill(str(z))
    page.locator("[data-plane=sagittal] input").focus()
    page.keyboard.press("ArrowRight")
    check_planes(page, [x, y + 1, z])
    coronal = page.locator("[data-plane=coronal] canvas")
    box = coronal.bounding_box()
    coronal.click(position={"x": 10.5 * box["width"] / 40, "y": 5.5 * box["height"] / 32})
    check_planes(page, [10, y + 1, 31 - 5])
    coronal.dispatch_event("wheel", {"deltaY": -100, "deltaMode": 0})
    check_planes(page, [10, y + 2, 31 - 5])


def test_window_and_level_change_the_grey_and_reset(opened: Open) -> None:
    page = opened()
    page.click("#phantom")
    see(page, "#scan")
    at = [20, 24, 16]
    check_planes(page, at, classes=())
    page.locator("#level").fill("900")
    darker = shown(page, "axial").mean()
    assert darker < expected(panels.AXIAL, 16, classes=()).mean() / 2
    page.click("#window-reset")
    check_planes(page, at, classes=())


def test_a_job_shows_its_state_and_can_be_cancelled(opened: Open, script: Script) -> None:
    script.go.clear()
    page = opened()
    page.click("#phantom")
    see(page, "#scan")
    page.click("#segment")
    see(page, "#status", "Segmenting.")
    assert page.locator("#progress").evaluate("e => e.value") == 0.5
    assert page.is_disabled("#segment")
    assert page.is_disabled("#phantom")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.click("#cancel")
    see(page, "#status", "Cancelled.")
    assert script.cancelled
    assert page.is_enabled("#segment")
    assert page.is_hidden("#result")


REFUSALS = {
    "a file": (
        (422, {"error": "the file is cut short; copy it again.", "file": "t2"}, {}),
        f"T2 ({CASE.case_id}_t2.nii.gz): the file is cut short; copy it again.",
    ),
    "busy": (
        (429, {"error": "All models are busy."}, {"Retry_After": "7"}),
        "All models are busy. Try again in 7 s.",
    ),
    "no JSON": ((502, {}, {}), "The server answered 502 without saying why."),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_a_sentence(opened: Open, script: Script, name: str) -> None:
    script.refusal, sentence = REFUSALS[name]
    page = opened(refusals="v1/jobs")
    page.click("#phantom")
    see(page, "#scan")
    page.click("#segment")
    see(page, "#error", sentence)
    assert page.locator("#slots li.bad").count() == ("file" in script_content(name))
    page.click("#segment")
    see(page, "#result")
    assert page.is_hidden("#error")


def script_content(name: str) -> dict[str, Any]:
    return REFUSALS[name][0][1]


def test_a_job_that_fails_says_why(opened: Open, script: Script) -> None:
    script.failure = {"error": "flair: the brain fills the whole volume."}
    page = opened()
    page.click("#phantom")
    see(page, "#scan")
    page.click("#segment")
    see(page, "#error", "flair: the brain fills the whole volume.")


def test_labels_that_the_task_lacks_are_refused(opened: Open, script: Script) -> None:
    script.task = "gli-2023"  # the mask has label 4
    page = opened()
    page.click("#phantom")
    see(page, "#scan")
    page.click("#segment")
    see(page, "#error", "The mask holds the label 4, which gli-2023 does not define.")
    see(page, "#kept-mask")  # Nothing that was made is lost.


def test_a_scan_that_cannot_be_drawn_has_its_mask_all_the_same(
    opened: Open, script: Script, folder: Path
) -> None:
    page = opened()
    whole = gzip.decompress((folder / f"{NAMES['t2']}.nii.gz").read_bytes())
    for modality, name in NAMES.items():
        # Of a type that no browser reads, complex numbers.
        content = whole[:70] + struct.pack("<h", 32) + whole[72:]
        if modality != "t2":
            content = gzip.decompress((folder / f"{name}.nii.gz").read_bytes())
        odd = {"name": f"{name}.nii", "mimeType": "application/gzip", "buffer": content}
        page.locator(f"#slots li[data-modality={modality}] input").set_input_files([odd])
    see(page, "#error", re.compile("data type 32 is not one"))
    page.click("#segment")
    with page.expect_download() as download:
        see(page, "#kept-mask").click()
    assert Path(download.value.path()).read_bytes() == MASK
    see(page, "#kept-ml", "WT 65.2 ml, TC 23.8 ml, ET 9.5 ml")
    see(page, "#error", "This page cannot draw the scan; the mask can be downloaded.")


def test_a_case_dropped_while_a_job_begins_is_left_alone(opened: Open, script: Script) -> None:
    script.go.clear()
    page = opened()
    page.click("#phantom")
    see(page, "#scan")
    kept = page.locator("#slots").inner_text()
    # Its archive takes a second to be read, in which the job begins.
    page.evaluate(
        """
        () => {
          const own = Blob.prototype.arrayBuffer;
          Blob.prototype.arrayBuffer = async function slowly() {
            await new Promise((done) => setTimeout(done, 1000));
            return own.call(this);
          };
        }
        """
    )
    files = {f"{name}.nii.gz": packed(CASE.images[modality]) for modality, name in NAMES.items()}
    archive = {"name": "b.zip", "mimeType": "application/zip", "buffer": zipped(files)}
    page.locator("#files").set_input_files([archive])
    page.click("#segment")
    see(page, "#status", "Segmenting.")
    page.wait_for_timeout(3000)
    script.go.set()
    see(page, "#result")
    assert page.locator("#slots").inner_text() == kept


def test_a_key_is_asked_for_and_sent(opened: Open, script: Script) -> None:
    script.key = "open sesame"
    page = opened(refusals="v1/models")
    see(page, "#error", "This server asks for an API key.")
    page.fill("#key", "open sesame")
    page.keyboard.press("Enter")
    see(page, "#model-note", re.compile("^standard reads T1CE, T2, FLAIR"))
    assert page.is_hidden("#key-form")
    segmented(page)


def test_what_is_missing_or_not_recognised_is_said(opened: Open, folder: Path) -> None:
    page = opened()
    flair = (folder / f"{NAMES['flair']}.nii.gz").read_bytes()
    strange = {"name": "scan 3.nii.gz", "mimeType": "application/gzip", "buffer": flair}
    t1ce = {**strange, "name": "BraTS-GLI-00001-000-t1c.nii.gz"}
    page.locator("#files").set_input_files([t1ce, strange])
    see(page, "#status", "Still missing: T2, FLAIR.")
    see(page, "#ignored", re.compile(r"^Not recognised: scan 3\.nii\.gz\. Expected names"))
    assert page.is_disabled("#segment")
    page.locator("#slots li[data-modality=t2] input").set_input_files([strange])
    page.locator("#slots li[data-modality=flair] input").set_input_files([strange])
    see(page, "#status", "The case is complete.")
    assert page.is_enabled("#segment")


def test_a_file_that_cannot_be_read_is_named(opened: Open, folder: Path) -> None:
    page = opened()
    whole = (folder / f"{NAMES['t2']}.nii.gz").read_bytes()
    kinds = {
        whole[:2000]: r"it is no whole gzip file \(.*\); copy it again\.",
        gzip.compress(b"words" * 200): r"it is not NIfTI\.",
        gzip.compress(gzip.decompress(whole)[:-7]): r"it ends after \d+ bytes, expected \d+; .*",
    }
    for content, words in kinds.items():
        bad = {"name": "a_t2.nii.gz", "mimeType": "application/gzip", "buffer": content}
        page.locator("#files").set_input_files([bad])
        see(page, "#error", re.compile(rf"^T2 \(a_t2\.nii\.gz\): {words}$"))


def test_files_are_dropped_and_one_of_several_cases_is_chosen(opened: Open) -> None:
    page = opened()
    content = base64.b64encode(packed(CASE.images["flair"])).decode()
    page.evaluate(
        """(content) => {
          const transfer = new DataTransfer();
          for (const name of ["one_flair.nii.gz", "two_t1ce.nii.gz", "two_t2w.nii.gz"]) {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
          }
          document.getElementById("drop").dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        content,
    )
    see(page, "#status", "Still missing: T1CE, T2.")
    page.select_option("#which-case", "two")
    see(page, "#status", "Still missing: FLAIR.")


ORIENTATIONS = ("LPS", "RAS", "ASR", "SLP", "IRA")
TYPES = ("uint8", "int16", "<f4", ">i2", ">f8", ">u4", ">i8", "<u8")


def test_volumes_are_read_as_nibabel_reads_them(opened: Open) -> None:
    page = opened()
    rng = np.random.default_rng(5)
    turn = nib.eulerangles.euler2mat(0.2, 0.1, -0.15)  # oblique, yet no axis changes places
    read = """
    async (content) => {
      const { readNifti } = await import("/page/nifti.js");
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      const volume = await readNifti(new Blob([bytes]));
      const [values, [width, height, depth]] = [[], volume.shape];
      for (let i = 0; i < width; i += 1) for (let j = 0; j < height; j += 1)
        for (let k = 0; k < depth; k += 1) values.push(volume.value(i, j, k));
      return [volume.shape, volume.spacingMm, values];
    }
    """
    kinds = [(code, TYPES[n % len(TYPES)], n) for n, code in enumerate(ORIENTATIONS * 3)]
    lps = nib.orientations.axcodes2ornt(tuple("LPS"))
    for code, dtype, n in kinds:
        affine = nib.orientations.inv_ornt_aff(
            nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(tuple(code)), lps),
            (4, 5, 6),
        )
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        affine[:3, :3] = turn @ affine[:3, :3] @ np.diag([0.5, 1.0, 3.0])
        maker = nib.Nifti2Image if n % 4 == 3 else nib.Nifti1Image
        header = maker.header_class(endianness=">" if dtype.startswith(">") else "<")
        header.set_data_dtype(np.dtype(dtype))
        image = maker(rng.integers(0, 200, (4, 5, 6)).astype(dtype), affine, header)
        image.set_sform(affine, code=1 if n % 2 else 0)
        image.set_qform(affine, code=1)
        if n % 3 == 0:
            image.header.set_slope_inter(0.5, -3)
        content = image.to_bytes()
        back = maker.from_bytes(content)
        assert back.header.endianness == header.endianness
        found = back.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(back.affine), lps)
        )
        sent = base64.b64encode(content if n % 2 else gzip.compress(content)).decode()
        shape, spacing_mm, values = page.evaluate(read, sent)
        assert tuple(shape) == found.shape
        np.testing.assert_allclose(spacing_mm, found.header.get_zooms(), rtol=1e-5)
        np.testing.assert_allclose(values, found.get_fdata().ravel(), rtol=1e-6)


def test_tables_of_the_page_are_those_of_the_package(opened: Open) -> None:
    page = opened()
    tables = page.evaluate(
        "async () => { const { Targets } = await import('/page/labels.js');"
        " const { models } = await (await fetch('/v1/models')).json();"
        " const own = new Targets(models[0]);"
        " const names = Object.keys(own.integers);"
        " const meanings = Object.fromEntries(names.map((name) => [name, own.meaning(name)]));"
        " return { ...own, meanings }; }"
    )
    assert tables["names"] == list(classes.CLASS_NAMES)
    assert tables["regions"] == {name: list(own) for name, own in classes.REGIONS.items()}
    assert tables["titles"] == classes.REGION_TITLES
    assert tables["colours"] == [None, *(item.colour for item in GLIOMA.classes)]
    for name in ("gli-2020", "gli-2023"):
        meaning = {str(integer): index for integer, index in TASKS[name].meaning.items()}
        assert tables["meanings"][name] == meaning
    planes = page.evaluate("async () => (await import('/page/planes.js')).PLANES")
    assert planes == [vars(plane) for plane in panels.PLANES.values()]
    told = page.evaluate(
        "async (names) => { const { caseAndKind } = await import('/page/naming.js');"
        " return names.map(caseAndKind); }",
        FILE_NAMES,
    )
    meanings = map(naming.meaning_of, FILE_NAMES)
    assert [one and (one["case"], one["kind"]) for one in told] == [
        one and (one.case, one.kind) for one in meanings
    ]


FAULTS = """
() => {
  const faults = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) faults.push("the page is too wide");
  for (const e of document.body.querySelectorAll("*")) {
    const r = e.getBoundingClientRect();
    const name = `${e.tagName}#${e.id}.${e.className} ${e.textContent.trim().slice(0, 30)}`;
    if (!r.width || !r.height || e.closest(".frame *")) continue;
    if (r.left < -1 || r.right > width + 1) faults.push(`outside: ${name}`);
    if (!["INPUT", "SELECT"].includes(e.tagName) && e.clientWidth &&
        e.scrollWidth > e.clientWidth + 1) faults.push(`cut: ${name}`);
  }
  return faults;
}
"""


@pytest.mark.parametrize(
    ("width_px", "scheme"), [(1280, "light"), (820, "dark"), (390, "light"), (390, "dark")]
)
def test_nothing_is_cut_and_text_stands_out(opened: Open, width_px: int, scheme: str) -> None:
    page = opened(width_px, scheme=scheme)
    assert page.evaluate(FAULTS) == []
    segmented(page)
    assert page.evaluate(FAULTS) == []
    contrast = """
    () => {
      const light = (css) => {
        const [r, g, b] = css.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
          .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = (e) => {
        const css = getComputedStyle(e).backgroundColor;
        return css === "rgba(0, 0, 0, 0)" ? paper(e.parentElement) : light(css);
      };
      return Array.from(document.querySelectorAll("h1, h2, p, a, b, th, td, label, legend, button"))
        .filter((e) => e.getClientRects().length && !e.disabled).map((e) => {
          const [ink, under] = [light(getComputedStyle(e).color), paper(e)];
          return (Math.max(ink, under) + 0.05) / (Math.min(ink, under) + 0.05);
        }).reduce((least, one) => Math.min(least, one));
    }
    """
    assert page.evaluate(contrast) >= 4.5
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, back.strip("rgb()").split(","))) > 384) == (scheme == "light")


def test_the_page_says_what_it_is_not_for_and_everything_has_a_name(opened: Open) -> None:
    page = segmented(opened())
    assert page.get_by_text("For research, not for diagnosis").is_visible()
    nameless = """
    () => Array.from(document.querySelectorAll("button, input, select, a, canvas, progress"))
      .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() ||
        (e.labels && Array.from(e.labels).some((label) => label.textContent.trim()))))
      .map((e) => e.outerHTML)
    """
    assert page.evaluate(nameless) == []


def test_a_case_is_segmented_by_keyboard_alone(opened: Open) -> None:
    page = opened()

    def go_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.locator(selector).evaluate("e => e === document.activeElement"):
                return
        raise AssertionError(f"{selector} is not reached by the Tab key")

    go_to("#phantom")
    page.keyboard.press("Enter")
    see(page, "#scan")
    go_to("#segment")
    page.keyboard.press("Enter")
    see(page, "#result")
    go_to(f"#tissue-{classes.EDEMA}")
    page.keyboard.press("Space")
    check_planes(page, most_tumour(), classes=classes.REGIONS["TC"])
    go_to("#download")


@pytest.mark.parametrize("width_px", [1280, 390])
def test_without_niivue_its_place_tells_the_command_that_brings_it(
    opened: Open, width_px: int
) -> None:
    page = segmented(opened(width_px, refusals="page/vendor/niivue.js"))
    page.click("#show-three")
    told = re.compile("^3-D needs NiiVue, .*`python -m ray_brats.serve.niivue`")
    see(page, "#three #three-absent", told)
    assert page.is_hidden("#three-canvas")
    assert page.evaluate(FAULTS) == []
    check_planes(page, most_tumour())
    page.click("#show-three")
    assert page.is_hidden("#three")


def drawn(page: Any) -> tuple[int, int]:
    """Pixels of the 3-D view that are not black, and those that are coloured and not grey."""
    picture = Image.open(io.BytesIO(page.locator("#three-canvas").screenshot())).convert("RGB")
    rgb = np.asarray(picture).astype(int)
    spread = rgb.max(axis=-1) - rgb.min(axis=-1)
    # The cube that shows where one looks from has colours too, in a corner.
    inner = spread[: spread.shape[0] * 3 // 4]
    return int((rgb.max(axis=-1) > 32).sum()), int((inner > 64).sum())


def check_3d_view(page: Any) -> None:
    """It draws the scan, the mask's tissues in colour, and takes these away."""
    page.click("#show-three")
    see(page, "#three-note", "Drag to turn, wheel to move the cut.")
    assert page.locator("#three-canvas").get_attribute("data-volumes") == "2"
    page.wait_for_timeout(1000)
    lit, coloured = drawn(page)
    assert lit > 5000
    assert coloured > 200
    for key in "123":
        page.keyboard.press(key)
    page.wait_for_timeout(1000)
    lit, coloured = drawn(page)
    assert (lit > 5000, coloured) == (True, 0)
    page.click("#show-three")
    assert page.is_hidden("#three")


def test_niivue_draws_the_scan_and_the_mask(opened: Open, script: Script) -> None:
    script.niivue = niivue.module()
    assert script.niivue is not None, "it comes with the package"
    check_3d_view(segmented(opened()))


def test_the_service_itself_gives_a_page_that_draws_in_3d(browser: Any, tmp_path: Path) -> None:
    page, said = browser.new_context().new_page(), list[str]()
    page.set_default_timeout(SOON_MS)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    with listening(Double(tmp_path).app) as url:
        page.goto(url)
        check_3d_view(segmented(page))
    assert [line for line in said if "GL Driver Message" not in line] == []
    page.context.close()


# --- raw studies -------------------------------------------------------------------------

SEGMENTATION = bytes(128) + b"DICM and a Segmentation"
ANSWER = {"mask.nii.gz": MASK, "scan.nii.gz": packed(CASE.images["t1ce"]), "mask.dcm": SEGMENTATION}
UNMEASURED = (
    "How good masks of raw studies are was not measured: look at the mask, and at whether the "
    "series were chosen and aligned well, before you use it."
)
REMARKS = ["T2: 2 slices are missing", "FLAIR <b>was chosen</b> by its times alone"]
CHOSEN = "The server chooses its series, aligns them and takes the skull off."
LEFT = {
    "DICOMDIR": bytes(128) + b"DICM",
    "README": b"Read me.",
    "T1/report.pdf": b"%PDF",
    ".x": b"",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of DICOM, with what lies beside it on a disc."""
    pytest.importorskip("pydicom")
    root = tmp_path_factory.mktemp("study") / "P-0001"
    for name, tags in dicoms.STUDY.items():
        voxels = dicoms.voxels_of((16, 12, 4), seed=tags.number)
        dicoms.write(root / name.upper(), voxels, dicoms.AXIAL_5MM, tags)
    for name, content in LEFT.items():
        (root / name).write_bytes(content)
    return root


def sent_of(study: Path) -> dict[str, bytes]:
    """What the server is to get of it, by the paths in the folder."""
    files = {path.relative_to(study).as_posix(): path for path in study.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if path.is_file() and name not in LEFT
    }


def take_study(page: Any, study: Path) -> None:
    page.locator("#folder").set_input_files(study)
    see(page, "#study", re.compile(r"^A raw study: 16 files of DICOM, \d+ kB$"))
    see(page, "#status", CHOSEN)


def downloaded(page: Any, selector: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        see(page, selector).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_a_raw_study_goes_up_as_it_is_and_its_mask_lies_on_its_scan(
    opened: Open, script: Script, study: Path
) -> None:
    script.study, script.remarks = ANSWER, REMARKS
    page = opened()
    take_study(page, study)
    see(page, "#ignored", re.compile(r"^Left out: 3 files \(.*DICOMDIR.*\) and 1 hidden file\.$"))
    assert page.is_hidden("#slots")
    page.click("#segment")
    see(page, "#result")
    see(page, "#status", "Done: the mask is over the scan.")
    assert script.query == "raw=true&model=standard"
    assert script.sent == {f"P-0001/{name}": own for name, own in sent_of(study).items()}
    assert page.locator("#modality option").all_inner_texts() == ["T1CE"]
    check_planes(page, most_tumour(), modality="t1ce")
    assert page.inner_text("#ml-WT") == "65.2 ml"
    assert page.locator("#remark-list li").all_inner_texts() == REMARKS
    assert page.get_by_text(UNMEASURED).is_visible()
    assert downloaded(page, "#download") == ("P-0001.nii.gz", MASK)
    assert downloaded(page, "#download-seg") == ("P-0001.dcm", SEGMENTATION)
    page.click("#phantom")
    see(page, "#slots")
    page.click("#segment")
    see(page, "#result")
    assert page.is_hidden("#findings")


def test_a_zip_of_a_raw_study_is_one_too(opened: Open, script: Script, study: Path) -> None:
    script.study = ANSWER
    page = opened()
    content = zipped({**sent_of(study), **LEFT}, folder="inside/")
    archive = {"name": "disc.zip", "mimeType": "application/zip", "buffer": content}
    page.locator("#files").set_input_files([archive])
    see(page, "#study", re.compile("^A raw study: 16 files of DICOM"))
    page.click("#segment")
    see(page, "#result")
    assert script.sent == {f"disc/inside/{name}": own for name, own in sent_of(study).items()}


def test_nifti_as_it_left_the_scanner_is_a_raw_study(opened: Open, script: Script) -> None:
    script.study = {name: own for name, own in ANSWER.items() if name != "mask.dcm"}
    page = opened(390)
    names = {"5 AX T1 post.nii.gz": ANSWER["scan.nii.gz"], "5 AX T1 post.json": b"{}"}
    files = [
        {"name": name, "mimeType": "", "buffer": own}
        for name, own in {**names, "notes.txt": b""}.items()
    ]
    page.locator("#files").set_input_files(files)
    see(page, "#ignored", re.compile("^Not recognised: .* tick the box\\.$"))
    assert page.is_disabled("#segment")
    page.check("#as-scanned")
    see(page, "#study", re.compile("^A raw study: 1 file of NIfTI and 1 of JSON, "))
    see(page, "#ignored", "Left out: 1 file (notes.txt).")
    page.click("#segment")
    see(page, "#result")
    assert script.sent == names
    assert page.get_by_text(UNMEASURED).is_visible()
    assert page.is_hidden("#download-seg")
    assert page.is_hidden("#remarks")
    assert page.evaluate(FAULTS) == []
    page.uncheck("#as-scanned")
    see(page, "#slots")
    assert page.is_disabled("#segment")
    assert page.is_hidden("#result")


def test_a_refusal_of_a_raw_study_is_a_sentence(opened: Open, script: Script, study: Path) -> None:
    sentence = "This server takes no raw studies: it lacks the extra."
    script.study, script.refusal = ANSWER, (422, {"error": sentence, "file": ""}, {})
    page = opened(refusals="v1/jobs")
    take_study(page, study)
    page.click("#segment")
    see(page, "#error", sentence)
    script.failure = {"error": "No T1CE is among its series."}
    page.click("#segment")
    see(page, "#error", "No T1CE is among its series.")
    assert page.is_enabled("#segment")


def test_a_raw_study_whose_scan_cannot_be_drawn_has_its_mask_all_the_same(
    opened: Open, script: Script, study: Path
) -> None:
    script.study, script.remarks = {**ANSWER, "scan.nii.gz": b"no scan"}, REMARKS
    page = opened()
    take_study(page, study)
    page.click("#segment")
    see(page, "#error", re.compile("^The scan that the server sent cannot be read: it is too"))
    assert downloaded(page, "#kept-mask") == ("P-0001.nii.gz", MASK)
    assert downloaded(page, "#download-seg") == ("P-0001.dcm", SEGMENTATION)
    assert page.get_by_text(UNMEASURED).is_visible()


def test_packing_can_be_cancelled(opened: Open, script: Script, study: Path) -> None:
    page = opened()
    take_study(page, study)
    # Its files take for ever to be read.
    page.evaluate(
        "() => { Blob.prototype.stream = () =>"
        " new ReadableStream({ pull: () => new Promise(() => {}) }); }"
    )
    page.click("#segment")
    see(page, "#status", "Packing.")
    page.click("#cancel")
    see(page, "#status", "Cancelled.")
    assert page.is_enabled("#segment")
    assert script.sent == {}
    assert not script.cancelled, "there was no job yet"


@pytest.mark.raw
def test_the_service_itself_takes_a_dropped_study_to_its_mask_and_segmentation(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What finds brains has no place in these tests.
    monkeypatch.setattr(apart, "OPTIONS", PreparationOptions(space="patient", keep_skull=True))
    heads.write_dicom(tmp_path / "P1", 1, FILES)
    page, said = browser.new_context().new_page(), list[str]()
    page.set_default_timeout(3 * SOON_MS)
    page.on("pageerror", lambda error: said.append(str(error)))
    with listening(Double(tmp_path / "state", served=of_skulls()).app) as url:
        page.goto(url)
        page.locator("#folder").set_input_files(tmp_path / "P1")
        see(page, "#study", re.compile(r"^A raw study: \d+ files of DICOM"))
        page.click("#segment")
        page.wait_for_selector("#result:visible, #error:visible")
        assert page.inner_text("#error") == ""
        see(page, "#status", "Done: the mask is over the scan.")
        assert page.locator("#modality option").all_inner_texts() == ["T1CE"]
        _, mask = downloaded(page, "#download")
        _, seg = downloaded(page, "#download-seg")
    assert said == []
    check_seg(seg, mask, tmp_path / "P1")
    page.context.close()
