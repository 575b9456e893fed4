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
    Verb("train", "recap.config:CaptionerTrainConfig", "recap.train:train", is_parallel=True),
    Verb(
        "caption",
        "recap.config:CaptionConfig",
        "recap.caption:caption",
        source="recap.captioner_source:source_digest",
        is_parallel=True,
    ),
    Verb("fuse", "recap.config:FuseConfig", "recap.fuse:fuse"),
    Verb("fit-tagger", "recap.config:FitTaggerConfig", "recap.fit_tagger:fit_tagger"),
    Verb("text-encoder", "recap.config:TextTowerConfig", "recap.text_encoder:text_encoder"),
    Verb(
        "import",
        "recap.config:ImportConfig",
        "recap.exchange:import_captions",
        source="recap.exchange:source_digest",
    ),
    Verb("export", "recap.config:ExportConfig", "recap.exchange:export_captions"),
)

if __name__ == "__main__":
    sys.exit(main("recap", VERBS))
