"""Prompts that a model may have seen in training: how many occur in the training captions.

A picture drawn for a sentence that was trained on shows memory, not understanding, so this is told
before scores. A text is its words, in lower case and without punctuation. Three things are counted
for each prompt and kind of caption: whether a caption equals it, how many of its runs of eight
words stand in captions, and from that whether all or any do. A prompt of fewer than eight words is
one run: it occurs where all its words stand in a caption in their order, next to each other.

Captions are read once, in blocks, and not kept: memory is that of the prompts, of one block, and of
16 bytes for each training picture. Runs are compared by 64-bit hashes, so a run is found wrongly
about once in 10^19 comparisons.

G runs of one length, T words of a block, V words that prompts use
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64, UInt64
from numpy.typing import NDArray

from eval.artifacts import OVERLAP_SCHEMA
from eval.intervals import wilson_interval
from launch.errors import ConfigError
from launch.identities import PACKED, find, packed
from recap.artifacts import Captions, Images
from recap.words import words_of
from t2i.artifacts import Prompts

RUN: Final = 8
"""Words of a run."""

ALT: Final = "alt"
_BLOCK: Final = 4096
"""Captions looked at together."""


class Occurrences(NamedTuple):
    """What was found of each prompt, in their order."""

    num_words: Int64[np.ndarray, "N"]
    num_runs: Int64[np.ndarray, "N"]
    """Distinct runs of the prompt; 0 where it has no words."""

    num_found: Int64[np.ndarray, "N"]
    """Those of them that stand in a caption."""

    is_exact: Bool[np.ndarray, "N"]
    """Whether a caption equals the prompt."""

    num_captions: int
    """Captions read."""


def occurrences(prompts: Sequence[str], captions: Iterable[str]) -> Occurrences:
    """Find prompts, and their runs of words, in captions that are read once.

    Args:
        prompts: Texts that are looked for.
        captions: Texts that are looked at, in any number.
    """
    texts = [words_of(prompt) for prompt in prompts]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(chain(*texts)), start=1)}
    codes = _codes(vocabulary)
    runs = [_runs([vocabulary[word] for word in words], codes) for words in texts]
    by_length = {
        length: np.unique(np.concatenate([r.hashes for r in runs if r.length == length]))
        for length in sorted({r.length for r in runs if r.length})
    }
    found = {length: np.zeros(len(known), bool) for length, known in by_length.items()}
    whole = {" ".join(words): False for words in texts}
    num_captions = 0
    rest = iter(captions)
    while block := list(islice(rest, _BLOCK)):
        num_captions += len(block)
        ids: list[int] = []
        for caption in block:
            words = words_of(caption)
            of_caption = [vocabulary.get(word, 0) for word in words]
            if 0 not in of_caption and (text := " ".join(words)) in whole:
                whole[text] = True
            ids += [*of_caption, 0]  # a run ends where its caption does
        _look(np.array(ids, np.int64), codes, by_length, found)
    return Occurrences(
        num_words=np.array([len(words) for words in texts], np.int64),
        num_runs=np.array([len(r.hashes) for r in runs], np.int64),
        num_found=np.array(
            [
                found[r.length][np.searchsorted(by_length[r.length], r.hashes)].sum()
                if r.length
                else 0
                for r in runs
            ],
            np.int64,
        ),
        is_exact=np.array([bool(words) and whole[" ".join(words)] for words in texts], bool),
        num_captions=num_captions,
    )


class _Runs(NamedTuple):
    """Hashes of one prompt's runs, all of one length."""

    length: int
    hashes: UInt64[np.ndarray, "G"]


def _runs(ids: Sequence[int], codes: UInt64[np.ndarray, "V"]) -> _Runs:
    length = min(RUN, len(ids))
    if not length:
        return _Runs(0, np.zeros(0, np.uint64))
    starts = np.arange(len(ids) - length + 1)
    return _Runs(length, np.unique(_hash(codes[np.array(ids)], starts, length)))


def _codes(vocabulary: Iterable[str]) -> UInt64[np.ndarray, "V"]:
    """Give every word 64 random bits of its own; place 0 is that of all other words."""
    digests = [blake2b(word.encode(), digest_size=8).digest() for word in vocabulary]
    return np.frombuffer(bytes(8) + b"".join(digests), np.uint64)


_FACTORS: Final = (
    np.frombuffer(blake2b(b"places of a run", digest_size=8 * RUN).digest(), np.uint64) | 1
)
"""One odd number for each place of a run: the same words in another order hash otherwise."""


def _hash(
    codes: UInt64[np.ndarray, "T"], starts: Int64[np.ndarray, "S"], length: int
) -> UInt64[np.ndarray, "S"]:
    """Return the hash of the run of `length` words at each start."""
    total = np.zeros(len(starts), np.uint64)
    for place in range(length):
        total += codes[starts + place] * _FACTORS[place]
    return total


def _look(
    ids: Int64[np.ndarray, "T"],
    codes: UInt64[np.ndarray, "V"],
    by_length: dict[int, UInt64[np.ndarray, "G"]],
    found: dict[int, Bool[np.ndarray, "G"]],
) -> None:
    """Mark the runs that stand in a block of words."""
    num_foreign = np.concatenate([[0], np.cumsum(ids == 0)])  # before each word
    of_words = codes[ids]
    for length, known in by_length.items():
        if len(ids) < length:
            continue
        starts = np.flatnonzero(num_foreign[length:] == num_foreign[:-length])
        hashes = np.unique(_hash(of_words, starts, length))
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        found[length][places[known[places] == hashes]] = True


# --------------------------------------------------------------------------- of artifacts


def overlap(
    prompts: Sequence[Prompts], *, images: Images, captions: Sequence[Captions]
) -> pa.Table:
    """Look for prompts in the training captions of every kind: one row per prompt and kind.

    Args:
        prompts: Prompt tables.
        images: Pictures; the texts of their training split are looked at, alt texts too.
        captions: Captions of them.

    Raises:
        ConfigError: Two tables have one name and style, so that nobody could tell them apart.
    """
    if not prompts:
        return OVERLAP_SCHEMA.empty_table()
    training = _training_pictures(images)
    columns: dict[str, list[Any]] = {name: [] for name in OVERLAP_SCHEMA.names}
    rows = [(name_of(table), row) for table in prompts for row in table.rows]
    seen: dict[tuple[str, str], Prompts] = {}
    for table in prompts:
        for style in table.styles:
            if seen.setdefault((name_of(table), style), table) is not table:
                raise ConfigError(
                    f"prompts: {seen[name_of(table), style].manifest.folder} and "
                    f"{table.manifest.folder} both hold {name_of(table) or 'prompts'} in style "
                    f"{style!r}; leave one out, or make it under another name."
                )
    kinds = sorted({kind for artifact in captions for kind in artifact.kinds})
    for kind in (ALT, *(kind for kind in kinds if kind != ALT)):
        found = occurrences(
            [row.prompt for _, row in rows], _training_texts(kind, training, images, captions)
        )
        if not found.num_captions:
            continue  # a kind of other splits
        columns["list"] += [name for name, _ in rows]
        columns["style"] += [row.style for _, row in rows]
        columns["prompt_id"] += [row.prompt_id for _, row in rows]
        columns["kind"] += [kind] * len(rows)
        columns["num_captions"] += [found.num_captions] * len(rows)
        for name in ("num_words", "num_runs", "num_found", "is_exact"):
            columns[name] += getattr(found, name).tolist()
    return pa.table(columns, schema=OVERLAP_SCHEMA)


def name_of(prompts: Prompts) -> str:
    """Return the name of a public list; prompts of held-out pictures have none."""
    return str(prompts.manifest.recipe.get("name", ""))


def _training_pictures(images: Images) -> NDArray[Any]:
    """Give the packed identities of the training pictures, sorted."""
    blocks = [
        packed(
            block.filter(pc.equal(block["split"], "train"))["sample_id"], where=str(images.folder)
        )
        for block in images.scan("sample_id", "split")
    ]
    return np.sort(np.concatenate(blocks)) if blocks else np.empty(0, PACKED)


def _training_texts(
    kind: str, training: NDArray[Any], images: Images, captions: Sequence[Captions]
) -> Iterator[str]:
    """Give the texts of one kind that training pictures have, a block of them in memory at once.

    Args:
        kind: The kind.
        training: Packed identities of the training pictures, sorted.
        images: Pictures, with their alt texts.
        captions: Captions of them.
    """
    if kind == ALT:
        blocks = images.scan("sample_id", "alt")
    else:
        blocks = (block for artifact in captions for block in artifact.scan(kind))
    for block in blocks:
        is_training = find(packed(block["sample_id"]), among=training) >= 0
        yield from block.column(1).filter(pa.array(is_training)).to_pylist()


# --------------------------------------------------------------------------- shares


class Share(NamedTuple):
    """How many prompts of one style occur in the training captions of one kind."""

    list: str
    style: str
    kind: str
    num_captions: int
    num_prompts: int
    counts: dict[str, int]
    """Of prompts: `exact` equal to a caption, `all` runs in captions, `any` run in a caption."""

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95% interval of a share, over prompts."""
        return wilson_interval(self.counts[name], self.num_prompts)

    @property
    def label(self) -> str:
        """Return list and style as one name."""
        return f"{self.list}: {self.style}" if self.list else self.style


MEASURES: Final = {
    "exact": "equal to a caption",
    "all": f"all runs of {RUN} words",
    "any": f"any run of {RUN} words",
}
"""Name of each count, as it is shown."""


def shares(table: pa.Table) -> list[Share]:
    """Count prompts that occur, by list, style and kind, in the order of the table.

    Prompts without words are left out: they can occur nowhere.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.schema.names}
    found = []
    keys = list(zip(columns["list"], columns["style"], columns["kind"], strict=True))
    for key in dict.fromkeys(keys):
        where = (
            (columns["list"] == key[0])
            & (columns["style"] == key[1])
            & (columns["kind"] == key[2])
            & (columns["num_runs"] > 0)
        )
        is_all = columns["num_found"][where] == columns["num_runs"][where]
        counts = {
            "exact": int(columns["is_exact"][where].sum()),
            "all": int(is_all.sum()),
            "any": int((columns["num_found"][where] > 0).sum()),
        }
        if where.any():
            num_captions = int(columns["num_captions"][where][0])
            found.append(Share(*map(str, key), num_captions, int(where.sum()), counts))
    return found
