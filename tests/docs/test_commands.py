"""Every command that the documentation shows is one that the programs accept.

Commands are taken from fences of shell or plain text and from code in the running text. They are
parsed by the programs' own parsers, whatever starts them; those that only tell something and need
no data (`--help`, plans of studies and of trainings) are run too. What `start.md` looks at is run
on a made study in tests/chain.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import launch.cli
from launch import __main__ as launch_command
from launch import study as studies
from launch import verbs
from launch.config import find_config
from launch.errors import CaptionmixError, ConfigError
from launch.plan import Plan, make_plan

REPOSITORY = Path(__file__).parents[2]
STUDIES = REPOSITORY / "configs" / "studies"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("**/*.md"))]
STARTS = ("python -m ", "captionmix ", "make ")
BEFORE = re.compile(r"(?:\$ |\.venv/bin/|timeout \d+ )")
LAUNCHED = re.compile(r"accelerate launch --config_file (\S+) -m ")
SUBMITTED = re.compile(r"sbatch (?:--[\w-]+ \S+ )*(\S+\.sbatch) ")
RUNNABLE = sorted({path.stem for path in STUDIES.glob("*.yaml")} - {"scenes", "rewriting", "gpu"})
"""Shipped studies; the others have no arms: studies stand on them, or they are laid over."""

REQUIRED = {"photos": ["data.root=pictures"]}
"""What a study asks of its user."""

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")


def commands(text: str) -> list[str]:
    """Return the commands of a page, as they would be typed in its virtual environment."""
    lines = []
    for language, body in FENCE.findall(text):
        if language in {"", "sh", "bash", "console", "text"}:
            lines += body.replace("\\\n", " ").splitlines()
    lines += SPAN.findall(FENCE.sub("", text))
    lines = [started(line.strip()) for line in lines]
    return [line for line in lines if f"{line} ".startswith(STARTS)]


def started(line: str) -> str:
    """Return what a line runs in the end: the command without what starts or bounds it.

    A recipe or a script that the repository lacks stays where it is named, so the line is refused.
    """
    while found := BEFORE.match(line):
        line = line[found.end() :]
    if (found := LAUNCHED.match(line)) and (REPOSITORY / found[1]).is_file():
        return f"python -m {line[found.end() :]}"
    if (found := SUBMITTED.match(line)) and (REPOSITORY / found[1]).is_file():
        (module,) = re.findall(r'-m (\w+ \w+) "\$@"', (REPOSITORY / found[1]).read_text())
        return f"python -m {module} {line[found.end() :]}"
    return f"python -m {line}" if line.startswith(("accelerate launch ", "sbatch ")) else line


def yaml_files(text: str) -> dict[str, str]:
    """Return the YAML files that a page tells its reader to write, by the study's name."""
    bodies = [body for language, body in FENCE.findall(text) if language == "yaml"]
    named = [(re.search(r"^name: (\w+)$", body, re.MULTILINE), body) for body in bodies]
    return {f"{name[1]}.yaml": body for name, body in named if name}


class RefusedError(Exception):
    """A command of the documentation that does not exist."""


def parse(line: str) -> None:
    """Refuse a command that its program would refuse.

    Raises:
        RefusedError: With what is wrong.
    """
    if re.search(r"(?<=\s)[\w.]+=[^\s\"']*[\[{]", line):
        raise RefusedError("a shell may take brackets for a pattern: quote the argument")
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        _parse_make(words[1:])
        return
    _, *words = words[1:] if words[0] == "python" else words
    stage, *words = words or [""]
    if stage not in launch.cli.STAGES:
        raise RefusedError(f"no stage {stage!r}")
    if stage == "launch":
        _parse_launch(words)
    elif words:
        _parse_verb(stage, words)
    else:
        raise RefusedError(f"{stage} without a verb")


def _parse_make(words: Sequence[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    for target in [word for word in words if "=" not in word]:
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            raise RefusedError(f"the Makefile has no target {target!r}")
    for name in settings:
        if f"$({name})" not in makefile:
            raise RefusedError(f"the Makefile uses no {name}")
    if "reproduce" in words:
        (default,) = re.findall(r"^STUDY \?= (\w+)$", makefile, re.MULTILINE)
        study = settings.get("STUDY", default)
        _plan([STUDIES / f"{study}.yaml"], settings.get("SETTINGS", "").split())


def _parse_launch(words: list[str]) -> None:
    """Let `launch` read its own words, with the verbs replaced by checks of what they are given."""

    def study(
        files: Sequence[str], overrides: Sequence[str], *, out: Path | None, is_dry: bool
    ) -> int:
        _plan(files, overrides)
        return 0

    def look(folder: Path) -> int:
        _find_artifact(folder)
        return 0

    replaced = {
        "launch.study.study": study,
        "launch.verify.verify": look,
        "launch.trace.trace": look,
        "launch.show.show": look,
        "launch.doctor.doctor": lambda: 0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, function in replaced.items():
            patch.setattr(name, function)
        try:
            code = launch_command.main(words)
        except SystemExit as error:
            code = error.code
    if code:
        raise RefusedError(f"launch ended with exit code {code}")


def _parse_verb(stage: str, words: list[str]) -> None:
    """Read words as a stage does, settings included."""
    table = {verb.name: verb for verb in importlib.import_module(f"{stage}.__main__").VERBS}
    if words[0] not in table:
        raise RefusedError(f"{stage} has no verb {words[0]!r}")
    try:
        given = [word for word in words[1:] if word != "..."]
        arguments = verbs._parser(stage, table[words[0]]).parse_args(given)
        verbs._load(table[words[0]], arguments)
    except ConfigError as error:
        if "..." not in words or "missing" not in str(error):
            raise RefusedError(str(error)) from error
    except (SystemExit, CaptionmixError) as error:
        raise RefusedError(str(error)) from error


def _plan(files: Sequence[str | Path], overrides: Sequence[str]) -> Plan:
    """Return the plan of a study of which every stage accepts every setting."""
    try:
        return _checked_plan(tuple(find_config(f).resolve() for f in files), tuple(overrides))
    except CaptionmixError as error:
        raise RefusedError(str(error)) from error


@functools.cache
def _checked_plan(files: tuple[Path, ...], overrides: tuple[str, ...]) -> Plan:
    studies._refuse_unknown(studies.laid_over(files), overrides)
    plan = make_plan(studies.laid_over(files, overrides), store=Path("store"))
    for instance in plan.instances:
        stage, *words = instance.words
        _parse_verb(stage, words)
    return plan


def _find_artifact(folder: Path) -> None:
    """Refuse a folder that no shipped study makes."""
    found = re.fullmatch(r"runs/studies/(\w+)(?:/(\w+))?", folder.as_posix())
    if not found:
        raise RefusedError(f"{folder} lies in no study")
    study, step = found.groups()
    plan = _plan([STUDIES / f"{study}.yaml"], REQUIRED.get(study, []))
    if step and step not in {i.name for i in plan.instances}:
        raise RefusedError(f"{study} has no step {step!r}")


SHOWN = {
    f"{page.name}: {' '.join(shlex.split(line, comments=True))}": (page, line)
    for page in PAGES
    for line in commands(page.read_text())
}


@pytest.mark.parametrize(("page", "line"), SHOWN.values(), ids=SHOWN)
def test_every_command_in_the_docs_parses(
    page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in yaml_files(page.read_text()).items():
        (tmp_path / name).write_text(text)
    parse(line)


def is_short(line: str) -> bool:
    """Whether a command tells something at once and needs no data; ingesting does."""
    words = shlex.split(line, comments=True)
    return "--help" in words or ("--dry-run" in words and words[2] in {"launch", "t2i"})


SHORT = {name: (page, line) for name, (page, line) in SHOWN.items() if is_short(line)}
ONCE = {shlex.join(shlex.split(line, comments=True)): (page, line) for page, line in SHORT.values()}


@pytest.mark.parametrize(
    ("page", "line"),
    [
        pytest.param(*shown, id=name, marks=[pytest.mark.slow] if number else [])
        for number, (name, shown) in enumerate(ONCE.items())
    ],
)
def test_the_short_commands_in_the_docs_run(page: Path, line: str, tmp_path: Path) -> None:
    for name, text in yaml_files(page.read_text()).items():
        (tmp_path / name).write_text(text)
    _, *words = shlex.split(line, comments=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("stage", sorted(set(launch.cli.STAGES) - {"launch"}))
def test_every_verb_explains_itself(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in importlib.import_module(f"{stage}.__main__").VERBS:
        with pytest.raises(SystemExit) as ended:
            verbs.main(
                stage, importlib.import_module(f"{stage}.__main__").VERBS, [verb.name, "--help"]
            )
        assert ended.value.code == 0
        assert f"{stage} {verb.name}" in capsys.readouterr().out


@pytest.mark.parametrize("study", RUNNABLE)
def test_every_shipped_study_has_settings_that_its_stages_accept(study: str) -> None:
    assert _plan([STUDIES / f"{study}.yaml"], REQUIRED.get(study, [])).instances


@pytest.mark.parametrize(
    "line",
    [
        "make reproduse",
        "make reproduce STUDI=smoke",
        "make reproduce STUDY=nothing",
        'make reproduce SETTINGS="seed=4"',
        'make reproduce SETTINGS="sizes.picture=4"',
        'make reproduce SETTINGS="steps.train.set.rate=4"',
        "python -m recaption ingest",
        "python -m recap",
        "python -m recap ingets --out runs/a source=folder name=a root=b",
        "python -m recap ingest --output runs/a source=folder name=a root=b",
        "python -m recap ingest --out runs/a sauce=folder name=a root=b",
        "python -m recap ingest --out runs/a source=cupboard name=a root=b",
        "python -m recap ingest --out runs/a source=folder root=b",
        "python -m recap caption --config recap/nothing.yaml",
        "captionmix nothing",
        "captionmix launch show",
        "python -m launch sturdy --config configs/studies/smoke.yaml",
        "python -m launch study configs/studies/smoke.yaml",
        "python -m launch study --config configs/studies/nothing.yaml",
        "python -m launch study --config configs/studies/photos.yaml",
        "python -m launch study --config configs/studies/smoke.yaml --dri-run-only",
        "python -m launch verify",
        "python -m launch verify runs/studies/nothing",
        "python -m launch trace runs/studies/smoke/rapport",
        "python -m launch doctor now",
        "python -m recap export --out runs/a images=runs/b captions=[runs/c] form=webdataset",
        "accelerate launch --config_file launch/accelerate/gpu_9.yaml -m recap train ...",
        "accelerate launch --config_file launch/accelerate/gpu_8.yaml -m recap trian ...",
        "sbatch launch/slurm/train.sbatch --config configs/t2i/nothing.yaml ...",
        "sbatch launch/slurm/nothing.sbatch --config configs/t2i/train.yaml ...",
        "timeout 480 .venv/bin/python -m launch study --config configs/studies/nothing.yaml",
        "python -m recap train sauce=1 ...",
    ],
)
def test_a_wrong_command_is_refused(line: str) -> None:
    (found,) = commands(f"```sh\n{line}\n```")
    with pytest.raises(RefusedError):
        parse(found)


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nmake test\n```",
        "```console\n$ make test\n```",
        "```\nmake test\n```",
        "```text\n.venv/bin/make test\n```",
        "```sh\n$ timeout 60 .venv/bin/make test\n```",
        "say `make test` and\n```yaml\nmake: test\n```",
        "  ```bash\n  make \\\ntest\n  ```\n",
    ],
)
def test_a_command_is_found_wherever_a_page_shows_it(text: str) -> None:
    assert [shlex.split(line) for line in commands(text)] == [["make", "test"]]


def test_the_readme_shows_commands_of_every_sort() -> None:
    shown = commands((REPOSITORY / "README.md").read_text())
    starts = {tuple(shlex.split(line, comments=True)[:3]) for line in shown}
    assert {("make", "reproduce"), ("python", "-m", "recap"), ("python", "-m", "launch")} <= starts
