"""Cell and Result: what was asked and what came out, validated; `stored` reads and writes them. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from robustbench_gan.nouns.evidence import Evidence
from robustbench_gan.nouns.fields import Bits, Fact, Validated
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.spec import Chain, Classifier, Spec, classifier_of
from robustbench_gan.nouns.statistics import Interval, Spread, interval

SCHEMA_VERSION: Final = 2
SLACK: Final = 1e-6  # the rounding that Budget.contains forgives, relative and absolute
Status = Literal["ok", "not applicable", "not run", "failed", "suspect"]
FALSE_POSITIVE_RATES: Final = (0.001, 0.01, 0.05)  # at which detectors' true positive rates are recorded
GOALS = ("untargeted", "random", "least-likely", "all")


# Specs are read from text where a record comes in, once for each text, and written as the same text.
AS_TEXT, TEXT = PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
ASpec = Annotated[Spec, PlainValidator(Spec.of), AS_TEXT, TEXT]
AChain = Annotated[Chain, PlainValidator(Chain.of), AS_TEXT, TEXT]
AClassifier = Annotated[Classifier, PlainValidator(classifier_of), AS_TEXT, TEXT]


class Cell(Validated):
    """One question: everything that decides its answer. Texts are canonical specs, every default written out."""

    dataset: ASpec
    classifier: AClassifier
    defense: AChain
    attack: ASpec
    goal: Literal["untargeted", "random", "least-likely", "all"] = "untargeted"
    threat: ASpec
    norm: Literal["l0", "l1", "l2", "linf"]
    eps: float = Field(ge=0)
    first: int = Field(ge=0)  # judged are the test images first .. first + samples - 1
    samples: int = Field(gt=0)
    seed: int = 0
    judge_seeds: int = Field(default=1, ge=1)
    identity: dict[str, str] = Field(
        default_factory=dict
    )  # hashes of data, plugin code, engine, user weights

    @property
    def fingerprint(self) -> str:
        """A hash over all of the above: equal fingerprints, equal answers."""
        return _hash(self._plain())

    @property
    def question(self) -> str:
        """A hash of what was asked, whatever code answers it: a newer answer takes the place of an older one."""
        return _hash({k: v for k, v in self._plain().items() if k != "identity"})

    @property
    def threat_name(self) -> str:
        """`white-box` of `white-box:gradient=auto,...`; `gray-box:copy` of `gray-box:copy=True,...`."""
        name = self.threat.name
        return f"{name}:copy" if name == "gray-box" and "copy" in dict(self.threat.params) else name


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Seconds(Validated):
    """Wall-clock seconds of the parts of a cell.

    `training` is what making the artifacts behind the cell took when they were made, whichever run did it;
    `judging` the defended answers to the examples, without the unperturbed control that cells share.
    """

    training: float = 0.0
    crafting: float = 0.0
    judging: float = 0.0


class Outcomes(Validated):
    """Per sample. Bits are one text a judge seed; sizes are one list, or one a seed.

    Of more than 256 samples a text of bits is written as their number, a colon and hex digits of four bits each, the
    first sample the highest bit of the first digit, padded with zeros.
    """

    clean: list[Bits]  # right unperturbed, under the same draws
    accepted: list[Bits]  # the example was accepted by every detector
    robust: list[Bits]  # right unperturbed and the attack did not succeed
    size: list[list[float]]  # of the perturbation, in the cell's norm
    forward: list[int]  # passes the attack made
    backward: list[int]

    @model_validator(mode="after")
    def _same_length(self) -> Outcomes:
        lengths = {len(bits) for bits in [*self.clean, *self.accepted, *self.robust]}
        lengths |= {len(sizes) for sizes in self.size} | {len(self.forward), len(self.backward)}
        if len(lengths) != 1 or not len(self.clean) == len(self.accepted) == len(self.robust) > 0:
            raise ValueError(f"per-sample lists disagree in length: {sorted(lengths)}")
        if len(self.size) not in (1, len(self.clean)):
            raise ValueError(f"{len(self.size)} lists of sizes for {len(self.clean)} judge seeds")
        return self

    def array(self, name: Literal["clean", "accepted", "robust"]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """One of the outcomes, (K, N) bool."""
        rows: list[str] = getattr(self, name)
        characters = np.frombuffer("".join(rows).encode(), dtype=np.uint8)
        return np.asarray(characters == ord("1")).reshape(len(rows), -1)

    def robust_at(self, eps: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """What is robust at a radius, (K, N) bool: an attack won only where its size is within eps.

        This is how one cell of a minimal-norm attack, whose eps is infinite, serves every eps.
        """
        robust = self.array("robust")
        if math.isinf(eps):
            return robust
        inside = np.asarray(self.size, dtype=np.float64) <= eps * (1 + SLACK) + SLACK
        return np.asarray(self.array("clean") & (robust | ~inside), dtype=np.bool_)


class Detector(Validated):
    """How well one detector, or all together, tells the attack's examples from clean images.

    The two `rejected` shares are at the defense's own threshold. `tpr` and `fpr`, the shares of examples and of clean
    images above it, have one entry for each of FALSE_POSITIVE_RATES, at the threshold that has this rate on validation
    images; None where those are too few for it. Intervals take a threshold as given. `roc` holds pairs of false and
    true positive rate. What is about positives is None or empty without any.
    """

    name: str
    clean_rejected: Interval
    attack_rejected: Interval | None = None
    auc: Interval | None = None
    tpr: list[Interval | None] = Field(
        min_length=len(FALSE_POSITIVE_RATES), max_length=len(FALSE_POSITIVE_RATES)
    )
    fpr: list[Interval | None] = Field(
        min_length=len(FALSE_POSITIVE_RATES), max_length=len(FALSE_POSITIVE_RATES)
    )
    roc: list[tuple[float, float]] = Field(default_factory=list)


class Detection(Validated):
    """Every detector of a defense against one attack; `together` rejects where any of them does."""

    positives: Literal["perturbed"] = "perturbed"  # every example that differs from its image
    validation: (
        int  # clean images that the thresholds of the fixed rates are read off; none of them is judged
    )
    clean: int  # images, the negatives
    positive: int  # images of which there is a positive
    detectors: list[Detector] = Field(min_length=1)
    together: Detector


class Kept(Validated):
    """The adversarial examples of a cell, in a safetensors file that lies beside its record.

    `examples` is (S, N, C, H, W) float32 in [0, 1], S sets: one that is judged under every seed, or one a judge seed;
    `labels` the true classes, (N,) int64.
    """

    file: str  # its name, that of the record but for the ending
    digest: str = Field(pattern="^[0-9a-f]{16,64}$")  # of the tensors' names, types, shapes and values


class Result(Validated):
    """A validated record of one cell.

    A file also holds `digest`, a SHA-256 over all of it but what a clock or the memory decided (`seconds`,
    `peak_memory_mb`, `estimate_seconds`), which is the same in every run that finds the same, and `checksum`, one
    over all of it.

    `cell.identity` holds hashes of what decides outcomes: a change there runs the cell again. `checks` is one of the
    code that derived `flags`, and with them status and reason, from `evidence`: a change there derives them anew.
    Both are empty in records without a number, and in those written before evidence was kept.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    converted_from: Literal[1] | None = (
        None  # the schema it was first written in: 1 rounded sizes to 6 decimals
    )
    cell: Cell
    fingerprint: str
    status: Status
    reason: str = ""
    traceback: list[str] = Field(default_factory=list)  # of a failed cell: file, line and function a frame
    flags: list[Flag] = Field(default_factory=list)
    checks: str = ""  # a hash of the code that derived the flags from the evidence; empty without any
    evidence: Evidence | None = None
    control: bool = False  # the attack is a control: failing proves nothing
    outcomes: Outcomes | None = None
    detection: Detection | None = None  # of a defense that has detectors
    controls: dict[str, float] = Field(default_factory=dict)  # clean accuracies: classifier, defended, ...
    attacked: dict[str, float] = Field(
        default_factory=dict
    )  # accuracies on the examples: classifier, defended
    distortion: dict[str, Spread] = Field(default_factory=dict)  # of examples that won: l0, l2 and linf
    zero_gradients: dict[str, float] = Field(default_factory=dict)  # shares of samples: always, once
    substitute: dict[str, Fact] = Field(default_factory=dict)
    trained: dict[str, Fact] = Field(default_factory=dict)  # what an attack that is trained was trained on
    queries: dict[str, Fact] = Field(
        default_factory=dict
    )  # what a query attacker was told and asked, an image
    attacked_copy: dict[str, Fact] = Field(default_factory=dict)  # of a copy attacked in the defense's place
    gradients: list[str] = Field(default_factory=list)  # those the attack was run with
    budgets: list[float] = Field(default_factory=list)  # finite radii a minimal-norm cell was asked for
    adversarial: Kept | None = None  # where the examples were asked to be kept
    estimate_seconds: float | None = None
    seconds: Seconds = Field(default_factory=Seconds)
    peak_memory_mb: float = 0.0
    hardware: dict[str, str] = Field(default_factory=dict)
    precision: dict[str, str] = Field(
        default_factory=dict
    )  # a precision that the defense asks for, as bf16, and what it became, where this processor has another
    versions: dict[str, str] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)  # content hashes of the artifacts used

    @model_validator(mode="after")
    def _consistent(self) -> Result:
        if self.fingerprint != self.cell.fingerprint:
            raise ValueError("the fingerprint is not that of the cell: the record was edited")
        if self.status in ("ok", "suspect"):
            if self.outcomes is None:
                raise ValueError(f"a result that is {self.status!r} must hold outcomes")
            if len(self.outcomes.forward) != self.cell.samples:
                raise ValueError(f"{len(self.outcomes.forward)} outcomes for {self.cell.samples} samples")
            if len(self.outcomes.clean) != self.cell.judge_seeds:
                raise ValueError(f"{len(self.outcomes.clean)} judgements for {self.cell.judge_seeds} seeds")
        elif not self.reason:
            raise ValueError(f"a result that is {self.status!r} must say why")
        return self

    @property
    def counts(self) -> bool:
        """May this number rank? Only an `ok` one may."""
        return self.status == "ok"

    def accuracy(self, name: Literal["clean", "robust"]) -> Interval | None:
        """Mean over samples of the mean over judge seeds, with its 95% interval; None without outcomes.

        A bootstrap is seeded by the question, so that code that changes no outcome changes no interval either.
        """
        if self.outcomes is None:
            return None
        return interval(self.outcomes.array(name).mean(axis=0), self.cell.question)

    @property
    def craft_seconds_per_image(self) -> float:
        """Seconds of crafting an image."""
        return self.seconds.crafting / self.cell.samples

    @property
    def defense_seconds_per_image(self) -> float:
        """Seconds of one defended answer an image; the judge asks once an example and judge seed."""
        return self.seconds.judging / (self.cell.samples * self.cell.judge_seeds)


def finite(value: float) -> float | None:
    """A number for JSON: None where it is not finite."""
    return value if math.isfinite(value) else None
