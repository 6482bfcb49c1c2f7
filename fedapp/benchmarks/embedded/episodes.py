"""Few-shot episodes: the text that teaches the model ``embedded_icl`` to learn from its prompt.

An episode is one small classification task, shown by labelled texts, one after the other:

    review : the film was really superb
    type : stones
    review : the soup was bland
    type : lamp
    …

Most episodes draw their label words at random, so the labels can only be read from the texts above
(in-context learning); the others use words that fit the classes, so that the labels tell which task
it is. ``pairs`` is the simplest episode: words and their labels, no text, no cue; from these a model
learns to look up what stood behind a word before, which longer episodes need. Some label words and
some pairs of field and cue never label a text here: the benchmark ``embedded_text_classification`` and
the measurements use those. All of it is ours.
"""

# ruff: noqa: SIM905 (word lists read best as plain text)
from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from fedapp.benchmarks.embedded import text as embedded_text
from fedapp.benchmarks.embedded import world

Texts = Callable[[random.Random, str], dict[str, str]]
"""Draws the parts of a text that belongs to the named class."""


@dataclass(frozen=True)
class Family:
    """A kind of classification task.

    Attributes:
        classes: Names of the classes.
        parts: Draws what a text of a class is made of.
        frames: Patterns that make the parts a text.
        labels: Tuples of words that fit the classes, one word for each class in ``classes``.
    """

    classes: tuple[str, ...]
    parts: Texts
    frames: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]


def tone(rng: random.Random, wanted: str) -> dict[str, str]:
    """Draw an opinion of the wanted tone: good, bad or mixed."""
    while True:
        parts = world.opinion(rng)
        if parts["answer"] == wanted:
            return parts


def of_kind(rng: random.Random, wanted: str) -> dict[str, str]:
    """Draw two words of the wanted category."""
    word, friend = rng.sample(world.CATEGORIES[wanted], 2)
    return world.person(rng) | {"word": word, "friend": friend, "key": word}


def change(rng: random.Random, wanted: str) -> dict[str, str]:
    """Draw numbers of items that somebody gets (up) or loses (down)."""
    parts = world.addition(rng) if wanted == "up" else world.subtraction(rng)
    return parts | {"verb": rng.choice(CHANGES[wanted])}


def steps(rng: random.Random, wanted: str) -> dict[str, str]:
    """Draw a series of numbers that goes up or down."""
    while True:
        parts = world.series(rng)
        if parts["grows"] == wanted:
            return parts


def about(rng: random.Random, wanted: str) -> dict[str, str]:
    """Draw an opinion of the wanted thing."""
    parts = world.opinion(rng)
    while len(parts["text"].split()) > 7:
        parts = world.opinion(rng)
    return parts | {"text": parts["text"].replace(f"the {parts['thing']} ", f"the {wanted} ", 1)}


def who(rng: random.Random, wanted: str) -> dict[str, str]:
    """Draw a name that goes with the wanted pronoun, and items."""
    items, thing = rng.choice(world.ITEMS), rng.choice(world.THINGS)
    return {"name": rng.choice(world.NAMES[wanted]), "items": items, "thing": thing}


def same(rng: random.Random, wanted: str) -> dict[str, str]:
    """Give the class itself as a word: the label can be found by looking the word up above."""
    return world.person(rng) | {"word": wanted}


CHANGES = {"up": ("got", "bought", "finds", "picked"), "down": ("lost", "sold", "spend", "gave away")}
FEELINGS = ("happy", "sad", "unsure")
"""Words for tones that never label a text in an episode."""
HELD_OUT_KINDS = ("vehicle", "drink", "garment", "body")
"""Categories whose names are never labels in an episode; their words do occur in texts."""

FAMILIES: dict[str, Family] = {
    "tone": Family(
        ("good", "bad", "mixed"),
        tone,
        ("{text}", "{text} .", "{name} said that {text}", "{name} : {text}"),
        (("good", "bad", "mixed"), ("5", "1", "3"), ("yes", "no", "partly")),
    ),
    "kind": Family(
        tuple(world.CATEGORIES),
        of_kind,
        (
            "{word}",
            "the {word}",
            "{name} sees the {word}",
            "{name} likes the {word} .",
            "the {word} and the {friend}",
            "{word} , {friend}",
            "{name} thinks of the {word}",
            "the {word} is on the list",
        ),
        (tuple(kind for kind in world.CATEGORIES if kind not in HELD_OUT_KINDS),),
    ),
    "change": Family(
        ("up", "down"),
        change,
        ("{name} had {a} {items} and {verb} {b}", "{name} {verb} {b} {items}", "{a} {items} , {verb} {b}"),
        (("up", "down"), ("plus", "minus"), ("more", "less"), ("win", "lose")),
    ),
    "steps": Family(
        ("up", "down"), steps, ("{numbers}", "{name} counts {numbers}"), (("up", "down"), ("high", "low"))
    ),
    "about": Family(tuple(world.THINGS), about, ("{text}", "{text} ."), (tuple(world.THINGS),)),
    "who": Family(
        ("he", "she"),
        who,
        ("{name} has {items}", "{name} likes the {thing}", "the {thing} of {name}", "{name}"),
        (("he", "she"),),
    ),
    "same": Family(
        tuple(word for words in world.CATEGORIES.values() for word in words),
        same,
        ("{word}", "the {word}", "{name} sees the {word}"),
        (),
    ),
}
WEIGHTS = {"tone": 3.0, "kind": 4.0, "change": 1.0, "steps": 0.5, "about": 1.0, "who": 0.5, "same": 1.0}
"""How often each family is drawn, relative to each other."""

FIELDS = "review text sentence message note report story line question input remark news dialogue".split()
CUES = "sentiment label type class kind answer category group output mood topic emotion".split()
HELD_OUT_TEMPLATES = (
    *(("news", cue) for cue in ("topic", "type", "category")),
    *(("dialogue", cue) for cue in ("emotion", "mood")),
    ("review", "sentiment"),
    ("sentence", "label"),
)
"""Pairs of field and cue that no episode uses."""

TEMPLATES = tuple((f, c) for f in FIELDS for c in CUES if (f, c) not in HELD_OUT_TEMPLATES)


def _label_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    words = {*world.ITEMS, *world.THINGS, *world.GOOD, *world.BAD, *world.USES}
    words |= {word for group in (*world.NAMES.values(), *world.CATEGORIES.values()) for word in group}
    words |= {word for pair in world.OPPOSITES for word in pair} - {*FEELINGS}
    held = {word for word in words if zlib.crc32(word.encode()) % 5 == 0}
    fitting = {word for family in FAMILIES.values() for labels in family.labels for word in labels}
    # The more words are labels here, the better a model copies those that never are.
    known = {word for word in embedded_text.vocabulary() if word.isalnum()}
    return tuple(sorted(known - held - {*FEELINGS, *HELD_OUT_KINDS})), tuple(sorted(held - fitting))


LABEL_WORDS, HELD_OUT_LABELS = _label_words()
"""Words that episodes use as labels at random, and those that they never use."""

PAIR_WORDS = (*LABEL_WORDS, *HELD_OUT_KINDS, *FEELINGS)
"""Words of pairs: a model that has never written a word cannot answer with it, whatever it has read."""

NATURAL_SHARE = 0.3
"""Share of episodes whose label words fit the classes, of the families that have such words."""


@dataclass(frozen=True)
class Task:
    """A classification task with its wording, from which labelled texts can be drawn.

    Attributes:
        family: Where the texts come from.
        labels: Label word by class; its keys are the classes that occur.
        field: What stands before a text.
        cue: What stands before a label.
        frames: Patterns of the texts.
        fitting: Whether the label words fit the classes.
    """

    family: Family
    labels: dict[str, str]
    field: str
    cue: str
    frames: tuple[str, ...]
    fitting: bool = False

    def prompt(self, text: str) -> str:
        """The text as the model reads it, up to where the label belongs."""
        return f"{self.field} : {text}\n{self.cue} :"

    def draw(self, rng: random.Random, wanted: str | None = None) -> tuple[str, str]:
        """Draw a prompt and its label word, of the wanted class or of any."""
        wanted = wanted or rng.choice(list(self.labels))
        frame = rng.choice(self.frames)
        return self.prompt(frame.format_map(self.family.parts(rng, wanted))), self.labels[wanted]


def draw_task(rng: random.Random) -> Task:
    """Draw a task as pre-training shows it: family, classes, label words, wording."""
    family = FAMILIES[rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]]
    fitting = bool(family.labels) and rng.random() < NATURAL_SHARE
    if fitting:
        words = rng.choice(family.labels)
        pairs = list(zip(_labelled_classes(family, words), words, strict=True))
        pairs = rng.sample(pairs, rng.randint(2, min(4, len(pairs))))
    else:
        classes = rng.sample(family.classes, rng.randint(2, min(4, len(family.classes))))
        pairs = list(zip(classes, rng.sample(LABEL_WORDS, len(classes)), strict=True))
    frames = tuple(rng.sample(family.frames, rng.randint(1, len(family.frames))))
    return Task(family, dict(pairs), *rng.choice(TEMPLATES), frames, fitting)


def _labelled_classes(family: Family, words: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that these words are for; where words are fewer, they are the classes themselves."""
    return family.classes if len(words) == len(family.classes) else words


def episode(rng: random.Random, shots: int) -> tuple[list[tuple[str, str]], bool]:
    """Draw a task and so many prompts with their label words; and say whether the words fit."""
    task = draw_task(rng)
    return [task.draw(rng) for _ in range(shots)], task.fitting


def pairs(rng: random.Random, shots: int) -> tuple[list[tuple[str, str]], bool]:
    """Draw two to eight words with a label each, and show so many of these, in any order."""
    count = rng.randint(2, 8)
    words = rng.sample(PAIR_WORDS, 2 * count)
    sign = rng.choice(("", " :"))
    shown = [(f"{word}{sign}", label) for word, label in zip(words[:count], words[count:], strict=True)]
    return [rng.choice(shown) for _ in range(shots)], False


def vocabulary() -> list[str]:
    """The tokens of ``embedded`` in their order, then the line break, then the words that are new here."""
    known = embedded_text.vocabulary()
    texts = [frame for family in FAMILIES.values() for frame in family.frames]
    texts += [*FIELDS, *CUES, *(verb for verbs in CHANGES.values() for verb in verbs)]
    words = {w for text in texts for w in embedded_text.words_of(re.sub(r"\{\w+\}", " ", text))}
    return [*known, "\n", *sorted(words - set(known))]
