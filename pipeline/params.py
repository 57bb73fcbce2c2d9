"""`params.yaml` as typed, validated models.

The file has two mappings: `defaults`, one section a stage, and `organs`, where each organ carries
the same sections with what differs. `load_organ` merges the two. Every organ names every section
(`{}` where nothing differs), because DVC tracks `organs.<organ>.<stage>`: changing one section
reruns that stage and what follows it, nothing else.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline import networks
from pipeline.cron import is_cron
from pipeline.errors import ParamsError
from pipeline.labels import LONGEST_REGION, RESERVED
from pipeline.mistakes import explained, nearest
from pipeline.networks import compositions
from pipeline.workspace import STAGES

if TYPE_CHECKING:
    from pipeline.volumes.annotation import Annotation

Auto = Literal["auto"]
LayoutName = Literal["manifest", "datalist", "bids", "msd", "nnunet", "folders", "dicom"]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Millimetres = Annotated[float, Field(ge=0.01, le=100)]
Voxels = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
HASH = r"^[0-9a-f]{64}$"
MOST_LABELS = 254
"""Classes are numbers of a byte, of which one is the background and one what nobody knows."""


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("a range begins with its lower end")
    return ends


def _apart(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] >= ends[1]:
        raise ValueError("its lower end comes first, and the upper one lies above it")
    return ends


def _at_most_one(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[1] > 1:
        raise ValueError("it is at most 1")
    return ends


NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[float, float], AfterValidator(_in_order)]
Window = Annotated[tuple[float, float], AfterValidator(_apart)]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_in_order)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]
Cron = Annotated[str, AfterValidator(is_cron)]
Quantity = Annotated[str, Field(coerce_numbers_to_str=True)]
"""Of Kubernetes, which takes `1` as it takes `"1"`."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""What an organ may be called: it becomes a folder, a DVC stage and a registered model."""


class Section(BaseModel):
    """A section of parameters: unknown keys and NaN are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Channel(Section):
    """A channel that a network sees: an image, clipped, then shifted and scaled."""

    image: Annotated[int, Field(ge=0)] = 0
    """Which image, of a case that has several."""
    clip: Window
    """HU, or z-scores of an MR."""
    mean: float
    """What becomes 0."""
    std: Positive
    """The distance from the mean that becomes 1."""


class Normalisation(Section):
    """The channels a network sees: windows of HU, each scaled to -1 to 1, or channels written in full."""

    windows: tuple[Window, ...] = ()
    channels: tuple[Channel, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_them(self) -> "Normalisation":
        if bool(self.windows) == bool(self.channels):
            raise ValueError("give windows or channels, with one entry or more")
        return self


class AnnotationParams(Section):
    """How complete the masks of the cases are."""

    kind: Literal["full", "sparse", "points", "image"] = "full"
    """sparse: some slices; points: a voxel marks an organ or lesion; image: only which slices hold it."""
    unlabelled: Literal["auto"] | Annotated[int, Field(ge=1, le=255)] = "auto"
    """sparse: the value of voxels that nobody looked at; auto: these are all axial slices without a label."""
    size_mm: tuple[Positive, Positive, Positive] | None = None
    """points: the size (z, y, x) of what they mark."""

    @model_validator(mode="after")
    def _fits_together(self) -> "AnnotationParams":
        if (self.kind == "points") != (self.size_mm is not None):
            raise ValueError(
                "size_mm says how large what points mark is: give it with kind: points, and only there"
            )
        if self.unlabelled != "auto" and self.kind != "sparse":
            raise ValueError("unlabelled is for kind: sparse")
        return self

    def recipe(self) -> "Annotation":
        """The same as ingest takes it."""
        from pipeline.volumes.annotation import Annotation

        value = None if self.unlabelled == "auto" else self.unlabelled
        return Annotation(self.kind, value, self.size_mm or (0.0, 0.0, 0.0))


class IngestParams(Section):
    """What the raw data are and how they become volumes."""

    modality: Literal["CT", "MR"]
    labels: dict[str, Annotated[int, Field(ge=1, le=255)]] = Field(min_length=1)
    """Name of each label and its value in the label maps; 0 is the background."""
    spacing: Auto | tuple[Millimetres, Millimetres, Millimetres] = "auto"
    """Millimetres as (z, y, x); auto: the median of the data."""
    layout: Auto | LayoutName = "auto"
    """How the raw scans are laid out; auto: the first layout that fits."""
    rois: dict[str, list[str]] = {}
    """By label, patterns (`*`, `?`) of the names it has in RTSTRUCT, DICOM-SEG and files an organ."""
    annotation: AnnotationParams = AnnotationParams()
    hu_offset: Auto | float = "auto"
    """Added to a CT's stored values to give HU; auto: found where they are stored without a sign."""
    mr_scale: Literal["zscore", "percentiles"] = "zscore"
    """How an MR volume is scaled by its own voxels."""
    normalisation: Auto | Normalisation = "auto"
    """What a network sees; auto: of a CT, clipped to the percentiles of the labelled voxels."""
    train_memory_gb: Annotated[float, Field(ge=2)] | None = None
    """Of a GPU, that a step of training may take: patches are planned to fill it; None: for few CPU cores."""
    workers: Auto | Annotated[int, Field(ge=1)] = "auto"
    """Cases that are read at once, as far as memory allows; auto: as many as there are cores."""
    memory_gb: Auto | Annotated[float, Field(gt=0)] = "auto"
    """What all workers together may hold; auto: four fifths of what is free."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """A case that takes longer is quarantined."""
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None = None
    """Fingerprint of the secret that patients' names are hashed with; another secret is an error."""

    @field_validator("labels")
    @classmethod
    def _values_are_distinct(cls, labels: dict[str, int]) -> dict[str, int]:
        if len(set(labels.values())) < len(labels):
            raise ValueError(f"two labels share one value: {labels}")
        if "mean" in labels:
            raise ValueError("no label may be called 'mean': the mean of all labels is")
        if "background" in labels:
            raise ValueError("no label may be called 'background': leave it out, it is where no label is")
        if any(";" in name for name in labels):
            raise ValueError("no label may have a ';' in its name: it stands between names of labels")
        if len(labels) > MOST_LABELS:
            raise ValueError(f"{len(labels)} labels, but {MOST_LABELS} are the most that there may be")
        return labels

    @field_validator("rois")
    @classmethod
    def _known(cls, rois: dict[str, list[str]], info: ValidationInfo) -> dict[str, list[str]]:
        stray = set(rois) - set(info.data.get("labels", rois))
        if stray:
            raise ValueError(f"{', '.join(sorted(stray))} is no label of ingest.labels")
        return rois

    @field_validator("annotation")
    @classmethod
    def _has_values_of_its_own(cls, annotation: AnnotationParams, info: ValidationInfo) -> AnnotationParams:
        taken = set(info.data.get("labels", {}).values())
        if annotation.kind != "full" and 255 in taken:
            raise ValueError(
                "no label may have the value 255 where some voxels are unknown: 255 means unknown"
            )
        if annotation.unlabelled in taken:
            raise ValueError(f"unlabelled is {annotation.unlabelled}, which is a label")
        return annotation


class ValidateParams(Section):
    """Which cases are fit to learn from, and which are kept back."""

    test_share: Share = 0.15
    """Share of the patients in the frozen test set, chosen by a hash of the patient."""
    folds: Annotated[int, Field(ge=2)] = 5
    split_seed: Seed = 0
    """Another value draws another test set and other folds."""
    min_cases: Annotated[int, Field(ge=3)] = 8
    """Fewer accepted cases stop the run."""
    max_quarantined_share: Share = 0.5
    """More than this share of quarantined cases stops the run."""
    spacing_range: Range = (0.1, 10.0)
    """Millimetres, on any axis of the original image."""


class Shares(Section):
    """Where patch centres lie; the shares add up to one."""

    foreground: Share = 0.66
    """On a labelled voxel, each class as often as every other, by number and weight of its patches."""
    negative: Share = 0.17
    """Where the whole patch holds no labelled voxel."""
    background: Share = 0.17
    """On any unlabelled voxel."""
    hard: Share = 0.0
    """On a voxel that looks like the organ; which ones, `hard_negatives` says."""

    @model_validator(mode="after")
    def _add_up(self) -> "Shares":
        total = self.foreground + self.negative + self.background + self.hard
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, not to 1")
        return self


class HardNegatives(Section):
    """Which voxels look like the organ and are not: those of an intensity, or those a model got wrong."""

    of: Literal["range", "model"] = "range"
    range: Auto | Range = "auto"
    """HU, or z-scores of an MR; auto: of the middle nine tenths of the labelled voxels of the case."""
    within: list[str] = []
    """Labels to look inside of, such as the lung for what is no nodule; none: the background."""
    model: Literal["none"] | Annotated[str, Field(pattern=HASH)] = "none"
    """The registered model whose false positives are taken, by the hash of its files."""

    @model_validator(mode="after")
    def _has_its_model(self) -> "HardNegatives":
        if self.of == "model" and self.model == "none":
            raise ValueError(
                "of is model, but model is none: hounsfield hard-negatives ORGAN names the champion"
            )
        return self


class PatchesParams(Section):
    """Which patches are drawn from each case."""

    mode: Literal["random", "grid"] = "random"
    """grid: patches that cover every voxel of a case; their number follows from their size."""
    per_case: Annotated[int, Field(ge=1)] = 32
    """Patches of a case, where the mode is random."""
    size: Auto | tuple[Voxels, Voxels, Voxels] = "auto"
    """Voxels as (z, y, x) at the planned spacing; auto: as the plan says."""
    overlap: Rate = 0.5
    """The least share of its edge by which a patch of a grid overlaps the next one."""
    shares: Shares = Shares()
    balance: dict[str, NonNegative] = {}
    """How much each label counts among the foreground centres; 1 for one that is not named."""
    views: Annotated[int, Field(ge=1)] = 1
    """Patches around each foreground or hard centre, moved at random by up to a quarter of their edge."""
    hard_negatives: HardNegatives = HardNegatives()
    supervoxels: Literal[0] | Annotated[float, Field(gt=0)] = 0
    """Edge in millimetres of supervoxels, each as likely as another, that centres are drawn from; 0: none."""
    seed: Seed = 0


class AugmentParams(Section):
    """Ranges the transforms draw from; a probability of 0 switches one off."""

    affine_probability: Share = 0.7
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest angle about each axis; out of the plane it is scaled down by the anisotropy."""
    scale: PositiveRange = (0.85, 1.18)
    translation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Largest shift, as a share of the patch's edge."""
    elastic_probability: Share = 0.2
    elastic_millimetres: Annotated[float, Field(ge=0)] = 3.0
    """Largest displacement of a control point."""
    mirror_axes: tuple[Literal["z", "y", "x"], ...] = ()
    intensity_probability: Share = 0.3
    """Chance of each of noise, blur, brightness, contrast and gamma."""
    noise_std: NonNegativeRange = (0.0, 0.1)
    """Of noise that is added; it and the values below are in units of the normalised image."""
    blur_sigma: Annotated[PositiveRange, AfterValidator(_at_most_one)] = (0.5, 1.0)
    """Voxels, at most 1: the kernel ends at three."""
    brightness: Range = (-0.2, 0.2)
    """What is added."""
    contrast: PositiveRange = (0.75, 1.25)
    """A factor about the mean."""
    gamma: PositiveRange = (0.7, 1.5)
    """An exponent over the range of the image, scaled to 0 to 1."""


class NetworkParams(Section):
    """Which network; all other keys are its own options (`hounsfield networks NAME` tells them)."""

    model_config = ConfigDict(extra="allow")

    name: str = "residual_unet"
    init: Literal["default", "normal"] = "default"
    """How kernels are drawn; normal: so that activations keep their variance through the layers."""

    @property
    def options(self) -> dict[str, Any]:
        """The network's own options; one that is `auto` is left to its plan."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _is_there(self) -> "NetworkParams":
        networks.check(self.name, self.options)
        return self


class LossSample(Section):
    """Which voxels of a batch the cross-entropy is taken over."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    of: Literal["random", "hardest"] = "random"
    """hardest: those with the largest loss."""


class BoundaryWeights(Section):
    """How much more voxels between two objects weigh: w0 exp(-(d1 + d2)^2 / (2 sigma^2)) is added."""

    w0: NonNegative = 0.0
    """0: no more; 10 in the U-Net's paper."""
    sigma: Positive = 5.0
    """Millimetres."""


class LossParams(Section):
    """The loss: a term of Dice plus the cross-entropy."""

    dice_weight: Annotated[float, Field(ge=0)] = 1.0
    """0: cross-entropy alone."""
    dice: Literal["log", "linear"] = "log"
    """linear: one minus Dice; log: minus its logarithm, by which small labels are found early."""
    cross_entropy_weight: Annotated[float, Field(ge=0)] = 1.0
    """0: Dice alone."""
    weights: dict[str, NonNegative] = {}
    """Weight of a voxel in the cross-entropy, by its label or `background`; 1 for one that is not named."""
    boundary_weights: BoundaryWeights = BoundaryWeights()
    """Added to `weights`."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Of the focal loss: the higher, the less a voxel counts that is right already; 0: all count the same."""
    sample: LossSample = LossSample()
    presence: Share = 0.0
    """Above 0, only which classes a slice holds is learned; roughly the share of it that a class covers."""

    @model_validator(mode="after")
    def _teaches(self) -> "LossParams":
        if not self.dice_weight and not self.cross_entropy_weight and not self.presence:
            raise ValueError(
                "dice_weight and cross_entropy_weight are both 0, so nothing would be learned: raise one"
            )
        return self


class BeforeParams(Section):
    """A network that is trained first, and what the next one is given of it."""

    network: NetworkParams = NetworkParams()
    loss: LossParams = LossParams()
    steps: Auto | Annotated[int, Field(ge=1)] = "auto"
    """Of each of its trainings; auto: as many as the next network has."""
    gives: Literal["maps", "region", "box"] = "maps"
    """maps: probabilities, as channels; region: the voxels to look at; box: what the image is cut to."""
    grow_mm: NonNegative = 5.0
    """Margin of a region or box around what was found."""
    folds: Annotated[int, Field(ge=2)] = 2
    """It is trained this many times, each time without a part of the cases, which it then predicts."""


class InferenceParams(Section):
    """How a trained network is used; its training does not depend on it."""

    clean: Literal["auto", "none"] = "auto"
    """auto: drop small pieces, keep only the largest, or fill holes, where that helps on folds left out."""
    rule_out: bool = False
    """Skip regions whose intensity no labelled voxel has: faster where much of a scan is air."""
    mirror_axes: tuple[Literal["z", "y", "x"], ...] = ()
    """Axes along which an image is predicted mirrored as well, for the mean: twice the time for each."""

    @field_validator("mirror_axes")
    @classmethod
    def _once(cls, axes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(axes)) < len(axes):
            raise ValueError(f"an axis is there twice: {', '.join(axes)}")
        return axes


class TrainParams(Section):
    """How the network is trained."""

    profile: Literal["auto", "small", "full"] = "auto"
    """small: learns fast on few CPU cores; full: for a GPU; auto: by the machine."""
    network: NetworkParams = NetworkParams()
    loss: LossParams = LossParams()
    before: BeforeParams | None = None
    """A network whose predictions this one is given; in training, of cases that it has not learned from."""
    inference: InferenceParams = InferenceParams()
    start: Literal["scratch"] | Annotated[str, Field(pattern=HASH)] = "scratch"
    """Initial weights: random, or those of a registered model, by the hash of its files."""
    transfer: Literal["full", "partial", "zero"] = "full"
    """Which weights of the model that `start` names are trained further: all, all but the first, or none."""
    frozen_share: Share = 0.5
    """With a partial transfer: the share of the layers, from the image on, that stay as they are."""
    fold: Annotated[int, Field(ge=0)] = 0
    """The fold that is not trained on but watched."""
    ensemble: Annotated[int, Field(ge=1)] = 1
    """Number of networks, each trained without another fold, from `fold` on; their mean is the model."""
    steps: Auto | Annotated[int, Field(ge=1)] = "auto"
    patience: Annotated[int, Field(ge=1)] | None = None
    """Looks without a gain after which the training ends early; None: it takes all its steps."""
    batch_size: Auto | Annotated[int, Field(ge=1)] = "auto"
    micro_batch: Auto | Annotated[int, Field(ge=1)] = "auto"
    """Patches that are computed at once; auto: the whole batch, or as many as there is memory for."""
    learning_rate: Auto | Annotated[float, Field(gt=0)] = "auto"
    """The highest of the schedule; auto: as the profile says."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    dropout: Rate = 0.0
    """Chance of an output of a hidden layer to be dropped in a step."""
    drop_connect: Rate = 0.0
    """Chance of a weight to be dropped in a step."""
    warmup_share: Share = 0.05
    """Of the steps, in which the learning rate rises to its highest."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, which is the model that is kept."""
    gradient_clip: Annotated[float, Field(gt=0)] = 12.0
    """The largest norm that the gradient of a step may have; a longer one is scaled down to it."""
    checkpoint_every: Auto | Annotated[int, Field(ge=1)] = "auto"
    """Steps between checkpoints; auto: 200, or fewer that take five minutes; on a GPU a minute at least."""
    validate_every: Auto | Annotated[int, Field(ge=1)] = "auto"
    """Steps between looks at the watched fold; auto: ten looks a training."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor computes in it and the network may; weights are float32 always."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _transfers_something(self) -> "TrainParams":
        if self.transfer != "full" and self.start == "scratch":
            raise ValueError(
                f"transfer is {self.transfer}, but start is scratch: hounsfield start-from ORGAN OTHER names "
                "a model to start from"
            )
        if self.transfer == "zero" and self.before is not None:
            raise ValueError(
                "transfer is zero, so nothing is trained, but a network before it would be: leave out before "
                "(or the composition), or set transfer to partial or full"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _composed(cls, given: Any) -> Any:
        """A composition that is named is written out."""
        return compositions.written_out(given) if isinstance(given, dict) else given


class EvaluateParams(Section):
    """How the held-out cases are predicted and judged."""

    worst_cases: Annotated[int, Field(ge=0)] = 4
    """How many of the worst are shown with an overlay in the report."""
    nsd_tolerance_mm: NonNegative = 1.0
    """Distance within which NSD counts two surfaces as one: that by which observers differ."""
    regions: dict[
        Annotated[str, Field(min_length=1, max_length=LONGEST_REGION)],
        Annotated[list[str], Field(min_length=1)],
    ] = {}
    """By name, labels that are judged as one besides, as the whole of a tumour with its parts. They are
    reported; neither the mean nor the gate counts a voxel twice."""

    @field_validator("regions")
    @classmethod
    def _unite_each_label_once(cls, regions: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, labels in regions.items():
            if len(set(labels)) < len(labels):
                raise ValueError(f"{name} has a label twice: {', '.join(labels)}")
        return regions


class RegisterParams(Section):
    """When a challenger becomes the champion."""

    margin: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Dice a class may lose, with the confidence below, for the challenger to count as not worse."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """With which a difference has to be above its bound."""
    resamples: Annotated[int, Field(ge=100)] = 10000
    """How often the bootstrap draws the patients anew."""
    collapse: Share = 0.1
    """Dice that a group of test cases may lose (by scanner, spacing, size), whatever all gain together."""
    minimum_dice: Share = 0.5
    """A model whose mean Dice is below this never becomes champion, not even the first."""
    approval: Literal["none", "required"] = "none"
    """required: a model that won waits, as challenger, until a person approves."""
    on_drift: Literal["tell", "approve"] = "tell"
    """approve: it also waits if its data drifted far from the champion's; tell: drift is only reported."""

    @property
    def may_wait(self) -> bool:
        """Whether a model that won may have to wait for a person."""
        return self.approval == "required" or self.on_drift == "approve"


class KubernetesParams(Section):
    """Pods of the stages; mappings and lists are as Kubernetes writes them."""

    namespace: str = "hounsfield"
    service_account: str = "hounsfield"
    claim: str = "hounsfield-home"
    """The volume claim, for many readers and writers, that holds HOUNSFIELD_HOME."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    resources: dict[str, dict[Literal["requests", "limits"], dict[str, Quantity]]] = {}
    """By stage, or `default`: requests and limits."""
    node_selector: dict[str, str] = {}
    """Of the nodes that any stage may run on."""
    tolerations: tuple[dict[str, Any], ...] = ()
    gpu_node_selector: dict[str, str] = {}
    """What the nodes have besides that stages which compute on a GPU run on: those that `dvc.yaml` marks."""
    gpu_tolerations: tuple[dict[str, Any], ...] = ()
    volumes: tuple[dict[str, Any], ...] = ()
    volume_mounts: tuple[dict[str, Any], ...] = ()
    nodes: Annotated[int, Field(ge=1)] = 1
    """More than one: `train` runs on as many nodes as a Kubeflow TrainJob."""

    @field_validator("resources")
    @classmethod
    def _are_of_stages(cls, resources: dict[str, Any]) -> dict[str, Any]:
        known = ("default", *STAGES)
        stray = [stage for stage in resources if stage not in known]
        if stray:
            raise ValueError(
                f"'{stray[0]}' is no stage{nearest(stray[0], known)} It may have: {', '.join(known)}"
            )
        return resources


class AirflowParams(Section):
    """When and how Airflow runs the pipeline; no stage depends on any of it."""

    schedule: Cron | None = "0 3 * * 1"
    """Cron in UTC, or a word such as @weekly, on which the organ is retrained; None: on new data alone."""
    start: Literal["as_is", "warm", "scratch"] = "as_is"
    """How a scheduled training begins: as train.start says, from the champion, or from random weights."""
    incoming: Annotated[str, Field(min_length=1)] | None = None
    """The s3://BUCKET/PREFIX or folder that new scans arrive in."""
    settle_seconds: Annotated[float, Field(ge=0)] = 300.0
    """New scans are read once nothing has changed there for so long."""
    poll_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Between two looks at `incoming`."""
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    retry_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Before the first retry; doubled from one to the next, up to an hour."""
    gpu_pool: Annotated[str, Field(min_length=1)] = "default_pool"
    """The Airflow pool of the stages that compute on a GPU."""
    approval_hours: Annotated[float, Field(gt=0)] = 72.0
    """How long a model waits for approval; then it stays a challenger."""
    kubernetes: KubernetesParams = KubernetesParams()


class OrganParams(Section):
    """All sections of one organ, defaults merged in."""

    ingest: IngestParams
    validate_: ValidateParams = Field(alias="validate")
    patches: PatchesParams
    augment: AugmentParams
    train: TrainParams
    evaluate: EvaluateParams
    register_: RegisterParams = Field(alias="register")
    airflow: AirflowParams = AirflowParams()

    @model_validator(mode="after")
    def _names_its_labels(self) -> "OrganParams":
        labels = list(self.ingest.labels)
        losses = {"train.loss.weights": self.train.loss}
        if self.train.before is not None:
            losses["train.before.loss.weights"] = self.train.before.loss
        named = {
            "patches.balance": (self.patches.balance, labels),
            "patches.hard_negatives.within": (self.patches.hard_negatives.within, labels),
            **{key: (loss.weights, [*labels, "background"]) for key, loss in losses.items()},
            **{f"evaluate.regions.{name}": (own, labels) for name, own in self.evaluate.regions.items()},
        }
        for key, (names, known) in named.items():
            stray = [name for name in names if name not in known]
            if stray:
                which = f"{key} has '{stray[0]}', which is no label of ingest.labels"
                raise ValueError(f"{which}{nearest(stray[0], known)} It may have: {', '.join(known)}")
        taken = [name for name in self.evaluate.regions if name in (*labels, *RESERVED)]
        if taken:
            raise ValueError(f"evaluate.regions has '{taken[0]}', which is taken; call the region otherwise")
        return self

    @model_validator(mode="after")
    def _has_the_folds_it_trains_with(self) -> "OrganParams":
        folds, train = self.validate_.folds, self.train
        most = {"train.fold": (train.fold, folds - 1), "train.ensemble": (train.ensemble, folds)}
        if train.before is not None:
            # One fold is watched.
            most["train.before.folds"] = (train.before.folds, folds - 1)
        for key, (given, largest) in most.items():
            if given > largest:
                known = f"with validate.folds {folds} it is {largest} at most"
                raise ValueError(f"{key} is {given}, but {known}: lower it, or raise validate.folds")
        return self

    def section(self, stage: str) -> Section:
        """The section of a stage, by the stage's name."""
        section = getattr(self, {"validate": "validate_", "register": "register_"}.get(stage, stage))
        assert isinstance(section, Section)
        return section


def load_organ(path: Path, organ: str) -> OrganParams:
    """Read `params.yaml` at `path` and return the merged, checked parameters of `organ`.

    Raises:
        ParamsError: the file cannot be read, the organ or a section is not there, a key is
            unknown or a value is out of range; the message names the key and the remedy.
    """
    return _organ_of(read_params(path), organ)


def load_organs(path: Path) -> dict[str, OrganParams]:
    """The parameters of every organ of `params.yaml`, which is read once.

    Raises:
        ParamsError: as `load_organ`.
    """
    content = read_params(path)
    return {organ: _organ_of(content, organ) for organ in content["organs"]}


def load_defaults(path: Path) -> tuple[AirflowParams, RegisterParams]:
    """What an organ that is not there yet will have of Airflow's parameters and of the gate's.

    Raises:
        ParamsError: as `load_organ`.
    """
    given = read_params(path)["defaults"]
    try:
        airflow = AirflowParams.model_validate(given.get("airflow") or {})
        return airflow, RegisterParams.model_validate(given.get("register") or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        wrong = f"{place} of the defaults is {first['input']!r}: {first['msg']}"
        raise ParamsError(f"params.yaml: {wrong}.") from None


def _organ_of(content: dict[str, Any], organ: str) -> OrganParams:
    organs = content["organs"]
    if organ not in organs:
        raise ParamsError(
            f"params.yaml has no organ '{organ}'{nearest(organ, organs)} It has: "
            f"{', '.join(organs) or 'none'}. Add one: hounsfield add-organ {organ} --source PATH"
        )
    own = organs[organ] or {}
    if not isinstance(own, dict):
        raise ParamsError(
            f"params.yaml: organs.{organ} is {own!r}; it needs the sections {', '.join(STAGES)}."
        )
    for stage in STAGES:
        if stage not in own:
            raise ParamsError(
                f"params.yaml: organs.{organ} has no section '{stage}'; write '{stage}: {{}}' there "
                "(DVC tracks the parameters of a stage by it)."
            )
    defaults = {stage: section or {} for stage, section in content["defaults"].items()}
    merged = merge({stage: {} for stage in STAGES} | defaults, own)
    try:
        return OrganParams.model_validate(merged)
    except ValidationError as error:
        raise ParamsError(explained(error, organ, OrganParams)) from None


def read_params(path: Path) -> dict[str, Any]:
    """`params.yaml` as it stands: `defaults` and `organs`, both mappings, sections and names checked.

    Raises:
        ParamsError: it is not that.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is not there; a clone of the project has it.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {str(error).replace(chr(10), ' ')}") from None
    mappings = isinstance(content, dict) and [content.get("defaults"), content.get("organs")]
    if not mappings or not all(isinstance(mapping, dict) for mapping in mappings):
        raise ParamsError(f"{path} needs two mappings, 'defaults' and 'organs'.")
    for stage, section in content["defaults"].items():
        if not isinstance(section, dict | None):
            wrong = f"defaults.{stage} is {section!r}; it needs keys with values, or nothing"
            raise ParamsError(f"params.yaml: {wrong}.")
    for organ in content["organs"]:
        check_name(str(organ))
    return dict(content)


def check_name(organ: str) -> None:
    """Refuse a name that could not be a folder, a DVC stage and a model's name at once.

    Raises:
        ParamsError: naming what is allowed.
    """
    if not NAME.fullmatch(organ):
        raise ParamsError(
            f"'{organ}' cannot be an organ's name: use lower-case letters, digits and '_', "
            "beginning with a letter, at most 63, for example 'left_kidney'."
        )


def merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `defaults`, mapping by mapping; `labels`, `normalisation` and a named network replace."""
    merged = dict(defaults)
    for key, value in own.items():
        inherited = merged.get(key)
        merged[key] = value
        if isinstance(value, Mapping) and isinstance(inherited, Mapping):
            # Of a normalisation there is one key of two; a network has options of its own.
            replaced = key in ("labels", "normalisation") or (key == "network" and "name" in value)
            merged[key] = value if replaced else merge(inherited, value)
    return merged
