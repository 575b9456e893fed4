"""Command line of the first stage."""

import sys

from launch.verbs import Verb, main

VERBS = (
    Verb(
        "ingest",
        "recap.config:IngestConfig",
        "recap.ingest:ingest",
        source="recap.ingest:source_digest",
    ),
    Verb("annotate", "recap.config:AnnotateConfig", "recap.annotate:annotate"),
    Verb("train", "recap.config:CaptionerTrainConfig", "recap.train:train"),
    Verb("caption", "recap.config:CaptionConfig", "recap.caption:caption"),
)

if __name__ == "__main__":
    sys.exit(main("recap", VERBS))
