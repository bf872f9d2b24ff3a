"""Flags of the gradient an attack was given."""

from __future__ import annotations

from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.counting import LEARNT_NOTHING, SATURATED_CONFIDENCE, TINY_GRADIENT
from robustbench_gan.flags.known import Known

GRADIENTS = (
    Known(
        "zero-gradient", "P1", ("invalid", "note"),
        f"a sample that stands was given nothing but zeros: invalid above {at.ZERO_GRADIENT_SHARE:.0%} of the "
        f"samples that could be attacked, a note below. For an attack that is trained: {LEARNT_NOTHING:.0%} of the "
        "gradients of its training were zeros.",
        "attacks that need a gradient; samples that are right unperturbed and that the attack did not win.",
        "cell",
        "every gradient the attack was given for these samples was exactly zero, so it could not move them.",
        "A gradient of exactly zero tells an attack nothing: it stays where it is, and the accuracy it leaves is the "
        "clean one. Defenses do this by rounding, by saturating the softmax, or by a backward pass that returns "
        "zeros. A defense that hides its gradient is not robust, it is unattacked. Look at it through "
        "gradient=bpda, use a loss on logits (loss=margin), or an attack that needs no gradient such as square.",
    ),
    Known(
        "disconnected-gradient", "P1b", ("invalid",),
        "autograd finds no path from the loss to the input; the cell is then failed.",
        "attacks that need a gradient of the defended system.",
        "cell",
        "autograd finds no path from the loss to the input: no attack took place.",
        "The defense detaches its output, computes outside of autograd, or returns a tensor of its own. Code that "
        "puts zeros in the place of the missing gradient measures the clean accuracy and calls it robustness; here "
        "the cell fails. Ask for gradient=bpda, or let the defense's `gradients` say ('bpda',), with a differentiable "
        "surrogate where one is known.",
    ),
    Known(
        "cut-gradient", "P1", ("invalid",),
        "the threat model is gradient=cut.",
        "white-box and seed-known, as a positive control only.",
        "cell",
        "the gradient was cut between defense and attacker on purpose.",
        "The attacker was handed zeros, as in the code published with the Defense-GAN paper, where the gradient "
        "through the projection was lost. It is kept as a positive control: the high accuracy is what an attack that "
        "did nothing measures. Compare it with gradient=auto on the same images.",
    ),
    Known(
        "no-perturbation", "P2", ("invalid", "warning"),
        f"invalid where no attackable image changed at all; a warning where a linf attack used below "
        f"{at.MOVED_SHARE:.0%} of eps on average.",
        "every attack with eps above 0; the warning to linf attacks that do not seek the smallest perturbation.",
        "cell",
        "the attack changed none of the images it had to fool, or hardly used its budget.",
        "An attack that seeks the edge of a linf ball nearly always ends on it. One that used little of eps had no "
        "gradient to follow, too small a step, or gave its input back; the accuracy shown is then little else than "
        "the clean accuracy. Look for zero gradients, and at steps and step size.",
    ),
    Known(
        "no-backward", "P2", ("invalid",),
        "an attack that is defined by gradients asked for none.",
        "attacks that need a gradient.",
        "cell",
        "the attack is defined by gradients but asked for none.",
        "Whatever it returned cannot have been aimed at this system. Declare what the attack really needs "
        "(needs=scores, labels or nothing), or mend it.",
    ),
    Known(
        "not-a-number", "P3", ("invalid", "warning"),
        f"NaN or infinite gradients: invalid above {at.ZERO_GRADIENT_SHARE:.0%} of the attackable samples, a warning "
        "below; also the name of a failed cell in which the defended system, or an example, was NaN.",
        "attacks that need a gradient; every cell for the answers.",
        "cell",
        "a gradient, an answer or an example was not a number.",
        "NaN compares false with everything, so an attack that meets one silently keeps its old iterate and a judge "
        "that counts wrong answers may count it as right. Usual sources are a logarithm or a square root at 0 and an "
        "overflow of logits. Compute in float64 to find the place, and use a stable form of the loss.",
    ),
    Known(
        "saturated-loss", "P3", ("warning", "note"),
        f"above {at.SATURATED_SHARE:.0%} of the attackable samples stand, are answered with a softmax within "
        f"{SATURATED_CONFIDENCE:g} of 1, and never had a gradient above {TINY_GRADIENT:g}; a note where they "
        "had one, but of a cross-entropy that was 0 each time.",
        "attacks that need a gradient.",
        "cell",
        "the classifier is so sure of these samples that the gradient of its cross-entropy vanishes.",
        "Cross-entropy is flat where the softmax is 1 in float32. Already where it rounds to 1 the true class has no "
        "part in the gradient any more, and steps lead elsewhere. Defensive distillation makes networks of this kind: "
        "they look robust to attacks on the cross-entropy and fall to attacks on logits. Use loss=margin or "
        "loss=dlr, a C&W attack, or divide the logits by the temperature.",
    ),
    Known(
        "probabilities-as-logits", "P4", ("invalid", "warning"),
        f"all answers lie in [0, 1] and sum to 1 within {at.PROBABILITY_SLACK:g}: invalid where the attack took the "
        "gradient of such answers, else a warning.",
        "every cell.",
        "cell",
        "the system answers with probabilities where logits are expected.",
        "A second softmax is put on top of the first by every loss. It bounds the differences between classes by 1, "
        "flattens the gradient, and makes the constants of C&W and DLR mean something else. Remove the softmax from "
        "the end of the model.",
    ),
    Known(
        "masked-gradient", "P5", ("invalid",),
        "the gradient hardly correlates with finite differences of the same loss, or foretells their opposite, though "
        "those are not zero.",
        "defended systems whose gradient is given in full.",
        "audit",
        "autograd disagrees with finite differences.",
        "A gradient that is there, is not zero, and still points nowhere, or away, sends attacks astray as surely as "
        "none at all. Audits step in random directions and compare what the loss does with what the gradient says. "
        "Use gradient=bpda or an attack without gradients.",
    ),
)  # fmt: skip
