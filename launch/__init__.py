"""What any job needs to be configured, started, resumed, spread out and recorded.

Nothing here knows of captions, latents or scores; no stage is imported.
"""
