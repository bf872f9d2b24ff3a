"""Flags of what changes between two answers to one image."""

from __future__ import annotations

from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.known import Known

RANDOMNESS = (
    Known(
        "undeclared-randomness", "P6", ("invalid",),
        "an answer changed with the seed of a defense that is not declared randomised, or changed under one seed.",
        "every defense; two images are shown to it a few times.",
        "cell",
        "answers change in a way that the defense does not declare, or that its seeds do not govern.",
        "The attack took one answer for all of them, and nobody can repeat the number. Declare the defense "
        "randomised, draw all its noise from the seeds it is given (robustbench_gan.seeds), and attack it with EOT.",
    ),
    Known(
        "always-on-dropout", "P6b", ("invalid",),
        "the classifier alone answers the same images differently twice.",
        "every classifier.",
        "cell",
        "the classifier is in training mode, or has dropout that is always on.",
        "Dropout that does not switch off adds noise to every answer and gradient, which weakens each attack and is "
        "no defense that anybody meant. Put the model in evaluation mode, and pass `training=self.training` to "
        "functional dropout. If the noise is meant, make it a randomised defense.",
    ),
    Known(
        "eot-not-converged", "P7", ("warning",),
        "twice as many EOT draws lower the accuracy.",
        "randomised defenses under white-box attack.",
        "audit",
        "more EOT draws find more examples.",
        "The gradient averaged over too few draws is mostly noise. Raise --eot until doubling it changes nothing.",
    ),
    Known(
        "seed-does-not-help", "P8", ("warning",),
        "the same attack leaves more standing when it knows the seed than when it does not.",
        "randomised defenses that the run attacks under white-box and seed-known.",
        "run",
        "an attack that knows the judge's seed is weaker than one that does not.",
        "Knowing the seed removes the randomness, so what is left is a deterministic system. An attack that fails on "
        "it fails for another reason, which EOT will not mend: look at its gradient and its steps first.",
    ),
    Known(
        "batch-dependent", "P9", ("invalid",),
        "the answer to an image changes with the others in its batch.",
        "every defense; a few images are shown to it among copies of themselves.",
        "cell",
        "an image alone is answered differently than among others.",
        "Batch normalisation in training mode and variables shared between images let the clean neighbours of an "
        "example decide its label, so the number depends on who was judged with whom. Use evaluation mode.",
    ),
    Known(
        "stateful-defense", "P10", ("invalid", "warning"),
        "the same images under the same seeds got another answer the second time: invalid where a label changed, "
        "else a warning.",
        "every defense; two images are shown to it a few times.",
        "cell",
        "the defense carries something over from one call to the next.",
        "Latent codes, momenta or running statistics that survive a call make each answer depend on what was asked "
        "before: the order of cells changes the numbers, and a gradient may belong to another state. Start every "
        "call from the seeds it is given.",
    ),
    Known(
        "irreproducible-attack", "P36", ("warning",),
        "called again with the same seeds, and told the same, the attack asked or returned something else.",
        "every attack; two images and up to four passes are looked at, and what is returned after fewer.",
        "cell",
        "the attack does something else when it is run again.",
        "Its examples were judged like any others, so the number is one that an attacker reached; but nobody can reach "
        "it again, and a luckier run would be lower. Draw all that is random from the seeds that the attack is given "
        "(robustbench_gan.seeds), one a sample, and carry nothing over from one call to the next.",
    ),
    Known(
        "global-generator", "P36", ("warning",),
        "a global generator of torch, numpy or Python was drawn from or seeded while the attack was at work.",
        "every attack.",
        "cell",
        "the attack draws from a global generator.",
        "The generators are seeded for every call, so that a cell comes out the same whenever it is run; but what a "
        "sample draws then depends on the others in its batch, and on --batch-size. Draw from the seeds that the "
        "attack is given (robustbench_gan.seeds). What it runs through may be what draws: look at the defense too.",
    ),
    Known(
        "no-eot", "P24", ("warning",),
        "the attack saw one draw a pass.",
        "attacks that need a gradient, on a defense that is declared randomised, under white-box.",
        "cell",
        "a randomised defense was attacked through one draw a pass.",
        "One draw gives the gradient of a system that the judge will not see again. Averaging over draws (EOT) "
        "follows what the draws have in common; raise --eot, to 20 or more, until it changes nothing.",
    ),
    Known(
        "single-seed", "P36", ("warning", "note"),
        f"a randomised defense was judged under fewer than {at.JUDGE_SEEDS} seeds: a warning for one, a note for more.",
        "defenses that are declared randomised.",
        "cell",
        "a randomised defense was judged under too few seeds.",
        "One draw of the defense decides each image, so the number mixes the defense with its luck. Use "
        "--judge-seeds 3 or more. The weights are a draw too: train with several --train-seed to see how much.",
    ),
)  # fmt: skip
