"""The defenses that come with robustbench-gan, one file each; they reach the core through entry points."""
