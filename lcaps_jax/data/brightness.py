"""How bright the images of a set and their borders are: dark ink on white paper is told from white ink on black."""

import dataclasses

import numpy as np

# A brightness is unlike others where it is further from their mean than this, and than so many of their deviations.
_FAR, _DEVIATIONS = 0.25, 3.0


def border(images: np.ndarray) -> np.ndarray:
    """The outermost pixels of images ``[N, H, W, C]``, as ``[N, pixels, C]``."""
    count, channels = len(images), images.shape[-1]
    rows, columns = images[:, [0, -1]], images[:, 1:-1, [0, -1]]
    return np.concatenate([part.reshape(count, -1, channels) for part in (rows, columns)], axis=1)


def brightness(images: np.ndarray) -> np.ndarray:
    """Mean of each image ``[N, I, I, C]`` uint8 and of its outermost pixels, ``[N, 2]`` from 0, black, to 1, white."""
    return np.stack([images.mean(axis=(1, 2, 3)), border(images).mean(axis=(1, 2))], axis=1) / 255


@dataclasses.dataclass(frozen=True)
class Brightness:
    """The brightness of a set's images and of their borders, from 0, black, to 1, white."""

    mean: tuple[float, float]  # over the images, of an image's brightness and of its border's
    deviation: tuple[float, float]  # their standard deviations

    @property
    def is_light(self) -> bool:
        """Whether the images have a light background, by their borders."""
        return self.mean[1] > 1 / 2

    @classmethod
    def of(cls, images: np.ndarray) -> "Brightness":
        """The brightness of images ``[N, I, I, C]`` uint8."""
        measured = brightness(images)
        (mean, at_border), deviations = measured.mean(0).round(4).tolist(), measured.std(0).round(4).tolist()
        return cls((mean, at_border), (deviations[0], deviations[1]))

    def unlike(self, measured: np.ndarray) -> np.ndarray:
        """Which images, of ``brightness [N, 2]``, are far darker or brighter than those of the set, ``[N]`` bool."""
        far = np.maximum(_FAR, _DEVIATIONS * np.array(self.deviation))
        return np.any(np.abs(measured - np.array(self.mean)) > far, axis=1)

    def warning(self, what: str, measured: np.ndarray, share: float = 0.0) -> str | None:
        """A line about images, named ``what``, of brightness ``measured [N, 2]``, if a larger share is unlike these."""
        unlike = self.unlike(measured)
        if unlike.sum() <= share * len(measured):
            return None
        mean, at_border = measured[unlike].mean(axis=0)
        values = "brightness {:.2f}, at the border {:.2f}; there {:.2f} and {:.2f}".format(mean, at_border, *self.mean)
        line = f"{what}: the background of {unlike.sum()} of {len(measured)} images is unlike the training data's"
        inverted = self.unlike(1 - measured[unlike]).mean() < 1 / 2
        return f"{line} ({values})." + (" Inverted, as by eval.py --invert, they are like it." if inverted else "")


MNIST = Brightness((0.1307, 0.0), (0.0432, 0.0003))  # of its training digits
