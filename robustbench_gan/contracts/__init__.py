"""What a plugin touches: attack, defense, threat model, view."""
