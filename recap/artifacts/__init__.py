"""Artifacts of stage 1: names, versions, table schemas, readers and writers. Free of torch.

Images and captions are described at their readers. The others are

captioner/version 1: config.json, model.safetensors, tokenizer.json
tagger/version 1: config.json, model.safetensors, selected_tags.csv (tags, and the confidence from
    which each is said), quality.json
text_encoder/version 1: what stage 2 reads texts with, in the layout of transformers; a captioner's
    text tower can be one
"""

from recap.artifacts.captions import (
    CAPTIONS_SCHEMA,
    CaptionRow,
    Captions,
    caption_part_name,
    open_captions,
    write_caption_part,
)
from recap.artifacts.contracts import (
    CAPTIONER,
    CAPTIONS,
    IMAGES,
    TAGGER,
    TEXT_ENCODER,
    VERSION,
    check_schema,
    read_table,
)
from recap.artifacts.images import (
    INDEX,
    INDEX_SCHEMA,
    MAPPED_SHARDS,
    REJECTED,
    REJECTED_SCHEMA,
    SOURCES,
    SOURCES_SCHEMA,
    SPLITS,
    Images,
    make_sample_id,
    open_images,
)
from recap.artifacts.shards import (
    ShardWriter,
    TarPlace,
    write_shard,
)

__all__ = [
    "CAPTIONER",
    "CAPTIONS",
    "CAPTIONS_SCHEMA",
    "IMAGES",
    "INDEX",
    "INDEX_SCHEMA",
    "MAPPED_SHARDS",
    "REJECTED",
    "REJECTED_SCHEMA",
    "SOURCES",
    "SOURCES_SCHEMA",
    "SPLITS",
    "TAGGER",
    "TEXT_ENCODER",
    "VERSION",
    "CaptionRow",
    "Captions",
    "Images",
    "ShardWriter",
    "TarPlace",
    "caption_part_name",
    "check_schema",
    "make_sample_id",
    "open_captions",
    "open_images",
    "read_table",
    "write_caption_part",
    "write_shard",
]
