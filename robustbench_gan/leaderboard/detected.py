"""What tables say of detectors: headers and figures, the same on a page and in a terminal."""

from __future__ import annotations

from robustbench_gan.leaderboard.labels import escape
from robustbench_gan.nouns.record import FALSE_POSITIVE_RATES, Detection, Detector
from robustbench_gan.nouns.statistics import Interval

RATES = tuple(f"TPR at FPR {100 * rate:g}%" for rate in FALSE_POSITIVE_RATES)
FIGURES = ("AUC", *RATES, "clean rejected", "examples rejected")


def figures(detector: Detector) -> list[str]:
    """One text for each of FIGURES, `–` where there is no number."""
    at_fixed = [_text(tpr) + _reached(fpr) for tpr, fpr in zip(detector.tpr, detector.fpr, strict=True)]
    shares = map(_text, (detector.clean_rejected, detector.attack_rejected))
    return [_text(detector.auc), *at_fixed, *shares]


def _text(value: Interval | None) -> str:
    return "–" if value is None else str(value)


def _reached(fpr: Interval | None) -> str:
    """The share of the judged clean images that the threshold in fact rejects."""
    return "" if fpr is None else f" ({100 * fpr.value:.1f}%)"


def together(found: Detection, counts: bool) -> list[str]:
    """FIGURES of all detectors together in Markdown, then n and the AUC of each by name.

    They are struck through where the result does not count.
    """
    texts = figures(found.together)
    if not counts:
        texts = [text if text == "–" else f"~~{text}~~" for text in texts]
    return [*texts, f"{found.clean} + {found.positive}", ", ".join(map(_area, found.detectors))]


def _area(detector: Detector) -> str:
    return escape(detector.name) + (" –" if detector.auc is None else f" {detector.auc.value:.3f}")
