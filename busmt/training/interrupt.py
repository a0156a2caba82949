"""Ctrl-C that is not lost.

Python cannot raise KeyboardInterrupt out of a destructor, and TensorFlow has destructors that run in every step:
now and then an interrupt falls into one, is printed as ignored, and the training goes on.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

import keras


class Interrupts(keras.callbacks.Callback):
    """Remembers Ctrl-C while it is entered, and stops the training after the step if it did not stop at once.

    Where another handler than Python's own is set, or outside the main thread, nothing is changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.came = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.getsignal(signal.SIGINT) == self._remember:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.came and kind is None:  # lost after the last step
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """After each step."""
        if self.came:
            raise KeyboardInterrupt

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)
