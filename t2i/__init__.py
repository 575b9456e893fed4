"""Stage 2: pictures and captions in, diffusion models and their generations out."""
