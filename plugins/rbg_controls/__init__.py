"""Faults on purpose: defenses and attacks that `rbg self-test` must see through. Nothing here is to be used."""
