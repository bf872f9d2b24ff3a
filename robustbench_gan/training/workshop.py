"""Workshop: the trained systems that cells share, each made once."""

from __future__ import annotations

import functools
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robustbench_gan.base import stopping, trial
from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.base.digests import code_digest
from robustbench_gan.base.errors import Fatal, NotApplicable, UsageError, said
from robustbench_gan.base.python_file import files_opened
from robustbench_gan.contracts.defense import Composed, Defense, recipe_of
from robustbench_gan.contracts.threat import NOTHING_TO_COPY, Bare, Defended, System, ThreatModel, answer
from robustbench_gan.data.dataset import Dataset, Split, TrainingData
from robustbench_gan.guards.guard import Accused, Kept, Loaded, Meddled, Quick, Seal, Theirs, left_alone
from robustbench_gan.guards.strangers import codes, made, try_first, undone
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.models import door
from robustbench_gan.models.from_file import factory_from_file
from robustbench_gan.models.schedule import schedule_of
from robustbench_gan.models.weight_files import fill
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Output
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Spec, parse_chain
from robustbench_gan.nouns.user_files import (
    FORM,
    FileReference,
    Own,
    is_file_reference,
    unseen,
    user_digest,
    with_files,
)
from robustbench_gan.training.checkpoint import kept
from robustbench_gan.training.loop import classifier_recipe, freeze, fresh, train_classifier
from robustbench_gan.training.store import Artifact, Store, content_digest, read_artifact
from robustbench_gan.training.substitute import RECIPE_VERSION as SUBSTITUTE_VERSION
from robustbench_gan.training.substitute import Oracle, papernot, static

T = TypeVar("T")
Names = tuple[str, str, str]  # data set, classifier and defense
COPY_SEED = (
    2**31
)  # added to a defender's training seed for an attacker's copy; below it are the defenders' seeds


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda`. Raises UsageError for cuda where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto.")
    cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")


class Judged(NamedTuple):
    """Answers of a defended system, and the seconds they took when they were asked."""

    out: Output
    seconds: float
    kept: Kept


class Failure(NamedTuple):
    """An error that making something ended in, and where."""

    error: BaseException
    traceback: TracebackType | None


@dataclass
class Workshop:
    """Loads data sets, trains classifiers, defenses and substitutes, and remembers all of them.

    `train_seed` seeds every training. `weights` are a user's own for the classifiers given as files that name none.
    `aliases` leads from the name that a record has for something on this machine, without its path, to where it lies.
    """

    store: Store = field(default_factory=Store)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    train_seed: int = 0
    weights: Path | None = None
    aliases: dict[str, Own] = field(default_factory=dict)
    memory: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.train_seed < COPY_SEED:
            raise UsageError(
                f"train_seed {self.train_seed}: expected 0 to {COPY_SEED - 1}; larger ones are those of the copies "
                "that a gray-box:copy attacker trains."
            )

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Make a thing at its first use; an error is remembered as well, so that it is not run into twice."""
        if key not in self.memory:
            try:
                self.memory[key] = make()
            except BaseException as error:
                stopping.pass_on(error)
                self.memory[key] = Failure(error, error.__traceback__)
                raise
        found = self.memory[key]
        if isinstance(
            found, Failure
        ):  # each time with the frames it had, and not with those of every cell before
            raise found.error.with_traceback(found.traceback)
        result: T = found
        return result

    def adopt(self, name: str, place: str, digest: str) -> str:
        """Note what the name of a record stands for on this machine; returns the name. One name is one content."""
        known = self.aliases.setdefault(name, Own(place, digest))
        if known.digest != digest:
            raise UsageError(f"{place} and {known.place} have the same digits in {name}: rename one of them.")
        if place not in (known.place, *known.copies):
            self.aliases[name] = replace(known, copies=(*known.copies, place))
        return name

    def adopt_classifier(self, text: str) -> str:
        """The name that records have for a classifier given as a file with its weights, which are noted under it.

        Raises UsageError where there are no weights or something cannot be read.
        """
        given = FileReference.parse(text)
        weights = given.weights or self.weights
        if weights is None:
            raise UsageError(
                f"--classifier {text} needs --weights FILE.safetensors, or to be written {FORM}."
            )
        digest = user_digest(weights, given.source)
        return self.adopt(given.published(digest), str(replace(given, weights=weights)), digest)

    def dataset(self, text: str) -> Dataset:
        """The data set of a spec."""

        def make() -> Dataset:
            if (own := self.aliases.get(text)) is not None:
                found = self.dataset(own.place)
                _check_unchanged(own, found.digest)
                return found
            return self._build(text)

        return self.once(("dataset", text), make)

    def _build(self, text: str) -> Dataset:
        own = self.aliases.get(text)
        build, params = registry.resolve("datasets", Spec.parse(own.place if own else text))
        data: Dataset = build(**params)
        return data

    def loaded(self, text: str) -> Loaded:
        """The tensors of a data set, under guard."""

        def tensors(data: Dataset) -> dict[str, Tensor]:
            parts = {"train": data.train, "validation": data.validation, "test": data.test}
            images = {f"the {name} images": split.images for name, split in parts.items()}
            return {**images, **{f"the {name} labels": split.labels for name, split in parts.items()}}

        data = self.dataset(text)

        def again() -> dict[str, Tensor]:
            return tensors(self._build(text))

        return self.once(("loaded", id(data)), lambda: Loaded(tensors(data), again))

    def seal(self, module: nn.Module, name: str, without: Iterable[nn.Module] = ()) -> None:
        """Put a network that cells share under guard, as it is now."""
        self.memory["seal", id(module)] = Seal(module, name, without)

    def seals(self, *modules: nn.Module) -> list[Seal]:
        """Those of some networks, each once, for what has one."""
        keys = dict.fromkeys(("seal", id(module)) for module in modules)
        return [self.memory[key] for key in keys if key in self.memory]

    def classifier(self, dataset: str, text: str) -> tuple[nn.Module, Artifact]:
        """A trained, frozen classifier and its artifact; the module must not be changed."""
        name = text
        if is_file_reference(text) and text not in self.aliases:
            name = self.adopt_classifier(text)

        def make() -> tuple[nn.Module, Artifact]:
            model, artifact = self._classifier(dataset, name)
            self.seal(model, "the classifier")
            return model, artifact

        return self.once(("classifier", dataset, name), make)

    def _classifier(self, dataset: str, text: str) -> tuple[nn.Module, Artifact]:
        data = self.dataset(dataset)
        if is_file_reference(text):
            try:
                return self._users_classifier(data, self.aliases[text])
            except UsageError as error:  # of the user's own file, which every cell needs
                raise Fatal(str(error)) from error
        spec = Spec.parse(text)
        factory = registry.load("models", spec.name)
        schedule = schedule_of(factory)
        model = fresh(lambda: made("models", spec, data.shape, len(data.classes)), self.train_seed)
        model = door.admitted(model.to(self.device))
        code = with_files(code_digest(factory), spec)
        recipe = classifier_recipe(text, schedule, data, self.train_seed, code)

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            name = f"training {spec.name} on {data.name}"
            info = train_classifier(model, data, schedule, seed=self.train_seed, description=name)
            return model.state_dict(), info

        artifact = self.store.fetch("classifier", recipe, build)
        model.load_state_dict(dict(artifact.tensors))
        return self._looked_at(model, data), artifact

    def _looked_at(self, model: nn.Module, data: Dataset) -> nn.Module:
        """A classifier frozen, inside the door and asked about clean images. Raises WrongForm as `door.look`."""
        inside = freeze(door.admitted(model))
        clean = data.validation.pixels(slice(0, door.LOOKED_AT)).to(self.device)
        door.look(inside, clean, len(data.classes), data.name)
        return inside

    def _users_classifier(self, data: Dataset, own: Own) -> tuple[nn.Module, Artifact]:
        given = FileReference.parse(own.place)
        assert given.weights is not None, "adopted without weights"
        form = data.shape, len(data.classes)
        try:
            trial.tried((given.source, own.digest, form), lambda: factory_from_file(given.source)(*form))
        except trial.Died as error:
            raise UsageError(f"--classifier {given.source} cannot be made: {error}.") from error
        with files_opened() as opened, undone():
            model = factory_from_file(given.source)(*form)
        if file := unseen(given.source, opened - {given.weights.absolute()}):
            raise UsageError(
                f"--classifier {given.source} reads {file} beside it under a name that is put together: a change there "
                f"would not be noticed. Write the name whole in {given.path.name}, as in FILES = [{file.name!r}]."
            )
        artifact = read_artifact(given.weights, f"user-{own.digest}")
        _check_unchanged(own, user_digest(given.weights, given.source))
        if prefix := fill(model, artifact.tensors, str(given.weights), given.source):
            print(f"{given.weights}: {prefix!r} taken off the names of all weights.", file=sys.stderr)
        try:
            return self._looked_at(model.to(self.device), data), artifact
        except door.WrongForm as error:
            raise UsageError(f"--classifier {given.source}: {error}") from error

    def defense(self, dataset: str, classifier: str, text: str) -> Defense:
        """A fitted, frozen defense around its classifier."""
        return self.once(
            ("defense", dataset, classifier, text),
            lambda: self._defense(dataset, classifier, text, self.train_seed),
        )

    @property
    def copy_seed(self) -> int:
        """The training seed of an attacker's copies, which no defender can have."""
        return self.train_seed + COPY_SEED

    def copy(self, dataset: str, classifier: str, text: str) -> Defense:
        """An attacker's own copy of a defense: the same spec around the same classifier, from another training seed.

        Raises NotApplicable where nothing in the defense is trained, or its training does not depend on the seed: a
        copy would then be the defense itself.
        """
        return self.once(("copy", dataset, classifier, text), lambda: self._copy(dataset, classifier, text))

    def _copy(self, dataset: str, classifier: str, text: str) -> Defense:
        try:
            real = self.defense(dataset, classifier, text)
            named = real.training_keys()
            copy = self._defense(dataset, classifier, text, self.copy_seed) if named else None
        except NotApplicable as why:  # the defense's code: no attack is for it to decline
            raise RuntimeError(f"NotApplicable in the training of a copy: {said(why)}") from why
        if copy is None:
            if stored := self._fetched(real):
                raise RuntimeError(
                    f"{class_names(real)}.training_keys() names no part, and its fit stored {sorted(stored)}"
                )
            raise NotApplicable(NOTHING_TO_COPY)
        if set(copy.training_keys().values()) == set(named.values()):
            if self._fetched(copy) != self._fetched(real):
                raise RuntimeError(
                    f"{class_names(real)}.training_keys() names the same parts whatever the seed, and its fit stored "
                    "others from another one"
                )
            raise NotApplicable("the defense's training has no seed: a copy would be the defense itself")
        return copy

    def _fetched(self, defense: Defense) -> frozenset[str]:
        """The keys of all that a defense asked the store for when it was fitted, whatever it names."""
        found: frozenset[str] = self.memory["fetched", id(defense)]
        return found

    def _defense(self, dataset: str, classifier: str, text: str, seed: int) -> Defense:
        base, artifact = self.classifier(dataset, classifier)
        chain, stages = parse_chain(text), []
        name = "+".join(spec.name for spec in chain)
        data, loaded = self.dataset(dataset), self.loaded(dataset).whole()
        around = Surroundings(generators=True, thorough=True)
        with left_alone(f"{name}, when it was fitted,", *self.seals(base), loaded, around=around):
            for spec in chain:
                stage = made("defenses", spec, base, key=artifact.key)
                form = data.shape, len(data.classes)
                try_first("defenses", spec, functools.partial(stage.why_not, *form), form)
                stages.append(stage)
            defense: Defense = stages[0] if len(stages) == 1 else Composed(stages)
            defense.base_key = artifact.key
            if why := defense.why_not(data.shape, len(data.classes)):
                raise UsageError(f"{text}: {why}.")
            with self._noting_fetched(defense):
                defense.fit(TrainingData(data), seed, self.store)
            freeze(defense.to(self.device))
            for stage in stages:  # asked for once, so that what it says does not depend on who asks
                stage.__dict__["training_keys"] = functools.partial(dict, dict(stage.training_keys()))
        if defense.core is not base:
            core = self._looked_at(defense.core, data)
            for stage in (defense, *stages):
                stage.core = core
        self.seal(defense, "the defense", without=[base])
        return defense

    def core_keys(self, defense: Defense) -> list[str]:
        """What the classifier behind a defense is known by, beside the one in front of which it was built.

        The keys that the defense names, where it fetched them; of any other the code and weights.
        """
        if defense.core is defense.base:
            return []
        named = defense.training_keys()
        keys = [key for _, key in sorted(named.items())]
        if keys and self._fetched(defense).issuperset(keys):
            return keys
        stages = defense.stages if isinstance(defense, Composed) else [defense]
        kinds = [type(m).__qualname__ for m in defense.core.modules()]
        code = [code_digest(type(stage)) for stage in stages]
        return [*keys, *code, *kinds, content_digest(defense.core.state_dict())]

    @contextmanager
    def _noting_fetched(self, defense: Defense) -> Iterator[None]:
        before = dict(self.store.used)
        self.store.used.clear()
        try:
            yield
        finally:
            self.memory["fetched", id(defense)] = frozenset(self.store.used)
            self.store.used.update({**before, **self.store.used})

    def substitute(
        self, dataset: str, classifier: str, defense: str, threat: ThreatModel
    ) -> tuple[nn.Module, Artifact]:
        """The black-box attacker's trained substitute, one for all attacks on the same oracle."""
        key = ("substitute", dataset, classifier, defense, threat)
        return self.once(key, lambda: self._substitute((dataset, classifier, defense), threat))

    def _substitute(self, names: Names, threat: ThreatModel) -> tuple[nn.Module, Artifact]:
        model, recipe = self.untrained_substitute(names, threat)
        images, oracle = self.attackers_images(names[0], threat), self.oracle(names, threat)

        def build() -> tuple[dict[str, Tensor], dict[str, Any]]:
            rounds, seed, data = threat.rounds, self.train_seed, self.loaded(names[0])
            data.whole()
            with self.answering(names):
                if threat.substitute == "static":
                    info = static(model, images, oracle, rounds=rounds, seed=seed)
                else:
                    info = papernot(
                        model, images, oracle, rounds=rounds, seed=seed, step_sign=threat.step_sign
                    )
            if found := data.checked():
                raise Meddled(f"what a substitute asked changed what is not its own: {', '.join(found)}")
            return model.state_dict(), info

        artifact = self.store.fetch("substitute", recipe, build)
        model.load_state_dict(dict(artifact.tensors))
        self.seal(freeze(model), "the substitute")
        return model, artifact

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
            with torch.no_grad():
                system(x, seed)
            with torch.enable_grad():
                system(x.requires_grad_(), seed)

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

    def attackers_images(self, dataset: str, threat: ThreatModel) -> Split:
        """The images that a black-box attacker owns: none of them is ever judged.

        The 150 held-out test images for `papernot`, the validation split for the distillations.
        """
        data = self.dataset(dataset)
        return data.black_box_holdout()[0] if threat.substitute == "papernot" else data.validation

    def untrained_substitute(self, names: Names, threat: ThreatModel) -> tuple[nn.Module, dict[str, Any]]:
        """A new substitute, and everything that decides what its training makes of it."""
        data, defense = self.dataset(names[0]), self.defense(*names)
        spec = Spec.parse(threat.model)
        factory = registry.load("models", spec.name)
        model = fresh(lambda: made("models", spec, data.shape, len(data.classes)), self.train_seed + 1)
        recipe = {
            "recipe_version": SUBSTITUTE_VERSION,
            "protocol": threat.substitute,
            "model": str(spec),
            "code": with_files(code_digest(factory), spec),
            "rounds": threat.rounds,
            "oracle": threat.oracle,
            "base": defense.base_key,
            "defense": (
                None if threat.oracle == "undefended" else [*recipe_of(names[2], defense), *codes(names[2])]
            ),
            "data": data.digest,
            "seed": self.train_seed,
        }
        if threat.answers != "labels":
            recipe["answers"] = threat.answers
        if threat.step_sign != "plus":
            recipe["step_sign"] = threat.step_sign
        return door.admitted(model.to(self.device)), recipe

    def oracle(self, names: Names, threat: ThreatModel) -> Oracle:
        """The system that a black-box attacker may ask; no two queries are answered under the same seed."""
        defense, asked = self.defense(*names), Counter[int]()
        system: System = Bare(defense.base) if threat.oracle == "undefended" else Defended(defense)

        def oracle(x: Tensor) -> Tensor:
            n, first = len(x), asked[len(x)]
            asked[n] += n
            seeds = sample_seeds(
                self.train_seed, f"oracle/{n}", torch.arange(first, first + n, device=x.device)
            )
            size = micro_batch_size(x.device)
            pieces = zip(x.split(size), seeds.split(size), strict=True)
            return torch.cat([kept(functools.partial(told, *piece), x.device) for piece in pieces])

        @torch.no_grad()
        def told(x: Tensor, seeds: Tensor) -> Tensor:
            out = answer(system, x, seeds)
            if threat.answers == "labels":
                return out.labels
            return out.logits.softmax(dim=1) * out.accepted[:, None]

        return oracle

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

    def _in_company(self, dataset: str, x: Tensor, first: int) -> Tensor:
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

    def images(self, dataset: str, first: int, samples: int) -> tuple[Tensor, Tensor]:
        """Test images (N, C, H, W) in [0, 1] and labels (N,) from `first` on; the latest are remembered."""
        asked = (dataset, first, samples)
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


def class_names(defense: Defense) -> str:
    """A defense by its class, a composition by those of its stages."""
    stages = defense.stages if isinstance(defense, Composed) else [defense]
    return "+".join(type(stage).__name__ for stage in stages)


def _check_unchanged(own: Own, digest: str) -> None:
    """Raise UsageError where something of the user's is not what it was when its cells were planned."""
    if digest != own.digest:
        raise UsageError(f"{own.place} has changed since the run began: run the same command again.")


def judge_seeds(seed: int, k: int, x: Tensor, first: int) -> Tensor:
    """The judge's seeds of the images from `first` on, (N,) int64, for its k-th judgement."""
    index = torch.arange(first, first + len(x), device=x.device)
    return sample_seeds(seed, f"judge/{k}", index)
