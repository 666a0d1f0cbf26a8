"""The command `segment`: one case, from its files to its mask, in this process; no Ray."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from ray_brats import labels, progress
from ray_brats.cases import cohort as cohorts
from ray_brats.cases import naming
from ray_brats.cases.case import Case, Cohort
from ray_brats.commands import reports
from ray_brats.commands.arguments import Bundles, FileOption, TaskOption, one_case
from ray_brats.commands.output import print_summary
from ray_brats.errors import CaseError, UsageError
from ray_brats.files import channels, ledger, ownership, storage
from ray_brats.files.ledger import CaseRow, Summary
from ray_brats.labels import Task
from ray_brats.progress import say, silenced
from ray_brats.recipes import tasks

if TYPE_CHECKING:
    from ray_brats.cases.raw.studies import Study
    from ray_brats.model.card import Chosen
    from ray_brats.model.predict import Prediction, Predictor

MASK_SUFFIX = ".nii.gz"
_UNMEASURED = (
    "how good masks of raw studies are was not measured: look at the mask, and at whether the "
    "series were chosen and aligned well, before you use it"
)


@dataclass(frozen=True, kw_only=True)
class SegmentSummary(Summary):
    """What segmenting a case left, and what made its mask."""

    mask: str = field(metadata=ledger.PLACE)
    case_id: str
    task: str
    """Whose labels the mask carries."""
    volumes_ml: Mapping[str, float]
    titles: Mapping[str, str]
    """Region to what it is."""
    bundles: Mapping[str, str]
    """URI to the sha256 of its card."""
    options: Any
    """What of the bundles' own inference was changed."""
    remarks: Sequence[str] = ()
    """What was not as usual in the scans."""
    picture: str | None = field(default=None, metadata=ledger.PLACE | ledger.OPTIONAL)
    dicom_seg: str | None = field(default=None, metadata=ledger.PLACE | ledger.OPTIONAL)
    measured: Mapping[str, Any] | None = field(default=None, metadata=ledger.OPTIONAL)
    """Scores on the card, where they are those of such masks."""
    quality: str | None = field(default=None, metadata=ledger.OPTIONAL)
    intended_use: str | None


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Segment one case, without Ray: its mask, volumes, and how good it may be."""

    folder: Annotated[str | None, Positional, arg(metavar="[FOLDER]")] = None
    """Folder of one case, in place of its files: BraTS-shaped, or a raw study in DICOM or NIfTI,
    which is prepared first (as `prepare` does) and whose mask goes home to its T1CE's own grid."""
    t1ce: FileOption = None
    """T1 with contrast agent (also called T1c, T1Gd), .nii or .nii.gz, here or at s3://."""
    t2: FileOption = None
    """T2."""
    flair: FileOption = None
    """T2-FLAIR."""
    t1: FileOption = None
    """T1 without contrast agent, for bundles that take it; the starter does not."""
    out: Annotated[str, arg(aliases=("-o",), metavar="MASK.nii.gz")]
    """Where the mask goes, in the case's own grid."""
    bundles: Bundles = field(default_factory=Bundles)
    task: TaskOption = None
    """Whose labels the mask carries, where file names do not tell; else as the bundle says."""
    show: Annotated[str | None, arg(metavar="OUT.png")] = None
    """Draw the case with its mask; .png, .pdf, .svg, or .gif for all slices in turn."""
    dicom_seg: Annotated[str | None, arg(metavar="FILE.dcm")] = None
    """Also write the mask as a DICOM Segmentation that refers to the T1CE series; of a raw study in
    DICOM."""
    overwrite: bool = False
    """Replace the mask, the picture and the Segmentation where they are there already."""


def segment(options: SegmentOptions) -> Summary:
    """Segment one case in this process, and say what made the mask."""
    if not options.out.endswith(MASK_SUFFIX):
        raise UsageError(f"--out {options.out}: expected MASK{MASK_SUFFIX}")
    if options.show:
        from ray_brats.report import figures

        figures.check_name(storage.name_of(options.show))
    target = storage.absolute(options.out)
    # How a folder was read is of no interest where it is a raw study.
    notes = list[str]()
    try:
        if options.folder is None:
            case = _case_of_files(options)
        else:
            case = _case_of_folder(options, notes.append)
    except UsageError:
        if raw := _raw_study(options):
            return _segment_study(raw, options)
        _say_all(notes)
        raise
    if options.dicom_seg:
        raise UsageError("--dicom-seg is for a raw study in DICOM, and these scans are none")
    _check_written(options, [*case.images.values(), *filter(None, [case.segmentation])])
    chosen = options.bundles.choose()
    if options.folder is None:
        _check_modalities(case, chosen.recipe.preprocess.modalities)
    from ray_brats.cases.raw import record
    from ray_brats.model import card as modelcard

    alone = Cohort(uri=case.case_id, cases=(case,))
    task = chosen.task_of(alone, cohorts.task_of(options.task))
    case = dataclasses.replace(case, task=task)
    from ray_brats.model import predict, predictions

    predictions.check_place(storage.parent_of(target), task)

    try:
        prepared = predict.read(case, chosen.recipe.preprocess)
    except CaseError as error:
        if raw := _raw_study(options):
            return _segment_study(raw, options)
        _say_all(notes)
        return _failed(case.case_id, error)
    _say_all([*notes, *(f"segment: {remark}" for remark in prepared.remarks)])
    prediction = _predictor(chosen).segment_prepared(prepared)
    _write(prediction, task, target)
    if options.show:
        picture = reports.ShowOptions(case="", picture=options.show, prediction=target)
        reports.draw(case, picture)
    summary = _summary(case, prediction, chosen, target, options.show)
    is_raw = storage.exists(storage.join(storage.parent_of(next(case.files())), record.NAME))
    unusual = [case.case_id] if prepared.remarks or is_raw else []
    told = modelcard.quality_of(chosen, [case.case_id], unusual)
    if told.why_not:
        say(f"segment: {told.why_not}")
    return dataclasses.replace(
        summary, remarks=prepared.remarks, measured=told.measured, quality=told.sentence
    )


def _check_written(options: SegmentOptions, read: Sequence[str]) -> None:
    """Raises as `ownership.check_files` for what the call would write over."""
    written, ours = {"--out": storage.absolute(options.out)}, list[str]()
    if options.show:
        from ray_brats.report import figures

        written["--show"] = storage.absolute(options.show)
        ours += filter(figures.is_ours, [written["--show"]])
    if options.dicom_seg:
        written["--dicom-seg"] = storage.absolute(options.dicom_seg)
    ownership.check_files(written, read, overwrite=options.overwrite, ours=ours)


def _raw_study(options: SegmentOptions) -> Study | None:
    """The study of a folder that is as it left the scanner; None where it is not."""
    from ray_brats.commands import study

    if options.folder is None or _files(options) or options.bundles.inference.allow_skull:
        return None
    return study.found(options.folder)


def _segment_study(raw: Study, options: SegmentOptions) -> Summary:
    """The same for a raw study: its mask on the grid of its own T1CE."""
    from ray_brats.commands import study
    from ray_brats.model import predictions

    target = storage.absolute(options.out)
    _check_written(options, [str(path) for path in raw.files()])
    chosen = options.bundles.choose()
    case_id = storage.name_of(options.out)[: -len(MASK_SUFFIX)]
    task = chosen.task_of(Cohort(uri=case_id, cases=()), cohorts.task_of(options.task))
    predictions.check_place(storage.parent_of(target), task)
    try:
        one = study.ready(raw, chosen.recipe.preprocess)
    except CaseError as error:
        return _failed(case_id, error)
    remarks = (*one.record.warnings, *one.prepared.remarks)
    _say_all(f"segment: {remark}" for remark in remarks)
    upright, native = _predictor(chosen).segment_at_home(one.prepared, one.record.home)
    _write(native, task, target)
    if options.dicom_seg:
        pairs = zip(chosen.uris, chosen.sha256, strict=True)
        made_by = ", ".join(f"{storage.name_of(uri)} {sha256[:12]}" for uri, sha256 in pairs)
        try:
            study.write_dicom_seg(one, native, storage.absolute(options.dicom_seg), made_by)
        except CaseError as error:
            return _failed(case_id, error)
    if options.show:
        picture = reports.ShowOptions(case="", picture=options.show)
        view = {"title": case_id, "targets": task.targets}
        reports.draw_arrays(one.images, None, upright.mask_native, picture, view)
    case = Case(case_id=case_id, patient_id=case_id, images={}, task=task)
    summary = _summary(case, native, chosen, target, options.show)
    seg = options.dicom_seg and storage.absolute(options.dicom_seg)
    return dataclasses.replace(summary, remarks=remarks, quality=_UNMEASURED, dicom_seg=seg)


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def _case_of_folder(options: SegmentOptions, told: Callable[[str], None]) -> Case:
    assert options.folder is not None
    if _files(options):
        raise UsageError("expected either FOLDER or the files of a case, not both")
    return one_case(options.folder, cohorts.task_of(options.task), told)


def _files(options: SegmentOptions) -> dict[str, str]:
    """Modality to file, as given."""
    given = {name: getattr(options, name) for name in naming.MODALITIES}
    return {name: file for name, file in given.items() if file is not None}


def _case_of_files(options: SegmentOptions) -> Case:
    """The case of the options' files; its name is theirs, where they are named as BraTS's."""
    files = _files(options)
    if not files:
        swallowed = options.bundles.bundle or options.bundles.bundle_sha256
        hint = "; FOLDER comes before --bundle and --bundle-sha256, which take what follows them"
        raise UsageError(
            "expected the files of a case, as --t1ce A --t2 B --flair C, or its FOLDER"
            + (hint if swallowed else "")
        )
    for name, file in files.items():
        if not storage.exists(channels.file_of(storage.absolute(file))):
            raise UsageError(f"--{name} {file}: no such file")
    known = (naming.case_and_kind(storage.name_of(file)) for file in files.values())
    names = sorted({naming.id_of_name(name[0]) for name in known if name})
    if len(names) > 1:
        say(f"warning: the files are named as those of several cases: {', '.join(names)}")
    case_id = names[0] if len(names) == 1 else storage.name_of(options.out)[: -len(MASK_SUFFIX)]
    possible = naming.tasks_of(case_id)
    return Case(
        case_id=case_id,
        patient_id=naming.patient_of(case_id),
        images={name: storage.absolute(file) for name, file in files.items()},
        task=tasks.TASKS[possible[0]] if len(possible) == 1 else None,
    )


def _check_modalities(case: Case, modalities: Iterable[str]) -> None:
    """`UsageError` for a file that the bundle needs and was not given; the others are named."""
    missing = [name for name in modalities if name not in case.images]
    if missing:
        raise UsageError(
            f"the bundle takes {', '.join(modalities)}: pass "
            + " ".join(f"--{name} FILE" for name in missing)
        )
    spared = sorted(set(case.images) - set(modalities))
    if spared:
        say(f"segment: the bundle does not look at {', '.join(spared)}")


def _predictor(chosen: Chosen) -> Predictor:
    say("segment: loading TensorFlow and the model")
    with silenced():
        from ray_brats.model import bundle

        return bundle.load_predictor(
            chosen.uris,
            chosen.sha256,
            asked=chosen.asked,
            threads=os.cpu_count() or 1,
        )


def _write(prediction: Prediction, task: Task, target: str) -> None:
    from ray_brats.cases.volume import encode

    raw = labels.from_class_index(prediction.mask_native, task)
    storage.write_bytes(target, encode(raw, prediction.geometry))


def _failed(case_id: str, error: CaseError) -> Summary:
    row = CaseRow(case_id=case_id, status=error.status, reason=error.reason, file=error.file)
    return Summary(facts={"case_id": case_id}, failures=[row])


def _summary(
    case: Case, prediction: Prediction, chosen: Chosen, target: str, picture: str | None
) -> SegmentSummary:
    return SegmentSummary(
        mask=target,
        case_id=case.case_id,
        task=case.task.name if case.task else "",
        volumes_ml={name: round(ml, 6) for name, ml in prediction.region_ml().items()},
        titles={region.name: region.title for region in prediction.targets.regions},
        bundles=dict(zip(chosen.uris, chosen.sha256, strict=True)),
        options=chosen.identity["options"],
        picture=picture or None,
        intended_use=chosen.cards[0].get("intended_use"),
    )


def tell(summary: Summary) -> None:
    """Print it for people."""
    if not isinstance(summary, SegmentSummary):
        print_summary(summary)
        return
    lines = [
        f"{name} {ml:9.3f} ml  {summary.titles[name]}" for name, ml in summary.volumes_ml.items()
    ]
    lines.append(f"mask: {summary.mask} (labels as in {summary.task})")
    if summary.picture:
        lines.append(f"picture: {summary.picture}")
    if summary.dicom_seg:
        lines.append(f"dicom_seg: {summary.dicom_seg}")
    lines += [
        f"made by: {uri}, whose bundle.json has the sha256 {sha256}"
        for uri, sha256 in summary.bundles.items()
    ]
    lines += filter(None, (summary.quality, summary.intended_use))
    for line in lines:
        progress.tell(line)
