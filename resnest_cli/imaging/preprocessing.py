"""RGB images to a network's input: one specification, two renderings that agree.

`Preprocessing` runs on Pillow and NumPy; `Preprocessing.as_torchvision` gives the same steps as a
torchvision pipeline, equal to the bit. Four are in use for the same weights:

- `default`: resize the short side, then crop the centre, as timm does for each variant;
- `hub`: the same with 256, 224 and bilinear for every variant, as on the PyTorch Hub page;
- `paper`: crop the centre first, then resize it, as the authors' evaluation script does;
- `squash`: resize the whole image to a square, as timm does with its crop mode of that name.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import UsageError, check_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor


PREPROCESSINGS = ("default", "hub", "paper", "squash")
INTERPOLATIONS = ("bilinear", "bicubic")
HUB_CROP = 224  # pixels, for every variant
_PAPER_BORDER = 32  # pixels by which the authors' resize is more than their crop
_LARGEST_RESIZE = 4096  # pixels that users may choose
_LONGEST_ENLARGED_SIDE = 4096  # beyond that only the pixels of the crop are computed


def check_sizes(crop: int | None, resize: int | None, *, own_crop: int = 1) -> None:
    """Raise `UsageError` for pixels out of range; the network's own crop counts if it is known."""
    if crop is not None:
        check_number("crop", crop, 32, 2048, unit=" pixels")  # the networks halve five times
    if resize is not None:
        least = own_crop if crop is None else crop
        check_number("resize", resize, least, _LARGEST_RESIZE, unit=" pixels")


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation of RGB images."""

    name: str
    crop: int = 224  # input resolution: crop x crop pixels
    resize: int = 256  # pixels, the short side; with crop_first the fraction crop / resize is kept
    interpolation: str = "bilinear"  # or bicubic; Pillow's, with antialiasing
    crop_first: bool = False  # crop first, then resize
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of R, G, B on the scale 0 to 1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    squash: bool = False  # resize both sides to `resize`, whatever the aspect ratio

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image of any size, resized and cropped: (crop, crop, 3), 0 to 255."""
        import numpy as np

        return np.asarray(self._cropped(image))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (..., 3), 0 to 255, to float32 of mean 0 and deviation 1 over ImageNet."""
        import numpy as np

        scaled = pixels.astype(np.float32)
        scaled /= 255
        scaled -= np.array(self.mean, np.float32)
        scaled /= np.array(self.std, np.float32)
        return scaled

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image of any size to the network's input, float32 (3, crop, crop)."""
        chw: NDArray[np.float32] = self.normalise(self.pixels(image)).transpose(2, 0, 1)
        return chw

    def as_torchvision(self) -> Callable[[Image.Image], Tensor]:
        """The same steps as a torchvision v2 `Compose`: RGB image to float32 (3, crop, crop)."""
        from torchvision import transforms
        from torchvision.transforms import v2

        if self.crop_first:
            geometry = [v2.Lambda(self._cropped)]
        else:
            mode = v2.InterpolationMode(self.interpolation)
            size = [self.resize] * (2 if self.squash else 1)  # of one, the short side's
            geometry = [v2.Resize(size, interpolation=mode), v2.CenterCrop(self.crop)]
        # v2's own conversion multiplies by 1/255, which differs from dividing in the last bit
        pipeline: Callable[[Image.Image], Tensor] = v2.Compose(
            [*geometry, transforms.ToTensor(), v2.Normalize(self.mean, self.std)]
        )
        return pipeline

    def describe(self) -> str:
        """One phrase for people: the name and what it does."""
        if self.crop_first:
            steps = f"centre {self.crop}/{self.resize}, resized to {self.crop}"
        elif self.squash:
            steps = f"squash to {self.resize} x {self.resize}, crop {self.crop}"
        else:
            steps = f"resize {self.resize}, crop {self.crop}"
        return f"{self.name} ({steps}, {self.interpolation})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`; `ValueError` if a value is missing or out of range."""
        values = {"squash": False, **values}  # missing in early checkpoints
        if missing := [f.name for f in fields(cls) if f.name not in values]:
            raise ValueError(f"the preprocessing lacks {', '.join(missing)}")
        known = {f.name: values[f.name] for f in fields(cls)}
        known["mean"], known["std"] = (tuple(map(float, known[k])) for k in ("mean", "std"))
        made = cls(**known)
        if len(made.mean) != 3 or len(made.std) != 3 or not all(s > 0 for s in made.std):
            raise ValueError("mean and std must have three values each, std above 0")
        if not all(map(math.isfinite, (*made.mean, *made.std))):
            raise ValueError("mean and std must be finite")
        if not (isinstance(made.crop, int) and isinstance(made.resize, int)):
            raise ValueError("crop and resize must be whole numbers")
        if not 1 <= made.crop <= made.resize <= 8192 or made.interpolation not in INTERPOLATIONS:
            raise ValueError(f"unusable crop, resize or interpolation: {made.describe()}")
        return made

    def named(self, name: str) -> Preprocessing:
        """The one of `PREPROCESSINGS` of this name, for a network whose `default` is this one."""
        if name == "default":
            return self
        plain = replace(self, name=name, crop_first=False, squash=False)
        if name == "hub":
            return replace(plain, crop=HUB_CROP, resize=256, interpolation="bilinear")
        if name == "paper":
            resize = self.crop + _PAPER_BORDER
            return replace(plain, resize=resize, interpolation="bicubic", crop_first=True)
        if name == "squash":
            return replace(plain, resize=self.crop, squash=True)
        raise UsageError(f"`preprocess` must be one of {', '.join(PREPROCESSINGS)}, not '{name}'")

    def sized(self, crop: int | None, resize: int | None) -> Preprocessing:
        """The same at another resolution; `resize` follows a new crop in the same ratio.

        Networks are often more accurate somewhat above their training resolution, as objects look
        larger in training than in testing (Touvron et al., arXiv 1906.06423).

        Raises:
            UsageError: a size is out of range.
        """
        check_sizes(crop, resize, own_crop=self.crop)
        if crop is not None and resize is None:
            in_ratio = min(round(self.resize * crop / self.crop), _LARGEST_RESIZE)
            resize = crop + _PAPER_BORDER if self.name == "paper" else in_ratio
        return replace(self, crop=crop or self.crop, resize=resize or self.resize)

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What of an image the network sees: left, top, right and bottom, in the image's pixels."""
        if self.crop_first:
            return self._first_box(width, height)
        resized = self.resized_size(width, height)
        left, top = (round((length - self.crop) / 2) for length in resized)
        x, y = width / resized[0], height / resized[1]
        return left * x, top * y, (left + self.crop) * x, (top + self.crop) * y

    def _first_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """What is cropped first."""
        side = min(width, height) * self.crop / self.resize  # a real number, not rounded
        left, top = (round((length - side) / 2) for length in (width, height))
        return left, top, round(left + side), round(top + side)

    def _cropped(self, image: Image.Image) -> Image.Image:
        from PIL.Image import Resampling

        resampling = Resampling[self.interpolation.upper()]
        width, height = image.size
        if self.crop_first:
            box = self._first_box(width, height)
            return image.crop(box).resize((self.crop, self.crop), resampling)
        resized = self.resized_size(width, height)
        left, top = (round((length - self.crop) / 2) for length in resized)
        box = (left, top, left + self.crop, top + self.crop)
        if max(resized) > max(width, height, _LONGEST_ENLARGED_SIDE):
            from resnest_cli.imaging.resample import resize_and_crop

            return resize_and_crop(image, resized, box, self.interpolation)
        return image.resize(resized, resampling).crop(box)

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the resize, rounded as torchvision rounds them, in pixels."""
        if self.squash:
            return self.resize, self.resize
        short, long = sorted((width, height))
        resized = (self.resize, int(self.resize * long / short))
        return resized if width <= height else resized[::-1]
