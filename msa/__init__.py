"""Two-stage multimodal sentiment analysis: extract hidden states once, train light fusion heads many times."""

__version__ = "0.1.0"
