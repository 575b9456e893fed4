"""Command line of the second stage."""

import sys

from launch.verbs import Verb, main

VERBS = (
    Verb("autoencoder", "t2i.config:AutoencoderConfig", "t2i.autoencoder:fit"),
    Verb("text-encoder", "t2i.config:TextEncoderConfig", "t2i.fit_text_encoder:fit"),
    Verb("encode", "t2i.config:EncodeConfig", "t2i.cache:encode"),
    Verb("train", "t2i.config:TrainConfig", "t2i.train:train", is_parallel=True),
    Verb("prompts", "t2i.config:PromptsConfig", "t2i.prompts:prompts"),
    Verb(
        "prompt-list",
        "t2i.config:PromptListConfig",
        "t2i.prompt_list:prompt_list",
        source="t2i.prompt_list:source_digest",
    ),
    Verb("fit-rewriter", "t2i.config:FitRewriterConfig", "t2i.fit_rewriter:fit"),
    Verb(
        "upsample",
        "t2i.config:UpsampleConfig",
        "t2i.upsample:upsample",
        source="t2i.rewriter_source:source_digest",
        is_parallel=True,
    ),
    Verb("alter", "t2i.config:AlterConfig", "t2i.alter:alter"),
    Verb("sample", "t2i.config:SampleConfig", "t2i.sample:sample", is_parallel=True),
)

if __name__ == "__main__":
    sys.exit(main("t2i", VERBS))
