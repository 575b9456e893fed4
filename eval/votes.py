"""`eval votes`: votes on a preference page -> ratings, agreement, and what metrics predict.

Writes

* `votes.parquet`: one row for every vote with what it was cast on,
* `tables/*.csv` at full precision, and `summary.txt`, which is printed too.

Files are read in `eval.ballot_box`; what votes say is in `eval.vote_answers`.
"""

from __future__ import annotations

from eval.artifacts import SCORES, SCORES_VERSION, open_scores
from eval.ballot_box import read_votes
from eval.config import VotesConfig
from eval.vote_answers import answer_votes
from eval.votes_artifact import (
    PREFERENCE,
    PREFERENCE_VERSION,
    VOTES,
    VOTES_VERSION,
    open_preference,
    votes_table,
)
from eval.votes_tables import as_text, notes, tables_of
from launch.errors import InputError
from launch.manifest import canonical_json, digest_bytes, digest_file, write_bytes, write_parquet
from launch.run import Run

SUMMARY = "summary.txt"


def source_digest(cfg: VotesConfig) -> str | None:
    """Return the digest of the files of votes, or None where one is no longer at hand."""
    if not all(path.is_file() for path in cfg.votes):
        return None
    return digest_bytes(canonical_json(sorted(digest_file(path) for path in cfg.votes)))


def votes(cfg: VotesConfig, run: Run) -> None:
    """Read votes and rate the arms."""
    run.input("preference", cfg.preference, artifact=PREFERENCE, version=PREFERENCE_VERSION)
    preference = open_preference(cfg.preference)
    scores = None
    if cfg.scores is not None:
        run.input("scores", cfg.scores, artifact=SCORES, version=SCORES_VERSION)
        scores = open_scores(cfg.scores).table
    box = read_votes(cfg.votes, preference)
    if cfg.anchor is not None and cfg.anchor not in preference.arms:
        raise InputError(
            f"anchor: {cfg.anchor!r} is no arm of {cfg.preference}; expected one of "
            f"{', '.join(preference.arms)}"
        )
    digest = source_digest(cfg)
    assert digest is not None  # they were just read
    run.external_input("source", min(path.parent for path in cfg.votes), digest)
    raters = sorted({vote.rater for vote in box.votes})
    plan: dict[str, object] = {
        "files": len(cfg.votes),
        "votes": len(box.votes),
        "raters": len(raters),
        "trials of the page": len(preference.trials),
    }
    if not run.start(plan, minutes=0.1, gib=0.01):
        return

    table = votes_table(
        {
            "rater": vote.rater,
            **vote.trial._asdict(),
            "choice": vote.choice,
            "milliseconds": vote.milliseconds,
        }
        for vote in box.votes
    )
    answers = answer_votes(
        table,
        arms=preference.arms,
        anchor=cfg.anchor,
        resamples=cfg.resamples,
        seed=cfg.seed,
        scores=scores,
    )
    tables = tables_of(answers)
    write_parquet(run.out / "votes.parquet", table)
    for made in tables:
        write_bytes(run.out / "tables" / f"{made.name}.csv", made.csv())
    text = "\n\n".join([as_text(tables).rstrip("\n"), *notes(answers)]) + "\n"
    write_bytes(run.out / SUMMARY, text.encode())
    print(text)
    run.finish(
        artifact=VOTES,
        version=VOTES_VERSION,
        counts={"rows_in": box.num_lines, "rows_out": table.num_rows, "raters": len(raters)},
        rejected={"said before": box.num_again} if box.num_again else {},
        parts=["votes.parquet", SUMMARY, *(f"tables/{made.name}.csv" for made in tables)],
        recipe={"arms": preference.arms, "page": preference.page_digest},
    )
