"""Flags of how strong attacks are, by themselves and beside each other."""

from __future__ import annotations

from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.known import Known

SAME = "the same data, classifier, defense, norm, eps and goal, on the images that both cells judged"
STRENGTH = (
    Known(
        "iterative-weaker-than-single-step", "P11", ("invalid",),
        "an attack of many steps leaves more standing than one of a single step.",
        f"gradient attacks under one threat model; {SAME}.",
        "run",
        "many steps find fewer examples than one step.",
        "The first step of an iterative attack is the single step, so it can only be weaker if later steps lead "
        "astray: the gradient is masked or noise, or the step too small to cross the ball. Use more steps, random "
        "starts, EOT for what is random, and a gradient-free attack beside it.",
    ),
    Known(
        "white-box-weaker-than-black-box", "P12", ("invalid",),
        "an attack that holds the defense leaves more standing than the same attack carried over from a substitute or "
        "from the bare classifier.",
        f"attacks run both under white-box or seed-known and under black-box or gray-box; {SAME}.",
        "run",
        "knowing the defense made the attack weaker, so its gradient is masked.",
        "Whoever knows the weights can do all that a stranger can, so the white-box number must not be the higher "
        "one. Where it is, gradients of the defended system mislead, and that number says nothing. The 0.988 of the "
        "Defense-GAN paper beside its black-box 0.93 is of this kind. Try gradient=bpda and the latent attack.",
    ),
    Known(
        "scores-beat-gradients", "P12b", ("warning",),
        "an attack by scores or labels leaves less standing than the strongest gradient attack under white-box.",
        f"attacks without gradients that hold the defended system; {SAME}.",
        "run",
        "an attack without gradients finds more than every gradient attack.",
        "Gradients are information that a score-based attack does not have. If it wins all the same, they are not "
        "worth much here: count the score-based number, and look for what hides the gradient.",
    ),
    Known(
        "accuracy-rises-with-eps", "P13", ("invalid", "warning"),
        "the same attack leaves more standing in a larger ball: a warning for single steps and controls, which may "
        "overshoot, else invalid.",
        "attacks that the run has at several eps; minimal-norm attacks cannot show it.",
        "run",
        "a larger ball, which holds the smaller one, made the attack weaker.",
        "Every example of the smaller ball is in the larger one. An attack that loses by more room does not search "
        "it: its step does not grow with eps, or its loss leads it away. Take the worst over all eps up to this one, "
        "and mend the attack.",
    ),
    Known(
        "robust-at-half", "P14", ("invalid", "warning"),
        f"at linf eps {at.HALF:g} or above more stands than chance and the larger of {at.ABOVE_CHANCE:g} and "
        f"{at.DEVIATIONS:g} standard errors: invalid for attacks of many steps, a warning for a single one.",
        "gradient attacks under white-box and seed-known in linf, untargeted. Audits run it of their own accord.",
        "cell",
        "images survive in a ball that holds the same grey image for all of them.",
        "At eps 0.5 every image can be turned into middle grey, on which no classifier can be better than chance. "
        "An attack that leaves more standing is not sound, at any eps: the other numbers of this attack against "
        "this defense are too high as well.",
    ),
    Known(
        "unbounded-attack-fails", "P15", ("warning",),
        f"an attack without a bound fails on more than {at.UNBOUNDED_FAILURES:.0%} of the samples.",
        "minimal-norm gradient attacks under white-box and seed-known, untargeted. Audits run PGD over the whole box "
        "of their own accord.",
        "run",
        "an attack that may go as far as it likes does not reach every image.",
        "Some image of another class always lies within reach of an attack without a bound. Failures are failures "
        "of the attack: more search steps, a larger constant, other starts. Report distortion, not success.",
    ),
    Known(
        "implausible-distortion", "P16", ("invalid",),
        f"the median l2 size that an attack needs on MNIST is above {at.MNIST_CLASS_DISTANCE:g}.",
        "minimal-norm l2 attacks on mnist, untargeted.",
        "run",
        "examples are further from their image than the nearest digit of another class.",
        "Half of the digits have one of another class within that distance, so replacing the image would be the "
        "better attack. The size found is a property of the attack, not of the defense.",
    ),
    Known(
        "not-converged", "P17", ("warning",),
        "twice as many steps lower the accuracy.",
        "iterative attacks.",
        "audit",
        "more steps find more examples.",
        "The number is where the attack was stopped, not where it ends. Raise the steps until doubling them changes "
        "nothing.",
    ),
    Known(
        "restarts-matter", "P18", ("warning",),
        "ten random starts lower the accuracy that one leaves.",
        "iterative attacks with a random start.",
        "audit",
        "more random starts find more examples.",
        "The loss has several peaks, or the gradient is noise and each start is a new lottery ticket. Use restarts "
        "until more of them change nothing.",
    ),
    Known(
        "noise-beats-gradients", "P19", ("invalid",),
        "the noise control leaves less standing than a gradient attack.",
        f"gradient attacks under white-box and seed-known in runs with a control; {SAME}.",
        "run",
        "a random point of the ball hurts more than a gradient attack.",
        "An attack that is worse than not looking at all has a gradient that points the wrong way, or none. Nothing "
        "can be concluded from what it leaves standing.",
    ),
    Known(
        "random-search-beats-gradients", "P19", ("invalid",),
        "the worst of many random points of the ball leaves less standing than a gradient attack.",
        "gradient attacks in a small ball.",
        "audit",
        "a search among random points finds more than a gradient attack.",
        "With thousands of tries even noise finds examples where they are dense; a gradient should find them first. "
        "Where it does not, it is masked.",
    ),
    Known(
        "targeted-beats-untargeted", "P20", ("warning",),
        "an attack with a target leaves less standing than the same attack without.",
        "attacks that the run has with several goals, else alike.",
        "run",
        "aiming at one class fools more images than aiming at any.",
        "Reaching a chosen wrong class is harder than reaching any, so the untargeted attack left something on the "
        "table, usually by its loss. Report the worst of both: --goal all, or apgd:loss=dlr-targeted.",
    ),
    Known(
        "weak-hyper-parameters", "P22", ("warning",),
        f"fewer than {at.LEAST_STEPS} steps in linf, a step larger than eps, steps that together cannot cross eps, "
        f"restarts that all start at the image, or a learning rate above {at.GREATEST_RATE:g}.",
        "iterative gradient attacks in a finite ball; the learning rate to every gradient attack that is not trained.",
        "cell",
        "the attack was run with parameters that keep it from searching the ball.",
        "Few or tiny steps end before the edge of the ball, steps above eps jump from face to face, and an optimiser "
        "whose step is wider than the range of pixels does not optimise. Leave `step` at 0, which takes 2.5 * eps / "
        "steps, and use 40 steps or more.",
    ),
)  # fmt: skip
