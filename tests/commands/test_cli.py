"""The commands as a user calls them: processes, files, exit statuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_s3
import httpx
import nibabel as nib
import numpy as np
import pytest
from conftest import SHAPE_VOX, file_of, rewrite

from ray_brats import cli
from ray_brats.cases import phantom
from ray_brats.errors import UsageError
from ray_brats.files import ledger

ROOT = Path(__file__).resolve().parents[2]
TLS = ("--tls-cert", "README.md", "--tls-key", "README.md")
STAGES = ("dataset", "run", "predictions", "report")


def ray_brats(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ray_brats.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def called(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process: half a second less, most of it for the interpreter's imports.

    For what depends neither on the process's streams nor on how it is given its arguments.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(ROOT))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        ended = stack.enter_context(pytest.raises(SystemExit))
        cli.main([str(argument) for argument in arguments])
    status = ended.value.code
    assert isinstance(status, int)
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_arguments(cohort: Path, out: Path) -> tuple[object, ...]:
    return ("run", cohort, out, "--recipe", "smoke", "--steps", 12, "--json")


@pytest.fixture(scope="module")
def finished(
    cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A whole run on phantoms, and its summary."""
    out = tmp_path_factory.mktemp("finished")
    done = ray_brats(*run_arguments(cohort_folder, out))
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return out, summary


@pytest.mark.ray
@pytest.mark.tf
class TestWholeRun:
    """One run, looked at from every side; the tests that change it put it back."""

    def test_every_stage_left_its_files(self, finished: tuple[Path, Any]) -> None:
        out, summary = finished
        expected = (
            "dataset/dataset.json dataset/cases.parquet run/run.json run/metrics.jsonl "
            "run/bundle/bundle.json run/bundle/model.keras run/bundle/model.h5 "
            "run/bundle/saved_model/saved_model.pb predictions/scores.parquet "
            "predictions/score.json report/metrics.parquet report/metrics.csv "
            "report/summary.json report/report.html"
        )
        assert not [name for name in expected.split() if not (out / name).is_file()]
        assert json.loads((out / "report/summary.json").read_text()) == summary["summary"]
        assert set(summary["summary"]["regions"]) == {"WT", "TC", "ET"}
        assert summary["summary"]["cases"] == 1

    def test_training_used_two_workers_and_logged_each_step_once(
        self, finished: tuple[Path, Any]
    ) -> None:
        out, _ = finished
        assert json.loads((out / "run/run.json").read_text())["workers"] == 2
        lines = [json.loads(line) for line in (out / "run/metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "event" not in line] == list(range(1, 13))
        assert {line["event"] for line in lines if "event" in line} == {
            "plan",
            "validation",
            "checkpoint",
            "end",
        }
        assert set(lines[-1]) >= {"step", "loss"}

    def test_masks_lie_on_the_grid_of_their_case(
        self, finished: tuple[Path, Any], cohort_folder: Path
    ) -> None:
        out, _ = finished
        (row,) = ledger.read_table(str(out / "predictions/scores.parquet"))
        mask = nib.load(out / "predictions" / f"{row['case_id']}.nii.gz")
        image = nib.load(file_of(cohort_folder / row["case_id"], "flair"))
        assert mask.shape == image.shape
        assert (mask.affine == image.affine).all()
        values = np.unique(np.asarray(mask.dataobj))
        assert set(values.tolist()) <= {0, 1, 2, 4}
        assert row["wt_ml"] == pytest.approx(np.count_nonzero(mask.dataobj) / 1000, abs=1e-3)

    def test_a_second_run_does_no_work_and_says_so(
        self, finished: tuple[Path, Any], cohort_folder: Path
    ) -> None:
        out, _ = finished
        before = snapshot(out)
        done = ray_brats(*run_arguments(cohort_folder, out))
        assert done.returncode == 0
        assert done.stderr.count("nothing to do") == 4
        changed = [name for name, state in snapshot(out).items() if before.get(name) != state]
        assert not changed

    def test_deleting_one_cases_outputs_redoes_that_case_alone(
        self, finished: tuple[Path, Any], cohort_folder: Path
    ) -> None:
        out, summary = finished
        before = snapshot(out)
        (victim,) = (out / "predictions").glob("*.nii.gz")
        victim.unlink()
        shutil.rmtree(out / "dataset/cases/BraTS20_Training_002")
        done = ray_brats(*run_arguments(cohort_folder, out))
        again = json.loads(done.stdout)
        assert (again["preprocess"]["processed"], again["preprocess"]["skipped"]) == (1, 4)
        assert (again["score"]["processed"], again["train"]["skipped"]) == (1, True)
        assert again["summary"] == summary["summary"]
        after = snapshot(out)
        # The seconds a case took, and the new mask's etag.
        told = re.compile(r"predictions/(scores.parquet|.*\.json)|report/(cases/.*|evaluate.json)")
        assert after.keys() == before.keys()
        assert not [
            name
            for name, (_, content) in after.items()
            if content != before[name][1] and not told.fullmatch(name)
        ]

    def test_a_run_is_never_resumed_by_accident(
        self, finished: tuple[Path, Any], cohort_folder: Path
    ) -> None:
        out, _ = finished
        arguments = ("train", out / "dataset", out / "run", "--recipe", "smoke")
        existing = ray_brats(*arguments, "--steps", 12)
        assert (existing.returncode, "--resume" in existing.stderr) == (2, True)
        assert "Ray on this machine" not in existing.stderr
        other = ray_brats(*arguments, "--steps", 12, "--seed", 1, "--resume")
        assert (other.returncode, "another configuration" in other.stderr) == (2, True)
        longer = ray_brats("run", cohort_folder, out, "--recipe", "smoke", "--steps", 13)
        assert (longer.returncode, "another length" in longer.stderr) == (2, True)

    def test_export_score_evaluate_and_show_work_apart(
        self, finished: tuple[Path, Any], cohort_folder: Path, tmp_path: Path
    ) -> None:
        out, _ = finished
        assert ray_brats("export", out / "run", tmp_path / "bundle").returncode == 0
        scored = ray_brats(
            "score", cohort_folder, tmp_path / "masks", "--bundle", tmp_path / "bundle", "--json"
        )
        told = json.loads(scored.stdout)
        assert told["counts"] == {"ok": 5}
        # How good such masks are is said, by the one case that the network had not learnt from.
        (dice,) = told["measured"]["validation"]["dice_of_cases"]
        assert (
            f"on 1 case(s) that the model had not learnt from: mean Dice WT {dice['WT']:.2f}"
            in (scored.stderr)
        )
        assert "not for diagnosis" in scored.stderr
        masks = sorted((tmp_path / "masks").glob("*.nii.gz"))
        (validated,) = (out / "predictions").glob("*.nii.gz")
        assert (tmp_path / "masks" / validated.name).read_bytes() == validated.read_bytes()
        archive = tmp_path / "masks.zip"
        submitted = ray_brats("submit", tmp_path / "masks", cohort_folder, archive, "--json")
        assert submitted.returncode == 0
        assert json.loads(submitted.stdout)["counts"] == {"ok": 5, "rejected": 0}
        pinned = ("--bundle", tmp_path / "bundle", "--bundle-sha256", "0" * 64)
        refused = ray_brats("score", cohort_folder, tmp_path / "other", *pinned)
        assert (refused.returncode, "not the bundle" in refused.stderr) == (2, True)
        masks[0].unlink()
        archive.unlink()
        again = ray_brats("submit", tmp_path / "masks", cohort_folder, archive)
        assert (again.returncode, archive.exists()) == (1, False)
        evaluated = ray_brats(
            "evaluate", tmp_path / "masks", cohort_folder, tmp_path / "report", "--json"
        )
        assert evaluated.returncode == 1
        result = json.loads(evaluated.stdout)
        assert result["summary"]["cases"] == 5
        (missing,) = result["failures"]
        assert "no prediction" in missing["reason"]
        rows = ledger.read_table(str(tmp_path / "report/metrics.parquet"))
        lost = [row["dice"] for row in rows if row["case_id"] == missing["case_id"]]
        assert lost == [0, 0, 0]
        case = cohort_folder / "BraTS20_Training_002"
        picture = tmp_path / "case.png"
        assert ray_brats("show", case, picture, "--prediction", masks[1]).returncode == 0
        assert picture.read_bytes()[:4] == b"\x89PNG"
        outside = ray_brats("show", case, picture, "--slice", 999)
        assert (outside.returncode, "999" in outside.stderr) == (2, True)


@pytest.mark.ray
def test_bad_cases_are_rows_with_file_and_reason_and_the_rest_is_done(tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    names = phantom.write_cohort(cohort, cases=8, shape_vox=SHAPE_VOX)
    case = {name: cohort / name for name in names}
    file_of(case[names[0]], "t2").unlink()
    path = file_of(case[names[1]], "t1ce")
    path.write_bytes(path.read_bytes()[:3000])
    rewrite(file_of(case[names[2]], "flair"), lambda v: v[1:])
    rewrite(file_of(case[names[3]], "seg"), lambda v: v + 7)
    rewrite(file_of(case[names[4]], "t2"), np.zeros_like)
    rewrite(file_of(case[names[5]], "t2"), lambda v: np.where(v > 0, np.nan, v))
    shutil.copytree(case[names[6]], tmp_path / "cohort" / "again" / names[6])
    expected = {
        names[0]: ("", "t2 is missing"),
        names[1]: ("_t1ce.nii.gz", "truncated"),
        names[2]: ("_flair.nii.gz", "grid"),
        names[3]: ("_seg.nii.gz", "label 7"),
        names[4]: ("_t2.nii.gz", "zero everywhere"),
        names[5]: ("_t2.nii.gz", "NaN"),
        names[6]: (".nii.gz", "one name"),
    }
    checked = ray_brats("check", cohort, "--json")
    prepared = ray_brats("preprocess", cohort, tmp_path / "dataset", "--json")
    for done in (checked, prepared):
        assert done.returncode == 1
        result = json.loads(done.stdout)
        assert result["counts"] == {"ok": 1, "rejected": 7}
        rows = {row["case_id"]: row for row in result["failures"]}
        for name, (file, reason) in expected.items():
            assert rows[name]["file"].endswith(file)
            assert reason in rows[name]["reason"]
    table = ledger.read_table(str(tmp_path / "dataset/cases.parquet"))
    assert {row["case_id"]: row["status"] for row in table} == dict.fromkeys(
        expected, "rejected"
    ) | {names[7]: "ok"}
    assert {path.name for path in tmp_path.iterdir()} == {"cohort", "dataset"}
    tolerated = ray_brats("preprocess", cohort, tmp_path / "dataset", "--max-rejected", "90%")
    assert tolerated.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("check", "/nowhere"), "no such folder"),
        (("preprocess", "/nowhere", "out"), "no such folder"),
        (("check", "/nowhere", "--recipe", "magic"), "magic"),
        (("score", "c", "p", "--release", "brats1999"), "expected one of gli-2018"),
        (("check",), "COHORT"),
        (("check", "ftq://host/cohort"), "Protocol not known: ftq"),
        (("frobnicate",), "frobnicate"),
        (("--verison",), "did you mean `ray-brats --version`"),
        (("show", "/nowhere", "a.png"), "no such folder"),
        (("serve", "--bundle", "b", *TLS), "not a certificate and its private key"),
        (("check", "tests", "--max-rejected", "many"), "--max-rejected many"),
        (("export", "/nowhere", "bundle"), "no run"),
        (("demo", "--cases", "1"), "--cases 1"),
        (("run", "/nowhere", "out", "--minutes", "1", "--steps", "2"), "exactly one"),
    ],
)
def test_a_wrong_call_is_a_sentence_and_exit_status_2(
    arguments: tuple[str, ...], sentence: str
) -> None:
    done = called(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr + done.stdout


def test_a_folder_without_masks_is_told_before_ray_starts(
    cohort_folder: Path, tmp_path: Path
) -> None:
    masks, others = tmp_path / "masks", tmp_path / "others"
    masks.mkdir()
    case = next(cohort_folder.iterdir()).name
    for arguments, empty in (((), masks), (("--against", others), others)):
        done = ray_brats("evaluate", masks, cohort_folder, tmp_path / "report", *arguments)
        assert done.returncode == 2
        assert re.search(rf"{empty} .*holds no <case_id>.nii.gz", done.stderr)
        assert "Ray on this machine" not in done.stderr
        shutil.copy(cohort_folder / case / f"{case}_seg.nii.gz", masks / f"{case}.nii.gz")
    assert not (tmp_path / "report").exists()


def test_cases_without_references_are_told_before_ray_starts(
    one_case: Path, tmp_path: Path
) -> None:
    file_of(one_case, "seg").rename(tmp_path / f"{one_case.name}.nii.gz")
    done = called("evaluate", tmp_path, one_case.parent, tmp_path / "report")
    assert (done.returncode, "none of 1 case(s) has a mask" in done.stderr) == (2, True)
    assert "Ray on this machine" not in done.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("name", ["preprocess", "run", "score", "evaluate"])
def test_a_file_in_place_of_an_output_is_told_before_ray_starts(
    cohort_folder: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    first = (tmp_path,) if name == "evaluate" else ()
    done = called(name, *first, cohort_folder, tmp_path / "file" / "out")
    assert (done.returncode, "file is a file; expected a folder" in done.stderr) == (2, True)
    assert "Ray on this machine" not in done.stderr


def test_a_case_of_zeros_is_not_drawn(tmp_path: Path) -> None:
    (name,) = phantom.write_cohort(tmp_path / "cohort", cases=1, shape_vox=SHAPE_VOX)
    for modality in ("t1ce", "t2", "flair"):
        rewrite(file_of(tmp_path / "cohort" / name, modality), np.zeros_like)
    done = called("show", tmp_path / "cohort" / name, tmp_path / "case.png")
    assert (done.returncode, "all its voxels are 0" in done.stderr) == (2, True)
    assert not (tmp_path / "case.png").exists()


def test_a_bucket_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = faulty_s3.credentials("http://127.0.0.1:1") | {"AWS_MAX_ATTEMPTS": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Else one that an earlier test made, with its endpoint.
    faulty_s3.forget_clients()
    done = called("check", "s3://bucket/cohort")
    faulty_s3.forget_clients()
    assert done.returncode == 2
    assert "s3://bucket/cohort: EndpointConnectionError" in done.stderr


def test_names_that_look_like_markup_are_told_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("case_id,t1ce,t2,flair\nx[/y],a,b,c\nz,a[bold],b,c\n")
    done = called("check", tmp_path / "c.csv")
    assert done.returncode == 1
    assert "x[/y]" in done.stdout
    assert "a[bold]" in done.stdout


@pytest.mark.parametrize("told", [(), ("--json",)])
def test_names_that_no_terminal_can_print_are_told_all_the_same(
    tmp_path: Path, told: tuple[str, ...]
) -> None:
    names = (b"latin-\xe9", b"caf\xe9/one", b"two", b"x" * 129, "ü 1".encode())
    for path in (name + b"_flair.nii.gz" for name in names):
        place = tmp_path / "c" / os.fsdecode(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    done = ray_brats("check", tmp_path / "c", *told, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "UTF-8" in done.stdout
    assert r"1\u2013128" in done.stdout, "the dash of a sentence, where there is no dash"
    assert r"_u00fc__u0020_1 for '\xfc 1'" in done.stderr
    odd = ray_brats("check", os.fsdecode(b"/caf\xe9"), *told)
    assert (odd.returncode, odd.stdout) == (2, "")
    assert "not in UTF-8" in odd.stderr
    (tmp_path / "nul.csv").write_bytes(b"case_id,t2\na,b\0c\n")
    nul = called("check", tmp_path / "nul.csv", *told)
    assert nul.returncode == 2
    assert "NUL" in nul.stderr


def test_one_place_that_cannot_be_is_one_rejected_case(tmp_path: Path) -> None:
    lines = ["case_id,t1ce,t2,flair"]
    for number, place in enumerate(("foo://a/b", "gs://a/b", "x" * 300, "http://127.0.0.1:1/a")):
        lines.append(f"case{number},{place},{place},{place}")
    (tmp_path / "c.csv").write_text("\n".join(lines))
    done = called("check", tmp_path / "c.csv", "--json")
    assert done.returncode == 1, done.stderr
    rows = json.loads(done.stdout)["failures"]
    assert len(rows) == 4
    assert "Protocol not known: foo" in rows[0]["reason"]
    assert "too long" in rows[2]["reason"]
    assert all(row["file"] for row in rows)


@pytest.mark.parametrize("told", [(), ("--json",)])
def test_results_that_nobody_reads_end_no_command(
    cohort_folder: Path, told: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "ray_brats.cli", "check", str(cohort_folder), *told]
    for redirection in (">&-", "| true"):
        line = f"set -o pipefail; {shlex.join(command)} {redirection}"
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, timeout=100
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        assert "rror" not in done.stderr, done.stderr


def test_help_that_nobody_reads_is_no_failure() -> None:
    command = f"{sys.executable} -m ray_brats.cli run --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_submission_with_a_problem_fails_whatever_is_tolerated(
    cohort_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/BraTS20_Training_001.nii.gz").write_bytes(b"no mask")
    arguments = (tmp_path / "p", cohort_folder, tmp_path / "out.zip", "--max-rejected", "100%")
    done = called("submit", *arguments)
    assert done.returncode == 1
    assert not (tmp_path / "out.zip").exists()


def test_check_says_what_it_found_and_which_mask_it_recovered(tmp_path: Path) -> None:
    name = "BraTS20_Training_355"
    phantom.write_cohort(tmp_path, cases=1, shape_vox=SHAPE_VOX)
    case = (tmp_path / "BraTS20_Training_001").rename(tmp_path / name)
    for path in sorted(case.iterdir()):
        odd = path.name.endswith("_seg.nii.gz")
        kind = "W39_1998.09.19_Segm.nii.gz" if odd else path.name.replace("_001", "_355")
        path.rename(case / kind)
    done = called("check", tmp_path)
    assert done.returncode == 0
    assert "1 case(s) of 1 patient(s), 1 with a mask; labels as in gli-2020" in done.stderr
    assert f"{name}: segmentation recovered from W39_1998.09.19_Segm.nii.gz" in done.stderr
    assert "--deep" in done.stderr
    assert "--deep" not in ray_brats("check", tmp_path, "--deep").stderr


def test_an_absent_cluster_is_a_sentence(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    done = called("preprocess", cohort_folder, tmp_path / "d")
    assert done.returncode == 2
    assert "RAY_ADDRESS" in done.stderr
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    jobs = called("preprocess", cohort_folder, tmp_path / "d")
    assert jobs.returncode == 2
    assert "as a job" in jobs.stderr


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"ray-brats \d+\.\d+\.\d+\n", ray_brats("--version").stdout)


@contextlib.contextmanager
def cluster_for_jobs(ray: Path) -> Iterator[str]:
    """The address that takes jobs of a cluster, whose ports are its own, whoever else has one."""
    ports = []
    for _ in range(3):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    gcs, dashboard, agent = ports
    start = (
        *(ray, "start", "--head", "--block", f"--port={gcs}", "--num-cpus=2"),
        *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--object-store-memory={200 << 20}", "--dashboard-host=127.0.0.1"),
    )
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            # What takes jobs starts after the cluster, and later on a machine with work to do.
            until = time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{agent}/api/local_raylet_healthz").is_success:
                        break
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.5)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.ray
@pytest.mark.tf
@pytest.mark.slow
def test_a_submitted_job_gives_the_same_files(
    finished: tuple[Path, Any], cohort_folder: Path, tmp_path: Path
) -> None:
    out, _ = finished
    bin_folder = Path(sys.executable).parent
    entry = ("python", "jobs/pipeline.py", *map(str, run_arguments(cohort_folder, tmp_path)[1:]))
    with cluster_for_jobs(bin_folder / "ray") as address:
        submit = (bin_folder / "ray", "job", "submit", "--address", address)
        done = subprocess.run(
            [*submit, "--working-dir", ".", "--", *entry],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
            env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]

    def names(folder: Path) -> set[str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        found = {path.relative_to(folder).as_posix() for path in files}
        return {name for name in found if "tensorboard" not in name}

    assert names(tmp_path) == names(out)
    for name in ("report/summary.json", "dataset/dataset.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_what_nobody_foresaw_ends_in_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise ZeroDivisionError("division by zero")

    assert cli.guarded(fails) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1].startswith("ray-brats: ZeroDivisionError: division by zero. That")


def test_rays_own_errors_end_in_a_sentence_without_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ray_exceptions = pytest.importorskip("ray.exceptions")

    def fails() -> int:
        raise ray_exceptions.RaySystemError("the GCS is gone")

    assert cli.guarded(fails) == 1
    told = capsys.readouterr().err
    assert told.startswith("ray-brats: Ray gave up (RaySystemError:")
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("train d r --recipe standart", "--recipe standart: expected one of .*mean standard"),
        ("score c p --tta=maybe", "--tta maybe: expected one of none, flips$"),
        ("train d r --steps many", "--steps many: expected a whole number"),
        ("train d r --minutes soon", "--minutes soon: expected a number"),
        ("train d r --steps", "--steps: expected a whole number"),
        ("demo --shape 64 64 --steps 1", "--shape 64 64 --steps: expected 3 whole numbers"),
        ("demo --shape a b c", "--shape a b c: expected 3 whole numbers"),
        ("check", "^expected COHORT too; `ray-brats check --help` tells more$"),
        ("evaluate masks", "^expected COHORT and REPORT too; "),
        ("segment case", "^expected -o MASK.nii.gz too; "),
        ("check a b c", "^unexpected: b, c; `ray-brats check --help` tells more$"),
        ("check --deep=yes a", "^unexpected: "),
        ("score c p --endpoint", "^--endpoint: expected a value after it; "),
        ("check c -x", "^unknown option -x: "),
        ("score c p --bundle --tta none", "^--bundle: expected a value after it$"),
        ("serve --bundle", "^--bundle: expected a value after it$"),
        ("check c --set", "^--set: expected a value after it$"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_those_that_can(arguments: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        cli.parse(arguments.split())
    assert "None" not in str(caught.value)
