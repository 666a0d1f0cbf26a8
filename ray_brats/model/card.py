"""What a bundle holds, and that it holds nothing else; needs no TensorFlow.

    bundle/saved_model/   the network for `score` and `serve`: plain TensorFlow loads it. Two
                          signatures: `serve` (prepared patches to probabilities) and `segment`
                          (raw intensities of a whole case to labels)
    bundle/model.keras    the same for Keras
    bundle/model.h5       the same in the original project's format
    bundle/bundle.json    the model card, written last: sha256 of every other file

The starter model that comes with the package has the SavedModel alone.

The sha256 of bundle.json (`sha256sum bundle/bundle.json`) therefore pins the whole bundle. A
LICENSE.md for people may lie beside it: nothing reads it, and no hash is held of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_brats.cases import naming
from ray_brats.cases.case import Cohort
from ray_brats.errors import ArtefactError, UsageError
from ray_brats.files import folders, ownership, storage
from ray_brats.labels import Task
from ray_brats.recipes import jsonform, tasks
from ray_brats.recipes.config import Recipe

CARD = "bundle.json"
LICENSE = "LICENSE.md"
PASSED_OVER = (CARD, LICENSE, ownership.BEGUN)
"""What is beside the files that a card names."""
PARTS = (CARD, "saved_model", "model.keras", "model.h5")
FORMAT_VERSION = 2
STARTER = "starter"
"""Stands for the bundle that comes with the package, wherever that is installed."""
_STARTER_FOLDER = Path(__file__).parents[1] / "starter"
BRATS_SPACING_MM = (1.0, 1.0, 1.0)
"""What bundles have learnt from whose card does not tell."""
REQUIRED = ("recipe", "sha256", "versions", "parameters")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of bundles in place of what their recipes say."""

    tta: str | None = None
    """Instead of the first bundle's."""
    overlap: float | None = None
    """Instead of the first bundle's, by windows."""
    allow_skull: bool = False
    """Take also scans that do not look like a brain alone."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in sidecars; those of before know no skulls."""
        values = dataclasses.asdict(self)
        return values if self.allow_skull else {"tta": self.tta, "overlap": self.overlap}

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with what is asked."""
        values = jsonform.as_json(recipe)
        if self.tta is not None:
            values["inference"]["tta"] = self.tta
        if self.overlap is not None:
            values["inference"]["overlap"] = self.overlap
            # An overlap only has a meaning for windows.
            values["inference"]["whole_limit_vox"] = 0
        if self.allow_skull:
            values["preprocess"]["allow_skull"] = True
        return jsonform.from_json(Recipe, values)


AS_THEY_SAY = Asked()


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The bundles that segment together, known by their cards; nothing of them is loaded."""

    uris: tuple[str, ...]
    cards: tuple[Mapping[str, Any], ...]
    sha256: tuple[str, ...]
    """Hash of each card, which pins its bundle."""
    recipe: Recipe
    """Recipe of the first one, with the options that were asked for, and the size of voxels that
    it learnt from where the recipe itself asks for none."""
    asked: Asked = AS_THEY_SAY

    @property
    def task(self) -> Task:
        """Whose labels the first bundle writes where nothing else is asked for."""
        return tasks.told_by(self.cards[0]) or tasks.DEFAULT

    def task_of(self, cohort: Cohort, asked: Task | None = None) -> Task:
        """Whose labels the masks of a cohort are to carry.

        Args:
            cohort: whose cases are to be segmented.
            asked: the task that a caller names.

        Raises:
            UsageError: the cohort is of a task that these bundles have not learnt.
        """
        task = asked or cohort.task_or(self.task) or self.task
        check_task(task, self.recipe, " and ".join(self.uris))
        return task

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the masks besides the inputs."""
        return {"bundles": list(self.sha256), "options": self.asked.as_json()}


def uri_of(text: str) -> str:
    """The URI of a bundle that a user names: absolute, or `STARTER`."""
    return text if text == STARTER else storage.absolute(text)


def place(uri: str) -> str:
    """Where the files of a bundle are, on the node that asks.

    Raises:
        ArtefactError: the starter model is asked for, and this installation has none.
    """
    if uri != STARTER:
        return uri
    if not (_STARTER_FOLDER / CARD).is_file():
        raise ArtefactError(
            "this installation of ray-brats has no starter model: pass --bundle with the bundle/ "
            "folder that `ray-brats train` writes"
        )
    return str(_STARTER_FOLDER)


def read(uri: str, *, pinned: str | None = None) -> tuple[dict[str, Any], str]:
    """The model card of a bundle, and the bundle's identity: the sha256 of that file.

    Args:
        uri: the bundle.
        pinned: the sha256 it must have.

    Raises:
        ArtefactError: no bundle of this version, or not the pinned one.
        UsageError: what is pinned is no sha256.
    """
    try:
        content = storage.read_bytes(storage.join(place(uri), CARD))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{uri} is no bundle: it has no {CARD}. Expected what `ray-brats train` or "
            "`ray-brats export` writes"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if pinned is not None and not re.fullmatch("[0-9a-fA-F]{64}", pinned):
        raise UsageError(
            f"--bundle-sha256 {pinned}: expected 64 hexadecimal digits, as `sha256sum "
            f"BUNDLE/{CARD}` prints them"
        )
    if pinned is not None and sha256 != pinned.lower():
        raise ArtefactError(
            f"{uri} is not the bundle that was asked for: the sha256 of its {CARD} is {sha256}, "
            f"expected {pinned}. It was changed or replaced; do not load it unless you know why"
        )
    try:
        card = json.loads(content)
        version = card.get("format_version")
    except (ValueError, AttributeError) as error:
        raise ArtefactError(f"{uri}: {CARD} is no model card: copy the bundle again") from error
    if version is None:
        raise ArtefactError(f"{uri}: {CARD} is no model card: expected what train or export wrote")
    if version != FORMAT_VERSION:
        raise ArtefactError(
            f"{uri} has bundle format {version}, this version reads {FORMAT_VERSION}: export it "
            "again with the installed ray-brats"
        )
    lacking = [name for name in REQUIRED if name not in card]
    if lacking:
        raise ArtefactError(f"{uri}: {CARD} lacks {', '.join(lacking)}: copy the bundle again")
    hashed = card["sha256"]
    if not isinstance(hashed, dict) or not all(isinstance(item, str) for item in hashed.values()):
        raise ArtefactError(
            f"{uri}: {CARD} names no files with their sha256: copy the bundle again"
        )
    return card, sha256


def with_pins(uris: Sequence[str], pinned: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each bundle with its pin; raises `UsageError` where there are pins, and not one each."""
    if pinned and len(pinned) != len(uris):
        raise UsageError(
            f"--bundle-sha256 names {len(pinned)} and --bundle {len(uris)}: expected one each"
        )
    return list(zip(uris, pinned or (None,) * len(uris), strict=True))


def choose(
    uris: Sequence[str],
    pinned: Sequence[str] = (),
    asked: Asked = AS_THEY_SAY,
) -> Chosen:
    """Read the cards of one or several bundles, whose probabilities are to be averaged.

    Args:
        uris: the bundles.
        pinned: the sha256 that each one's card must have, or none at all.
        asked: in place of what the first one says.

    Raises:
        UsageError: another number of pins than of bundles, or an option out of its range.
        ArtefactError: as `read`, or bundles that cannot be averaged.
    """
    cards = [read(uri, pinned=pin) for uri, pin in with_pins(uris, pinned)]
    recipes = [jsonform.from_json(Recipe, card["recipe"]) for card, _ in cards]
    first = recipes[0]
    for uri, other in zip(uris, recipes, strict=True):
        if _kind(other) != _kind(first):
            raise ArtefactError(
                f"{uri} was trained on other inputs or outputs than {uris[0]}: only bundles of "
                "one preprocessing and one task can be averaged"
            )
    return Chosen(
        uris=tuple(uris),
        cards=tuple(card for card, _ in cards),
        sha256=tuple(sha256 for _, sha256 in cards),
        recipe=asked.of(_with_spacing(first, cards[0][0])),
        asked=asked,
    )


def _kind(recipe: Recipe) -> tuple[object, ...]:
    return recipe.preprocess, recipe.outputs, recipe.targets


def check_task(task: Task, recipe: Recipe, bundle: str) -> None:
    """Raise `UsageError` where a recipe's network has not learnt what a task asks for."""
    if task.targets != recipe.targets:
        learnt = f"{', '.join(recipe.targets.region_names)} of "
        learnt += ", ".join(recipe.targets.class_names[1:])
        asked = f"{', '.join(task.targets.region_names)} of "
        asked += ", ".join(task.targets.class_names[1:])
        raise UsageError(
            f"{bundle} segments {learnt}, but the task {task.name} has {asked}: expected a bundle "
            f"that was trained on cases of {task.name}"
        )


def _with_spacing(recipe: Recipe, card: Mapping[str, Any]) -> Recipe:
    """The recipe for new cases: they come at the voxel size that the network has learnt from."""
    if recipe.preprocess.spacing_mm is not None:
        return recipe
    first, second, third = card.get("spacing_mm") or BRATS_SPACING_MM
    preprocess = dataclasses.replace(recipe.preprocess, spacing_mm=(first, second, third))
    return dataclasses.replace(recipe, preprocess=preprocess)


def quality(card: Mapping[str, Any]) -> str:
    """How good the masks of a bundle were measured to be, as a sentence."""
    validation = card["measured"]["validation"] if "measured" in card else {}
    if "dice" not in validation:
        return "how good such masks are was not measured: the model has seen no validation case"
    intervals = validation.get("dice_ci95", {})
    measures = []
    # JSON sorts them by name.
    order = list(tasks.region_titles())
    known = [region for region in order if region in validation["dice"]]
    for region in [*known, *(name for name in validation["dice"] if name not in order)]:
        value = validation["dice"][region]
        low, high = intervals.get(region, (None, None))
        measures.append(
            f"{region} {value:.2f}" + (f" ({low:.2f}–{high:.2f})" if low is not None else "")
        )
    count = card["measured"]["cases"]["validation"]
    return (
        f"such masks were measured on {count} case(s) that the model had not learnt from: mean "
        f"Dice {', '.join(measures)}" + (" (95 % interval of the mean)" if intervals else "")
    )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What can be said of how good some masks are."""

    measured: Mapping[str, Any] | None = None
    """The card's figures, where they hold for any of the masks."""
    sentence: str | None = None
    """The same for people, and for which masks it holds."""
    why_not: str | None = None
    """In place of both where they hold for none."""


def quality_of(
    chosen: Chosen, case_ids: Collection[str], remarked: Collection[str] = ()
) -> Quality:
    """What the card of a bundle says of the masks of these cases.

    Args:
        chosen: what made the masks. Of several bundles, or of other options than the card's,
            nobody measured them, and nothing is said.
        case_ids: whose masks they are.
        remarked: those of them whose scans were not as usual.
    """
    if len(chosen.cards) > 1 or chosen.asked != AS_THEY_SAY:
        return Quality()
    card = chosen.cards[0]
    known = _learnt_tumours(card)
    of_case = {case_id: naming.tumour_of(case_id) for case_id in case_ids}
    others = {key: name for key, name in of_case.items() if known and name and name not in known}
    unusual = set(of_case) & set(remarked) - set(others)
    why = _reasons(others.values(), len(unusual))
    fitting = [name for key, name in of_case.items() if key not in {*others, *unusual}]
    if why and not fitting:
        return Quality(why_not=f"how good these masks are was not measured: {why}")
    sentence = quality(card)
    if why:
        sentence += (
            f"; this holds for {len(fitting)} of the {len(of_case)} case(s), of the other "
            f"{len(of_case) - len(fitting)} nothing was measured: {why}"
        )
    if fitting and (not known or None in fitting):
        sentence += "; of scans of another origin than those nothing was measured"
    return Quality(measured=card.get("measured"), sentence=sentence)


def _learnt_tumours(card: Mapping[str, Any]) -> set[str]:
    """What the training cases were of, as `naming.tumour_of` has it; empty where nothing tells."""
    task = tasks.told_by(card)
    of_task = naming.tumour_of_task(task.name) if task else None
    return set(card.get("tumours") or filter(None, [of_task]))


def _reasons(tumours: Iterable[str], unusual: int) -> str:
    """Why a card's figures do not hold, for tumours of other kinds and scans not as usual."""
    reasons = [
        f"{count} of {naming.TUMOURS.get(name, name)}, which the model has not learnt from"
        for name, count in sorted(Counter(tumours).items())
    ]
    if unusual:
        reasons.append(f"{unusual} with scans that were not as usual")
    return ", ".join(reasons)


def check_target(uri: str) -> None:
    """Raise `UsageError` where a bundle would replace what no card there names."""
    prefix = uri.rstrip("/") + "/"
    there = {file.uri.removeprefix(prefix) for file in storage.list_files(uri)}
    card = (storage.read_json_or_none(storage.join(uri, CARD)) or {}) if CARD in there else {}
    named = card.get("sha256")
    ours = {CARD, *named} if isinstance(named, dict) and "recipe" in card else set()
    begun = ownership.noted(uri) if ownership.BEGUN in there else set()
    foreign = sorted(
        name
        for name in there - ours - {ownership.BEGUN if begun else ""}
        if name.split("/")[0] not in begun
    )
    if foreign:
        raise UsageError(
            f"{uri} holds {', '.join(foreign[:3])}, which belongs to no bundle and would be "
            "removed: pass a new folder, or that of a bundle"
        )


@contextlib.contextmanager
def fetched(card: Mapping[str, Any], uri: str) -> Iterator[Path]:
    """A private copy of a bundle, which holds exactly what its card names.

    Raises:
        ArtefactError: files that are not those of the card.
    """
    with contextlib.ExitStack() as stack:
        try:
            copy = folders.fetched(place(uri), card["sha256"], passed_over=PASSED_OVER)
            folder = stack.enter_context(copy)
        except (ArtefactError, FileNotFoundError) as error:
            raise ArtefactError(
                f"{uri} does not match its card ({CARD}): {error}. Do not load it; copy the "
                "bundle again or export it anew"
            ) from error
        yield folder


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of a bundle except its card and its licence, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in (folder / CARD, folder / LICENSE)
    }
