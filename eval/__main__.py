"""Command line of the third stage."""

import sys

from launch.verbs import Verb, main

VERBS = (
    Verb("fit-judge", "eval.config:FitJudgeConfig", "eval.fit_judge:fit_judge"),
    Verb("captions", "eval.config:CaptionsConfig", "eval.captions:captions"),
    Verb("score", "eval.config:ScoreConfig", "eval.score:score"),
    Verb("judge", "eval.config:JudgeConfig", "eval.judge:judge", source="eval.judge:source_digest"),
    Verb("distribution", "eval.config:DistributionConfig", "eval.distribution:distribution"),
    Verb("plan", "eval.config:PlanConfig", "eval.plan:plan"),
    Verb("report", "eval.config:ReportConfig", "eval.report:report"),
    Verb("recompute", "eval.config:RecomputeConfig", "eval.recompute:recompute"),
    Verb("preference", "eval.config:PreferenceConfig", "eval.preference:preference"),
    Verb("votes", "eval.config:VotesConfig", "eval.votes:votes", source="eval.votes:source_digest"),
)

if __name__ == "__main__":
    sys.exit(main("eval", VERBS))
