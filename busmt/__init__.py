"""busmt: breast-ultrasound multi-task learning.

One Keras model reads a B-mode breast ultrasound image and returns the lesion mask and the class.
"""

from busmt._version import __version__

__all__ = ["__version__"]
