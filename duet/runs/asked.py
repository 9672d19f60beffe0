"""Questions asked once: answers are kept by content, and found beside the trainings of a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from duet.files import hidden_folder, require_writable, sha256_file
from duet.runs.memo import Tell, recall, remember
from duet.runs.questions import AnswerQuestion, Question, answer_here, torch_threads
from duet.runs.slots import LOOK, Slots, one_at_a_time


@dataclass
class Asked:
    """What was asked and answered.

    Attributes:
        slots: Held while a question is answered, so that it counts among the trainings at a time.
        stopped: Ends answering early when set.
        tell: Told of damaged answers, which are found again.
        answer: Where questions are answered: by default in this process.
        threads: Of torch, for one answer in this process; 0: as many as it has.
    """

    slots: Slots = field(default_factory=lambda: Slots(1))
    stopped: threading.Event = field(default_factory=threading.Event)
    tell: Tell = lambda line: None
    answer: AnswerQuestion = answer_here
    threads: int = 0

    def __call__(
        self,
        path: Path,
        key: str,
        question: Question,
        files: Mapping[str, str] = MappingProxyType({}),
        *,
        rank: int = LOOK,
        sure: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Return the answer to a question; what was found before is read back.

        Args:
            path: JSON file where the answer is kept.
            key: SHA-256 that identifies the question.
            question: It.
            files: Names of the files of its answer -> how the names end under which they are kept
                beside ``path``. Their SHA-256 stand in the answer, by the names without suffix.
            rank: Of `Slots`.
            sure: Called before an answer is kept; raises if it may be wrong.

        Raises:
            DuetError: It could not be answered, or the run was stopped.
        """
        with one_at_a_time(path):
            stored = self.kept(path, key, files)
            if stored is None:
                stored = self._found(path, question, files, rank, sure)
                remember(path, key, stored)
        return stored

    def _found(
        self, path: Path, question: Question, files: Mapping[str, str], rank: int,
        sure: Callable[[], object],
    ) -> dict[str, Any]:  # fmt: skip
        """Have a question answered, and put the files of the answer into their places."""
        with self.slots.taken(rank):
            require_writable(path)
            with hidden_folder(path) as folder:
                with torch_threads(self.threads):
                    found = self.answer(question, folder, self.stopped)
                sure()
                hashes = {Path(name).stem: sha256_file(folder / name) for name in files}
                for name, end in files.items():
                    os.replace(folder / name, path.with_suffix(end))
        return {**found, **hashes}

    def kept(self, path: Path, key: str, files: Mapping[str, str]) -> dict[str, Any] | None:
        """Return an answer that was found before, if all of its files are whole."""
        places = {Path(name).stem: path.with_suffix(end) for name, end in files.items()}
        stored = recall(path, key, self.tell)
        if stored is None:
            if not path.exists() and any(file.exists() for file in places.values()):
                self.tell(f"{path} is missing; computed again")
            return None
        for name, file in places.items():
            try:
                if stored.get(name) == sha256_file(file):
                    continue
                why = "its content is not the one that was written"
            except OSError as error:
                why = f"cannot read: {error.strerror or error}"
            self.tell(f"{file}: {why}; computed again")
            return None
        return stored
