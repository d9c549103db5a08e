"""Backbones that some texts kill, for plug-ins: other processes import them too, so nothing heavy stands here."""

import os
import signal
import time

import numpy as np

from msa.extract.backbone import Backbone


class Fragile(Backbone):
    """Dies with its process at some texts, refuses others; its numbers tell how many were in the batch."""

    dim, versions, batching, budget, done = 4, {}, "packed", 30, 0

    def sizes(self, texts):
        return [len(text.split()) for text in texts]

    def encode(self, clips):
        for clip in clips:
            if "number 7" in clip:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "number 9" in clip and self.done:
                os._exit(9)  # a text before it is at fault
            if "number 11" in clip:
                raise ValueError("not this one")
            if "number 13" in clip:
                time.sleep(60)
        self.done += 1
        return [np.full((1, 4), len(clip) + len(clips) / 8, np.float16) for clip in clips]


class Threads(Fragile):
    """Its numbers tell how many threads a forward would use."""

    def encode(self, clips):
        import torch

        return [np.full((1, 4), torch.get_num_threads(), np.float16) for _ in clips]


class Even(Fragile):
    """Never dies of a text, but may be killed."""

    def encode(self, clips):
        if any("number 21" in clip for clip in clips) and os.environ.get("TEST_KILLED"):
            os.kill(os.getpid(), signal.SIGKILL)
        return [np.full((1, 4), len(clip) + len(clips) / 8, np.float16) for clip in clips]
