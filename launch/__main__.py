"""Command line of what runs, checks and explains the stages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launch.verbs import guarded

HELP = """usage: launch VERB ...

  study   Run arms x seeds from a study's YAML; the same command resumes it.
  verify  Prove completeness, digests, conserved rows and paired arms of a study or artifact.
  trace   Print the chain from an artifact back to the pictures.
  show    Print what an artifact is and how it was made.
  doctor  Say what this machine has, what shadows our names, what to install for more.

`launch VERB --help` explains a verb."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb of `launch`; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print(HELP)
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    parser = argparse.ArgumentParser(prog=f"launch {verb}")
    match verb:
        case "study":
            parser.add_argument("--config", nargs="+", required=True, help="study YAML files")
            parser.add_argument("--out", type=Path, help="folder of the study and its artifacts")
            parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
            parser.add_argument("overrides", nargs="*", metavar="key=value")
            given = parser.parse_args(rest)
            files = [c for c in given.config if "=" not in c]
            overrides = [c for c in given.config if "=" in c] + given.overrides

            def study() -> int:
                from launch import study as studies

                return studies.study(files, overrides, out=given.out, is_dry=given.dry_run)

            return guarded(study)
        case "verify" | "trace" | "show":
            parser.add_argument("folder", type=Path, help="study or artifact folder")
            folder: Path = parser.parse_args(rest).folder

            def look() -> int:
                if verb == "verify":
                    from launch.verify import verify

                    return verify(folder)
                if verb == "trace":
                    from launch.trace import trace

                    return trace(folder)
                from launch.show import show

                return show(folder)

            return guarded(look)
        case "doctor":
            parser.parse_args(rest)

            def doctor() -> int:
                from launch import doctor as doctors

                return doctors.doctor()

            return guarded(doctor)
        case _:
            print(f"launch: unknown verb {verb!r}.\n\n{HELP}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
