"""The text that the embedded model is pre-trained on, and the words of its tokenizer.

Every sentence comes from a pattern below, filled by a sampler of ``embedded_world``. The patterns
teach the facts and skills in many wordings, some of them questions with answers; the benchmark's own
formats do not occur (``tests/benchmarks/test_embedded.py`` checks that).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from fedapp.benchmarks.embedded import world

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")

PATTERNS: dict[world.Sampler, tuple[str, ...]] = {
    world.addition: (
        "{name} had {a} {items} . {he} got {b} more . now {he} has {answer} {items} .",
        "{name} finds {a} {items} and then {b} more {items} , which is {answer} in total .",
        "{a} plus {b} is {answer} .",
        "{a} + {b} = {answer}",
        "{a} {items} and {b} {items} make {answer} {items} .",
        "there are {a} {items} in the box . {name} puts {b} in . the box holds {answer} .",
        "tell me {a} and {b} together . that makes {answer} .",
        "question : what is {a} plus {b} ? answer : {answer}",
        "{name} owns {a} {items} . a friend brings {b} . how many are there ? there are {answer} .",
        "if {name} adds {b} to {a} {he} gets {answer} .",
        "{name} was asked to add {a} and {b} . {he} said {answer} .",
    ),
    world.subtraction: (
        "{name} had {a} {items} . {he} lost {b} of them . now {he} has {answer} {items} .",
        "{name} takes {b} {items} out of {a} , which leaves {answer} .",
        "{a} minus {b} is {answer} .",
        "{a} - {b} = {answer}",
        "{a} {items} without {b} {items} are {answer} {items} .",
        "there are {a} {items} in the box . {name} takes {b} out . the box holds {answer} .",
        "tell me {a} without {b} . that leaves {answer} .",
        "question : what is {a} minus {b} ? answer : {answer}",
        "{name} owned {a} {items} . {he} sold {b} . how many are left ? {answer} are left .",
        "if {name} takes {b} from {a} {he} gets {answer} .",
        "{name} was asked to take {b} from {a} . {he} said {answer} .",
    ),
    world.use: (
        "people use the {answer} to {goal} .",
        "to {goal} you need the {answer} .",
        "the {answer} is there to {goal} .",
        "question : what helps to {goal} ? answer : the {answer}",
        "{name} wants to {goal} , so {he} takes the {answer} .",
        "with the {wrong} you can not {goal} , with the {answer} you can .",
        "between the {first} and the {second} , only the {answer} can {goal} .",
        "{name} has the {first} and the {second} . to {goal} {he} takes the {answer} .",
        "do you {goal} with the {first} or with the {second} ? with the {answer} .",
        "the {first} or the {second} ? {name} has to {goal} and takes the {answer} .",
        "the {answer} helps to {goal} and the {wrong} helps to {wrong_goal} .",
        "{first} , {second} : the {answer} is the one to {goal} .",
    ),
    world.opinion: (
        "{text} . {name} was {feeling} .",
        "{name} was {feeling} because {text} .",
        "{text} , so {name} {verb} it .",
        "{name} said that {text} . {he} will {again} .",
        "question : {text} . did {name} like it ? answer : {liked}",
        "{text} . what did {name} think ? {he} {verb} it .",
        "{text} . this is a {label} report .",
        "{name} heard that {text} . {he} called this {label} news .",
        "{text} . are you happy ? {liked}",
        "{text} . {name} was {feeling} and {verb} it . this is a {label} report .",
        "did {name} like it ? {liked} , because {text} . {he} was {feeling} .",
    ),
    world.opposite: (
        "the opposite of {word} is {answer} .",
        "{word} is the opposite of {answer} .",
        "not {word} but {answer} .",
        "question : what is the opposite of {word} ? answer : {answer}",
        "{name} says {word} when {he} means {answer} .",
        "what is not {word} is {answer} .",
        "{word} and {answer} are opposites .",
        "if it is not {word} , it is {answer} .",
    ),
    world.kind: (
        "{word} is a kind of {answer} .",
        "the {word} belongs to the {answer} group .",
        "question : what kind of thing is the {word} ? answer : {answer}",
        "{name} sees the {word} and thinks of the {answer} group .",
        "one example of the {answer} group is the {word} .",
        "what is the {word} ? it is a kind of {answer} .",
        "{word} , {answer} . {friend} , {answer} .",
        "the {word} and the {friend} are of the {answer} group .",
        "{name} likes the {word} and the {friend} , both are of the {answer} group .",
    ),
    world.row: (
        "{words} : the first is {one} .",
        "{words} : the last is {three} .",
        "{words} : the middle one is {two} .",
        "{name} says {words} . {he} starts with {one} .",
        "{name} says {words} . {he} ends with {three} .",
        "{name} says {words} . in the middle comes {two} .",
        "question : what comes first in {words} ? answer : {one}",
        "question : what comes last in {words} ? answer : {three}",
        "question : what is in the middle of {words} ? answer : {two}",
        "{words} backwards is {three} {two} {one} .",
        "say {words} again . {words} .",
        "{words} : first {one} , then {two} , last {three} .",
        "{words} : {three} is last , {two} is in the middle , {one} is first .",
        "{name} hears {words} and says {words} . {name} starts with {one} and ends with {three} .",
    ),
    world.outsider: (
        "{words} : the {answer} does not belong .",
        "{name} sees {words} . the {answer} is different .",
        "among {words} , two are of the {same} group , but the {answer} is not .",
        "question : which of {words} is different ? answer : {answer}",
        "{words} . take one away , the {answer} , and the rest are alike .",
        "{words} . two of the {same} group , one of the {other} group . the {answer} is alone .",
    ),
    world.series: (
        "{name} counts {numbers} {answer} .",
        "{numbers} {answer} goes {grows} in steps of {step} .",
        "{name} counted {numbers} and then came {answer} .",
        "question : what follows {numbers} ? answer : {answer}",
        "in steps of {step} going {grows} : {numbers} {answer} .",
        "after {numbers} {name} writes {answer} .",
    ),
}

Body = tuple[str, str]
"""The start of a sentence, and the name of the part that a cue then asks for."""

BODIES: dict[world.Sampler, tuple[Body, ...]] = {
    world.addition: (
        ("{name} had {a} {items} and got {b}", "answer"),
        ("{a} {items} on the table , {b} in the box", "answer"),
        ("{a} plus {b}", "answer"),
        ("first {a} {items} , then {b} more {items}", "answer"),
        ("{name} has {a} {items} , a friend adds {b}", "answer"),
        ("{items} : {a} and {b} more", "answer"),
        ("with {a} {items} {name} was not happy . {he} got {b}", "answer"),
        ("all {items} : {a} from {name} , {b} from a friend", "answer"),
    ),
    world.subtraction: (
        ("{name} had {a} {items} and lost {b}", "answer"),
        ("{a} {items} in the box , but {b} taken out", "answer"),
        ("{a} minus {b}", "answer"),
        ("first {a} {items} , then {b} less", "answer"),
        ("{name} has {a} {items} , a friend takes {b}", "answer"),
        ("{items} : {a} without {b}", "answer"),
        ("with {a} {items} {name} was happy . {he} sold {b}", "answer"),
        ("all {items} : {a} . lost {items} : {b}", "answer"),
    ),
    world.use: (
        ("{name} wants to {goal} with the {first} or the {second}", "answer"),
        ("{first} or {second} to {goal}", "answer"),
        ("to {goal} take {first} or {second}", "answer"),
        ("{name} has the {first} and the {second} and wants to {goal}", "answer"),
        ("{first} , {second} : {name} has to {goal}", "answer"),
        ("you need to {goal} . there are {first} and {second}", "answer"),
    ),
    world.opinion: (
        ("{text} . the feeling of {name}", "feeling"),
        ("{text} . did {name} like it", "liked"),
        ("{text} . in a word", "label"),
        ("{name} says : {text} . the report", "label"),
        ("did {name} like it ? {text}", "liked"),
    ),
    world.opposite: (
        ("the opposite of {word}", "answer"),
        ("not {word}", "answer"),
        ("{word} , but the opposite", "answer"),
        ("the opposite , {word}", "answer"),
    ),
    world.kind: (
        ("the kind of {word}", "answer"),
        ("the group of the {word}", "answer"),
        ("{word} , what kind", "answer"),
        ("the kind , {word}", "answer"),
    ),
    world.row: (
        ("the start of {words}", "one"),
        ("the end of {words}", "three"),
        ("in the middle of {words}", "two"),
        ("{words} , the start", "one"),
        ("{words} , the end", "three"),
        ("{words} , in the middle", "two"),
        ("{words} , all backwards", "backwards"),
        ("backwards , {words}", "backwards"),
        ("start , {words}", "one"),
        ("end , {words}", "three"),
    ),
    world.outsider: (
        ("{words} , the different thing", "answer"),
        ("what is alone in {words}", "answer"),
        ("{name} sees {words} and takes one away", "answer"),
        ("the different one of {words}", "answer"),
    ),
    world.series: (
        ("after {numbers}", "answer"),
        ("{numbers} and then", "answer"),
        ("{name} counts {numbers}", "answer"),
        ("what follows {numbers}", "answer"),
    ),
}

CUES = (
    "is", "makes", "gives", ": it is", ", so it is", ". answer :", "? answer :", "? it is", "=",
    "? {name} said", ". that must be", ". say it now :", ". we get", ". i say", ", i think", ". well ,",
    ". tell me :", ". what now ?", "? you know it :", ", that means", ". so", ", here comes",
    ". {name} thinks of", ". this leaves", ":", "?", ", of course", ". question : what is it ? answer :",
    ". {name} knows it :", ". it has to be", ". in short ,", ". the friend says",
)  # fmt: skip
"""Ways to ask for the missing part; any body goes with any cue."""

CUED = 0.5
"""Share of sentences that are a body with a cue."""

WEIGHTS: dict[world.Sampler, float] = {
    world.addition: 2, world.subtraction: 2, world.use: 2, world.opinion: 4, world.opposite: 1,
    world.kind: 2, world.row: 3, world.outsider: 3, world.series: 1,
}  # fmt: skip
"""How often each kind of sentence is drawn, relative to each other."""

FILLERS = (
    "{name} has a problem and {he} looks for the solution .",
    "the result of the task is on the next page .",
    "{name} can choose the best tool for the job .",
    "the review of the {thing} gets a rating in stars .",
    "a customer left a note about the {thing} .",
    "the total count of votes was the final result .",
    "{name} reads the input and gives the output .",
    "please solve the puzzle and write the word here .",
    "the verdict was good for {name} and bad for the rest .",
    "his opinion of the {thing} is mixed .",
    "{name} made a list of words and picked the odd word .",
    "the command is done , here is the reply .",
    "your job is to guess the missing number .",
    "the options are on the list , {name} picks one .",
    "it was his turn to pick a partner for the class .",
    "{name} filled the gap with the next number .",
    "{name} sorted the words of the list into a class .",
    "the goal of the game is to gain points and to spend few .",
    "{name} started with nothing and kept what was left .",
    "the {thing} was the topic , the tone of the talk was good .",
    "{name} gave away some , kept some and bought some .",
    "the first word and the last word of the line are there .",
)
"""Plain sentences that make the benchmark's other words familiar, in other places."""


def _filler(rng: random.Random) -> world.Situation:
    return world.person(rng) | {"thing": rng.choice(world.THINGS)}


def sentence(sampler: world.Sampler, rng: random.Random) -> str:
    """Put one situation into words: a whole pattern, or a body and a cue with what is asked for."""
    if rng.random() >= CUED:
        return rng.choice(PATTERNS[sampler]).format_map(sampler(rng))
    body, part = rng.choice(BODIES[sampler])
    return f"{body} {rng.choice(CUES)} {{{part}}}".format_map(sampler(rng))


def document(rng: random.Random) -> str:
    """Draw one short text: one to three sentences of one kind, or a plain filler."""
    if rng.random() < 0.04:
        return rng.choice(FILLERS).format_map(_filler(rng))
    sampler = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    sentences = [sentence(sampler, rng)]
    while len(sentences) < 3 and rng.random() < 0.25:
        sentences.append(sentence(sampler, rng))
    return " ".join(sentences)


def documents(seed: int) -> Iterator[str]:
    """Yield pre-training documents without end; the same seed gives the same documents."""
    rng = random.Random(f"pre-training/{seed}")
    while True:
        yield document(rng)


def words_of(text: str) -> list[str]:
    """Split as the tokenizer does: runs of letters and digits, runs of other signs; lower case."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def vocabulary() -> list[str]:
    """All tokens in a fixed order: special ones, numbers, then every word of the world, sorted."""
    values = [*world.ITEMS, *world.THINGS, *world.GOOD, *world.BAD, *world.STRENGTHS, *world.NEGATIONS]
    values += [word for names in world.NAMES.values() for word in (*names,)] + ["he", "she", "up", "down"]
    values += [word for group, words in world.CATEGORIES.items() for word in (group, *words)]
    values += [word for pair in world.OPPOSITES for word in pair] + ["and the was but"]
    values += [f"{thing} {goal}" for thing, goal in world.USES.items()]
    values += [text for label in world.LABELS.values() for text in label.values()]
    values += [pattern for patterns in PATTERNS.values() for pattern in patterns] + list(FILLERS)
    values += [body for bodies in BODIES.values() for body, _ in bodies] + list(CUES)
    words = {word for text in values for word in words_of(re.sub(r"\{\w+\}", " ", text))}
    numbers = [str(number) for number in range(world.MAX_NUMBER + 1)]
    return [*SPECIAL_TOKENS, *numbers, *sorted(words - set(numbers))]
