"""What the page makes of names is what the package makes of them; in Node, without a browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_server import unzipped

import ray_brats
from ray_brats.cases import naming

PAGE = Path(ray_brats.__file__).parent / "serve" / "page"
MODULES = ("naming", "zip", "files", "study", "zipwriter")
Told = Callable[..., Any]
SPELLINGS = [
    *naming.MODALITIES,
    *naming.ALIASES,
    *naming.MASK_SPELLINGS,
    *(spelling.replace("_", "-").title() for spelling in naming.MASK_SPELLINGS),
    *("t3", "mask", "tumor", "segx", "manuallycorrected"),
]
CASES = ("BraTS20_Training_001", "Brats18_CBICA_AAB_1", "BraTS-GLI-00000-000", "a_t1", "Müller 1")
FILE_NAMES = [
    *(
        f"{case}{mark}{spelling}{ending}"
        for case, mark, spelling, ending in itertools.product(
            CASES, "_-", SPELLINGS, (".nii", ".NII.gz", ".nii.zip")
        )
    ),
    *("W39_1998.09.19_Segm.nii", "W39_1998.09.19_Segm.nii.gz", "notes.txt", "a_t2.nii.gz.part"),
    *("a_tumor_seg.nii", "a\nb_t2.nii", "flair", "a_b-segm.nii", "__t2.nii"),
]
PATHS = [
    *("a_t2.nii", "._a_t2.nii", ".x/a_t2.nii", "x/.git/a", "__MACOSX/x/a_t2.nii", "x/__MACOSX/a"),
    *("x\\._a.nii", "./a_t2.nii", "a/b._c.nii", "/a.b/c", "..", "__macosx/a"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What an expression over the page's modules and the list `values` is."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node on this machine (Debian: apt-get install nodejs)")
    folder = tmp_path_factory.mktemp("page")
    for name in MODULES:
        shutil.copy(PAGE / f"{name}.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    imports = "".join(f'import * as {name} from "./{name}.js";\n' for name in MODULES)

    def evaluate(code: str, *values: Any) -> Any:
        (folder / "values.json").write_text(json.dumps(values))
        script = (
            f'import {{ readFileSync }} from "node:fs";\n{imports}'
            'const values = JSON.parse(readFileSync("values.json"));\n'
            f"process.stdout.write(JSON.stringify(await {code}));"
        )
        (folder / "main.js").write_text(script)
        done = subprocess.run(
            [node, "main.js"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return evaluate


def test_names_mean_the_same_on_the_page(told: Told) -> None:
    found = told("values[0].map(naming.caseAndKind)", FILE_NAMES)
    meanings = [naming.meaning_of(name) for name in FILE_NAMES]
    assert [one and (one["case"], one["kind"]) for one in found] == [
        one and (one.case, one.kind) for one in meanings
    ]
    assert None in found
    assert sum(one is not None for one in found) > len(FILE_NAMES) / 3


def test_tables_of_names_are_the_same_on_the_page(told: Told) -> None:
    tables = told("naming")
    assert tuple(tables["MODALITIES"]) == naming.MODALITIES
    assert tables["ALIASES"] == naming.ALIASES
    assert tuple(tables["MASK_SPELLINGS"]) == naming.MASK_SPELLINGS


def test_what_is_hidden_is_so_on_the_page(told: Told) -> None:
    assert told("values[0].map(naming.isHidden)", PATHS) == [
        naming.is_hidden(path) for path in PATHS
    ]


def test_hidden_files_and_masks_are_left_out_of_a_drop_without_a_word(told: Told) -> None:
    names = [
        *("a_t2.nii.gz", "._a_t2.nii.gz", "a_seg.nii.gz", "a_segm.nii.gz", "a_t2w.nii.gz"),
        *("a_GlistrBoost_ManuallyCorrected.nii.gz", "notes.txt"),
    ]
    files = [{"name": name} for name in names]
    files += [
        {"name": "b_t2.nii", "webkitRelativePath": ".mine/b/b_t2.nii"},
        {"name": "c_t2.nii", "webkitRelativePath": "mine/__MACOSX/c_t2.nii"},
        {"name": "d_t2.nii", "webkitRelativePath": "mine/.cache/d_t2.nii"},
    ]
    sort = "(({ cases, ...rest }) => ({ cases: Object.fromEntries(cases), ...rest }))"
    found = told(f"{sort}(naming.sortFiles(values[0]))", files)
    assert {case: sorted(kinds) for case, kinds in found["cases"].items()} == {
        "a": ["seg", "t2"],
        "b": ["t2"],
    }
    assert (found["unknown"], found["twice"]) == (["notes.txt"], ["a_t2w.nii.gz"])


def test_hidden_entries_of_an_archive_are_passed_over(told: Told) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in PATHS:
            if not path.startswith("/"):
                archive.writestr(path, b"x")
    content = base64.b64encode(buffer.getvalue()).decode()
    unzip = "zip.unzip(new Blob([Buffer.from(values[0], 'base64')]))"
    found = told(f"{unzip}.then((files) => files.map((file) => file.name))", content)
    shown = [path for path in PATHS if not naming.is_hidden(path) and not path.startswith("/")]
    assert found == [path.split("/")[-1] for path in shown]


def test_hidden_parts_of_a_dropped_folder_are_passed_over(told: Told) -> None:
    case = {"a_t2.nii": 0, "._a_t2.nii": 0, ".x": {"b": 0}, "in": {"c": 0}}
    tree = {"case": case, "__MACOSX": {"d": 0}}
    entries = """(function entries(tree) {
      return Object.entries(tree).map(([name, inner]) => {
        let left = inner && entries(inner);
        return { name, isFile: !inner, file: (resolve) => resolve(name), createReader: () => ({
          readEntries(resolve) { const given = left; left = []; resolve(given); } }) };
      });
    })(values[0])"""
    items = f"{entries}.map((entry) => ({{ kind: 'file', webkitGetAsEntry: () => entry }}))"
    assert told(f"files.dropped({{ items: {items} }})", tree) == ["a_t2.nii", "c"]


def test_dropped_and_packed_folders_keep_their_paths(told: Told) -> None:
    inner = base64.b64encode(zipped_as_told({"a\\b/IM1": b"1", "._c": b"2"})).decode()
    entries = """(function entries(tree) {
      return Object.entries(tree).map(([name, inner]) => {
        let left = typeof inner === "object" && entries(inner);
        const content = typeof inner === "string" ? Buffer.from(inner, "base64") : "";
        const file = new File([content], name);
        return { name, isFile: !left, file: (resolve) => resolve(file), createReader: () => ({
          readEntries(resolve) { const given = left; left = []; resolve(given); } }) };
      });
    })(values[0])"""
    items = f"{entries}.map((entry) => ({{ kind: 'file', webkitGetAsEntry: () => entry }}))"
    found = told(
        f"files.arrivals({{ items: {items} }}).then(files.unpacked)"
        ".then((all) => all.map(({ path, file }) => [path, file && file.name]))",
        {"P 1": {"T1": {"IM1": 0}, ".git": {"x": 0}, "more.ZIP": inner}, "IM1": 0},
    )
    assert found == [
        ["P 1/T1/IM1", "IM1"],
        ["P 1/.git", None],
        ["P 1/more/a/b/IM1", "IM1"],
        ["P 1/more/._c", None],
        ["IM1", "IM1"],
    ]


def zipped_as_told(files: dict[str, bytes]) -> bytes:
    """An archive whose names are those of another system, backslashes and all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo()
            info.filename = name
            archive.writestr(info, content)
    return buffer.getvalue()


MARKED, BINARY, TEXT = "\0" * 128 + "DICM" + "x" * 99, "\x08\0\x05\0" * 40, "read me " * 40
KINDS = {
    "dicom": [
        *(("IM0001", MARKED), ("1.2.840.7", MARKED), ("a.xyz", MARKED), ("a.pdf", MARKED)),
        *(("a.dcm", TEXT), ("A.IMA", BINARY), ("IM0001", BINARY), ("MR.1.2.840", BINARY)),
    ],
    "nifti": [("a.nii", TEXT), ("T1 post.NII.gz", MARKED)],
    "sidecar": [("a.json", TEXT)],
    "other": [
        *(("DICOMDIR", MARKED), ("dicomdir", BINARY), ("README", TEXT), ("empty", "")),
        *(("a.pdf", BINARY), ("a.txt", TEXT), ("a.jpg", BINARY), ("short", "text")),
    ],
}


def test_kinds_of_files_are_told_from_names_and_first_bytes(told: Told) -> None:
    files = [(name, content) for some in KINDS.values() for name, content in some]
    found = told(
        "(async () => { const read = [];"
        " const asked = ([name, content]) => ({ name, slice: (from, to) => {"
        "   read.push(to - from); return new Blob([content]).slice(from, to); } });"
        " const all = values[0].map((one) => ({ path: one[0], file: asked(one) }));"
        " const kinds = await study.kinded([...all, { path: '.x', file: null }]);"
        " return { kinds: kinds.map(({ kind }) => kind), read }; })()",
        files,
    )
    assert found["kinds"] == [*(kind for kind, some in KINDS.items() for _ in some), "hidden"]
    assert set(found["read"]) == {132}
    assert len(found["read"]) == sum(len(KINDS[kind]) for kind in ("dicom", "other")) - 2


STUDY = """((rows, options) => {
  const arrivals = rows.map(([path, kind, size]) => (
    { path, kind, file: kind === "hidden" ? null : { name: path.split("/").pop(), size } }));
  const made = study.studyOf(arrivals, options);
  return made && { sent: made.entries.map(({ path }) => path), words: made.words,
    left: made.leftWords, problem: made.problem, name: made.name };
})(...values)"""
AS_CASES = {"complete": False, "asScanned": False}
AS_SCANNED = {"complete": False, "asScanned": True}


def test_dicom_is_a_study_unless_a_case_is_complete(told: Told) -> None:
    rows: list[Any] = [[f"P1/IM{n}", "dicom", 400_000] for n in range(1200)]
    rows += [["P1/a_t1.nii", "nifti", 9], ["P1/a.pdf", "other", 9], ["P1/.x", "hidden", 0]]
    assert told(STUDY, rows, {"complete": True, "asScanned": False}) is None
    found = told(STUDY, rows, AS_CASES)
    assert found["sent"] == [path for path, kind, _ in rows if kind == "dicom"]
    assert found["words"] == "A raw study: 1,200 files of DICOM, 480 MB"
    assert found["left"] == "Left out: 2 files (a_t1.nii, a.pdf) and 1 hidden file."
    assert (found["problem"], found["name"]) == ("", "P1")


def test_nifti_is_a_study_where_that_is_said(told: Told) -> None:
    rows = [["T1 post.nii.gz", "nifti", 2e6], ["T1 post.json", "sidecar", 100]]
    rows += [["b/T2.NII", "nifti", 1e6], ["T2.json", "sidecar", 9], ["notes.txt", "other", 9]]
    assert told(STUDY, rows, AS_CASES) is None
    found = told(STUDY, rows, AS_SCANNED)
    assert found["sent"] == ["T1 post.nii.gz", "T1 post.json", "b/T2.NII"]
    assert found["words"] == "A raw study: 2 files of NIfTI and 1 of JSON, 4 MB"
    assert found["left"] == "Left out: 2 files (T2.json, notes.txt)."
    assert found["name"] == ""


@pytest.mark.parametrize(
    ("files", "size", "problem"),
    [
        (20_000, 1, ""),
        (20_001, 1, "These are more than 20,000 files: choose the folder of one study."),
        (1, 2**30, ""),
        (1, 2**30 + 1, "These are more than 1 GiB: choose the folder of one study."),
    ],
)
def test_what_is_too_much_is_a_sentence(told: Told, files: int, size: int, problem: str) -> None:
    rows = [[f"IM{n}", "dicom", size] for n in range(files)]
    assert told(STUDY, rows, AS_CASES)["problem"] == problem


PACKED = """(async ([rows]) => {
  const entries = rows.map(([path, content]) => (
    { path, file: new File([Buffer.from(content, "base64")], path.split("/").pop()) }));
  const shares = [];
  const signal = new AbortController().signal;
  const blob = await zipwriter.zipped(entries, { told: (share) => shares.push(share), signal });
  const back = await zip.entries(blob);
  return { type: blob.type, shares, back: back.map(({ path }) => path),
    archive: Buffer.from(await blob.arrayBuffer()).toString("base64") };
})(values)"""


def test_archives_of_the_page_hold_what_went_in(told: Told) -> None:
    noise = random.Random(1).randbytes(180_000)
    files = {
        **{"P 1/Ä/IM1": noise, "P 1/Ä/IM2": b"", "脑/a.nii.gz": noise[::-1], "x": b"x"},
        **{"air": bytes(300_000), "big": noise.hex().encode() * 3},
    }
    rows = [[path, base64.b64encode(content).decode()] for path, content in files.items()]
    found = told(PACKED, rows)
    archive = base64.b64decode(found["archive"])
    assert unzipped(archive) == files
    assert found["back"] == list(files)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None
        methods = {info.filename: info.compress_type for info in opened.infolist()}
        shrunk = [info.file_size / max(1, info.compress_size) for info in opened.infolist()]
    assert methods["big"] == zipfile.ZIP_DEFLATED
    assert methods["脑/a.nii.gz"] == methods["air"] == zipfile.ZIP_STORED
    assert max(shrunk) < 200, "the service takes more for a bomb"
    assert found["type"] == "application/zip"
    assert found["shares"] == sorted(found["shares"])
    assert found["shares"][-1] == 1


def test_names_in_archives_are_safe_and_none_is_there_twice(told: Told) -> None:
    paths = ["a", "a", "2/a", "../a", "/b", "C:\\x", ".mine/IM1", "./c//d", "..", "x/\n", "", "a"]
    found = told("zipwriter.safeNames(values[0])", paths)
    assert len(set(found)) == len(paths)
    assert found[0] == "a"
    assert {"b", "C_/x", "mine/IM1", "c/d", "x/_"} <= set(found)
    for name in found:
        assert not naming.is_hidden(name)
        assert "" not in name.split("/")


def test_packing_that_is_cancelled_ends(told: Told) -> None:
    code = """(async () => {
      const stop = new AbortController();
      const endless = new ReadableStream({ pull: () => new Promise(() => {}) });
      const file = { name: "IM1", size: 9, stream: () => endless };
      setTimeout(() => stop.abort("stopped"), 20);
      const options = { told() {}, signal: stop.signal };
      return zipwriter.zipped([{ path: "IM1", file }], options).catch((reason) => reason);
    })()"""
    assert told(code) == "stopped"


def test_a_file_that_cannot_be_packed_is_named(told: Told) -> None:
    code = """(async () => {
      const gone = new ReadableStream({ pull() { throw new Error("gone"); } });
      const file = { name: "IM1", size: 9, stream: () => gone };
      const options = { told() {}, signal: new AbortController().signal };
      return zipwriter.zipped([{ path: "P1/IM1", file }], options).catch((error) => error.message);
    })()"""
    assert told(code) == "P1/IM1 cannot be read (gone); choose it again."
