"""What a server knows of its task from earlier runs, and what it keeps of this one.

Source: the two caches of IFed-ICL; looking for similar tasks, the threshold and the temperature are
those of I2CL's transfer code. What a similar task changes here (the coefficients to start from) is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedapp.core.checks import require_choice, require_number, show_value
from fedapp.core.errors import FederationError
from fedapp.core.method import RunFacts
from fedapp.core.payload import State
from fedapp.methods.ifed_icl.names import READ_BY
from fedapp.methods.ifed_icl.store import StoredTask, TaskKey, TaskStore, cosine, merge_means

ON_HIT = ("reuse", "extend")


@dataclass(frozen=True)
class WarmStart:
    """Coefficients to start from, and in words where they come from."""

    coefficients: np.ndarray
    message: str


class TaskMemory:
    """A task in a store; without a folder it remembers nothing.

    A hit is a stored task of the same id. Stored tasks of the same base model whose coefficients
    resemble those of the first calibration are a near hit.
    """

    def __init__(
        self,
        store_dir: str | None = None,
        task: str | None = None,
        on_hit: str = "reuse",
        threshold: float = 0.8,
        temperature: float = 0.5,
    ) -> None:
        """Set up a memory; nothing is read yet.

        Args:
            store_dir: Folder of the store; None for no store.
            task: The task's id; None takes the benchmark's name.
            on_hit: ``reuse`` answers with what is stored, without any training; ``extend`` adds this
                run's data to the stored mean and calibrates on from the stored coefficients.
            threshold: Cosine of coefficients above which a task is similar; 1 turns this off.
            temperature: Of the softmax over cosines that weighs similar tasks.
        """
        if store_dir is not None and (not isinstance(store_dir, str) or not store_dir.strip()):
            raise ValueError(f"store_dir={show_value(store_dir)} must name a folder, or be null for no store")
        require_choice("on_hit", on_hit, ON_HIT)
        require_number("threshold", threshold, "[-1, 1]")
        require_number("temperature", temperature, "(0, inf)")
        if task is not None and (not isinstance(task, str) or not task.strip()):
            raise ValueError(f"task={show_value(task)} must be a text, the task's id in the store")
        if store_dir is None and (task is not None or on_hit != "reuse"):
            named = f"task={task!r}" if task is not None else f"on_hit={on_hit!r}"
            raise ValueError(f"{named} needs store_dir, the folder of the task store")
        self.store = TaskStore(Path(store_dir).expanduser()) if store_dir else None
        self.task, self.on_hit = task, on_hit
        self.threshold, self.temperature = float(threshold), float(temperature)
        self._key: TaskKey | None = None
        self._found: StoredTask | None = None
        self._looked_around = False
        self._form = ""  # how coefficients are meant: those of another form are no start
        self._own: np.ndarray | None = None
        self._count = 0.0

    def recall(self, run: RunFacts, rule: str) -> StoredTask | None:
        """The stored task of this run.

        Args:
            run: What is known of the run.
            rule: In words, how vectors are combined: others' vectors mean something else.

        Raises:
            FederationError: If a task of this id has another base model, template or labels.
            ValueError: If the store cannot be read.
        """
        self.know(run, rule)
        if self.store is None or self._key is None:
            return None
        self.store.prepare()
        self._found = self.store.get(self._key.task)
        if self._found is not None:
            odd = self._key.differences(self._found.key)
            if odd:
                raise FederationError(
                    f"task {self._key.task!r} in {self.store.path.parent} is another one: this run has "
                    f"{'; '.join(odd)}. Set method.task to a new id, or: fedapp tasks remove"
                )
        return self._found

    def know(self, run: RunFacts, rule: str) -> None:
        """What the task of a run is called and known by, without a look into the store.

        Args:
            run: What is known of the run.
            rule: As in ``recall``.
        """
        if self.store is None:
            return
        task = run.task()
        read = [f"{name} {task.adapter[name]!r}" for name in READ_BY if name in task.adapter]
        template = ", ".join([f"{task.name} {task.version}", *read, rule])
        self._form = "".join(one for one in read if one.startswith("injection "))
        self._key = TaskKey(self.task or task.name, run.base_fingerprint, template, task.labels)

    def state(self) -> State:
        """What was found in the store, and this run's own mean so far."""
        parts: dict[str, State] = {"own": State() if self._own is None else State({"vectors": self._own})}
        if self._found is not None:
            found = {"coefficients": self._found.coefficients, "vectors": self._found.vectors}
            parts["found"] = State(found, {"count": self._found.count, "rounds": self._found.rounds})
        return State.of(parts, looked=self._looked_around, count=self._count)

    def restore(self, state: State) -> None:
        """The same; ``know`` was called before."""
        self._own = state.part("own").arrays.get("vectors")
        self._looked_around, self._count = state.facts["looked"], state.facts["count"]
        found = state.part("found")
        if found.facts and self._key is not None:
            self._found = StoredTask(
                self._key,
                found.arrays["coefficients"],
                found.arrays["vectors"],
                found.facts["count"],
                found.facts["rounds"],
            )

    def describe_hit(self, found: StoredTask) -> str:
        """In one line, what a hit means for the run."""
        kept = f"task {found.key.task!r} is in the store ({found.rounds} rounds, mean over {found.count:g})"
        if self.on_hit == "reuse":
            return f"{kept}: no vectors are gathered and nothing is calibrated in this run"
        return f"{kept}: its vectors are extended, calibration starts from its coefficients"

    def extend(self, vectors: np.ndarray, count: float) -> np.ndarray:
        """Join this run's combined vectors, over ``count``, with the stored mean where there is one."""
        self._own, self._count = vectors, count
        if self._found is None:
            return vectors
        merged, _ = merge_means(self._found.vectors, self._found.count, vectors, count)
        return merged.astype(np.float32)

    def warm_start(self, coefficients: np.ndarray) -> WarmStart | None:
        """Similar tasks' coefficients, once, after the first calibration of an unknown task.

        Returns:
            None where there is no store, the task is known or nothing is similar.

        Source: I2CL's transfer code (cosine of coefficients, softmax over those above the threshold).
        """
        if self.store is None or self._key is None or self._found is not None or self._looked_around:
            return None
        self._looked_around = True
        others = self.store.tasks() if self.store.path.exists() else []
        known = [
            task
            for task in others
            if task.key.base == self._key.base
            and self._form in task.key.template
            and task.coefficients.shape == coefficients.shape
        ]
        near = [(cosine(task.coefficients, coefficients), task) for task in known]
        near = [(likeness, task) for likeness, task in near if likeness > self.threshold]
        if not near:
            return None
        weights = np.exp(np.array([likeness for likeness, _ in near]) / self.temperature)
        weights /= weights.sum()
        blend = sum(weight * task.coefficients for weight, (_, task) in zip(weights, near, strict=True))
        names = ", ".join(f"{task.key.task!r} ({likeness:.3f})" for likeness, task in near)
        return WarmStart(
            np.asarray(blend, np.float32),
            f"calibration goes on from the coefficients of similar stored tasks (cosine): {names}",
        )

    def keep(self, coefficients: np.ndarray, rounds: int | None) -> None:
        """Store what this run found; its vectors join those that are in the store by now.

        Args:
            coefficients: To keep.
            rounds: Of this run; None where it calibrated nothing and the known task's count stands.

        Raises:
            ValueError: If the store cannot be written.
        """
        if self.store is None or self._key is None or self._own is None:
            return
        key, own, count = self._key, self._own.astype(np.float64), self._count
        rounds = rounds or (self._found.rounds if self._found else 1)

        def change(old: StoredTask | None) -> StoredTask:
            if self.on_hit == "extend" and old is not None and old.key == key:
                return StoredTask(key, coefficients, *merge_means(old.vectors, old.count, own, count), rounds)
            return StoredTask(key, coefficients, own, count, rounds)

        self.store.update(key.task, change)
