"""The evidence of an honest cell, of which a test changes one thing, and the red flags that it raises."""

from __future__ import annotations

import torch

from robustbench_gan.cell.evidence import Seen, evidence_of
from robustbench_gan.contracts.attacks import AttackInfo
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import white_box
from robustbench_gan.flags import derive
from robustbench_gan.flags.derive import Judged, parameter_flags
from robustbench_gan.flags.question import Question
from robustbench_gan.nouns.evidence import Probe, Shown
from robustbench_gan.nouns.outcome import Output

N, CLASSES = 100, 10
LOGITS = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0))
OF_QUESTION = ("parameters", "threat", "norm", "eps", "targeted")


def info(needs="gradient", minimal=False, trained=False):
    return AttackInfo(("linf",), needs, lambda p: 1, minimal, True, None, False, "planted", trained)


def counts(**changed):
    """An attack that took one gradient, neither zero nor tiny nor NaN, of every sample."""
    one, zero = torch.ones(N, dtype=torch.int64), torch.zeros(N, dtype=torch.int64)
    whole = dict.fromkeys(("forward", "backward", "calls", "gradients"), one)
    whole |= dict.fromkeys(("zero_gradients", "tiny_gradients", "nan_gradients", "flat_losses"), zero)
    return Counts(**{**whole, **changed})


def question(**changed):
    whole = {
        "parameters": {}, "threat": white_box(), "norm": "linf", "eps": 0.3, "targeted": False, **changed,
    }  # fmt: skip
    threat = whole.pop("threat")
    return Question(**whole, threat=threat.name, draws=threat.draws)


def evidence(*, logits=LOGITS, scores=None, **changed):
    """Nothing suspicious: all of eps used, every sample right, one judge seed of a defense that is not random.

    The question, the evidence and what else the record says.
    """
    asked = {name: changed.pop(name) for name in OF_QUESTION if name in changed}
    bits = torch.ones(1, N, dtype=torch.bool)
    whole = {
        "info": info(), "classes": CLASSES, "counts": counts(), "right": bits, "robust": bits, "stopped": ~bits,
        "probe": Probe(), "shown": Shown(), "drew": (), "repeats": True,
        "answers": [Output(logits, logits.new_zeros(N, 0) if scores is None else scores)],
    }  # fmt: skip
    told = {"sizes": torch.full((1, N), 0.3), "gradients": ("full",), "agreement": None}
    told["controls"] = {"classifier": 0.99, "defended": 0.98}
    defense = Defense(torch.nn.Identity())
    for name in ("randomised", "purifies", "unrolls"):
        setattr(defense, name, changed.pop(name, False))
    told |= {name: changed.pop(name) for name in told if name in changed}
    seen = Seen(**{**whole, "defense": defense, **changed})
    arrays = [part.numpy() for part in (seen.right, seen.robust, told.pop("sizes"))]
    return question(**asked), evidence_of(seen), Judged(*arrays, **told)


def red_flags(given):
    return derive.red_flags(*given)


def raised(**changed):
    return {flag.id: flag.severity for flag in red_flags(evidence(**changed))}


def parameters_flagged(**changed):
    return parameter_flags(*evidence(**changed)[:2])


def some(count):
    """Ones for the first `count` samples."""
    return (torch.arange(N) < count).to(torch.int64)


def rows(*values):
    """(K, N) bool, one value a judge seed."""
    return torch.tensor(values)[:, None].expand(-1, N).clone()
