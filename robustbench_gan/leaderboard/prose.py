"""What a page says around its tables: what the numbers mean, what attackers hold, what it was made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from robustbench_gan.leaderboard.labels import KINDS, escape
from robustbench_gan.leaderboard.versions import of_other_checks
from robustbench_gan.nouns.record import Result

MEANING = """\
Each accuracy is a share of the test images, with its 95% interval in brackets: Wilson's where every image
is plainly right or wrong, a bootstrap over images where several judge seeds were averaged. An image counts
as robust when the defended system accepts it and classifies it right unperturbed, and the attack did not
succeed on it. The worst case takes for each image the attack that hurts it most, so it can be lower than
every column beside it; with several judge seeds that attack is chosen on one half of them and scored on the
other, so with few seeds it can also lie a little above the lowest column. Results that failed, are suspect or
were not run never count, and a defense that lacks some is marked † and ranks below those that lack none. A worst
case marked ‡ rests on an attack that another contradicts, and no attack beyond doubt goes below both.
Passing is not a robustness proof: a better attack may still break what stands here."""
DETECTION = """\
Tables of detection are of all detectors of a defense together: an input is rejected where any of them fires.
AUC describes the scores: it is the area of a curve of the judged images, clean ones against every example that
the attack moved, whether or not it fools the classifier, and at whatever size a (minimal) one has. TPR at an FPR is
the share of these examples above the threshold that rejects that share of clean validation images; behind it stands
the share of the judged clean images that it rejects. There is none where there are too few validation images to see
the FPR. The shares rejected are at the threshold the defense works with, which comes from validation images as well.
A rejected clean image counts as an error, a rejected example as no success. n is clean images + examples; the
interval of an AUC is Newcombe's, that of a TPR takes its threshold as given."""
GRANTS = {
    "black-box": "no weights; it queries the system, trains a substitute on the answers and attacks that: from 150 "
    "held-out images that it augments, or with `substitute=static` or `dynamic` from the validation images. Unless "
    "`oracle=undefended` is written, the answers are those of the defended system.",
    "query": "labels or scores of the defended system by query, counted and limited, and no gradient.",
    "gray-box": "the weights and gradient of the classifier, but nothing of a purifier in front of it.",
    "gray-box:copy": "everything but the defense's own weights: the classifier's, and the gradient through a copy of "
    "the defense that it trained itself from another seed. The copy is attacked, the real defense judged.",
    "white-box": "all weights of classifier and defense and the gradient through both, in the form its "
    "parameters name, but not the random draws with which the judge will decide.",
    "seed-known": "all that white-box has and the judge's random seed too; each example is judged on the "
    "seed it was made for.",
}


def grants(results: Sequence[Result]) -> str:
    """What each threat model of these results grants the attacker, as a list."""
    names = sorted({r.cell.threat_name for r in results})
    lines = [f"- **{escape(n)}**: {GRANTS.get(n, 'not one of the built-in threat models.')}" for n in names]
    return "What the attacker has:\n\n" + "\n".join(lines) if lines else ""


def made_with(results: Sequence[Result], times: bool) -> str:
    """Versions and hardware once for the page, several values where results were made on several.

    Without `times` the hardware is left out. Flags that other checks derived are pointed at.
    """
    lines = _facts("Versions", [r.versions for r in results])
    if times:
        lines += _facts("Hardware", [r.hardware for r in results])
    if told := of_other_checks(results):
        lines.append(f"- {told[0].upper()}{told[1:]}.")
    return "\n".join(lines)


def _facts(kind: str, many: Sequence[Mapping[str, str]]) -> list[str]:
    keys = sorted({key for one in many for key in one})
    facts = [f"{escape(key)} {_values(one[key] for one in many if key in one)}" for key in keys]
    return [f"- {kind}: {'; '.join(facts)}."] if facts else []


def _values(texts: Iterable[str]) -> str:
    return " or ".join(escape(text) for text in sorted(set(texts)))


def specifications(results: Sequence[Result]) -> str:
    """Every spec in full, by kind: the tables show short names."""
    if not results:
        return "There are no results yet."
    found = [(kind, text) for kind in KINDS for text in sorted({str(getattr(r.cell, kind)) for r in results})]
    lines = [f"- {kind}: {escape(text)}" for kind, text in found]
    return "## Full specifications\n\n" + "\n".join(lines)
