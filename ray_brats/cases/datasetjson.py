"""`dataset.json`: what the Medical Segmentation Decathlon and nnU-Net say of their cases.

The Decathlon (http://medicaldecathlon.com) names the scans of its 4-D files in `modality`; nnU-Net
(documentation/dataset_format.md of its repository) those of its files `CASE_0000` … in
`channel_names`, and may have regions, several integers each, in place of labels.

The file is somebody else's: it is read up to a length, its values are judged one by one, and the
paths that it lists are never followed. Which cases there are, the folder itself tells.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from ray_brats.cases import spelling
from ray_brats.errors import UsageError
from ray_brats.files import storage

NAME = "dataset.json"
MAX_BYTES = 4 << 20
"""It may list every case, each in some 100 bytes."""
ENDINGS = (".nii.gz", ".nii")
Kind = Literal["decathlon", "nnunet"]
_MOST_CHANNELS, _MOST_LABELS, _MOST_LETTERS, _MOST_VALUE = 64, 256, 128, 255
_IGNORED = "ignore"
_SHOWN = 8
_INSTEAD = "correct the file, or describe the cohort in a CSV (case_id, t1, t1ce, t2, flair, seg)"


@dataclass(frozen=True, kw_only=True)
class DatasetJson:
    """What one `dataset.json` says, with what it does not say left out."""

    uri: str
    kind: Kind
    name: str
    """What the set calls itself; "" where it does not."""
    channel_names: tuple[str, ...]
    """As the file spells them: of a 4-D file by index, else by the number in a file's name."""
    modalities: tuple[str | None, ...]
    """The same as canonical modalities; None for a channel that is none of them."""
    labels: Mapping[str, tuple[int, ...]]
    """Name to the integers of the masks that it stands for, with the background; a region of
    nnU-Net has several. Empty where the file says nothing of labels."""
    regions_class_order: tuple[int, ...] | None = None
    """nnU-Net: the integer that each region but the background writes, in the order of `labels`;
    a later one is written over those before it. None where there are no regions."""

    @property
    def has_regions(self) -> bool:
        """Whether labels are regions that lie one in the other, and no classes apart."""
        return self.regions_class_order is not None


def read(uri: str) -> DatasetJson:
    """What a `dataset.json` says.

    Raises:
        UsageError: it is too long, no JSON, or says what cannot be meant.
    """
    content = storage.read_bytes(uri, end=MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UsageError(f"{uri}: more than {MAX_BYTES} bytes: expected a dataset.json of less")
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        what = "too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{uri}: not JSON ({what}): {_INSTEAD}") from error
    if not isinstance(value, dict):
        _refuse(uri, "holds no JSON object")
    return _parsed(value, uri)


def _refuse(uri: str, what: str) -> NoReturn:
    raise UsageError(f"{uri}: {what}: {_INSTEAD}")


def _parsed(value: Mapping[str, Any], uri: str) -> DatasetJson:
    kind: Kind = "nnunet" if "channel_names" in value else "decathlon"
    key = "channel_names" if kind == "nnunet" else "modality"
    if key not in value:
        _refuse(uri, "has neither channel_names (nnU-Net) nor modality (Decathlon)")
    names = _channels(value[key], key, uri)
    ending = value.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise UsageError(
            f"{uri}: file_ending is {_shown(ending)}: only NIfTI is read, .nii.gz or .nii; "
            "convert the images first"
        )
    labels = _labels(value.get("labels", {}), uri)
    name = value.get("name")
    return DatasetJson(
        uri=uri,
        kind=kind,
        name=name[:_MOST_LETTERS] if isinstance(name, str) else "",
        channel_names=names,
        modalities=_modalities(names, uri),
        labels=labels,
        regions_class_order=_order(value.get("regions_class_order"), labels, uri),
    )


def _channels(value: object, key: str, uri: str) -> tuple[str, ...]:
    """Names by their numbers, which are keys: `{"0": "FLAIR", "1": "T1w"}`."""
    if not isinstance(value, dict) or not value or len(value) > _MOST_CHANNELS:
        _refuse(uri, f'{key} is {_shown(value)}: expected {{"0": "FLAIR", "1": "T1w", …}}')
    numbers = [str(number) for number in range(len(value))]
    if set(value) != set(numbers):
        _refuse(uri, f"{key} has the keys {_shown([*value])}: expected {_shown(numbers)}")
    return tuple(_text(value[number], f"{key} {number}", uri) for number in numbers)


def _modalities(names: tuple[str, ...], uri: str) -> tuple[str | None, ...]:
    meant = tuple(map(spelling.modality_of, names))
    counts = Counter(name for name in meant if name)
    for modality, count in counts.items():
        if count > 1:
            same = [name for name, own in zip(names, meant, strict=True) if own == modality]
            _refuse(uri, f"{_shown(same)}: {count} channels that all mean {modality}")
    if not counts:
        _refuse(
            uri,
            f"no channel is named after a modality: it has {_shown([*names])}, "
            f"expected some of {spelling.EXPECTED}",
        )
    return meant


def _labels(value: object, uri: str) -> dict[str, tuple[int, ...]]:
    """Name to integers, whichever of both the file has for its keys."""
    if not isinstance(value, dict) or len(value) > _MOST_LABELS:
        _refuse(uri, f'labels is {_shown(value)}: expected {{"0": "background", "1": "edema", …}}')
    labels: dict[str, tuple[int, ...]] = {}
    for key, item in value.items():
        if isinstance(item, str):
            name, numbers = _text(item, f"label {_shown(key)}", uri), [_number(key)]
        else:
            name = _text(key, "a label", uri)
            numbers = [_number(part) for part in (item if isinstance(item, list) else [item])]
        if not numbers or len(numbers) > _MOST_LABELS or len({*numbers}) < len(numbers):
            _refuse(uri, f"label {_shown(name)} is {_shown(item)}: expected integers, each once")
        if None in numbers:
            _refuse(
                uri,
                f"label {_shown(name)} is {_shown(key if isinstance(item, str) else item)}: "
                f"expected an integer of 0 to {_MOST_VALUE}, or a list of them",
            )
        if len(numbers) > 1 and 0 in numbers:
            what = "0 is the background, and no part of a region"
            _refuse(uri, f"label {_shown(name)} is {_shown(item)}: {what}")
        if name in labels:
            _refuse(uri, f"two labels are called {_shown(name)}")
        labels[name] = tuple(number for number in numbers if number is not None)
    return labels


def _number(value: object) -> int | None:
    """An integer of a mask, also as the text that keys of JSON are; None where it is none."""
    if isinstance(value, str):
        value = int(value) if re.fullmatch("[0-9]{1,3}", value) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_VALUE:
        return None
    return value


def _order(
    value: object, labels: Mapping[str, tuple[int, ...]], uri: str
) -> tuple[int, ...] | None:
    """`regions_class_order`, which regions must have; without them nobody reads it."""
    if all(len(numbers) == 1 for numbers in labels.values()):
        _check_apart(labels, uri)
        return None
    if value is None:
        _refuse(uri, "labels has regions (lists of integers), but regions_class_order is absent")
    own = [name for name, numbers in labels.items() if name != _IGNORED and numbers != (0,)]
    order = [_number(item) for item in value] if isinstance(value, list) else []
    numbers = tuple(number for number in order if number is not None)
    if not len(numbers) == len(order) == len(own):
        _refuse(
            uri,
            f"regions_class_order is {_shown(value)}: expected {len(own)} integers, one for each "
            f"of {_shown(own)}",
        )
    return numbers


def _check_apart(labels: Mapping[str, tuple[int, ...]], uri: str) -> None:
    """Two classes of one integer cannot be told apart."""
    for number, count in Counter(numbers[0] for numbers in labels.values()).items():
        if count > 1:
            same = [name for name, numbers in labels.items() if numbers == (number,)]
            _refuse(uri, f"labels {_shown(same)} are all {number}")


def _text(value: object, what: str, uri: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_LETTERS:
        _refuse(uri, f"{what} is {_shown(value)}: expected a name of 1–{_MOST_LETTERS} letters")
    return value


def _shown(value: object) -> str:
    """A value in a sentence: short, whatever it is."""
    if isinstance(value, list):
        more = " …" if len(value) > _SHOWN else ""
        return ", ".join(map(_brief, value[:_SHOWN])) + more if value else "empty"
    return _brief(value)


def _brief(value: object) -> str:
    if isinstance(value, list | dict):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = value if isinstance(value, str) else repr(value)
    return text[:40] + "…" if len(text) > 40 else text
