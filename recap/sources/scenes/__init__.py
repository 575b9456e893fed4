"""The embedded world: small pictures drawn from a seed, with the truth about each, and texts."""
