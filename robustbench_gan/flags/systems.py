"""Flags of what was attacked, and under which threat model."""

from __future__ import annotations

from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.counting import OUTSIDE
from robustbench_gan.flags.known import Known

SYSTEMS = (
    Known(
        "defense-not-attacked", "P23", ("invalid",),
        "an attack that holds the defense never called it.",
        "gradient attacks under white-box and seed-known.",
        "cell",
        "a white-box attack never called the defended system.",
        "At best this is a gray-box attack under a white-box name, as in the tables of several papers. Run the "
        "attack through the view it is given, which is the defended system.",
    ),
    Known(
        "no-adaptive-attack", "P24", ("warning",),
        "no result that counts comes from a gradient or trained attack under white-box or seed-known; or the defense "
        "optimises at inference and was attacked through one kind of gradient only.",
        "every defense but `none`.",
        "run",
        "nobody who knows this defense has attacked it.",
        "Numbers of attackers who do not know the defense are about the attackers. Add --threat white-box; for what "
        "is not differentiable or optimises, gradient=auto, which tries BPDA beside the full gradient; for what is "
        "random, --eot.",
    ),
    Known(
        "inference-time-optimisation", "P25", ("note",),
        "the defense differentiates while it answers, or declares that it iterates.",
        "every defense.",
        "cell",
        "the defense optimises while it answers.",
        "Gradients through an optimisation are long, noisy or cut, so standard attacks are weaker here than their "
        "names promise. Believe a number only if BPDA, EOT and, for generators, the latent attack stand behind it.",
    ),
    Known(
        "weak-substitute", "P26", ("warning",),
        f"substitute and oracle agree on less than {at.AGREEMENT:.0%} of the clean images.",
        "black-box attacks that train a substitute.",
        "cell",
        "the substitute disagrees with its oracle on too many clean images.",
        "Examples are made on the substitute. If it answers otherwise than the system it stands for, that they do "
        "not transfer is no evidence of robustness. Use more rounds, another architecture, or substitute=static.",
    ),
    Known(
        "misconfigured-purifier", "P27", ("warning",),
        f"a clean image is changed by more than {at.DESTROYED:g} in mean square and the clean accuracy falls by more "
        f"than {at.COLLAPSE:g}.",
        "defenses that purify their input.",
        "cell",
        "the purifier destroys clean images, as one with an untrained generator does.",
        "A generator with random weights or a wrong input range gives back something else than the image. What the "
        "classifier then says is not the defense's answer, and a substitute that learns from it learns nonsense. "
        "Check that the weights were loaded, and look at a few purified images.",
    ),
    Known(
        "image-discarded", "P27", ("invalid", "warning"),
        f"what the classifier is shown differs from image to image by less than {at.ALL_ALIKE:.1%} of the variance of "
        f"the images, which is invalid; or over {at.LIKENESS_IMAGES} images or more its correlation with them is below "
        f"{at.UNLIKE:g}, a warning.",
        "defenses that purify their input; all judged images are looked at, unperturbed.",
        "cell",
        "the purifier gives the classifier next to nothing of the image.",
        "A classifier that is shown the same whatever the image is cannot be fooled, and knows nothing either: its "
        "accuracy is that of one answer to all. Networks that have died and outputs clipped to one value do this. One "
        "that scrambles pixels on purpose keeps the image and only looks unlike it: then believe the clean accuracy.",
    ),
    Known(
        "reconstructions-beat-originals", "P28", ("warning",),
        f"the defended clean accuracy exceeds that of the classifier alone by more than the larger of {at.MARGIN:g} "
        f"and {at.DEVIATIONS:g} standard errors.",
        "defenses that purify their input.",
        "cell",
        "images are classified better after purification than before.",
        "A projection on a generator loses information, so a gain is implausible unless test images were among those "
        "the generator or its classifier was trained on. Check the splits.",
    ),
    Known(
        "detector-not-attacked", "P29", ("warning",),
        f"above {at.STOPPED_SHARE:.0%} of what stands reached its goal and was stopped by a detector alone.",
        "gradient attacks that hold a defense with detectors.",
        "cell",
        "the attack fools the classifier but took no care of the detectors.",
        "Its examples are wrong and rejected: it is as strong as if there were no detector, and the detector as if "
        "nobody knew of it. Attack both at once; the losses of `goal` charge for detectors that fire, so look for an "
        "attack with a loss of its own, too few steps, or a detector without a gradient.",
    ),
    Known(
        "rejects-clean-images", "P30", ("warning",),
        f"all detectors together reject more than {at.CLEAN_REJECTED:.0%} of the clean images.",
        "defenses with detectors.",
        "cell",
        "the detectors reject many clean images.",
        "Whoever rejects everything is never fooled. Rejected clean images count as errors here, so the number is "
        "honest, but shares detected say little at such a threshold. Choose it on validation images.",
    ),
    Known(
        "budget-violation", "P31", ("invalid",),
        "an example leaves the ball or the box, or has another type than its image; the cell is then failed.",
        "every attack.",
        "cell",
        "examples leave the ball, the box or the type of their image.",
        "Success outside of the budget is no success of this threat model. Project after every step, clip to "
        "[0, 1], and compute in float32.",
    ),
    Known(
        "quantisation-sensitive", "P31", ("warning",),
        f"rounding the examples to 8 bits changes the accuracy by more than {at.MARGIN:g}.",
        "every attack.",
        "audit",
        "the examples do not survive being stored as images.",
        "The attack lives in steps finer than 1/255. That is allowed on pixels as real numbers, but no image file "
        "can hold such an example: report both numbers.",
    ),
    Known(
        "range-mismatch", "P32", ("warning",),
        f"more than {at.OUTSIDE_SHARE:.0%} of the values that the classifier is shown lie outside [0, 1] by more than "
        f"{OUTSIDE:g}.",
        "defenses that purify their input.",
        "cell",
        "the purifier gives the classifier pixels outside [0, 1].",
        "Generators that end in tanh speak [-1, 1], data and classifiers here [0, 1]. A missing conversion clips or "
        "shifts every image, for clean ones and examples alike. Rescale inside the purifier; a classifier's "
        "normalisation is its own first layer.",
    ),
    Known(
        "label-leaking", "P33", ("warning",),
        "a network trained on single-step examples is more accurate on them than on clean images.",
        "adversarial training.",
        "audit",
        "training examples give their label away.",
        "An example made in one step with the true label carries a trace of it, which a network learns to read "
        "instead of becoming robust. Train on predicted labels or on examples of many steps, and evaluate with PGD.",
    ),
    Known(
        "dlr-undefined", "P35", ("note",),
        "the DLR loss was asked for on fewer than three classes, or aimed at a class on fewer than four; the cell is "
        "then not applicable.",
        "attacks with a `loss` of the DLR kind.",
        "cell",
        "the DLR loss is not defined for so few classes.",
        "DLR divides by the distance between the largest and the third largest logit, or when it aims at a class by "
        "one that takes four of them. Use loss=ce or loss=margin.",
    ),
)  # fmt: skip
