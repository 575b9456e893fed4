"""Fit what judges: a CLIP and, where claims are known, the scene recogniser; then measure both.

Both learn from pictures of the judge split, which no captioner and no image model sees, and from
texts written by people or from claims, never by a captioner. Both are measured on test pictures,
and `quality.json` stands beside every result that rests on them.

B batch, N pictures, M texts, D feature width, S pixels a side
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8, UInt64
from torch import Tensor, nn
from torch.nn import functional

from eval import artifacts, clip, recogniser
from eval.config import FitJudgeConfig
from eval.first_stage import load_autoencoder, reconstruct
from launch import keyed
from launch.checkpoint import Average, Checkpoints, restore, training_tensors
from launch.errors import ArtifactError, ConfigError, StoppedError
from launch.processes import set_threads
from launch.run import Run
from recap.artifacts import CAPTIONS, IMAGES, Images, open_captions, open_images
from recap.claims import AXES, Claim

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Settings of the fit that no study has had a reason to change.
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.1
AVERAGE_DECAY = 0.99
MAX_LOGIT_SCALE = 100.0
TEXT_CHUNKS = 4
"""A batch of texts is encoded in this many pieces, sorted by length: less padding."""
CHECKPOINTS_PER_FIT = 8
SHIFT = 1
"""Pixels by which CLIP's training pictures are moved at most."""

LATENT_JITTER = 0.15
BLUR = 0.6
NOISE = 0.06
NUM_NOISE_FIELDS = 64
MAX_RETRIEVAL = 1000
MAX_READ = 2000


@dataclass(frozen=True)
class Pictures:
    """Pictures of one split with what is known of them."""

    ids: UInt64[np.ndarray, " N"]
    sample_ids: list[str]
    pixels: UInt8[np.ndarray, "N S S 3"]
    texts: list[dict[str, list[str]]]
    """Kind -> texts, for each picture."""

    claims: list[list[Claim] | None]


def fit_judge(cfg: FitJudgeConfig, run: Run) -> None:
    """Fit the judge and write it with its quality."""
    run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    run.input("autoencoder", cfg.autoencoder, artifact="autoencoder")
    images = open_images(cfg.images)
    texts = _texts_by_picture(cfg)
    judge_rows, num_bare = _rows_with_texts(images, texts, split="judge", cfg=cfg)
    test_rows, _ = _rows_with_texts(images, texts, split="test", cfg=cfg)
    has_claims = all(images.claims[row] is not None for row in [*judge_rows, *test_rows])
    if cfg.recogniser_samples and not has_claims:
        raise ConfigError(
            f"recogniser_samples={cfg.recogniser_samples}, but pictures of {cfg.images} have no "
            "claims, so there is nothing to learn to read; set recogniser_samples=0"
        )

    samples = cfg.clip_samples + cfg.recogniser_samples
    plan = {
        "judge pictures": len(judge_rows),
        "test pictures": len(test_rows),
        "pairs seen by CLIP": cfg.clip_samples,
        "pictures seen by the recogniser": cfg.recogniser_samples,
    }
    settings = {
        "clip": {
            "weight_decay": WEIGHT_DECAY,
            "average_decay": AVERAGE_DECAY,
            "loss": "contrastive, equal texts never negatives of each other",
            "shift_px": SHIFT,
        },
        "recogniser": {
            "latent_jitter": LATENT_JITTER,
            "blur": BLUR,
            "noise": NOISE,
        },
    }
    if not run.start(plan, recipe={"fit": settings}, minutes=samples / 1000 / 60, gib=0.05):
        return
    set_threads(cfg.threads)

    judge = _pictures(images, texts, judge_rows, image_size=cfg.image_size)
    test = _pictures(images, texts, test_rows, image_size=cfg.image_size)
    checkpoints = run.out / "checkpoints"

    scorer, clip_files = _fit_and_save_clip(judge, cfg=cfg, run=run, folder=checkpoints / "clip")
    quality: dict[str, Any] = {
        "clip": {"scorer": scorer.describe()},
        "retrieval": retrieval_quality(scorer, test, kinds=cfg.kinds, seed=cfg.seed),
    }
    parts = [f"clip/{name}" for name in clip_files]

    if cfg.recogniser_samples:
        autoencoder = load_autoencoder(cfg.autoencoder)
        with run.progress(len(judge.ids), label="reconstruct") as progress:
            rebuilt = reconstruct(
                autoencoder,
                judge.pixels,
                jitter=LATENT_JITTER,
                seed=cfg.seed,
                ids=judge.ids,
                advance=progress.advance,
            )
        reader = fit_recogniser(
            judge, rebuilt=rebuilt, cfg=cfg, run=run, folder=checkpoints / "recogniser"
        )
        names = recogniser.save_recogniser(run.out / "recogniser", reader)
        parts += [f"recogniser/{name}" for name in names]
        quality |= recogniser_quality(
            reader, test, autoencoder=autoencoder, min_accuracy=cfg.min_accuracy
        )

    artifacts.write_quality(run.out, quality)
    shutil.rmtree(checkpoints, ignore_errors=True)
    run.log("quality", **quality)
    run.finish(
        artifact=artifacts.JUDGE,
        version=artifacts.JUDGE_VERSION,
        counts={
            "rows_in": len(judge_rows) + num_bare,
            "rows_out": len(judge_rows),
            "test_pictures": len(test_rows),
        },
        rejected={"no_text": num_bare},
        parts=[*parts, "quality.json"],
    )


# --------------------------------------------------------------------------- inputs


def _texts_by_picture(cfg: FitJudgeConfig) -> dict[str, dict[str, list[str]]]:
    """Return sample_id -> kind -> texts; several artifacts may hold one kind."""
    found: dict[str, dict[str, list[str]]] = {}
    seen: set[str] = set()
    for folder in cfg.captions:
        captions = open_captions(folder)
        for kind in captions.kinds:
            if kind not in cfg.kinds:
                continue
            seen.add(kind)
            for sample_id, text in captions.texts(kind).items():
                texts = found.setdefault(sample_id, {}).setdefault(kind, [])
                if text not in texts:
                    texts.append(text)
    absent = [kind for kind in cfg.kinds if kind not in seen]
    if absent:
        raise ConfigError(
            f"kinds: {absent[0]!r} is in none of {', '.join(map(str, cfg.captions)) or 'captions'};"
            f" found {', '.join(sorted(seen)) or 'none of those asked for'}"
        )
    return found


def _rows_with_texts(
    images: Images, texts: dict[str, dict[str, list[str]]], *, split: str, cfg: FitJudgeConfig
) -> tuple[list[int], int]:
    """Return the rows of a split that have a text, and how many have none."""
    rows = [int(row) for row in images.rows(split)]
    kept = [row for row in rows if images.sample_ids[row] in texts]
    if len(kept) < 2:
        raise ArtifactError(
            f"{cfg.images}: {len(kept)} of {len(rows):,} pictures of the {split} split have a text "
            f"of kind {', '.join(cfg.kinds)}; a judge needs at least 2. Annotate that split."
        )
    return kept, len(rows) - len(kept)


def _pictures(
    images: Images,
    texts: dict[str, dict[str, list[str]]],
    rows: Sequence[int],
    *,
    image_size: int,
) -> Pictures:
    sample_ids = [images.sample_ids[row] for row in rows]
    return Pictures(
        ids=keyed.words(sample_ids),
        sample_ids=sample_ids,
        pixels=images.pixels(np.asarray(rows, np.int64), size=image_size),
        texts=[texts[sample_id] for sample_id in sample_ids],
        claims=[images.claims[row] for row in rows],
    )


# --------------------------------------------------------------------------- batches


class Place(NamedTuple):
    """Where training stands after some steps."""

    epoch: int
    rows: Int64[np.ndarray, " B"]


def batch_at(
    step: int, *, stream: str, seed: int, ids: UInt64[np.ndarray, " N"], batch_size: int
) -> Place:
    """Return the rows of one step: whole batches of a keyed order, anew each epoch."""
    steps_per_epoch = max(1, len(ids) // batch_size)
    epoch, within = divmod(step, steps_per_epoch)
    order = keyed.permutation(seed, stream, epoch=epoch, ids=ids)
    return Place(epoch=epoch, rows=order[within * batch_size : (within + 1) * batch_size])


def _rate(step: int, *, num_steps: int, peak: float) -> float:
    """Return the learning rate: a short rise, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    return peak * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _train(
    model: nn.Module,
    step_loss: Callable[[int], Float[Tensor, ""]],
    *,
    num_steps: int,
    batch_size: int,
    cfg: FitJudgeConfig,
    run: Run,
    folder: Path,
    label: str,
) -> None:
    """Take `num_steps` optimizer steps on `step_loss(step)`, exact to the bit when resumed.

    The model ends with its averaged weights.
    """
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=cfg.lr,
        betas=(0.9, 0.98),
    )
    average = Average(model, AVERAGE_DECAY)
    checkpoints = Checkpoints(folder)
    start = 0
    if (latest := checkpoints.latest()) is not None:
        restore(latest, model=model, optimizer=optimizer, average=average)
        start = latest.step
    save_every = max(1, math.ceil(num_steps / CHECKPOINTS_PER_FIT))
    model.train()
    with run.progress(num_steps * batch_size, label=label) as progress:
        progress.resume(start * batch_size)
        for step in range(start, num_steps):
            for group in optimizer.param_groups:
                group["lr"] = _rate(step, num_steps=num_steps, peak=cfg.lr)
            loss = step_loss(step)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise StoppedError(
                    f"{run.out}: {label} loss is {value} at step {step}; nothing was saved of this "
                    "step. Lower lr and fit into another folder."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            # A young average forgets faster, or the first weights would weigh for long.
            average.update(model, decay=min(AVERAGE_DECAY, (1 + step) / (10 + step)))
            progress.advance(batch_size, step=step + 1, loss=value)
            if (step + 1) % save_every == 0 or step + 1 == num_steps:
                tensors = training_tensors(model=model, optimizer=optimizer, average=average)
                checkpoints.save(step + 1, tensors, {})
    average.copy_to(model)
    model.eval().requires_grad_(False)


# --------------------------------------------------------------------------- CLIP


class FittedClip(NamedTuple):
    """A CLIP that was fitted here."""

    model: nn.Module
    config: dict[str, Any]
    tokenizer: Tokenizer


def _fit_and_save_clip(
    judge: Pictures, *, cfg: FitJudgeConfig, run: Run, folder: Path
) -> tuple[clip.ClipScorer, list[str]]:
    fitted = fit_clip(judge, cfg=cfg, run=run, folder=folder)
    files = clip.save_clip(
        run.out / "clip", model=fitted.model, config=fitted.config, tokenizer=fitted.tokenizer
    )
    # Read back: what is measured below is what will score.
    return clip.load_clip(run.out / "clip"), files


def fit_clip(judge: Pictures, *, cfg: FitJudgeConfig, run: Run, folder: Path) -> FittedClip:
    """Fit a CLIP to pictures and their texts, one text of each picture drawn anew each epoch."""
    texts = [
        [text for kind in cfg.kinds for text in by_kind.get(kind, ())] for by_kind in judge.texts
    ]
    flat = [text for of_picture in texts for text in of_picture]
    first = np.cumsum([0, *(len(t) for t in texts)])
    tokenizer = clip.train_tokenizer(sorted(set(flat)), vocab_size=cfg.clip.vocab_size)
    tokens = clip.tokenise(tokenizer, flat, context_length=cfg.clip.context_length)
    same_text = np.unique(np.array(flat), return_inverse=True)[1]
    config = clip.clip_config(
        cfg.clip, image_size=cfg.image_size, vocab_size=tokenizer.get_vocab_size()
    )
    torch.manual_seed(_initial_seed(cfg.seed, "clip"))
    model = clip.build_clip(config["model_cfg"])
    scorer = clip.scorer_of(model, config=config, tokenizer=tokenizer)
    pictures = scorer.preprocess(judge.pixels)
    batch_size = min(cfg.batch_size, len(judge.ids))

    def step_loss(step: int) -> Float[Tensor, ""]:
        epoch, rows = batch_at(
            step, stream="judge.clip", seed=cfg.seed, ids=judge.ids, batch_size=batch_size
        )
        counts = np.array([len(texts[row]) for row in rows])
        u = keyed.uniform(cfg.seed, "judge.text", epoch=epoch, ids=judge.ids[rows])
        chosen = first[rows] + np.floor(u * counts).astype(np.int64)
        shifts = keyed.integers(
            cfg.seed, "judge.shift", epoch=epoch, ids=judge.ids[rows], high=2 * SHIFT + 1, count=2
        )
        images = shifted(pictures[rows], torch.from_numpy(shifts) - SHIFT)
        image_features = model.encode_image(images, normalize=True)
        text_features = _encode_sorted(model, tokens, chosen)
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        scale = model.logit_scale.exp()
        return contrastive_loss(
            image_features, text_features, scale=scale, text_id=torch.from_numpy(same_text[chosen])
        )

    _train(
        model,
        step_loss,
        num_steps=math.ceil(cfg.clip_samples / batch_size),
        batch_size=batch_size,
        cfg=cfg,
        run=run,
        folder=folder,
        label="clip",
    )
    return FittedClip(model=model, config=config, tokenizer=tokenizer)


def shifted(
    images: Float[Tensor, "B 3 S S"], shifts: Int64[Tensor, "B 2"]
) -> Float[Tensor, "B 3 S S"]:
    """Move each picture down and right by its own whole pixels, repeating its border.

    A pixel or two falsify no "left" and no "top", and a few thousand pictures are learned by heart
    more slowly.
    """
    reach = int(shifts.abs().max())
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    side = torch.arange(images.shape[-1])
    rows = reach - shifts[:, 0, None] + side  # [B, S]
    columns = reach - shifts[:, 1, None] + side
    picture = torch.arange(len(images))[:, None, None]
    # Indices on both sides of a slice put the channels last.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _encode_sorted(
    model: nn.Module, tokens: clip.Tokenised, chosen: Int64[np.ndarray, " B"]
) -> Float[Tensor, "B D"]:
    """Encode texts in pieces of like length."""
    order = np.argsort(tokens.num_tokens[chosen], kind="stable")
    pieces = [
        clip.encode_text(model, tokens.ids[chosen[piece]])
        for piece in np.array_split(order, TEXT_CHUNKS)
        if len(piece)
    ]
    back = torch.from_numpy(np.argsort(order))
    return functional.normalize(torch.cat(pieces)[back], dim=-1)


def contrastive_loss(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    *,
    scale: Float[Tensor, ""],
    text_id: Int64[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Return CLIP's symmetric loss; pairs with equal texts are no negatives of each other.

    Source: Radford et al. 2021, figure 3; leaving out equal texts is ours.
    """
    logits = scale * image_features @ text_features.T  # [B, B]
    is_equal = text_id[:, None] == text_id[None, :]
    is_equal.fill_diagonal_(False)
    logits = logits.masked_fill(is_equal, -torch.inf)
    target = torch.arange(len(logits))
    by_image = functional.cross_entropy(logits, target)
    by_text = functional.cross_entropy(logits.T, target)
    return (by_image + by_text) / 2


def retrieval_quality(
    scorer: clip.ClipScorer, test: Pictures, *, kinds: Sequence[str], seed: int
) -> dict[str, Any]:
    """Measure how often a picture and its text find each other among the test pictures.

    The first of `kinds` that test pictures have is the headline; the others stand in `by_kind`.
    """
    by_kind: dict[str, Any] = {}
    order = keyed.permutation(seed, "judge.retrieval", epoch=0, ids=test.ids)
    for kind in kinds:
        rows = [int(row) for row in order if kind in test.texts[row]][:MAX_RETRIEVAL]
        if len(rows) < 2:
            continue
        pictures = scorer.picture_features(test.pixels[rows])
        texts = scorer.text_features([test.texts[row][kind][0] for row in rows])
        cosines = pictures @ texts.features.T
        by_kind[kind] = {
            "num_pictures": len(rows),
            "text_to_image": _recall_at_1(cosines.T),
            "image_to_text": _recall_at_1(cosines),
            "truncation_rate": texts.truncation_rate,
        }
        directions = (by_kind[kind]["text_to_image"], by_kind[kind]["image_to_text"])
        by_kind[kind]["above_chance"] = all(d["interval"][0] > d["chance"] for d in directions)
    if not by_kind:
        raise ArtifactError(
            f"judge: no kind of {', '.join(kinds)} has texts of two test pictures; retrieval "
            "cannot be measured. Annotate the test split."
        )
    kind = next(iter(by_kind))
    return {"kind": kind, **by_kind[kind], "by_kind": by_kind}


def _recall_at_1(cosines: Float32[np.ndarray, "N N"]) -> dict[str, Any]:
    """Return the share of rows whose own column is greatest; ties count as a fair draw."""
    own = np.diag(cosines)[:, None]
    is_found = (cosines <= own).all(axis=1) / (cosines == own).sum(axis=1)
    num = len(cosines)
    low, high = wilson_interval(float(is_found.sum()), num)
    return {"r_at_1": float(is_found.mean()), "interval": [low, high], "chance": 1 / num}


def wilson_interval(successes: float, num: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95% interval of a share.

    Source: Wilson 1927.
    """
    if num == 0:
        return 0.0, 1.0
    share = successes / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


# --------------------------------------------------------------------------- the recogniser


def fit_recogniser(
    judge: Pictures,
    *,
    rebuilt: UInt8[np.ndarray, "N S S 3"],
    cfg: FitJudgeConfig,
    run: Run,
    folder: Path,
) -> recogniser.Recogniser:
    """Fit the recogniser on pictures as they are and as the autoencoder gives them back.

    Every sample is a mixture of the two, most often one of them alone, blurred a little and with a
    little noise, so that generated pictures are not foreign to it.
    """
    known = [recogniser.targets(claims) for claims in judge.claims if claims is not None]
    cells = torch.from_numpy(np.stack([target.cells for target in known]))
    background = torch.tensor([target.background for target in known])
    config = recogniser.RecogniserConfig(image_size=cfg.image_size)
    torch.manual_seed(_initial_seed(cfg.seed, "recogniser"))
    model = recogniser.Recogniser(config).to(memory_format=torch.channels_last)
    originals = recogniser.to_input(judge.pixels, image_size=config.image_size)
    copies = recogniser.to_input(rebuilt, image_size=config.image_size)
    noise_ids = np.arange(NUM_NOISE_FIELDS, dtype=np.uint64)
    noise = torch.from_numpy(
        keyed.normal(
            cfg.seed, "judge.noise", epoch=0, ids=noise_ids, shape=tuple(originals.shape[1:])
        )
    )
    batch_size = min(cfg.batch_size, len(judge.ids))

    def step_loss(step: int) -> Float[Tensor, ""]:
        epoch, rows = batch_at(
            step, stream="judge.recogniser", seed=cfg.seed, ids=judge.ids, batch_size=batch_size
        )
        u = keyed.uniform(cfg.seed, "judge.augment", epoch=epoch, ids=judge.ids[rows], count=4)
        images = augment(originals[rows], copies[rows], noise=noise, u=torch.from_numpy(u).float())
        logits = model(images.contiguous(memory_format=torch.channels_last))
        return recogniser.loss(logits, cells=cells[rows], background=background[rows])

    _train(
        model,
        step_loss,
        num_steps=math.ceil(cfg.recogniser_samples / batch_size),
        batch_size=batch_size,
        cfg=cfg,
        run=run,
        folder=folder,
        label="recogniser",
    )
    return model.to(memory_format=torch.contiguous_format)


def augment(
    originals: Float[Tensor, "B 3 S S"],
    copies: Float[Tensor, "B 3 S S"],
    *,
    noise: Float[Tensor, "F 3 S S"],
    u: Float[Tensor, "B 4"],
) -> Float[Tensor, "B 3 S S"]:
    """Mix each picture with its reconstruction, blur the mixture and add noise.

    Args:
        originals: Pictures in [-1, 1].
        copies: The same as the autoencoder gives them back.
        noise: Fields of standard normal noise, one of which each picture gets.
        u: Four uniform numbers for each picture: mixture, blur, strength of noise, field.
    """
    mix, blur, strength, field = (column[:, None, None, None] for column in u.unbind(1))
    share = (2 * mix - 0.5).clamp(0, 1)  # a quarter pure originals, a quarter pure copies
    images = originals.lerp(copies, share)
    soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    # Squared: most pictures stay sharp.
    images = images.lerp(soft, BLUR * blur**2)
    chosen = (field.flatten() * len(noise)).long()
    return images + 2 * NOISE * strength**2 * noise[chosen]


def _initial_seed(seed: int, stream: str) -> int:
    """Return the seed of torch's initial weights, one per seed and purpose."""
    low, high = (int(word) for word in keyed.stream_key(seed, f"judge.init.{stream}"))
    return low | (high & 0x7FFFFFFF) << 32


def recogniser_quality(
    model: recogniser.Recogniser, test: Pictures, *, autoencoder: nn.Module, min_accuracy: float
) -> dict[str, Any]:
    """Measure the recogniser on test pictures as they are and through the autoencoder.

    `accuracy` is the share of true statements that it finds to hold, an abstention counted as a
    miss; `false_accept` is the share of the untrue among another picture's statements that it
    finds to hold all the same. An axis is measurable where the reconstructions' accuracy reaches
    the limit and their false acceptance stays below what is left of it.
    """
    pixels = test.pixels[:MAX_READ]
    true = [claims for claims in test.claims[:MAX_READ] if claims is not None]
    rebuilt = reconstruct(autoencoder, pixels)
    on_renders = read_accuracy(recogniser.read(model, pixels), true)
    on_rebuilt = read_accuracy(recogniser.read(model, rebuilt), true)
    return {
        "recogniser": {
            "num_pictures": len(true),
            "renders": on_renders,
            "reconstructions": on_rebuilt,
            "min_confidence": model.config.min_confidence,
        },
        "min_accuracy": min_accuracy,
        "measurable": {
            axis: on_rebuilt[axis]["num_claims"] > 0
            and on_rebuilt[axis]["accuracy"] >= min_accuracy
            and on_rebuilt[axis]["false_accept"] <= 1 - min_accuracy
            for axis in AXES
        },
    }


def read_accuracy(
    readings: Sequence[recogniser.Reading], true: Sequence[Sequence[Claim]]
) -> dict[str, dict[str, Any]]:
    """Compare readings with the truth, by axis."""
    held = dict.fromkeys(AXES, 0)
    total = dict.fromkeys(AXES, 0)
    abstained = dict.fromkeys(AXES, 0)
    false_held = dict.fromkeys(AXES, 0)
    false_total = dict.fromkeys(AXES, 0)
    for row, (reading, claims) in enumerate(zip(readings, true, strict=True)):
        for axis, found in recogniser.tally(recogniser.verdicts(claims, reading)).items():
            total[axis] += found.total
            held[axis] += found.held
            abstained[axis] += found.abstained
        others = true[(row + 1) % len(true)]
        truth = recogniser.layouts(claims)[0]
        should = recogniser.verdicts(others, truth)
        does = recogniser.verdicts(others, reading)
        for expected, seen in zip(should, does, strict=True):
            if expected.is_held is False:
                false_total[expected.axis] += 1
                false_held[expected.axis] += seen.is_held is True
    return {
        axis: {
            "accuracy": held[axis] / total[axis] if total[axis] else 0.0,
            "interval": list(wilson_interval(held[axis], total[axis])),
            "num_claims": total[axis],
            "abstained": abstained[axis] / total[axis] if total[axis] else 0.0,
            "false_accept": false_held[axis] / false_total[axis] if false_total[axis] else 0.0,
            "num_false": false_total[axis],
        }
        for axis in AXES
    }
