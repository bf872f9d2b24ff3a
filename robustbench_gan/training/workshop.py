"""Workshop: the trained systems that cells share, each made once."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import expanded
from robustbench_gan.base.tensors import Meddled
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended, System, answer, ask_both_ways
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.guards.belongings import Kept, Loaded, Quick, Theirs
from robustbench_gan.guards.guard import Accused, left_alone
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Output
from robustbench_gan.nouns.seeds import judge_seeds
from robustbench_gan.nouns.spec import FORM, Chain, Classifier, FileReference, Spec, classifier_of
from robustbench_gan.nouns.user_files import Own, user_digest
from robustbench_gan.training.black_box import make_substitute
from robustbench_gan.training.classifiers import check_unchanged, make_classifier
from robustbench_gan.training.defenses import make_copy, make_defense
from robustbench_gan.training.fetched import class_names
from robustbench_gan.training.fitting import Trained, train_attack
from robustbench_gan.training.memory import Judged, Memory
from robustbench_gan.training.orders import Names, Order, names_of
from robustbench_gan.training.store import Artifact, Store

N = TypeVar("N", Spec, FileReference)
# Added to a defender's training seed for an attacker's copy; below it are the defenders' seeds.
COPY_SEED = 2**31


@dataclass
class Workshop(Memory):
    """Loads data sets, trains classifiers, defenses and substitutes, and remembers all of them.

    `train_seed` seeds every training. `weights` are a user's own for the classifiers given as files that name none.
    `aliases` leads from the name that a record has for something on this machine, without its path, to where it lies.

    Data sets, classifiers and defenses are asked for as they are written or as what was read from that.
    """

    store: Store = field(default_factory=Store)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    train_seed: int = 0
    weights: Path | None = None
    aliases: dict[Classifier, Own] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.train_seed < COPY_SEED:
            raise UsageError(
                f"train_seed {self.train_seed}: expected 0 to {COPY_SEED - 1}; larger ones are those of the copies "
                "that a gray-box:copy attacker trains."
            )

    def adopt(self, name: N, place: N, digest: str) -> N:
        """Note what the name of a record stands for on this machine; returns the name. One name is one content."""
        known: Own = self.aliases.setdefault(name, Own(place, digest))
        if known.digest != digest:
            raise UsageError(f"{place} and {known.place} have the same digits in {name}: rename one of them.")
        if place not in (known.place, *known.copies):
            self.aliases[name] = replace(known, copies=(*known.copies, place))
        return name

    def adopt_classifier(self, given: FileReference) -> FileReference:
        """The name that records have for a classifier given as a file with its weights, which are noted under it.

        Raises UsageError where there are no weights or something cannot be read.
        """
        weights = given.weights or self.weights
        if weights is None:
            raise UsageError(
                f"--classifier {given} needs --weights FILE.safetensors, or to be written {FORM}."
            )
        place = replace(given, weights=expanded(str(weights)))
        digest = user_digest(place)
        return self.adopt(given.published(digest), place, digest)

    def dataset(self, dataset: Spec | str) -> Dataset:
        """The data set of a spec."""
        spec = Spec.of(dataset)

        def make() -> Dataset:
            if (own := self.aliases.get(spec)) is not None:
                found = self.dataset(self.placed(spec))
                check_unchanged(own, found.digest)
                return found
            return self._build(spec)

        return self.once(("dataset", spec), make)

    def placed(self, name: Spec) -> Spec:
        """What leads to a data set on this machine: itself, but for one that records call by another name."""
        place = self.aliases[name].place if name in self.aliases else name
        assert isinstance(place, Spec), "a file is no data set"
        return place

    def _build(self, spec: Spec) -> Dataset:
        build, params = registry.resolve("datasets", self.placed(spec))
        data: Dataset = build(**params)
        return data

    def loaded(self, dataset: Spec | str) -> Loaded:
        """The tensors of a data set, under guard."""

        def tensors(data: Dataset) -> dict[str, Tensor]:
            parts = {"train": data.train, "validation": data.validation, "test": data.test}
            images = {f"the {name} images": split.images for name, split in parts.items()}
            return {**images, **{f"the {name} labels": split.labels for name, split in parts.items()}}

        spec = Spec.of(dataset)
        data = self.dataset(spec)

        def again() -> dict[str, Tensor]:
            return tensors(self._build(spec))

        return self.once(("loaded", id(data)), lambda: Loaded(tensors(data), again))

    def classifier(self, dataset: Spec | str, classifier: Classifier | str) -> tuple[nn.Module, Artifact]:
        """A trained, frozen classifier and its artifact; the module must not be changed."""
        data, name = Spec.of(dataset), classifier_of(classifier)
        if isinstance(name, FileReference) and name not in self.aliases:
            name = self.adopt_classifier(name)

        def make() -> tuple[nn.Module, Artifact]:
            model, artifact = make_classifier(self, data, name)
            self.seal(model, "the classifier")
            return model, artifact

        return self.once(("classifier", data, name), make)

    def defense(self, dataset: Spec | str, classifier: Classifier | str, defense: Chain | str) -> Defense:
        """A fitted, frozen defense around its classifier."""
        names = names_of(dataset, classifier, defense)
        return self.once(("defense", *names), lambda: make_defense(self, names, self.train_seed))

    @property
    def copy_seed(self) -> int:
        """The training seed of an attacker's copies, which no defender can have."""
        return self.train_seed + COPY_SEED

    def copy(self, dataset: Spec | str, classifier: Classifier | str, defense: Chain | str) -> Defense:
        """An attacker's own copy of a defense: the same spec around the same classifier, from another training seed.

        Raises NotApplicable where nothing in the defense is trained, or its training does not depend on the seed: a
        copy would then be the defense itself.
        """
        names = names_of(dataset, classifier, defense)
        return self.once(("copy", *names), lambda: make_copy(self, names))

    def substitute(
        self, dataset: Spec | str, classifier: Classifier | str, defense: Chain | str, threat: ThreatModel
    ) -> tuple[nn.Module, Artifact]:
        """The black-box attacker's trained substitute, one for all attacks on the same oracle."""
        names = names_of(dataset, classifier, defense)
        return self.once(("substitute", *names, threat), lambda: make_substitute(self, names, threat))

    def attackers_images(self, dataset: Spec | str, threat: ThreatModel) -> Split:
        """The images that a black-box attacker owns: none of them is ever judged.

        The 150 held-out test images for `papernot`, the validation split for the distillations.
        """
        data = self.dataset(dataset)
        return data.black_box_holdout()[0] if threat.substitute == "papernot" else data.validation

    def trained_attack(self, order: Order, minutes: float | None = None) -> Trained:
        """An attack that must first be trained, fitted as ordered, once for all cells that can share it.

        Raises OutOfTime where the training takes longer than so many minutes. What it has on disk by then stays there.
        """
        return self.once(("attack", order), lambda: train_attack(self, order, minutes))

    @contextmanager
    def answering(
        self, names: Names, *, copy: Defense | None = None, around: Surroundings | None = None
    ) -> Iterator[None]:
        """While a defended system, or a `copy` beside it, answers: all but what a defense holds is left as it is.

        Raises Meddled where it is not, and forgets the answers given meanwhile. What a defense holds for itself is put
        back, so that cells are alike. The classifier with nothing in front of it was watched when it was attacked.
        """
        defense = self.defense(*names)
        if not defense.has_own_code and copy in (None, defense):
            yield
            return
        known = set(self.memory)
        own = [Theirs(seal) for seal in self.seals(defense, *([copy] if copy else []))]
        try:
            with left_alone(
                class_names(defense), *self.seals(defense.base), self.loaded(names[0]), *own,
                suspects=self.suspects(names, Bare(defense.base)), around=around,
            ):  # fmt: skip
                yield
        except Meddled:
            for key in self.memory.keys() - known:
                if key[0] in ("judged", "probe", "shown"):
                    del self.memory[key]
            raise

    def suspects(self, names: Names, *systems: System) -> list[Accused]:
        """The classifiers and defenses that run while an attack does, from the innermost on."""
        data = self.dataset(names[0])

        def ask(system: System) -> None:
            x = data.validation.pixels(slice(0, 2)).to(self.device)
            seed = torch.zeros(len(x), dtype=torch.int64, device=self.device)
            ask_both_ways(system, x, seed)

        return [
            Accused(
                class_names(system.defense) if isinstance(system, Defended) else "the classifier",
                functools.partial(ask, system),
            )
            for system in systems
        ]

    def put_back(self, names: Names, *modules: nn.Module) -> None:
        """Undo whatever was changed where nobody looked, before anything is computed from it."""
        self.loaded(names[0]).put_back()
        for seal in self.seals(*modules):
            seal.put_back(quick=True)

    def judged(
        self, names: Names, x: Tensor, first: int, seed: int, k: int, through: System | None = None
    ) -> Judged:
        """The defended system's answers to x, (N, C, H, W), under the judge's k-th seeds; asked only once.

        `names` are data set, classifier and defense. Cells share the unperturbed control this way, and
        examples that do not depend on the threat model. `through` answers in the place of the defended system and
        just as it would: it may watch.
        """
        content = hashlib.blake2b(x.cpu().numpy().tobytes(), digest_size=16).digest()

        def make() -> Judged:
            defense = self.defense(*names)
            started = time.perf_counter()
            with torch.no_grad():
                whole = self._in_company(names[0], x, first)
                out = answer(through or Defended(defense), whole, judge_seeds(seed, k, whole, first))
                out = Output(out.logits[: len(x)], out.scores[: len(x)])
            seconds = time.perf_counter() - started
            kept = Kept({"the answers to other cells": out.logits, "the scores of other cells": out.scores})
            self.answers(names).append(Quick(kept))
            return Judged(out, seconds, kept)

        key = ("judged", names, content, first, seed, k)
        known = key in self.memory
        found = self.once(key, make)
        if known:
            found.kept.put_back()
        return found

    def _in_company(self, dataset: Spec, x: Tensor, first: int) -> Tensor:
        """Judged images, (N, C, H, W), and the test images that follow them, as many as fill the last micro-batch.

        A model that looks at its batch answers the same then, however many are judged.
        """
        if len(x) % micro_batch_size(x.device) == 0:
            return x
        end = first + len(x)
        following = self.dataset(dataset).test.pixels(slice(end, end + -len(x) % micro_batch_size(x.device)))
        return torch.cat([x, following.to(x.device)]) if len(following) else x

    def answers(self, names: Names) -> list[Quick]:
        """All answers of a defended system that are remembered."""
        return self.once(("answers", names), list)

    def images(self, dataset: Spec | str, first: int, samples: int) -> tuple[Tensor, Tensor]:
        """Test images (N, C, H, W) in [0, 1] and labels (N,) from `first` on; the latest are remembered."""
        asked = (Spec.of(dataset), first, samples)
        if self.memory.get("images", (None,))[0] != asked:
            split = self.dataset(dataset).test.take(slice(first, first + samples))
            x, y = split.pixels().to(self.device), split.labels.to(self.device)
            tensors = {"the judged images": x, "their labels": y, "the test images": split.images}
            self.memory["images"] = asked, x, y, Kept(tensors)
        _, x, y, kept = self.memory["images"]
        kept.put_back(quick=True)
        return x, y

    def kept_images(self, x: Tensor) -> Kept:
        """The guard of images that `images` gave."""
        latest = self.memory.get("images")
        return latest[3] if latest and latest[1] is x else Kept({"the judged images": x})
