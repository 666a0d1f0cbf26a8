"""The whole configuration of a recipe, as frozen dataclasses.

A recipe is one `Recipe`; its parts are named after the stages that read them. Every field
says what it means, in which unit; ranges are checked where a value is made. `jsonform` has the
form that crosses files and processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ray_brats.arrays import Shape, Spacing
from ray_brats.errors import UsageError
from ray_brats.labels import Targets
from ray_brats.recipes.tasks import GLIOMA

DEFAULT_MODALITIES = ("t1ce", "t2", "flair")
LATER = {"later": True}
"""Metadata of a field that came after the first release: JSON leaves it out at its default, so
that what was written before keeps its hashes."""
AUGMENTATIONS = ("zoom", "noise", "blur", "gamma", "tumour")
"""Those of `TrainConfig` that happen with a probability."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How native volumes become one array `(H, W, D, C)`."""

    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    """Canonical names, in the order of the channels."""
    spacing_mm: Spacing | None = None
    """Bring every scan to voxels of this size; None: each keeps its own."""
    crop: Literal["brain", "centre"] = "brain"
    """`brain`: the box around every non-zero voxel; `centre`: `crop_size_vox` at the centre."""
    crop_size_vox: Shape | None = None
    """Size of a centred crop; smaller scans are padded with zeros."""
    normalise: Literal["zscore", "minmax_slices"] = "zscore"
    """`zscore`: non-zero voxels to mean 0, deviation 1; `minmax_slices`: scikit-learn's
    MinMaxScaler on the volume reshaped to `(-1, last axis)`, hence each axial slice to 0–1."""
    dtype: Literal["float32", "float16"] = "float16"
    """Type of the stored image."""
    min_labelled_share: float = 0.0
    """A case with a mask is kept only where more than this share of the crop is labelled."""
    raw_3_is_enhancing: bool = False
    """Read a label 3 that the task does not define as enhancing tumour (the original project's
    rule)."""
    allow_skull: bool = field(default=False, metadata=LATER)
    """Take also scans that do not look like a brain alone; see `cases.background`."""

    def __post_init__(self) -> None:
        require(bool(self.modalities), "modalities", self.modalities, "at least one")
        require(
            len(set(self.modalities)) == len(self.modalities),
            "modalities",
            self.modalities,
            "each once",
        )
        require(
            (self.crop == "centre") == (self.crop_size_vox is not None),
            "crop_size_vox",
            self.crop_size_vox,
            "a size exactly where crop is 'centre'",
        )
        require(
            self.spacing_mm is None or all(0.1 <= side <= 10 for side in self.spacing_mm),
            "spacing_mm",
            self.spacing_mm,
            "0.1–10 mm a side",
        )
        require(
            0 <= self.min_labelled_share < 1, "min_labelled_share", self.min_labelled_share, "0–1"
        )

    @property
    def is_exact(self) -> bool:
        """Whether intensities are those of float64 to the last bit, as scikit-learn gets them."""
        return self.normalise == "minmax_slices"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The architecture; `unet.build` is its only reader."""

    kind: Literal["baseline", "standard"] = "standard"
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels at each level, finest first; level k works at 1 / 2^k of the resolution."""
    stem_stride: Literal[1, 2] = 1
    """2: the finest level works at half of the resolution (cheap; coarser outlines)."""
    output: Literal["classes", "regions"] = "regions"
    """`classes`: softmax over background and the task's classes; `regions`: a sigmoid for each
    region that is learnt."""
    local_contrast_vox: int | None = None
    """The network also sees each modality relative to its surroundings, averaged with weights that
    fall to half at half of this distance; None: as it is alone."""
    deep_supervision: int = 0
    """So many coarser levels of the decoder also learn to predict (Dou et al. 2016)."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Numbers of the layers; weights, probabilities and losses are float32 in both."""

    def __post_init__(self) -> None:
        require(len(self.widths) >= 2, "widths", self.widths, "two levels or more")
        require(all(width > 0 for width in self.widths), "widths", self.widths, "above zero")
        require(
            0 <= self.deep_supervision < len(self.widths)
            and (self.kind == "standard" or not self.deep_supervision),
            "deep_supervision",
            self.deep_supervision,
            "fewer levels than there are widths, and 0 for kind 'baseline'",
        )
        require(
            self.local_contrast_vox is None
            or (
                self.kind == "standard"
                and self.divisor_vox % 4 == 0
                and self.local_contrast_vox > 0
                and self.local_contrast_vox % 8 == 4
            ),
            "local_contrast_vox",
            self.local_contrast_vox,
            "null, or 4, 12, 20, … for kind 'standard' with levels down to a quarter",
        )

    @property
    def divisor_vox(self) -> int:
        """Every side of an input must be a multiple of this."""
        return int(2 ** (len(self.widths) - 1)) * self.stem_stride


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained; what is random follows from `seed` and the sample's index."""

    patch_vox: Shape = (96, 96, 96)
    batch_per_worker: int = 1
    accumulate: int = 1
    """Batches whose gradients are averaged before each optimizer step, one after the other."""
    foreground_share: float = 0.5
    """Share of the patches that are centred on a tumour voxel."""
    foreground: Literal["tumour", "region"] = "tumour"
    """`tumour`: any of them is as likely; `region`: first a region is drawn, then a voxel of it, so
    that small cores are seen as often as large edemas."""
    flip: bool = True
    """Mirror each axis with probability one half."""
    intensity_jitter: float = 0.1
    """Standard deviation of a random scale and shift of each channel."""
    carve_probability: float = 0.0
    """Share of the patches that get the tumour of another case as well; see `samples.carve`."""
    tumour_probability: float = 0.0
    """Share of the patches whose regions become brighter or darker, each in each channel."""
    zoom_probability: float = 0.0
    """Share of the patches that are magnified or shrunk; how far: see `augmentation`."""
    noise_probability: float = 0.0
    """Share of the patches that get Gaussian noise."""
    blur_probability: float = 0.0
    """Share of the patches that a Gaussian smooths."""
    gamma_probability: float = 0.0
    """Share of the patches whose channels are raised to a power."""
    loss: Literal["dice_focal", "dice_bce"] = "dice_bce"
    learning_rate: float = 1e-3
    """The highest learning rate, for steps of `reference_batch`; see `step.learning_rate`."""
    reference_batch: int = field(default=2, metadata=LATER)
    """Patches of a step, of all workers, for which the rate and the warm-up are meant."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up, as a function of the global step over the planned steps."""
    warmup_steps: int = 20
    """Of `reference_batch` patches."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Gradients are scaled down to this global L2 norm; None: never."""
    ema_decay: float | None = None
    """Decay a step of the averaged weights that are validated and exported; None: the raw ones."""
    steps: int | None = 1000
    """Optimizer steps, or None where `patches` or `minutes` sets the length."""
    minutes: float | None = None
    """Length by the clock, validation included; see `length`."""
    patches: int | None = field(default=None, metadata=LATER)
    """Length in patches, of all workers: with more of them it ends sooner."""
    validations: int = 2
    """How often the validation cases are scored, evenly spaced, the last time at the end."""
    validation_cases: int = field(default=200, metadata=LATER)
    """Of more validation cases so many are scored each time, the same ones, and all at the end."""
    checkpoint_minutes: float = 5.0
    """The state is saved about so often: by steps, as fast as the first ones were."""
    patience: int | None = None
    """The run ends after so many validations without a better mean Dice; None: never early."""
    xla: bool = False
    """Compile the network with XLA: for GPUs; on CPUs its convolutions are far slower."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(all(n > 0 for n in self.patch_vox), "patch_vox", self.patch_vox, "above zero")
        require(self.batch_per_worker >= 1, "batch_per_worker", self.batch_per_worker, "≥ 1")
        require(self.accumulate >= 1, "accumulate", self.accumulate, "≥ 1")
        require(
            self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "above zero"
        )
        require(
            self.patience is None or self.patience >= 1, "patience", self.patience, "≥ 1, or null"
        )
        shares = ("foreground_share", "carve_probability")
        for name in (*shares, *(f"{kind}_probability" for kind in AUGMENTATIONS)):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0–1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above zero")
        lengths = {"steps": self.steps, "minutes": self.minutes, "patches": self.patches}
        given = [f"{value} {unit}" for unit, value in lengths.items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                f"the length of a training is {' and '.join(given) or 'not given'}: expected "
                "exactly one of --patches, --steps and --minutes"
            )
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "≥ 1")
        require(self.patches is None or self.patches >= 1, "patches", self.patches, "≥ 1")
        require(self.reference_batch >= 1, "reference_batch", self.reference_batch, "≥ 1")
        require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "above zero")
        require(self.validations >= 1, "validations", self.validations, "≥ 1")
        require(self.validation_cases >= 1, "validation_cases", self.validation_cases, "≥ 1")
        minutes = self.checkpoint_minutes
        require(minutes > 0, "checkpoint_minutes", minutes, "above zero")
        require(self.seed >= 0, "seed", self.seed, "≥ 0")
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "0–1"
        )


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a trained network segments a whole case."""

    window_vox: Shape = (96, 96, 96)
    """Size of a sliding window, used where the whole crop is not passed at once."""
    overlap: float = 0.5
    """Share of a window that its neighbour covers again."""
    whole_limit_vox: int = 0
    """Crops up to this many voxels go through the network in one pass; 0: always windows. A
    network with instance norm sees other statistics in a whole volume than in its patches."""
    tta: Literal["none", "flips"] = "none"
    """`flips`: average the probabilities over the eight mirrored inputs."""
    threshold: float = 0.5
    """Probability from which a voxel belongs to a region (`output="regions"`)."""
    min_enhancing_vox: int = 0
    """Fewer enhancing voxels than this in a whole case are taken for the class around them."""
    min_component_vox: int = 0
    """Connected pieces (26 neighbours) of tumour smaller than this are background. A graph
    cannot find them: a bundle with this rule has no `segment` signature."""

    def __post_init__(self) -> None:
        require(0 <= self.overlap < 1, "overlap", self.overlap, "0 ≤ overlap < 1")
        require(0 < self.threshold < 1, "threshold", self.threshold, "0 < threshold < 1")
        for knob in ("whole_limit_vox", "min_enhancing_vox", "min_component_vox"):
            require(getattr(self, knob) >= 0, knob, getattr(self, knob), "≥ 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a trained model, under one name."""

    name: str
    preprocess: PreprocessConfig
    network: NetworkConfig
    train: TrainConfig
    inference: InferenceConfig
    targets: Targets = field(default=GLIOMA, metadata=LATER)
    """What is learnt and segmented: those of the dataset's task."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each channel of the network's output is: a class, or a region that is learnt."""
        if self.network.output == "classes":
            return self.targets.class_names
        return tuple(region.name for region in self.targets.learnt)

    def __post_init__(self) -> None:
        divisor = self.network.divisor_vox
        for knob, shape in (
            ("train.patch_vox", self.train.patch_vox),
            ("inference.window_vox", self.inference.window_vox),
        ):
            require(
                all(side % divisor == 0 for side in shape),
                knob,
                shape,
                f"sides that are multiples of {divisor}, which the network's levels need",
            )
        softmax = self.network.output == "classes"
        require(
            softmax == (self.train.loss == "dice_focal"),
            "train.loss",
            self.train.loss,
            "'dice_focal' for network.output 'classes', 'dice_bce' for 'regions'",
        )


def require(ok: bool, knob: str, value: object, expected: str) -> None:
    """Refuse a value of a knob with a `UsageError` that says what was expected."""
    if not ok:
        raise UsageError(f"{knob} is {value!r}: expected {expected}")
