"""Settings of the t2i verbs, a module for each family. Free of torch, so that `--help` and
`--dry-run` are quick.
"""

from t2i.config.encode import AutoencoderConfig, EncodeConfig, TextEncoderConfig
from t2i.config.prompts import ListConfig, PromptListConfig, PromptsConfig
from t2i.config.rewrite import (
    ALTERATIONS,
    ANEW,
    INSTRUCTION,
    AlterConfig,
    FitRewriterConfig,
    RewriteLimits,
    UpsampleConfig,
)
from t2i.config.sample import SampleConfig
from t2i.config.train import ExpectedConfig, MachineConfig, TrainConfig

__all__ = [
    "ALTERATIONS",
    "ANEW",
    "INSTRUCTION",
    "AlterConfig",
    "AutoencoderConfig",
    "EncodeConfig",
    "ExpectedConfig",
    "FitRewriterConfig",
    "ListConfig",
    "MachineConfig",
    "PromptListConfig",
    "PromptsConfig",
    "RewriteLimits",
    "SampleConfig",
    "TextEncoderConfig",
    "TrainConfig",
    "UpsampleConfig",
]
