"""robustbench-gan: how robust image classifiers and their generative defenses really are."""

__version__ = "0.1.0"
