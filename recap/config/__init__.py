"""Settings of the recap verbs, a module for each family. Free of torch, so that `--help` and
`--dry-run` are quick.
"""

from recap.config.annotate import AnnotateConfig, MistakesConfig
from recap.config.caption import CaptionConfig, DecodeConfig, FuseConfig, TagsConfig, VlmConfig
from recap.config.captioner import CaptionerSizeConfig, CaptionerTrainConfig, TextTowerConfig
from recap.config.endpoint import EndpointConfig, TeacherConfig
from recap.config.exchange import ExportConfig, ImportConfig
from recap.config.gates import RULE_NAMES, SCRIPTS, SCRIPTS_WITHOUT_BLANKS, GateConfig
from recap.config.ingest import IngestConfig, ScenesConfig, SplitConfig
from recap.config.kinds import RESERVED_KINDS, refuse_odd_kind
from recap.config.tagger import FitTaggerConfig, TaggerSizeConfig

__all__ = [
    "RESERVED_KINDS",
    "RULE_NAMES",
    "SCRIPTS",
    "SCRIPTS_WITHOUT_BLANKS",
    "AnnotateConfig",
    "CaptionConfig",
    "CaptionerSizeConfig",
    "CaptionerTrainConfig",
    "DecodeConfig",
    "EndpointConfig",
    "ExportConfig",
    "FitTaggerConfig",
    "FuseConfig",
    "GateConfig",
    "ImportConfig",
    "IngestConfig",
    "MistakesConfig",
    "ScenesConfig",
    "SplitConfig",
    "TaggerSizeConfig",
    "TagsConfig",
    "TeacherConfig",
    "TextTowerConfig",
    "VlmConfig",
    "refuse_odd_kind",
]
