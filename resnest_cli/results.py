"""What a classification gives: a `Result` for each image, a `Prediction` for each of its ranks."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how probable the network holds it."""

    rank: int  # 1 is the most probable
    index: int  # 0 to classes - 1
    wnid: str | None  # the WordNet id, where the labels have one
    label: str
    probability: float  # 0 to 1, softmax over all classes; the shortest decimal of a float32


@dataclass(frozen=True, slots=True)
class Result:
    """One image's predictions, most probable first, or the reason why there are none."""

    path: str  # the input as given; below a folder, the folder as given joined with the path
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None  # one line
    may_pass: bool = field(default=False, compare=False)  # the error may be gone at another time

    @property
    def top1(self) -> Prediction:
        """The most probable class.

        Raises:
            LookupError: the image failed, or no class reached the threshold.
        """
        if not self.predictions:
            raise LookupError(f"{self.path}: {self.error or 'no class reached the threshold'}")
        return self.predictions[0]
