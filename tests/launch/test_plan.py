"""Plans of studies, made from plain data: order, folders, references, refusals.

What `test_run.py` shows with a whole study is not repeated here.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.config import Tree, load_tree
from launch.errors import ConfigError
from launch.plan import Instance, Plan, make_plan

STORE = Path("store")
LOOPS: list[list[str]] = [[], ["arm"], ["seed"], ["arm", "seed"]]
FIRST = "real_vs_ssc_vs_dsc"
NUM_ARMS, NUM_SEEDS = 2, 2

briefly = settings(max_examples=30, deadline=None)
"""A plan takes some milliseconds; more examples found nothing more."""


def arms(num_arms: int) -> Tree:
    """Return arms of different captions, the same first ones for any number."""
    return {f"a{n}": {"caption_mix": {"dsc": n / 10, "alt": 1 - n / 10}} for n in range(num_arms)}


def plan(steps: Tree, *, store: Path = STORE, **values: Any) -> Plan:
    return make_plan({**values, "steps": steps}, store=store)


def step(*, foreach: list[str] | None = None, run: str = "stage verb", **settings: Any) -> Tree:
    return {"run": run, "set": settings, **({} if foreach is None else {"foreach": foreach})}


def folders(made: Plan) -> dict[str, Path]:
    return {i.name: i.folder for i in made.instances}


def named(made: Plan, name: str) -> Instance:
    (found,) = [i for i in made.instances if i.name == name]
    return found


def given_settings(instance: Instance) -> Tree:
    """Return the settings that a stage would read from the words of an instance."""
    return load_tree([], instance.words[instance.words.index("--out") + 2 :])


@st.composite
def studies(draw: st.DrawFn, *, is_gathering: bool) -> Tree:
    """Give the steps of a study without circles, written in any order.

    Args:
        draw: Given by hypothesis.
        is_gathering: Steps may read all runs of a step at once, `<step.*>`.
    """
    steps: Tree = {}
    for number in range(draw(st.integers(1, 5))):
        loops = draw(st.sampled_from(LOOPS))
        settings: Tree = {"number": number}
        if "seed" in loops:
            settings["seed"] = "<seed>"
        if "arm" in loops:
            settings["caption_mix"] = "<arm.caption_mix>"
        single = [n for n, spec in steps.items() if spec["foreach"] in ([], loops)]
        reads = [f"<{name}>" for name in draw(st.sets(st.sampled_from(single)))] if single else []
        if is_gathering and steps:
            reads += [f"<{name}.*>" for name in draw(st.sets(st.sampled_from(list(steps))))]
        steps[f"s{number}"] = step(foreach=loops, reads=reads, **settings)
    return {name: steps[name] for name in draw(st.permutations(list(steps)))}


@briefly
@given(studies(is_gathering=True))
def test_every_run_stands_after_the_runs_that_it_reads(steps: Tree) -> None:
    before: set[Path] = set()
    for instance in plan(steps, arms=arms(NUM_ARMS), seeds=NUM_SEEDS).instances:
        assert set(instance.reads) <= before
        before.add(instance.folder)


@briefly
@given(studies(is_gathering=True))
def test_a_step_has_one_run_for_each_combination_of_its_loops(steps: Tree) -> None:
    options = {"arm": list(arms(NUM_ARMS)), "seed": list(range(NUM_SEEDS))}
    expected = set()
    for name, spec in steps.items():
        points = itertools.product(*(options[loop] for loop in spec["foreach"]))
        expected |= {name + (f"[{','.join(map(str, p))}]" if p else "") for p in points}
    made = plan(steps, arms=arms(NUM_ARMS), seeds=NUM_SEEDS)
    assert sorted(i.name for i in made.instances) == sorted(expected)


@briefly
@given(studies(is_gathering=True))
def test_the_order_in_which_steps_are_written_changes_no_folder(steps: Tree) -> None:
    backwards = {name: steps[name] for name in reversed(steps)}
    one, two = (plan(s, arms=arms(NUM_ARMS), seeds=NUM_SEEDS) for s in (steps, backwards))
    assert folders(one) == folders(two)


@briefly
@given(studies(is_gathering=True))
def test_another_store_moves_the_folders_and_keeps_their_names(steps: Tree) -> None:
    here = plan(steps, arms=arms(NUM_ARMS), seeds=NUM_SEEDS)
    there = plan(steps, store=Path("/else/where"), arms=arms(NUM_ARMS), seeds=NUM_SEEDS)
    moved = {name: Path("/else/where") / folder.name for name, folder in folders(here).items()}
    assert folders(there) == moved


@briefly
@given(studies(is_gathering=False), st.integers(1, 3), st.integers(0, 2))
def test_more_seeds_keep_the_folders_of_the_first_ones(steps: Tree, few: int, more: int) -> None:
    small = folders(plan(steps, arms=arms(NUM_ARMS), seeds=few))
    assert small.items() <= folders(plan(steps, arms=arms(NUM_ARMS), seeds=few + more)).items()


@briefly
@given(studies(is_gathering=False), st.integers(1, 3), st.integers(0, 2))
def test_more_arms_keep_the_folders_of_the_first_ones(steps: Tree, few: int, more: int) -> None:
    small = folders(plan(steps, arms=arms(few), seeds=NUM_SEEDS))
    assert small.items() <= folders(plan(steps, arms=arms(few + more), seeds=NUM_SEEDS)).items()


@briefly
@given(studies(is_gathering=True))
def test_all_runs_of_a_step_are_priced_alike(steps: Tree) -> None:
    costs: dict[str, set[str]] = {}
    for instance in plan(steps, arms=arms(NUM_ARMS), seeds=NUM_SEEDS).instances:
        costs.setdefault(instance.step, set()).add(instance.cost_key)
    assert all(len(keys) == 1 for keys in costs.values())


# No surrogates or control characters: a YAML file cannot hold them.
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda below: st.lists(below, max_size=3),
    max_leaves=4,
)


@given(VALUES)
def test_a_value_of_the_study_arrives_at_its_stage_unchanged(value: Any) -> None:
    (made,) = plan({"only": step(value="<given.value>")}, given={"value": [value]}).instances
    assert given_settings(made) == {"value": [value]}


@pytest.mark.parametrize(
    "text",
    [
        "What? This: that.",
        "Which is better: alt text, or: descriptions?",
        "[sic] captions",
        "'quoted' and not",
        "100% of captions",
        "%",
        "true",
        "1e-3",
        "a # b",
        " kept ",
        "",
    ],
)
def test_a_text_arrives_at_its_stage_unchanged(text: str) -> None:
    (made,) = plan({"only": step(text="<question>")}, question=text).instances
    assert given_settings(made) == {"text": text}


def test_a_list_of_texts_beyond_the_first_unicode_plane_arrives_unchanged() -> None:
    (made,) = plan({"only": step(texts=["runs/\N{GRINNING FACE}"])}).instances
    assert given_settings(made) == {"texts": ["runs/\N{GRINNING FACE}"]}


def test_nested_settings_become_dotted_words_and_a_mix_stays_one_word() -> None:
    spec = step(model={"width": 8, "head": {"size": 2}}, caption_mix={"alt": 1.0})
    (made,) = plan({"only": spec}).instances
    assert made.words[-3:] == ["model.width=8", "model.head.size=2", 'caption_mix={"alt": 1.0}']


def test_two_steps_of_the_same_settings_share_a_folder() -> None:
    made = plan({"one": step(n=1), "two": step(n=1), "other": step(n=2)})
    assert made.instances[0].folder == made.instances[1].folder != made.instances[2].folder


def test_the_name_of_a_step_is_no_part_of_a_folder() -> None:
    short = plan({"a": step(n=1), "b": step(reads=["<a>"])})
    long = plan({"first": step(n=1), "second": step(reads=["<first>"])}, name="other")
    assert [i.folder for i in short.instances] == [i.folder for i in long.instances]


def test_a_changed_setting_moves_its_step_and_all_that_follow_and_nothing_else() -> None:
    def chain(n: int) -> dict[str, Path]:
        steps = {"a": step(n=n), "b": step(r="<a>"), "c": step(r="<b>"), "beside": step(n=3)}
        return folders(plan(steps))

    one, two = chain(1), chain(2)
    assert [name for name in one if one[name] == two[name]] == ["beside"]


def test_what_a_configuration_file_holds_is_part_of_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    spec = {"run": "stage verb", "config": str(file)}
    made = []
    for text in ("a: 1", "# the same, said otherwise\na:  1", "a: 2"):
        file.write_text(text)
        made.append(plan({"only": spec}).instances[0].folder)
    assert [made[0] == other for other in made] == [True, True, False]


def test_sizes_of_a_study_are_part_of_the_price() -> None:
    one, two = (plan({"a": step(n=1)}, sizes={"samples": n}).instances[0] for n in (1, 2))
    assert one.cost_key != two.cost_key


def test_how_many_inputs_a_step_reads_and_what_it_is_told_are_part_of_the_price() -> None:
    def key(*, seeds: int = 1, styles: list[str]) -> str:
        steps = {
            "train": step(foreach=["seed"], s="<seed>"),
            "score": step(models=["<train.*>"], styles="<styles>"),
        }
        return plan(steps, seeds=seeds, styles=styles).instances[-1].cost_key

    assert len({key(seeds=n, styles=s) for n in (1, 2) for s in (["a"], ["a", "b"])}) == 4
    assert key(styles=["a"]) == key(styles=["a"])


def test_a_run_reads_the_run_of_its_own_arm_and_seed() -> None:
    loops = ["arm", "seed"]
    steps = {"train": step(foreach=loops, s="<seed>", m="<arm.caption_mix>")}
    steps["sample"] = step(foreach=loops, model="<train>")
    made = plan(steps, arms=arms(2), seeds=2)
    for point in ("a0,0", "a0,1", "a1,0", "a1,1"):
        assert named(made, f"sample[{point}]").reads == [named(made, f"train[{point}]").folder]


def test_one_run_of_a_repeated_step_can_be_named() -> None:
    steps = {"train": step(foreach=["arm", "seed"], s="<seed>", m="<arm.caption_mix>")}
    made = plan(steps | {"look": step(model="<train[a1,0]>")}, arms=arms(2), seeds=2)
    assert named(made, "look").reads == [named(made, "train[a1,0]").folder]


def test_all_runs_of_a_step_join_a_list_in_the_order_of_the_loops() -> None:
    steps = {"one": step(), "many": step(foreach=["seed"], seed="<seed>")}
    made = plan(steps | {"last": step(reads=["<one>", "<many.*>", "x"])}, seeds=2)
    expected = [str(i.folder) for i in made.instances[:3]] + ["x"]
    assert given_settings(named(made, "last"))["reads"] == expected


def test_a_step_repeats_over_a_list_of_the_study_and_sees_each_entry() -> None:
    rows = [{"n": 10, "kind": "dsc_10"}, {"n": 20, "kind": "dsc_20"}]
    steps = {"fit": step(foreach=["rows"], n="<rows.n>", kind="<rows.kind>")}
    made = plan(steps, rows=rows)
    assert {i.name: given_settings(i) for i in made.instances} == {
        f"fit[{row['n']}]": row for row in rows
    }


def test_kinds_are_those_of_any_arm() -> None:
    mixes = {"real": {"caption_mix": {"alt": 1}}, "both": {"caption_mix": {"dsc": 0.9, "alt": 0.1}}}
    made = plan({"only": step(kinds="<kinds>")}, arms=mixes, kinds=["alt", "dsc", "ssc"])
    assert given_settings(named(made, "only")) == {"kinds": ["alt", "dsc"]}


def test_a_step_over_nothing_has_no_runs_to_gather() -> None:
    steps = {"none": step(foreach=["rows"]), "last": step(reads=["<none.*>", "x"])}
    (made,) = plan(steps, rows=[]).instances
    assert given_settings(made) == {"reads": ["x"]}


def test_a_dropped_step_is_gone() -> None:
    assert list(folders(plan({"kept": step(n=1), "dropped": None}))) == ["kept"]


def test_a_setting_of_nothing_is_taken_back() -> None:
    one = plan({"a": step(n=1, world={"size": None}, scenes=None)})
    assert given_settings(one.instances[0]) == {"n": 1}


def test_a_complete_folder_is_not_to_do(tmp_path: Path) -> None:
    made = plan({"a": step(n=1), "b": step(n=2)}, store=tmp_path)
    made.instances[0].folder.mkdir()
    (made.instances[0].folder / "manifest.json").write_text("{}")
    assert [i.name for i in made.to_do()] == ["b"]


def test_the_text_to_show_lies_in_the_folder_of_its_step() -> None:
    made = plan({"a": step(n=1), "report": step(n=2)}, show="report/summary.txt")
    assert made.show == folders(made)["report"] / "summary.txt"


TWO = {"train": step(foreach=["seed"], seed="<seed>")}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({}, "a study needs `steps`"),
        ({"steps": {"dropped": None}}, "a study needs `steps`"),
        ({"steps": {"seed": step()}}, "steps.seed: this name is a loop variable"),
        ({"steps": {"a": {"set": {}}}}, "steps.a: .*`run` names no verb"),
        ({"steps": {"a": step(r="<a>")}}, "in a circle: a"),
        ({"steps": {"a": step(r=["<gone>"]), "gone": None}}, "steps.a: <gone> is no step"),
        ({"steps": {"a": step(r="<arm.caption_mix>")}}, "steps.a: <arm.caption_mix> is no step"),
        ({"steps": {"a": step(r="<sizes.b>")}, "sizes": {}}, "add sizes.b=VALUE"),
        ({"steps": {"a": step(r="<data.root>")}, "data": {"root": None}}, "data.root is not set"),
        ({"steps": {"a": step(foreach=["rows"])}, "rows": 3}, "steps.a.foreach: 'rows'"),
        ({"steps": TWO | {"b": step(r="<train>")}, "seeds": 2}, r"<train>.*train\[0\], train\[1\]"),
        ({"steps": TWO | {"b": step(r="<train[7]>")}}, r"<train\[7\]> names no run.*train\[0\]"),
        ({"steps": {"a": step()}, "show": "b/summary.txt"}, "show: 'b/summary.txt' names no step"),
        ({"steps": {"a": step()}, "arms": ["real"]}, "arms must be name ->"),
        ({"steps": {"a": step()}, "arms": {"real": None}}, "arms.real: needs caption_mix"),
        ({"steps": {"a": step()}, "arms": {"real": {"caption_mix": {}}}}, "arms.real: needs"),
        ({"steps": {"a": step()}, "seeds": True}, "seeds must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(tree: Tree, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plan(tree, store=STORE)


@pytest.mark.parametrize("spec", ["stage verb", {"run": "stage verb", "set": None}])
def test_a_step_that_is_no_mapping_of_settings_is_refused_by_its_key(spec: Any) -> None:
    with pytest.raises(ConfigError, match=r"steps\.odd"):
        plan({"odd": spec})


def test_a_text_to_show_of_a_step_over_nothing_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match="show"):
        plan({"a": step(), "none": step(foreach=["rows"])}, rows=[], show="none/summary.txt")


def test_two_runs_of_a_step_never_have_one_name() -> None:
    rows = [{"kind": "dsc", "n": 10}, {"kind": "dsc", "n": 20}]
    with pytest.raises(ConfigError, match=r"steps\.fit"):
        plan({"fit": step(foreach=["rows"], n="<rows.n>")}, rows=rows)


def test_a_price_is_in_proportion_to_the_sizes_it_was_measured_at() -> None:
    spec = step() | {"minutes": 6, "gib": 2, "at": {"samples": 3000}}
    (made,) = plan({"a": spec}, sizes={"samples": 1000}).instances
    assert (made.minutes, made.gib) == (2.0, pytest.approx(2 / 3))


def test_a_price_that_is_no_number_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"steps\.a\.minutes must be a number"):
        plan({"a": step() | {"minutes": "long"}})
    with pytest.raises(ConfigError, match=r"steps\.a\.at\.samples must be a number"):
        plan({"a": step() | {"minutes": 1, "at": {"samples": "many"}}}, sizes={"samples": 1})


def test_an_arm_that_cannot_name_a_folder_is_refused() -> None:
    arms = {"a/b": {"caption_mix": {"alt": 1.0}}}
    with pytest.raises(ConfigError, match=r"arms\.a/b: an arm names folders"):
        plan({"a": step()}, arms=arms)


def test_the_study_of_rewritten_prompts_has_every_model_and_judge_of_the_first_experiment() -> None:
    studies = (load_tree([f"studies/{name}.yaml"], []) for name in (FIRST, "upsampling"))
    first, rewritten = (folders(make_plan(tree, store=STORE)) for tree in studies)
    changed = {name.split("[")[0] for name in first if rewritten[name] != first[name]}
    # `measured` has the tags beside the captions of the first experiment.
    assert changed == {"measured", "sample", "score", "distribution", "report"}
    added = {"rewriter", "upsampled", "tagger", "tags_captions", "tags_states"}
    assert set(rewritten) - set(first) == added | {"train[tags,0]", "sample[tags,0]"}


def test_a_run_reads_the_one_of_its_own_loop_values_of_a_step_that_repeats_over_fewer() -> None:
    made = plan(
        {
            "base": step(foreach=["start"], seed="<start>"),
            "tuned": step(foreach=["size", "start"], init="<base>", n="<size.n>", seed="<start>"),
        },
        start=[0, 1],
        size=[{"n": 10}, {"n": 20}],
    )
    for size, start in itertools.product((10, 20), (0, 1)):
        reads = named(made, f"tuned[{size},{start}]").reads
        assert reads == [named(made, f"base[{start}]").folder]


def test_a_loop_value_may_stand_inside_a_text_and_other_brackets_stay() -> None:
    settings = {"kind": "n<size.n>_<start>", "text": "<b>bold</b> <other>"}
    made = plan({"a": step(foreach=["size", "start"], **settings)}, start=[0], size=[{"n": 10}])
    found = given_settings(named(made, "a[10,0]"))
    assert found == {"kind": "n10_0", "text": "<b>bold</b> <other>"}


def test_a_setting_of_one_arm_alone_leaves_the_folders_of_the_others() -> None:
    train = step(foreach=["arm"], mix="<arm.caption_mix>", captions=["<first>"])
    steps = {"first": step(name="first"), "second": step(name="second"), "train": train}
    two = plan(steps, arms=arms(2))
    own = {"a2": {"captions": ["<first>", "<second>"]}}
    three = plan({**steps, "train": {**train, "per_arm": own}}, arms=arms(3))
    assert all(folders(three)[name] == folder for name, folder in folders(two).items())
    assert named(three, "train[a2]").reads == sorted(
        [folders(two)["first"], folders(two)["second"]]
    )
    assert named(three, "train[a1]").reads == [folders(two)["first"]]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"a0": {"lr": 1}}, "per_arm.a0.lr: arms of a study may differ in where their captions"),
        ({"a7": {"captions": []}}, "per_arm.a7: expected one of a0, a1"),
    ],
)
def test_an_arm_has_nothing_of_its_own_but_where_its_captions_lie(own: Tree, said: str) -> None:
    train = {**step(foreach=["arm"], mix="<arm.caption_mix>"), "per_arm": own}
    with pytest.raises(ConfigError, match=said):
        plan({"train": train}, arms=arms(2))


def test_a_counted_price_is_rows_times_flop_over_what_the_machine_computes() -> None:
    machine = {"name": "a GPU", "num_gpus": 2, "tflops": 100, "utilisation": 0.5}
    price = {"rows": "<sizes.pictures>", "parameters": 1e9, "tokens": 50, "passes": 3, "kib": 4}
    steps = {
        "a": {**step(), "price": price},
        "b": {**step(), "price": price, "started_by": "gpu_8"},
    }
    made = plan(steps, sizes={"pictures": 2**20}, machine=machine).instances[0]
    on_all = plan(steps, sizes={"pictures": 2**20}, machine=machine).instances[1]
    assert made.minutes == pytest.approx(2**20 * 3 * 2e9 * 50 / (100e12 * 0.5) / 60)
    assert on_all.minutes == pytest.approx(made.minutes / 2)
    assert made.gib == on_all.gib == 4
    assert "GPU-days" in made.priced_by


def test_a_price_that_cannot_be_counted_is_refused() -> None:
    for price in ({"parameters": 1e9}, {"rows": 1, "hours": 2}, {"rows": 1, "gflop": 1}):
        with pytest.raises(ConfigError, match=r"steps\.a\.price"):
            plan({"a": {**step(), "price": price}})


def test_prices_that_were_stated_for_other_sizes_can_be_taken_back() -> None:
    spec = {**step(), "minutes": 5, "gib": 2}
    kept, taken = plan({"a": spec}), plan({"a": spec}, stated_prices=False)
    assert (kept.instances[0].minutes, kept.instances[0].gib) == (5, 2)
    assert (taken.instances[0].minutes, taken.instances[0].gib) == (0, 0)
    assert folders(kept) == folders(taken)


def test_a_step_of_several_processes_has_its_own_folder_and_the_file_that_starts_them() -> None:
    alone = plan({"a": step(x=1), "b": step(a="<a>")})
    together = plan({"a": {**step(x=1), "started_by": "<gpus>"}, "b": step(a="<a>")}, gpus="cpu_2")
    assert Path(named(together, "a").started_by).name == "cpu_2.yaml"
    assert named(alone, "a").started_by == named(together, "b").started_by == ""
    assert folders(alone)["a"] != folders(together)["a"]
    assert named(alone, "a").words[:2] == named(together, "a").words[:2]


def test_a_launcher_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"steps\.a\.started_by: .*gpus_9.*cpu_2, fsdp, gpu_1"):
        plan({"a": {**step(x=1), "started_by": "gpus_9"}})
