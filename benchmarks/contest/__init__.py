"""What the programs of this folder share: entrants that take turns, and what they are given."""
