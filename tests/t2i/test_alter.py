"""Altered prompts: what each rule does, what is still asked for, and who keeps their identity."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.errors import ConfigError, InputError
from launch.run import Run
from recap import claims
from recap.sources.scenes import language, world
from t2i.alter import RULES, alter, altered
from t2i.artifacts import PROMPTS, VERSIONS, Prompt, Prompts, open_prompts, write_prompts
from t2i.config import ALTERATIONS, AlterConfig
from t2i.prompts import prompt_row

TEXT = 'A red circle is at the top left. The sign reads "HX". There are two blue rings.'


def row(text: str = TEXT, *, pair: int = 1) -> Prompt:
    return prompt_row(text, style="dsc", pair_id=f"{pair:032x}", has_claims=True)


def text_of(rule: str, text: str = TEXT) -> str:
    return altered(row(text), rules=[rule], name="new", seed=0).prompt


def test_each_rule_does_what_its_name_says() -> None:
    assert text_of("lower_case") == (
        'a red circle is at the top left. the sign reads "HX". there are two blue rings.'
    )
    assert text_of("upper_case", 'A sign reads "ab".') == 'A SIGN READS "ab".'
    assert text_of("no_final_punctuation") == TEXT[:-1]
    assert text_of("no_leading_article") == (
        'Red circle is at the top left. Sign reads "HX". There are two blue rings.'
    )
    assert text_of("first_sentence") == "A red circle is at the top left."
    shuffled = text_of("shuffled_sentences")
    assert shuffled != TEXT
    assert sorted(shuffled.split(". ")[0].split()) != sorted(TEXT.split(". ")[0].split())
    assert sorted(shuffled.replace(".", "").split()) == sorted(TEXT.replace(".", "").split())
    assert set(ALTERATIONS) == set(RULES)


@given(st.lists(st.sampled_from(["A red ring.", "Two discs!", 'A "Q" sign?']), min_size=1))
def test_form_changes_and_claims_do_not(sentences: list[str]) -> None:
    original = row(" ".join(sentences))
    rules = ["lower_case", "no_final_punctuation"]
    new = altered(original, rules=rules, name="plain", seed=3)
    assert new.claims == original.claims
    assert claims.to_json(claims.read(new.prompt)) == original.claims
    assert (new.pair_id, new.category) == (original.pair_id, original.category)
    assert new.prompt_id != original.prompt_id


def test_a_text_cut_short_asks_for_what_it_still_says() -> None:
    new = altered(row(), rules=["first_sentence"], name="short", seed=0)
    assert new.claims == claims.to_json(claims.read("A red circle is at the top left."))
    without = altered(row("A ring."), rules=["no_leading_article"], name="bare", seed=0)
    assert (row("A ring.").claims, without.claims) == (
        '[{"object":"ring","count":1}]', '[{"object":"ring"}]'
    )  # fmt: skip
    of_elsewhere = row()._replace(claims='[{"object":"dog","count":2}]', questions="[]")
    cut = altered(of_elsewhere, rules=["first_sentence"], name="short", seed=0)
    assert (cut.claims, cut.questions) == (None, None)
    small = altered(of_elsewhere, rules=["lower_case"], name="small", seed=0)
    assert (small.claims, small.questions) == (of_elsewhere.claims, "[]")


def test_a_rule_that_would_leave_nothing_leaves_the_text() -> None:
    assert text_of("no_final_punctuation", "...") == "..."


def test_the_order_of_sentences_belongs_to_the_prompt_and_the_seed() -> None:
    rules = ["shuffled_sentences"]
    text = "A ring. " * 2 + "A disc. A box. Two rings. A cross."
    first = altered(row(text), rules=rules, name="mixed", seed=0).prompt
    assert altered(row(text), rules=rules, name="mixed", seed=0).prompt == first
    others = {altered(row(text), rules=rules, name="mixed", seed=n).prompt for n in range(1, 9)}
    assert others - {first}


def test_rules_compose_in_their_order() -> None:
    rules = ["lower_case", "shuffled_sentences", "no_final_punctuation"]
    text = altered(row(), rules=rules, name="new", seed=0).prompt
    sentences = [
        "a red circle is at the top left",
        'the sign reads "HX"',
        "there are two blue rings",
    ]
    assert sorted(text.split(". ")) == sorted(sentences)
    assert text != TEXT.lower()
    with pytest.raises(ConfigError, match="put no_final_punctuation behind it"):
        AlterConfig(
            prompts=Path("p"),
            style="dsc",
            rules={"x": ["no_final_punctuation", "shuffled_sentences"]},
        )


def folder_of(tmp_path: Path, rows: list[Prompt]) -> Path:
    run = Run(out=tmp_path / "prompts", verb="t2i prompts", config={})
    run.start({})
    write_prompts(run.out / "prompts.parquet", rows)
    run.finish(
        artifact=PROMPTS, version=VERSIONS[PROMPTS],
        counts={"rows_in": len(rows), "rows_out": len(rows)}, parts=["prompts.parquet"],
    )  # fmt: skip
    run.close()
    return tmp_path / "prompts"


def written(cfg: AlterConfig, out: Path) -> Prompts:
    run = Run(out=out, verb="t2i alter", config=cfg)
    try:
        alter(cfg, run)
    finally:
        run.close()
    return open_prompts(out)


def test_every_style_is_added_and_what_changed_is_counted(tmp_path: Path) -> None:
    originals = [row(), row("red ring", pair=2)]
    folder = folder_of(tmp_path, originals)
    rules = {"dsc_small": ["lower_case"], "dsc_plain": ["lower_case", "no_final_punctuation"]}
    found = written(AlterConfig(prompts=folder, style="dsc", rules=rules), tmp_path / "out")
    assert found.styles == ["dsc", "dsc_small", "dsc_plain"]
    assert found.rows[:2] == originals
    assert found.texts("dsc_plain")[originals[1].pair_id] == "red ring"
    counts = found.manifest.counts
    assert (counts["rows_in"], counts["rows_added"], counts["rows_out"]) == (2, 4, 6)
    assert (counts["changed_dsc_small"], counts["changed_dsc_plain"]) == (1, 1)


def test_what_cannot_be_altered_is_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [row()])
    with pytest.raises(ConfigError, match="has no prompts of style 'human'; its styles are dsc"):
        written(
            AlterConfig(prompts=folder, style="human", rules={"x": ["lower_case"]}), tmp_path / "a"
        )
    with pytest.raises(ConfigError, match="has a style 'dsc' already"):
        written(
            AlterConfig(prompts=folder, style="dsc", rules={"dsc": ["lower_case"]}), tmp_path / "b"
        )
    with pytest.raises(ConfigError, match=r"rules.x: got \['louder'\], expected some of"):
        AlterConfig(prompts=folder, style="dsc", rules={"x": ["louder"]})


def test_an_altered_rewrite_still_asks_for_what_was_asked_for(tmp_path: Path) -> None:
    originals = [row(), row("A red ring.", pair=2)]
    folder = folder_of(tmp_path, originals)
    small = written(
        AlterConfig(prompts=folder, style="dsc", rules={"small": ["lower_case"]}), tmp_path / "a"
    )
    recipe = {"verb": "t2i upsample", "name": "small", "style": "dsc"}
    rewritten = Prompts(replace(small.manifest, recipe=recipe), small.table)
    assert rewritten.rewritten_from == {"small": "dsc"}
    again = {"verb": "t2i alter", "rewritten_before": {"small": "dsc", "gone": "dsc"}}
    later = Prompts(replace(small.manifest, recipe=again), small.table)
    assert later.original_of("small") == "dsc"
    assert later.asked_for() == {
        p.prompt_id: next(o.prompt for o in originals if o.pair_id == p.pair_id) for p in small.rows
    }
    of_list = Prompts(replace(small.manifest, recipe={"verb": "t2i prompt-list"}), small.table)
    assert of_list.rewritten_from == {"small": "dsc"}
    assert small.rewritten_from == {}


@pytest.fixture(scope="module")
def described() -> list[Prompt]:
    """Descriptions of 400 pictures of a world, as its annotator writes them."""
    ids = [f"{n:032x}" for n in range(1 << 100, (1 << 100) + 400)]
    ids = [sample_id[::-1] for sample_id in ids]
    truths = [scene.claims for scene in world.compose(3, ids)]
    texts = language.write_all(truths, "dsc", sample_ids=ids, seed=5)
    return [
        prompt_row(text, style="dsc", pair_id=sample_id, has_claims=True)
        for text, sample_id in zip(texts, ids, strict=True)
    ]


def by_people(original: Prompt, *, seed: int = 0) -> Prompt:
    return altered(original, rules=["as_people_write"], name="people", seed=seed)


def test_people_ask_for_the_very_same_things_in_other_words(described: list[Prompt]) -> None:
    words_of_annotators = {"picture", "shows", "along", "sign", "is", "are"}
    for original in described:
        new = by_people(original)
        assert new.prompt != original.prompt  # all of them: a share of 1
        assert new.claims == original.claims is not None
        said, asked = claims.read(original.prompt), claims.read(new.prompt)
        assert Counter(asked) == Counter(said)
        assert not words_of_annotators & set(new.prompt.lower().split())
    assert len({by_people(original).prompt for original in described}) == len(described)


def test_a_phrasing_belongs_to_the_picture_and_the_seed(described: list[Prompt]) -> None:
    first = described[0]
    assert by_people(first) == by_people(first)
    others = {by_people(first, seed=n).prompt for n in range(1, 9)}
    assert others - {by_people(first).prompt}
    of_another = first._replace(prompt_id="0" * 32, style="truth")
    assert by_people(of_another).prompt == by_people(first).prompt


@pytest.mark.parametrize(
    "text",
    [
        "A plain red circle.",  # "plain" is a claim here, and is said again
        "Four blue rings are at the top. Five green crosses.",
        "The picture shows rings.",
    ],
)
def test_what_a_captioner_says_beyond_the_world_is_said_again(text: str) -> None:
    new = by_people(row(text))
    assert new.prompt != text
    assert Counter(claims.read(new.prompt)) == Counter(claims.read(text))


@pytest.mark.parametrize(
    "text",
    [
        "The background is grey.",  # nothing to ask for
        "A red ring. A sign.",  # a sign of unknown text
        'A red ring. A sign reads "C". A sign reads "X".',  # people ask for one sign at most
        "",
    ],
)
def test_what_people_have_no_words_for_stays_as_it_was(text: str) -> None:
    original = row(text)
    new = by_people(original)
    assert (new.prompt, new.claims) == (text, original.claims)


def test_prompts_of_lists_stay_as_they_were() -> None:
    of_elsewhere = row("A red ring.")._replace(claims='[{"object":"dog","count":2}]')
    assert by_people(of_elsewhere).prompt == "A red ring."


def test_people_count_as_other_rules_do(tmp_path: Path, described: list[Prompt]) -> None:
    folder = folder_of(tmp_path, [*described[:5], row("The background is grey.")])
    rules = {"dsc_people": ["as_people_write", "upper_case"]}
    found = written(AlterConfig(prompts=folder, style="dsc", rules=rules), tmp_path / "out")
    texts = list(found.texts("dsc_people").values())
    assert found.manifest.counts["changed_dsc_people"] == 6
    assert texts[-1] == "THE BACKGROUND IS GREY."
    plain = {"people": ["as_people_write"]}
    found = written(AlterConfig(prompts=folder, style="dsc", rules=plain), tmp_path / "plain")
    assert found.manifest.counts["changed_people"] == 5
    with pytest.raises(ConfigError, match=r"undoes what was done before; .* put it first"):
        AlterConfig(prompts=folder, style="dsc", rules={"x": ["lower_case", "as_people_write"]})


def test_people_cannot_say_again_what_nobody_has_read(tmp_path: Path) -> None:
    photograph = prompt_row("A dog.", style="dsc", pair_id=f"{7:032x}", has_claims=False)
    folder = folder_of(tmp_path, [row(), photograph])
    cfg = AlterConfig(prompts=folder, style="dsc", rules={"people": ["as_people_write"]})
    with pytest.raises(InputError, match=r"1 of 2 prompts of style 'dsc' have no claims.*'A dog"):
        written(cfg, tmp_path / "out")
    assert not (tmp_path / "out" / "prompts.parquet").exists()
    small = AlterConfig(prompts=folder, style="dsc", rules={"small": ["lower_case"]})
    assert written(small, tmp_path / "small").texts("small")[photograph.pair_id] == "a dog."
