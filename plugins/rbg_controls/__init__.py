"""Faults on purpose: defenses and attacks that `rbg audit --self-test` must see through. Nothing here is to be used."""
