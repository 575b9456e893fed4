"""Settings of the eval verbs, a module for each family. Free of torch, so that `--help` and
`--dry-run` are quick.
"""

from eval.config.captions import CaptionsConfig
from eval.config.distribution import DistributionConfig
from eval.config.fit import ClipSizeConfig, FitJudgeConfig
from eval.config.judge import AskedConfig, JudgeConfig, VqaConfig
from eval.config.people import PreferenceConfig, Question, VotesConfig
from eval.config.plan import PlanConfig, SpreadConfig
from eval.config.report import (
    COMPARED_IN_CHANGE,
    AlongConfig,
    PrimaryConfig,
    RecomputeConfig,
    ReportConfig,
)
from eval.config.score import DetectorConfig, OnnxConfig, ScoreConfig

__all__ = [
    "COMPARED_IN_CHANGE",
    "AlongConfig",
    "AskedConfig",
    "CaptionsConfig",
    "ClipSizeConfig",
    "DetectorConfig",
    "DistributionConfig",
    "FitJudgeConfig",
    "JudgeConfig",
    "OnnxConfig",
    "PlanConfig",
    "PreferenceConfig",
    "PrimaryConfig",
    "Question",
    "RecomputeConfig",
    "ReportConfig",
    "ScoreConfig",
    "SpreadConfig",
    "VotesConfig",
    "VqaConfig",
]
