"""The small world that the embedded model and the embedded benchmark share: words, facts, samplers.

A sampler draws one situation and returns its named parts, all text. The pre-training text
(``embedded_text``) and the benchmark (``embedded``) put the same kinds of situations into different
words, so an adapter has to learn the benchmark's wording and answer style, not the world itself.
The part named ``key`` says what the situation is about; the benchmark splits train from test by it.
"""

# ruff: noqa: SIM905 (word lists read best as plain text)
from __future__ import annotations

import random
from collections.abc import Callable

Situation = dict[str, str]
Sampler = Callable[[random.Random], Situation]

MAX_NUMBER = 20
"""Largest number in the world; numbers are single tokens."""

NAMES = {
    "he": "tom ben max sam leo paul adam john luke mark".split(),
    "she": "anna lucy emma mia sara nina ruth kate rose jane".split(),
}
ITEMS = (
    "apples pears books pens coins eggs stones cups cards shells stamps toys boxes plums hats rings "
    "cakes balls flowers tickets buttons nuts"
).split()
THINGS = "film meal hotel song game story shirt trip room concert soup car park lesson coffee phone".split()
GOOD = (
    "superb lovely great fine excellent delightful wonderful pleasant brilliant charming splendid nice "
    "perfect amazing fantastic enjoyable beautiful magnificent impressive fabulous"
).split()
BAD = (
    "awful dull poor boring terrible horrible dreadful nasty weak ugly unpleasant disgusting annoying "
    "disappointing lousy bland miserable useless tedious ghastly"
).split()
STRENGTHS = ("", "very ", "really ", "quite ", "truly ")
NEGATIONS = ("not ", "never ", "hardly ")
CATEGORIES = {
    "animal": "cat dog horse cow sheep pig goat mouse lion tiger bear rabbit".split(),
    "fruit": "apple pear plum cherry peach banana grape lemon orange melon mango fig".split(),
    "tool": "hammer saw drill wrench axe shovel rake chisel pliers screwdriver file crowbar".split(),
    "colour": "red blue green yellow black white brown pink purple grey violet beige".split(),
    "vehicle": "bus train truck bicycle boat plane tram ship taxi van scooter ferry".split(),
    "drink": "milk tea juice water wine beer lemonade cocoa cider soda coke punch".split(),
    "garment": "coat jacket skirt sock glove scarf sweater dress belt trousers blouse vest".split(),
    "body": "arm leg foot hand nose ear eye knee elbow shoulder neck chin".split(),
}
OPPOSITES = [
    tuple(pair.split("/"))
    for pair in (
        "hot/cold big/small tall/short fast/slow old/young rich/needy hard/soft wet/dry light/dark "
        "early/late high/low full/empty open/closed loud/quiet clean/dirty strong/feeble happy/sad "
        "thick/thin deep/shallow wide/narrow sharp/blunt sweet/sour true/false near/far up/down day/night "
        "begin/end buy/sell push/pull give/take win/lose laugh/cry love/hate inside/outside "
        "summer/winter"
    ).split()
]
USES = {
    "knife": "cut bread", "broom": "sweep the floor", "pencil": "write a letter", "umbrella": "stay dry",
    "lamp": "read at night", "key": "unlock the door", "kettle": "boil water", "bed": "sleep well",
    "fridge": "keep food cold", "soap": "wash hands", "needle": "sew a dress", "ladder": "reach the roof",
    "towel": "dry the hair", "raft": "cross the river", "map": "find the way", "clock": "tell the time",
    "camera": "take a picture", "brush": "paint a wall", "spoon": "eat soup", "oven": "bake a cake",
    "glue": "fix a vase", "rope": "tie a knot", "bucket": "carry water", "mirror": "see your face",
    "scissors": "cut paper", "pillow": "rest your head", "bell": "call the class", "guitar": "play music",
    "tent": "camp in the woods", "net": "catch fish", "comb": "tidy the hair", "candle": "light a room",
    "radio": "hear the news", "stamp": "post a card", "wallet": "carry money", "stove": "fry an egg",
    "iron": "press a shirt", "plough": "till the field", "scale": "weigh flour", "whistle": "stop the game",
    "bandage": "cover a cut", "helmet": "protect your head", "fan": "cool a room", "magnet": "pick up nails",
}  # fmt: skip
LABELS = {
    "good": {
        "label": "good",
        "stars": "5",
        "feeling": "happy",
        "liked": "yes",
        "verb": "liked",
        "again": "come back",
    },
    "bad": {
        "label": "bad",
        "stars": "1",
        "feeling": "sad",
        "liked": "no",
        "verb": "disliked",
        "again": "stay away",
    },
    "mixed": {
        "label": "mixed",
        "stars": "3",
        "feeling": "unsure",
        "liked": "partly",
        "verb": "half liked",
        "again": "wait",
    },
}


def person(rng: random.Random) -> Situation:
    """Draw a name with its pronoun."""
    pronoun = rng.choice(("he", "she"))
    return {"name": rng.choice(NAMES[pronoun]), "he": pronoun}


def addition(rng: random.Random) -> Situation:
    """Draw ``a + b`` within the world's numbers, with somebody who owns the items."""
    a = rng.randint(1, 12)
    b = rng.randint(1, min(9, MAX_NUMBER - a))
    parts = {"a": str(a), "b": str(b), "answer": str(a + b), "items": rng.choice(ITEMS)}
    return person(rng) | parts | {"key": f"{a} plus {b}"}


def subtraction(rng: random.Random) -> Situation:
    """Draw ``a - b`` with a result of at least 1."""
    a = rng.randint(3, MAX_NUMBER)
    b = rng.randint(1, min(9, a - 1))
    parts = {"a": str(a), "b": str(b), "answer": str(a - b), "items": rng.choice(ITEMS)}
    return person(rng) | parts | {"key": f"{a} minus {b}"}


def use(rng: random.Random) -> Situation:
    """Draw something people want to do, the thing that helps, and one that does not; in random order."""
    right, wrong = rng.sample(sorted(USES), 2)
    first, second = rng.sample((right, wrong), 2)
    parts = {"goal": USES[right], "answer": right, "wrong": wrong, "first": first, "second": second}
    return person(rng) | parts | {"wrong_goal": USES[wrong], "key": right}


def _opinion(rng: random.Random, good: bool) -> str:
    """One adjective phrase with this tone; a third of them are negated."""
    if rng.random() < 1 / 3:
        return rng.choice(NEGATIONS) + rng.choice(BAD if good else GOOD)
    return rng.choice(STRENGTHS) + rng.choice(GOOD if good else BAD)


def opinion(rng: random.Random) -> Situation:
    """Draw an opinion of one or two clauses; two clauses of different tone make it mixed."""
    tone = rng.choice(("good", "bad", "mixed"))
    thing, other = rng.sample(THINGS, 2)
    start = rng.random() < 0.5 if tone == "mixed" else tone == "good"
    text = f"the {thing} was {_opinion(rng, start)}"
    if tone == "mixed":
        text += f" but the {other} was {_opinion(rng, not start)}"
    elif rng.random() < 0.5:
        text += f" and the {other} was {_opinion(rng, start)}"
    return person(rng) | LABELS[tone] | {"text": text, "thing": thing, "answer": tone, "key": text}


def opposite(rng: random.Random) -> Situation:
    """Draw a word and its opposite."""
    word, other = rng.sample(rng.choice(OPPOSITES), 2)
    return person(rng) | {"word": word, "answer": other, "key": word}


def kind(rng: random.Random) -> Situation:
    """Draw a word and the kind of thing that it names."""
    category = rng.choice(sorted(CATEGORIES))
    word, friend = rng.sample(CATEGORIES[category], 2)
    return person(rng) | {"word": word, "friend": friend, "answer": category, "key": word}


def row(rng: random.Random) -> Situation:
    """Draw three words in a row."""
    words = rng.sample([word for group in CATEGORIES.values() for word in group], 3)
    parts = dict(zip(("one", "two", "three"), words, strict=True))
    parts |= {"words": " ".join(words), "backwards": " ".join(reversed(words))}
    return person(rng) | parts | {"key": parts["words"]}


def outsider(rng: random.Random) -> Situation:
    """Draw two words of one kind and one of another, in random order."""
    same, other = rng.sample(sorted(CATEGORIES), 2)
    odd = rng.choice(CATEGORIES[other])
    words = [*rng.sample(CATEGORIES[same], 2), odd]
    rng.shuffle(words)
    parts = {"words": " , ".join(words), "answer": odd, "same": same, "other": other}
    return person(rng) | parts | {"key": " ".join(sorted(words))}


def series(rng: random.Random) -> Situation:
    """Draw three numbers in equal steps and the one that follows."""
    step = rng.choice((1, 2, 3, 4, -1, -2, -3))
    low, high = (1, MAX_NUMBER - 3 * step) if step > 0 else (1 - 3 * step, MAX_NUMBER)
    start = rng.randint(low, high)
    numbers = [str(start + i * step) for i in range(4)]
    parts = {"numbers": " ".join(numbers[:3]), "answer": numbers[3], "last": numbers[2]}
    grows = "up" if step > 0 else "down"
    return person(rng) | parts | {"step": str(abs(step)), "grows": grows, "key": parts["numbers"]}
