"""What the page makes of names is what the package makes of them; in Node, without a browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ray_brats
from ray_brats.cases import naming

PAGE = Path(ray_brats.__file__).parent / "serve" / "page"
MODULES = ("naming", "zip", "files")
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
