"""Stage 1: pictures and alt text in, short and descriptive synthetic captions out."""
