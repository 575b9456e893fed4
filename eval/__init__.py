"""Stage 3: generations and captions in, scores, paired statistics and a report out."""
