"""Cases of a folder that a `dataset.json` describes, as the Decathlon and nnU-Net lay them out.

    dataset.json                       dataset.json
    imagesTr/BRATS_001.nii.gz          imagesTr/CASE_0000.nii.gz  CASE_0001.nii.gz  …
    labelsTr/BRATS_001.nii.gz          labelsTr/CASE.nii.gz
    imagesTs/BRATS_485.nii.gz          imagesTs/OTHER_0000.nii.gz …

The names of the files say which belong together, and the description what their channels are.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ray_brats.cases import datasetjson, joining, naming
from ray_brats.cases.datasetjson import DatasetJson
from ray_brats.cases.joining import Joined
from ray_brats.cases.naming import MODALITIES, SEGMENTATION
from ray_brats.errors import UsageError
from ray_brats.files import channels, storage
from ray_brats.files.local import FileInfo

PARTS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))
"""Folders of images, and of their masks; nnU-Net alone has the last one, and rarely."""
OUTSIDE = "it lies beside the folders of the dataset.json (imagesTr, labelsTr, imagesTs, labelsTs)"
NO_NUMBER = "the name ends in no channel's number of the dataset.json, as in CASE_0000.nii.gz"
NO_MODALITY = "a channel that is no modality which is read, by its name in the dataset.json"
NO_IMAGE = "a mask without an image of its name in the folder of images beside its own"

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})", re.DOTALL)
_ENDING = re.compile(r"\.nii(\.gz)?\Z", re.IGNORECASE)
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a description tells, and the cases that are there."""

    told: DatasetJson
    joined: Joined


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """The image files of one described folder, by the folder right below it."""

    uri: str
    parts: Mapping[str, Sequence[FileInfo]]

    def stems(self, column: int) -> set[str]:
        """Names without endings of all images (0) or masks (1)."""
        return {_stem(file) for pair in PARTS for file in self.parts.get(pair[column], ())}


def find(files: Collection[FileInfo], uri: str) -> Described | None:
    """The cases of a folder with a description; None where there is none, or names tell more.

    Args:
        files: all that lie below `uri`.
        uri: the cohort.

    Raises:
        UsageError: the description cannot be meant, there are several, or cases beside it.
    """
    folders = _described(files)
    if not folders:
        return None
    if len(folders) > 1:
        names = ", ".join(sorted(storage.name_of(folder.uri) for folder in folders)[:_SHOWN])
        raise UsageError(
            f"{uri} holds {len(folders)} sets with a dataset.json ({names} …): pass the folder "
            "of one, since each says for itself what its labels mean"
        )
    (folder,) = folders
    told = datasetjson.read(storage.join(folder.uri, datasetjson.NAME))
    joined = Joined()
    _leave_others(joined, files, folder)
    if _is_numbered(folder, told):
        told = dataclasses.replace(told, kind="nnunet")
    for images, masks in PARTS:
        _take_images(joined, folder.parts.get(images, ()), told)
        _take_masks(joined, folder, images, masks, told)
    joined.notes.append(_channels_in_words(told))
    if not joined.cases:
        raise UsageError(
            f"{told.uri} describes no image of its folder: expected imagesTr/CASE_0000.nii.gz … "
            "where it has channel_names, imagesTr/CASE.nii.gz where it has modality"
            + "".join(f"; {item.name}: {item.why}" for item in joined.passed_over[:_SHOWN])
        )
    return Described(told=told, joined=joined)


def _channels_in_words(told: DatasetJson) -> str:
    """What people should look at once, since nothing else says which scan is which."""
    pairs = zip(told.channel_names, told.modalities, strict=True)
    names = ", ".join(f"{name} is {own or 'not read'}" for name, own in pairs)
    whose = "nnU-Net" if told.kind == "nnunet" else "the Decathlon"
    return f"read as {whose} lays cases out; of the channels in {datasetjson.NAME}, {names}"


def _described(files: Collection[FileInfo]) -> list[_Folder]:
    """Folders with a `dataset.json` and images whose names alone do not tell what they are."""
    roots = {
        storage.parent_of(file.uri)
        for file in files
        if storage.name_of(file.uri) == datasetjson.NAME
    }
    parts: dict[str, dict[str, list[FileInfo]]] = {}
    for file in files if roots else ():
        place, name = storage.parent_of(file.uri), storage.name_of(file.uri)
        root, part = storage.parent_of(place), storage.name_of(place)
        if root in roots and _is_part(part) and naming.image_format(name) == "nifti":
            parts.setdefault(root, defaultdict(list))[part].append(file)
    found = (_Folder(uri=root, parts=own) for root, own in sorted(parts.items()))
    return [folder for folder in found if _needs_telling(folder)]


def _is_part(name: str) -> bool:
    return any(name in pair for pair in PARTS)


def _needs_telling(folder: _Folder) -> bool:
    images = (file for pair in PARTS for file in folder.parts.get(pair[0], ()))
    return any(naming.meaning_of(storage.name_of(file.uri)) is None for file in images)


def _leave_others(joined: Joined, files: Iterable[FileInfo], folder: _Folder) -> None:
    """Pass over what lies beside the set; `UsageError` for scans of other cases."""
    own = {file.uri for items in folder.parts.values() for file in items}
    for file in files:
        name = storage.name_of(file.uri)
        if file.uri in own or not naming.image_format(name):
            continue
        meaning = naming.meaning_of(name)
        if meaning and meaning.kind in MODALITIES:
            raise UsageError(
                f"{folder.uri}/{datasetjson.NAME} describes other cases than {file.uri} is of: "
                "pass the folder of one set, since each says for itself what its labels mean"
            )
        joined.leave([file], joining.problem_of_format(name) or OUTSIDE)


def _is_numbered(folder: _Folder, told: DatasetJson) -> bool:
    """Whether each image is one channel: so in nnU-Net, whose first version wrote `modality` too.

    Raises:
        UsageError: a description with `modality` fits both readings.
    """
    if told.kind == "nnunet":
        return True
    images, masks = folder.stems(0), folder.stems(1)
    matches = [_NUMBERED.fullmatch(stem) for stem in images]
    as_channels = {match["case"] for match in matches if match} >= masks and all(
        match and int(match["channel"]) < len(told.modalities) for match in matches
    )
    if as_channels and images >= masks:
        raise UsageError(
            f"{told.uri}: {min(images)} may be a case with {len(told.modalities)} channels, as in "
            "the Decathlon, or one channel of a case, as in nnU-Net: rename modality to "
            "channel_names where it is the latter"
        )
    return as_channels


def _take_images(joined: Joined, files: Iterable[FileInfo], told: DatasetJson) -> None:
    for file in files:
        if told.kind == "decathlon":
            for channel, modality in enumerate(told.modalities):
                if modality:
                    joined.cases[_stem(file)][modality].append(channels.of(file, channel))
            continue
        match = _NUMBERED.fullmatch(_stem(file))
        if match is None or int(match["channel"]) >= len(told.modalities):
            joined.leave([file], NO_NUMBER)
        elif modality := told.modalities[int(match["channel"])]:
            joined.cases[match["case"]][modality].append(file)
        else:
            joined.leave([file], NO_MODALITY)


def _take_masks(
    joined: Joined, folder: _Folder, images: str, masks: str, told: DatasetJson
) -> None:
    stems = {_stem(file) for file in folder.parts.get(images, ())}
    if told.kind == "nnunet":
        stems = {match["case"] for stem in stems if (match := _NUMBERED.fullmatch(stem))}
    with_image = stems & joined.cases.keys()
    for file in folder.parts.get(masks, ()):
        if _stem(file) in with_image:
            joined.cases[_stem(file)][SEGMENTATION].append(file)
        else:
            joined.leave([file], NO_IMAGE)


def _stem(file: FileInfo) -> str:
    return _ENDING.sub("", storage.name_of(file.uri))
